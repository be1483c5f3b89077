package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/ledger/key"
)

func accountShow(s *session) *cobra.Command {
	c := &cobra.Command{Use: "show [ACCOUNT]", Short: "an account's keys, guardians and announced recoveries", Args: cobra.MaximumNArgs(1)}
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		name := ""
		if len(args) > 0 {
			name = args[0]
		}
		h, err := s.holder(bsn.KindAccount, name)
		if err != nil {
			return err
		}
		r, err := s.reader()
		if err != nil {
			return err
		}
		a, err := read[bsn.Account](cmd.Context(), r, bsn.KindAccount, h.name)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), a)
		}
		w := cmd.OutOrStdout()
		fmt.Fprintf(w, "account %s at portal %s, %s keys have to agree\n", a.Name, a.Portal, agreement(a.Identity))
		for _, k := range a.Signers {
			fmt.Fprintf(w, "  key %s %s %s\n", k.Address, k.Ethereum, k.Label)
		}
		fmt.Fprintln(w, guardText(a))
		for _, r := range a.Recoveries {
			fmt.Fprintln(w, recoveryText(r))
		}
		return nil
	}
	return c
}

func guardText(a bsn.Account) string {
	g := a.Guard
	if g == nil {
		return "no guardians: if its keys are lost, nobody can give it others"
	}
	names := g.Guardians
	if g.Portal {
		names = append(append([]string{}, names...), "portal "+a.Portal)
	}
	return fmt.Sprintf("guardians %s: %d of them give it new keys, %s after they agreed", strings.Join(names, ", "), g.Threshold, time.Duration(g.Delay)*time.Second)
}

func recoveryText(r bsn.Recovery) string {
	var keys []string
	for _, k := range r.Signers {
		keys = append(keys, k.Address)
	}
	text := fmt.Sprintf("recovery: %s want the keys %s, %d to agree", strings.Join(r.By, ", "), strings.Join(keys, ", "), r.Threshold)
	switch {
	case r.Effective != 0:
		text += fmt.Sprintf("; they take effect at %s of ledger time; any present key cancels: bsn account recovery cancel", time.Unix(r.Effective, 0).UTC().Format(time.RFC3339))
	case r.Reason != "":
		text += "; that could not be done: " + r.Reason
	default:
		text += "; further guardians have to name the same"
	}
	return text
}

func guardCommand(s *session) *cobra.Command {
	c := &cobra.Command{Use: "guard", Short: "who may give the account new keys when its own are lost"}
	var g bsn.Guard
	var wait time.Duration
	set := &cobra.Command{
		Use: "set [GUARDIAN …]", Short: "name the guardians, which are accounts, anew",
		Example: `  bsn account guard set bob carol --threshold 2 --delay 72h
  bsn account guard set bob --portal --threshold 2`,
		RunE: func(cmd *cobra.Command, args []string) error {
			g.Guardians, g.Delay = args, int64(wait/time.Second)
			if g.Threshold == 0 { // all of them
				g.Threshold = len(args)
				if g.Portal {
					g.Threshold++
				}
			}
			if len(args) == 0 && !g.Portal {
				return fmt.Errorf("name guardians, or the portal with --portal; `bsn account guard clear` takes all away")
			}
			return s.setGuard(cmd, g)
		},
	}
	set.Flags().BoolVar(&g.Portal, "portal", false, "the account's portal is a guardian too")
	set.Flags().IntVar(&g.Threshold, "threshold", 0, "how many of them have to name the same new keys (default: all)")
	set.Flags().DurationVar(&wait, "delay", 72*time.Hour, "how long a recovery is announced before it takes effect; until then any present key cancels it")
	clearAll := &cobra.Command{
		Use: "clear", Short: "take all guardians away: then nobody can give the account new keys", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.setGuard(cmd, bsn.Guard{}) },
	}
	c.AddCommand(set, clearAll)
	return c
}

func (s *session) setGuard(cmd *cobra.Command, g bsn.Guard) error {
	name, k, err := s.account()
	if err != nil {
		return err
	}
	if _, err := s.write(cmd.Context(), k, ledger.SetGuard(g)); err != nil {
		return err
	}
	a := bsn.Account{Name: name, Portal: "of the account"}
	if g.Threshold > 0 {
		a.Guard = &g
	}
	fmt.Fprintf(cmd.OutOrStdout(), "account %s: %s\n", name, guardText(a))
	return nil
}

func accountRecover(s *session) *cobra.Command {
	var offers []string
	var portal string
	var takeBack bool
	threshold := 1
	c := &cobra.Command{
		Use:   "recover ACCOUNT",
		Short: "as a guardian, name the keys that an account is to have in place of those that it lost",
		Example: `  bsn account recover alice --new-key bsn-key-…
  bsn account recover alice --new-key bsn-key-… --portal demo`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var keys []ledger.Offer
			var err error
			if !takeBack {
				if keys, err = s.offers(holder{kind: bsn.KindAccount, name: args[0]}, offers); err != nil {
					return err
				}
			}
			var k key.Key
			if portal != "" {
				k, err = key.Load(or(s.keyFile, s.portalKey(portal)))
			} else {
				_, k, err = s.account()
			}
			if err != nil {
				return err
			}
			if _, err := s.write(cmd.Context(), k, ledger.Recover(args[0], keys, threshold)); err != nil {
				return err
			}
			r, err := s.dial("", k)
			if err != nil {
				return err
			}
			a, err := read[bsn.Account](cmd.Context(), r, bsn.KindAccount, args[0])
			if err != nil {
				return err
			}
			for _, r := range a.Recoveries {
				fmt.Fprintln(cmd.OutOrStdout(), recoveryText(r))
			}
			return nil
		},
	}
	newKeyFlags(c, &offers, &threshold)
	c.Flags().StringVar(&portal, "portal", "", "say it as this portal, whose key is here")
	c.Flags().BoolVar(&takeBack, "take-back", false, "take back what this guardian said")
	return c
}

func recoveryCommand(s *session) *cobra.Command {
	c := &cobra.Command{Use: "recovery", Short: "recoveries that guardians announced; `bsn account show` lists them"}
	c.AddCommand(&cobra.Command{
		Use: "cancel", Short: "say with any one key of the account that its keys are not lost", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			name, k, err := s.account()
			if err != nil {
				return err
			}
			if _, err := s.write(cmd.Context(), k, ledger.CancelRecovery()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "account %s keeps its keys: what guardians named is void\n", name)
			return nil
		},
	})
	return c
}
