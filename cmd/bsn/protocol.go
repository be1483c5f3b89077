package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/city"
	"github.com/openbsn/bsn/ledger"
)

func protocolCommand(s *session) *cobra.Command {
	c := &cobra.Command{Use: "protocol", Short: "which version of its rules the ledger follows"}
	show := &cobra.Command{Use: "show", Short: "the version that holds, what is planned, what took place", Args: cobra.NoArgs}
	asJSON := jsonFlag(show)
	show.RunE = func(cmd *cobra.Command, _ []string) error {
		p, err := s.protocol(cmd.Context())
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), p)
		}
		w := cmd.OutOrStdout()
		fmt.Fprintf(w, "the ledger follows protocol version %d; this bsn supports versions up to %d\n", p.Version, ledger.Protocols())
		if p.Next != nil {
			fmt.Fprintf(w, "planned: version %d from block %d on %s %s\n", p.Next.Version, p.Next.Height, p.Next.Name, p.Next.URL)
		}
		for _, u := range p.Upgrades {
			fmt.Fprintf(w, "version %d since block %d %s %s\n", u.Version, u.Height, u.Name, u.URL)
		}
		return nil
	}
	c.AddCommand(show, protocolUpgrade(s), protocolCancel(s))
	return c
}

func (s *session) protocol(ctx context.Context) (bsn.Protocol, error) {
	r, err := s.reader()
	if err != nil {
		return bsn.Protocol{}, err
	}
	return read[bsn.Protocol](ctx, r, bsn.KindProtocol, bsn.ProtocolID)
}

func protocolUpgrade(s *session) *cobra.Command {
	var operator, name, url string
	var at, in int64
	c := &cobra.Command{
		Use:   "upgrade VERSION",
		Short: "propose that the ledger follows another version of its rules from a block on",
		Long: `upgrade proposes that the ledger follows another version of its rules from a block
on. Every city has to run a bsn that supports it by then: one that does not stands
still at that block until it is upgraded. Another vote can replace or cancel it.`,
		Example: `  bsn protocol upgrade 2 --in 2000 --name "bsn 1.4"
  bsn protocol upgrade 2 --at 812000`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			version, err := strconv.ParseUint(args[0], 10, 64)
			if err != nil || version == 0 {
				return fmt.Errorf("protocol version %q: it is a number, such as 2", args[0])
			}
			if (at > 0) == (in > 0) {
				return errors.New("say from which block on: --at HEIGHT, or --in BLOCKS from now")
			}
			if in > 0 {
				st, err := s.status(cmd.Context())
				if err != nil {
					return err
				}
				at = st.Ledger.Height + in
			}
			u := bsn.Upgrade{Version: version, Height: at, Name: name, URL: url}
			return s.propose(cmd, operator, fmt.Sprintf("ledger protocol version %d from block %d on", version, at), ledger.Upgrade(u))
		},
	}
	c.Flags().Int64Var(&at, "at", 0, "the first block under the new rules")
	c.Flags().Int64Var(&in, "in", 0, "the same, in blocks from now")
	c.Flags().StringVar(&name, "name", "", "what people call the release that brings it")
	c.Flags().StringVar(&url, "url", "", "where people find it")
	c.Flags().StringVar(&operator, "operator", "", "who proposes (default: the only operator here)")
	return c
}

func protocolCancel(s *session) *cobra.Command {
	var operator string
	c := &cobra.Command{
		Use: "cancel", Short: "propose to drop the planned upgrade", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := s.protocol(cmd.Context())
			if err != nil {
				return err
			}
			if p.Next == nil {
				return errors.New("no upgrade is planned")
			}
			return s.propose(cmd, operator, fmt.Sprintf("no upgrade to ledger protocol version %d", p.Next.Version), ledger.CancelUpgrade(p.Next.Version))
		},
	}
	c.Flags().StringVar(&operator, "operator", "", "who proposes (default: the only operator here)")
	return c
}

// release is what a binary says of itself.
type release struct {
	Version string `json:"version"`
	// Protocols is the newest protocol version of the ledger that it supports, besides
	// all before it.
	Protocols uint64 `json:"protocols"`
}

func versionCommand() *cobra.Command {
	c := &cobra.Command{Use: "version", Short: "what this bsn is, and which versions of the ledger's rules it supports", Args: cobra.NoArgs}
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		r := release{city.Version(), ledger.Protocols()}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), r)
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "bsn %s, ledger protocol versions 1 to %d\n", r.Version, r.Protocols)
		return err
	}
	return c
}

// askRelease runs a binary to find out what it is.
func askRelease(ctx context.Context, binary string) (r release, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "version", "--json").Output()
	if err == nil {
		err = json.Unmarshal(out, &r)
	}
	if err != nil || r.Protocols == 0 {
		return r, fmt.Errorf("%s does not say that it is a bsn: run `%s version --json` (%v)", binary, binary, err)
	}
	return r, nil
}
