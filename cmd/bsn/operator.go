package main

import (
	"encoding/hex"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger"
)

func operatorCommand(s *session) *cobra.Command {
	c := &cobra.Command{Use: "operator", Short: "the network's operators; evict and reinstate them by vote"}
	l := &cobra.Command{Use: "list", Short: "the network's operators, and how they stand", Args: cobra.NoArgs}
	asJSON := jsonFlag(l)
	l.RunE = func(cmd *cobra.Command, _ []string) error {
		r, err := s.reader()
		if err != nil {
			return err
		}
		operators, err := list[bsn.Operator](cmd.Context(), r, bsn.KindOperator)
		if err != nil {
			return err
		}
		return show(cmd, *asJSON, operators, "OPERATOR VALIDATING KEYS MISSED STATE ADDRESS", func() (rows [][]string) {
			for _, o := range operators {
				rows = append(rows, []string{o.Name, dash(o.ValidatingCity), agreement(o.Identity), missed(o), standing(o), o.Address})
			}
			return rows
		})
	}
	c.AddCommand(l, holderKeys(s, bsn.KindOperator), recoverOperator(s), operatorEvict(s), operatorReinstate(s))
	return c
}

// standing says whether an operator has its vote, and if not, why.
func standing(o bsn.Operator) string {
	switch {
	case o.Evicted > 0:
		return fmt.Sprintf("evicted at height %d", o.Evicted)
	case o.Suspended != nil:
		return fmt.Sprintf("suspended at height %d: %s", o.Suspended.Height, o.Suspended.Reason)
	case o.ValidatingCity == "":
		return "no active city"
	case o.Absence != nil && o.Absence.Since > 0:
		return "absent since " + time.Unix(o.Absence.Since, 0).UTC().Format(time.RFC3339)
	}
	return "votes"
}

// missed is for how long an operator was absent in the window, what goes on included.
func missed(o bsn.Operator) string {
	if o.Absence == nil {
		return "-"
	}
	total := time.Duration(o.Absence.Seconds) * time.Second
	if o.Absence.Since > 0 {
		total += time.Since(time.Unix(o.Absence.Since, 0))
	}
	return fmt.Sprintf("%s since %s", total.Round(time.Second), time.Unix(o.Absence.Counted, 0).UTC().Format(time.DateOnly))
}

func operatorEvict(s *session) *cobra.Command {
	var by string
	c := &cobra.Command{
		Use:   "evict OPERATOR",
		Short: "propose to put an operator, with all its cities, out of the network for good",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.propose(cmd, by, "evict operator "+args[0]+" with all its cities", ledger.EvictOperator(args[0]))
		},
	}
	c.Flags().StringVar(&by, "operator", "", "who proposes (default: the only operator here)")
	return c
}

func operatorReinstate(s *session) *cobra.Command {
	var by, city, consensusKey string
	c := &cobra.Command{
		Use:   "reinstate OPERATOR",
		Short: "propose to give a suspended operator its power back, with a new consensus key in one of its cities",
		Example: `  bsn city rekey paris       (on the city's machine, with its daemon stopped: prints the new key)
  bsn operator reinstate paris --city paris --consensus-key 5f0c…`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := hex.DecodeString(consensusKey)
			if err != nil || len(key) != 32 {
				return fmt.Errorf("--consensus-key %.70q: it has 64 hex digits", consensusKey)
			}
			if city == "" {
				city = args[0]
			}
			return s.propose(cmd, by, fmt.Sprintf("reinstate operator %s in city %s with consensus key %.12s", args[0], city, consensusKey),
				ledger.ReinstateOperator(args[0], city, key))
		},
	}
	c.Flags().StringVar(&by, "operator", "", "who proposes (default: the only operator here)")
	c.Flags().StringVar(&city, "city", "", "its city that carries its power (default: the operator's name)")
	c.Flags().StringVar(&consensusKey, "consensus-key", "", "the city's new consensus key, an Ed25519 public key in hex")
	return c
}
