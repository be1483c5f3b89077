package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway/token"
)

func tokenCommand(s *session) *cobra.Command {
	var project, to string
	var life time.Duration
	var methods []string
	var l bsn.Limits
	c := &cobra.Command{
		Use:   "token",
		Short: "sign a short-lived token for a city's gateway, in place of an API key",
		Example: `  bsn token --city paris --project web
  curl -H "Authorization: Bearer $(bsn token --city paris --method 'eth_get*' --cups 100)" …`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			name, k, err := s.account()
			if err != nil {
				return err
			}
			if s.ctx.Network == "" {
				return errNoNetwork
			}
			if life <= 0 || life > token.MaxLife {
				return fmt.Errorf("a token lasts up to %v", token.MaxLife)
			}
			if _, err := (bsn.Restrictions{Methods: methods}).Normal(); err != nil {
				return err
			}
			if err := l.Check(); err != nil {
				return err
			}
			owner, p, err := bsn.SplitID(s.projectID(project), name)
			if err != nil {
				return err
			}
			if owner != name {
				return fmt.Errorf("project %q is not account %q's", s.projectID(project), name)
			}
			// The gateway decides; but a token that it will refuse is not worth printing.
			if i, err := s.identity(cmd.Context(), holder{kind: bsn.KindAccount, name: name}); err == nil {
				if signer, has := i.Signer(k.Address()); !has {
					return fmt.Errorf("key %s is none of account %q", k.Address(), name)
				} else if !i.MaySignTokens(signer) {
					return errors.New("several keys of this account have to agree, and this one may not sign tokens by itself: bsn account key set " + k.Address() + " --tokens")
				}
			}
			now := time.Now()
			text, err := token.Sign(k.ECDSA(), k.Address(), token.Claims{
				Account: name, City: to, Network: s.ctx.Network, Project: p, Issued: now, Expires: now.Add(life),
				Methods: methods, RequestsPerSecond: l.RequestsPerSecond, UnitsPerSecond: l.UnitsPerSecond,
			})
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), text)
			return nil
		},
	}
	c.Flags().StringVar(&to, "city", "", "the city whose gateway takes it")
	c.Flags().StringVar(&project, "project", "", "the project (default: the context's)")
	c.Flags().DurationVar(&life, "life", 5*time.Minute, "how long it lasts")
	c.Flags().StringSliceVar(&methods, "method", nil, "good for these methods only, as eth_call or eth_get*")
	c.Flags().IntVar(&l.RequestsPerSecond, "rps", 0, "requests per second, averaged over ten seconds; 0: only the project's limit holds")
	c.Flags().IntVar(&l.UnitsPerSecond, "cups", 0, "compute units per second, likewise")
	c.MarkFlagRequired("city")
	return c
}
