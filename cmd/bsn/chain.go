package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger"
)

// chainView is a chain with where it is reached.
type chainView struct {
	bsn.Chain
	// Gateways are the chain's JSON-RPC URLs, by city.
	Gateways map[string]string `json:"gateways"`
}

func chainCommand(s *session) *cobra.Command {
	c := &cobra.Command{Use: "chain", Short: "the network's chains"}
	c.AddCommand(chainList(s), chainShow(s), chainOpen(s), chainCommittee(s),
		chainChange(s, "close CHAIN", "propose to close a chain to new apps and versions; what is on it goes on", "close chain %s to new apps", ledger.CloseChain),
		chainChange(s, "reopen CHAIN", "propose to open a closed chain again", "open chain %s again", ledger.ReopenChain),
		chainPolicy(s))
	return c
}

func (s *session) chains(cmd *cobra.Command) ([]chainView, error) {
	l, err := s.reader()
	if err != nil {
		return nil, err
	}
	chains, err := list[bsn.Chain](cmd.Context(), l, bsn.KindChain)
	if err != nil {
		return nil, err
	}
	cities, err := list[bsn.City](cmd.Context(), l, bsn.KindCity)
	if err != nil {
		return nil, err
	}
	out := []chainView{}
	for _, c := range chains {
		v := chainView{c, map[string]string{}}
		for _, city := range cities {
			if c.Member(city.Name) {
				v.Gateways[city.Name] = city.Gateway + "/rpc/" + c.Name
			}
		}
		out = append(out, v)
	}
	return out, nil
}

func chainList(s *session) *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "the network's chains, and where each city serves them", Args: cobra.NoArgs}
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		chains, err := s.chains(cmd)
		if err != nil {
			return err
		}
		return show(cmd, *asJSON, chains, "CHAIN KIND FRAMEWORK ID STATUS CITIES", func() (rows [][]string) {
			for _, v := range chains {
				rows = append(rows, []string{v.Name, string(v.Kind), v.Framework, fmt.Sprint(v.NetworkID), string(v.Status), strings.Join(v.Committee, ",")})
			}
			return rows
		})
	}
	return c
}

func chainShow(s *session) *cobra.Command {
	c := &cobra.Command{Use: "show CHAIN", Short: "a chain, its nodes and what its cities said to its genesis", Args: cobra.ExactArgs(1)}
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		chains, err := s.chains(cmd)
		if err != nil {
			return err
		}
		for _, v := range chains {
			if v.Name != args[0] {
				continue
			}
			if *asJSON {
				return printJSON(cmd.OutOrStdout(), v)
			}
			w := cmd.OutOrStdout()
			fmt.Fprintf(w, "%s chain %s   framework %s   id %d   %s\ncontracts may be created by %s   genesis %s\n\n",
				v.Kind, v.Name, v.Framework, v.NetworkID, v.Status, v.Deploy, dash(v.Genesis))
			return table(w, "CITY NODE GENESIS GATEWAY", v.rows())
		}
		return fmt.Errorf("chain %q: %w", args[0], bsn.ErrNoRecord)
	}
	return c
}

func (v chainView) rows() (rows [][]string) {
	answers := map[string]string{}
	for _, a := range v.Approvals {
		answers[a.City] = "approved"
		if !a.Approved {
			answers[a.City] = "refused: " + a.Reason
		}
	}
	for _, city := range v.Committee {
		keys := "no keys posted yet"
		if n, ok := v.Node(city); ok {
			keys = n.Keys["address"]
		}
		rows = append(rows, []string{city, keys, dash(answers[city]), v.Gateways[city]})
	}
	return rows
}

func chainOpen(s *session) *cobra.Command {
	var operator, kind, deploy string
	var ch bsn.Chain
	c := &cobra.Command{
		Use:     "open CHAIN",
		Short:   "propose a new chain to the operators",
		Example: `  bsn chain open chongqing --framework kaia --id 1901 --cities chongqing,hongkong,paris,saopaulo`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ch.Name, ch.Kind, ch.Deploy = args[0], bsn.ChainKind(kind), bsn.DeployPolicy(deploy)
			return s.propose(cmd, operator, openSummary(ch), ledger.OpenChain(ch))
		},
	}
	f := c.Flags()
	f.StringVar(&operator, "operator", "", "who proposes (default: the only operator here)")
	f.StringVar(&ch.Framework, "framework", "kaia", "its software")
	f.StringVar(&kind, "kind", string(bsn.ChainOpen), "open (for every account) or dedicated (for one consortium)")
	f.Uint64Var(&ch.NetworkID, "id", 0, "the id that clients sign for: the EVM chain id")
	f.StringSliceVar(&ch.Committee, "cities", nil, "the cities that run it")
	f.StringVar(&deploy, "deploy", string(bsn.DeployAccounts), "who may create contracts at top level: accounts or anyone")
	return c
}

// chainChange is a command that proposes an effect on one chain.
func chainChange(s *session, use, short, summary string, effect func(chain string) ledger.Effect) *cobra.Command {
	var operator string
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.propose(cmd, operator, fmt.Sprintf(summary, args[0]), effect(args[0]))
		},
	}
	c.Flags().StringVar(&operator, "operator", "", "who proposes (default: the only operator here)")
	return c
}

func chainPolicy(s *session) *cobra.Command {
	var operator string
	c := &cobra.Command{
		Use:   "policy CHAIN accounts|anyone",
		Short: "propose who may create contracts on a chain at top level",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.propose(cmd, operator, fmt.Sprintf("contracts on chain %s may be created by %s", args[0], args[1]),
				ledger.SetDeploy(args[0], bsn.DeployPolicy(args[1])))
		},
	}
	c.Flags().StringVar(&operator, "operator", "", "who proposes (default: the only operator here)")
	return c
}

func openSummary(c bsn.Chain) string {
	return fmt.Sprintf("%s chain %s (%s, id %d) run by %s", c.Kind, c.Name, c.Framework, c.NetworkID, strings.Join(c.Committee, ", "))
}

func chainCommittee(s *session) *cobra.Command {
	var operator string
	var cities []string
	c := &cobra.Command{
		Use:     "committee CHAIN",
		Short:   "propose which cities run a running chain from now on",
		Example: `  bsn chain committee chongqing --cities chongqing,hongkong,paris`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.propose(cmd, operator, fmt.Sprintf("chain %s is run by %s", args[0], strings.Join(cities, ", ")), ledger.SetCommittee(args[0], cities))
		},
	}
	c.Flags().StringVar(&operator, "operator", "", "who proposes (default: the only operator here)")
	c.Flags().StringSliceVar(&cities, "cities", nil, "all cities that are to run it")
	return c
}
