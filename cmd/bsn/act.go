package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger"
)

func actCommand(s *session) *cobra.Command {
	c := &cobra.Command{Use: "act", Short: "what accounts and operators with several keys are about to do"}
	c.AddCommand(actList(s), actShow(s), actApprove(s), actCancel(s))
	return c
}

func actList(s *session) *cobra.Command {
	var all bool
	c := &cobra.Command{Use: "list", Short: "the open acts of the context's account and of this machine's operators", Args: cobra.NoArgs}
	asJSON := jsonFlag(c)
	c.Flags().BoolVar(&all, "all", false, "closed ones too, and those of everybody")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		r, err := s.reader()
		if err != nil {
			return err
		}
		acts, err := list[bsn.Act](cmd.Context(), r, bsn.KindAct)
		if err != nil {
			return err
		}
		operators := s.operators()
		acts = slices.DeleteFunc(acts, func(a bsn.Act) bool {
			own := a.Kind == bsn.KindAccount && a.Name == s.ctx.Account || a.Kind == bsn.KindOperator && slices.Contains(operators, a.Name)
			return !all && (!own || a.Status != bsn.ActOpen)
		})
		return show(cmd, *asJSON, acts, "ACT OF DOES KEYS STATUS UNTIL", func() (rows [][]string) {
			for _, a := range acts {
				var does []string
				for _, s := range a.Steps {
					does = append(does, s.Name)
				}
				rows = append(rows, []string{
					fmt.Sprint(a.ID), string(a.Kind) + " " + a.Name, strings.Join(does, ","), fmt.Sprint(len(a.Approvals)),
					string(a.Status), time.Unix(a.Expires, 0).UTC().Format(time.RFC3339),
				})
			}
			return rows
		})
	}
	return c
}

// readAct reads an act by the number that a person gave.
func (s *session) readAct(cmd *cobra.Command, text string) (bsn.Act, error) {
	id, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return bsn.Act{}, fmt.Errorf("act %q: an id is a number", text)
	}
	r, err := s.reader()
	if err != nil {
		return bsn.Act{}, err
	}
	return read[bsn.Act](cmd.Context(), r, bsn.KindAct, fmt.Sprintf("%08d", id))
}

// printAct says what an act does; of an open one from the bytes that are signed.
func printAct(cmd *cobra.Command, a bsn.Act) error {
	steps := a.Steps
	if a.Status == bsn.ActOpen {
		var err error
		if steps, err = ledger.ActSteps(a); err != nil {
			return err
		}
	}
	w := cmd.OutOrStdout()
	fmt.Fprintf(w, "act %d of %s %s is %s %s\n", a.ID, a.Kind, a.Name, a.Status, a.Reason)
	for _, s := range steps {
		fmt.Fprintf(w, "  %s %s\n", s.Name, s.Message)
	}
	for _, k := range a.Approvals {
		fmt.Fprintf(w, "  key %s agrees\n", k)
	}
	return nil
}

func actShow(s *session) *cobra.Command {
	c := &cobra.Command{Use: "show ACT", Short: "what an act does, and which keys agree", Args: cobra.ExactArgs(1)}
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		a, err := s.readAct(cmd, args[0])
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), a)
		}
		return printAct(cmd, a)
	}
	return c
}

func actApprove(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "approve ACT", Short: "agree with an act, with the key of its account or operator that is here", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := s.readAct(cmd, args[0])
			if err != nil {
				return err
			}
			h, err := s.holder(a.Kind, a.Name)
			if err != nil {
				return err
			}
			k, err := h.key()
			if err != nil {
				return err
			}
			if err := printAct(cmd, a); err != nil {
				return err
			}
			_, err = s.write(cmd.Context(), k, ledger.ApproveAct(a))
			var waiting *ledger.WaitingError
			switch {
			case errors.As(err, &waiting):
				fmt.Fprintf(cmd.OutOrStdout(), "key %s agrees; the act waits for %d more\n", k.Address(), waiting.Missing)
				return nil
			case err != nil:
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "key %s agrees: act %d is done\n", k.Address(), a.ID)
			return nil
		},
	}
}

func actCancel(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "cancel ACT", Short: "take back what the key here said: its proposer's the whole act, another's its own agreement", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := s.readAct(cmd, args[0])
			if err != nil {
				return err
			}
			h, err := s.holder(a.Kind, a.Name)
			if err != nil {
				return err
			}
			k, err := h.key()
			if err != nil {
				return err
			}
			if _, err := s.write(cmd.Context(), k, ledger.CancelAct(a.ID)); err != nil {
				return err
			}
			if a, err = s.readAct(cmd, args[0]); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "act %d is %s: %d keys agree\n", a.ID, a.Status, len(a.Approvals))
			return nil
		},
	}
}
