package main

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/ledger/key"
)

func proposalCommand(s *session) *cobra.Command {
	c := &cobra.Command{Use: "proposal", Short: "what the operators vote on"}
	l := &cobra.Command{Use: "list", Short: "all proposals", Args: cobra.NoArgs}
	asJSON := jsonFlag(l)
	l.RunE = func(cmd *cobra.Command, _ []string) error {
		r, err := s.reader()
		if err != nil {
			return err
		}
		proposals, err := list[bsn.Proposal](cmd.Context(), r, bsn.KindProposal)
		if err != nil {
			return err
		}
		return show(cmd, *asJSON, proposals, "ID STATUS EFFECT BY YES NO SUMMARY", func() (rows [][]string) {
			for _, p := range proposals {
				yes, no := tally(p)
				rows = append(rows, []string{fmt.Sprint(p.ID), string(p.Status), p.Effect, p.Proposer, fmt.Sprint(yes), fmt.Sprint(no), p.Summary})
			}
			return rows
		})
	}
	c.AddCommand(l, proposalShow(s))
	return c
}

func proposalShow(s *session) *cobra.Command {
	c := &cobra.Command{Use: "show ID", Short: "a proposal, who voted how, and what it does", Args: cobra.ExactArgs(1)}
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		id, err := strconv.ParseUint(args[0], 10, 64)
		if err != nil {
			return fmt.Errorf("proposal %q: an id is a number", args[0])
		}
		r, err := s.reader()
		if err != nil {
			return err
		}
		p, err := read[bsn.Proposal](cmd.Context(), r, bsn.KindProposal, fmt.Sprintf("%08d", id))
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), p)
		}
		w := cmd.OutOrStdout()
		fmt.Fprintf(w, "proposal %d by %s is %s %s\n%s\n%s\n%s\nopened %s, ", p.ID, p.Proposer, p.Status, p.Reason, p.Effect, p.Summary, p.Message, moment(p.Opened))
		if p.Decided > 0 {
			fmt.Fprintf(w, "%s %s at height %d, with %d operators that had a vote\n", p.Status, moment(p.Decided), p.Height, p.Voters)
		} else {
			fmt.Fprintf(w, "expires %s\n", moment(p.Expires))
		}
		for _, operator := range sortedKeys(p.Votes) {
			vote := "no"
			if p.Votes[operator] {
				vote = "yes"
			}
			fmt.Fprintf(w, "  %s voted %s", operator, vote)
			if cast, ok := p.Cast[operator]; ok {
				fmt.Fprintf(w, " %s at height %d", moment(cast.Time), cast.Height)
			}
			fmt.Fprintln(w)
		}
		return nil
	}
	return c
}

func moment(seconds int64) string { return time.Unix(seconds, 0).UTC().Format(time.RFC3339) }

func tally(p bsn.Proposal) (yes, no int) {
	for _, v := range p.Votes {
		if v {
			yes++
		} else {
			no++
		}
	}
	return yes, no
}

func voteCommand(s *session) *cobra.Command {
	var operator string
	c := &cobra.Command{
		Use:   "vote PROPOSAL yes|no",
		Short: "vote as an operator whose key is on this machine",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseUint(args[0], 10, 64)
			if err != nil {
				return fmt.Errorf("proposal %q: an id is a number", args[0])
			}
			if args[1] != "yes" && args[1] != "no" {
				return errors.New("a vote is yes or no")
			}
			k, err := s.operatorKey(operator)
			if err != nil {
				return err
			}
			if _, err := s.write(cmd.Context(), k, ledger.Vote(id, args[1] == "yes")); err != nil {
				return err
			}
			r, err := s.dial("", k)
			if err != nil {
				return err
			}
			p, err := read[bsn.Proposal](cmd.Context(), r, bsn.KindProposal, fmt.Sprintf("%08d", id))
			if err != nil {
				return err
			}
			yes, no := tally(p)
			fmt.Fprintf(cmd.OutOrStdout(), "proposal %d is %s: %d yes, %d no %s\n", id, p.Status, yes, no, p.Reason)
			return nil
		},
	}
	c.Flags().StringVar(&operator, "operator", "", "who votes (default: the only operator here)")
	return c
}

// propose opens a proposal as an operator of this machine and says how to vote.
func (s *session) propose(cmd *cobra.Command, operator, summary string, e ledger.Effect) error {
	k, err := s.operatorKey(operator)
	if err != nil {
		return err
	}
	res, err := s.write(cmd.Context(), k, ledger.Propose(summary, e))
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "proposal %d: %s\nit takes effect with the votes of more than two thirds of the operators: bsn vote %d yes\n", res.Proposal(), summary, res.Proposal())
	return nil
}

func portalCommand(s *session) *cobra.Command {
	c := &cobra.Command{Use: "portal", Short: "portals, where people sign up"}
	l := &cobra.Command{Use: "list", Short: "the network's portals", Args: cobra.NoArgs}
	asJSON := jsonFlag(l)
	l.RunE = func(cmd *cobra.Command, _ []string) error {
		r, err := s.reader()
		if err != nil {
			return err
		}
		portals, err := list[bsn.Portal](cmd.Context(), r, bsn.KindPortal)
		if err != nil {
			return err
		}
		return show(cmd, *asJSON, portals, "PORTAL ADDRESS URL", func() (rows [][]string) {
			for _, p := range portals {
				rows = append(rows, []string{p.Name, p.Address, dash(p.URL)})
			}
			return rows
		})
	}
	var operator, url string
	register := &cobra.Command{
		Use:   "register NAME",
		Short: "make a portal's key here, if there is none, and propose it to the operators",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := bsn.CheckName("portal", args[0]); err != nil {
				return err
			}
			k, err := key.LoadOrNew(s.portalKey(args[0]))
			if err != nil {
				return err
			}
			return s.propose(cmd, operator, "register portal "+args[0], ledger.RegisterPortal(args[0], ledger.NewOffer(k, s.ctx.Network, bsn.KindPortal, args[0]), url))
		},
	}
	register.Flags().StringVar(&operator, "operator", "", "who proposes (default: the only operator here)")
	register.Flags().StringVar(&url, "url", "", "where people find it")
	c.AddCommand(l, register)
	return c
}
