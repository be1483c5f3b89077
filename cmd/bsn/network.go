package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger"
)

// networkView is what `bsn network show --json` prints.
type networkView struct {
	Network    string          `json:"network"`
	Parameters []parameterView `json:"parameters"`
}

type parameterView struct {
	bsn.Parameter
	Value int64 `json:"value"`
}

func networkCommand(s *session) *cobra.Command {
	c := &cobra.Command{Use: "network", Short: "the network's parameters, which operators change by vote"}
	shown := &cobra.Command{Use: "show", Short: "the network's parameters, their bounds and what they mean", Args: cobra.NoArgs}
	asJSON := jsonFlag(shown)
	shown.RunE = func(cmd *cobra.Command, _ []string) error {
		r, err := s.reader()
		if err != nil {
			return err
		}
		p, err := read[bsn.Parameters](cmd.Context(), r, bsn.KindParameters, bsn.ParametersID)
		if err != nil {
			return err
		}
		p = p.Complete()
		v := networkView{Network: s.ctx.Network}
		var rows [][]string
		for _, d := range bsn.ParameterList {
			v.Parameters = append(v.Parameters, parameterView{d, d.Value(p)})
			rows = append(rows, []string{d.Name, fmt.Sprint(d.Value(p)), fmt.Sprintf("%d–%d", d.Min, d.Max), d.Meaning})
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), v)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "network %s\n\n", v.Network)
		return table(cmd.OutOrStdout(), "PARAMETER VALUE BOUNDS MEANING", rows)
	}
	var by string
	set := &cobra.Command{
		Use:     "set PARAMETER VALUE",
		Short:   "propose another value of a parameter",
		Example: "  bsn network set votingPeriod 86400",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			value, err := strconv.ParseInt(args[1], 10, 64)
			if err != nil {
				return fmt.Errorf("value %.32q: a parameter is a whole number", args[1])
			}
			if _, err := (bsn.Parameters{}).With(ledger.Protocols(), args[0], value); err != nil {
				return err // the operators need not vote on it
			}
			return s.propose(cmd, by, fmt.Sprintf("set parameter %s to %d", args[0], value), ledger.SetParameter(args[0], value))
		},
	}
	set.Flags().StringVar(&by, "operator", "", "who proposes (default: the only operator here)")
	c.AddCommand(shown, set)
	return c
}
