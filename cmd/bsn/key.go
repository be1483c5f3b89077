package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger"
)

func keyCommand(s *session) *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "API keys of a project, each valid in one city"}
	var project, city string
	create := &cobra.Command{
		Use: "create", Short: "make a key; it is shown once and kept in the context", Args: cobra.NoArgs,
		Example: `  bsn key create --city paris
  bsn key create --city paris --method 'eth_*' --contract alice/shop --origin https://shop.example --rps 20 --expires 720h`,
	}
	granted := grantFlags(create)
	create.RunE = func(cmd *cobra.Command, _ []string) error {
		grant, err := granted(bsn.Key{})
		if err != nil {
			return err
		}
		secret, k, err := s.createKey(cmd.Context(), project, city, grant)
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s\n", secret)
		fmt.Fprintf(cmd.ErrOrStderr(), "key %s of project %s for city %s\n", k.ID, s.projectID(project), city)
		return nil
	}
	create.Flags().StringVar(&project, "project", "", "the project (default: the context's)")
	create.Flags().StringVar(&city, "city", "", "the city whose gateway takes it")
	create.MarkFlagRequired("city")

	var of string
	revoke := &cobra.Command{
		Use: "revoke KEY", Short: "end a key for good, by its id or its text", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, k, err := s.account()
			if err != nil {
				return err
			}
			id := keyID(args[0])
			_, project, err := bsn.SplitID(s.projectID(of), s.ctx.Account)
			if err != nil {
				return err
			}
			res, err := s.write(cmd.Context(), k, ledger.RevokeKey(project, id))
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "key %s is revoked, in block %d\n", id, res.Height)
			return nil
		},
	}
	revoke.Flags().StringVar(&of, "project", "", "the project (default: the context's)")

	var listOf string
	l := &cobra.Command{Use: "list", Short: "a project's keys", Args: cobra.NoArgs}
	asJSON := jsonFlag(l)
	l.Flags().StringVar(&listOf, "project", "", "the project (default: the context's)")
	l.RunE = func(cmd *cobra.Command, _ []string) error {
		r, err := s.reader()
		if err != nil {
			return err
		}
		p, err := read[bsn.Project](cmd.Context(), r, bsn.KindProject, s.projectID(listOf))
		if err != nil {
			return err
		}
		return show(cmd, *asJSON, p.Keys, "KEY CITY STATE LIMITS RESTRICTIONS EXPIRES", func() (rows [][]string) {
			for _, k := range p.Keys {
				rows = append(rows, []string{k.ID, k.City, state(k.Revoked || p.Revoked), dash(rates(k.Limits)), dash(restrictions(k.Restrictions)), dash(expiry(k.Expires))})
			}
			return rows
		})
	}
	c.AddCommand(create, apiKeySet(s), revoke, l)
	return c
}

// keyID is the id of a key that is given by its id or its text.
func keyID(text string) string {
	if bsn.CheckKey(text) == nil {
		return bsn.HashKey(text)[:12]
	}
	return text
}

// grantFlags adds the flags that say what a key is good for, and returns how to change
// a key by those that are given.
func grantFlags(c *cobra.Command) func(bsn.Key) (bsn.Key, error) {
	var l bsn.Limits
	var r bsn.Restrictions
	var life time.Duration
	f := c.Flags()
	f.StringSliceVar(&r.Methods, "method", nil, "only these methods, as eth_call or eth_get*")
	f.StringSliceVar(&r.DeniedMethods, "deny-method", nil, "none of these methods")
	f.StringSliceVar(&r.Contracts, "contract", nil, "only these contracts: ADDRESS, CHAIN:ADDRESS, or an app's as ACCOUNT/APP")
	f.StringSliceVar(&r.IPs, "ip", nil, "only from these addresses, as 192.0.2.7 or 10.0.0.0/8")
	f.StringSliceVar(&r.Origins, "origin", nil, "only from web pages of these origins, as https://app.example or https://*.app.example")
	f.IntVar(&l.RequestsPerSecond, "rps", 0, "requests per second, averaged over ten seconds; 0: only the project's limit holds")
	f.IntVar(&l.UnitsPerSecond, "cups", 0, "compute units per second, likewise")
	f.DurationVar(&life, "expires", 0, "good for so long from now, as 720h; 0 for ever")
	return func(k bsn.Key) (bsn.Key, error) {
		if life < 0 {
			return k, errors.New("--expires is a time from now, as 720h")
		}
		for name, set := range map[string]func(){
			"method":      func() { k.Restrictions.Methods = r.Methods },
			"deny-method": func() { k.Restrictions.DeniedMethods = r.DeniedMethods },
			"contract":    func() { k.Restrictions.Contracts = r.Contracts },
			"ip":          func() { k.Restrictions.IPs = r.IPs },
			"origin":      func() { k.Restrictions.Origins = r.Origins },
			"rps":         func() { k.Limits.RequestsPerSecond = l.RequestsPerSecond },
			"cups":        func() { k.Limits.UnitsPerSecond = l.UnitsPerSecond },
			"expires": func() {
				if k.Expires = 0; life > 0 {
					k.Expires = time.Now().Add(life).Unix()
				}
			},
		} {
			if f.Changed(name) {
				set()
			}
		}
		_, err := k.Restrictions.Normal()
		return k, errors.Join(k.Limits.Check(), err)
	}
}

func apiKeySet(s *session) *cobra.Command {
	var of string
	c := &cobra.Command{
		Use: "set KEY", Short: "change what a key is good for, by its id or its text: what is not named stays", Args: cobra.ExactArgs(1),
		Example: `  bsn key set 406904b6d690 --rps 50 --expires 720h
  bsn key set 406904b6d690 --origin '' --ip 10.0.0.0/8    # from no particular page any more, but from these addresses`,
	}
	granted := grantFlags(c)
	c.Flags().StringVar(&of, "project", "", "the project (default: the context's)")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		_, k, err := s.account()
		if err != nil {
			return err
		}
		r, err := s.reader()
		if err != nil {
			return err
		}
		p, err := read[bsn.Project](cmd.Context(), r, bsn.KindProject, s.projectID(of))
		if err != nil {
			return err
		}
		id := keyID(args[0])
		i := slices.IndexFunc(p.Keys, func(k bsn.Key) bool { return k.ID == id })
		if i < 0 {
			return fmt.Errorf("project %s has no key %q: see bsn key list", p.ID(), id)
		}
		changed, err := granted(p.Keys[i])
		if err != nil {
			return err
		}
		res, err := s.write(cmd.Context(), k, ledger.SetKey(p.Name, changed))
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "key %s: %s, %s, expires %s, in block %d\n", id, or(rates(changed.Limits), "the project's limits"),
			or(restrictions(changed.Restrictions), "no restrictions"), or(expiry(changed.Expires), "never"), res.Height)
		return nil
	}
	return c
}

// restrictions are those of a key, for people.
func restrictions(r bsn.Restrictions) string {
	var parts []string
	for _, list := range []struct {
		what    string
		entries []string
	}{{"methods", r.Methods}, {"not", r.DeniedMethods}, {"contracts", r.Contracts}, {"ips", r.IPs}, {"origins", r.Origins}} {
		if len(list.entries) > 0 {
			parts = append(parts, list.what+" "+strings.Join(list.entries, ","))
		}
	}
	return strings.Join(parts, "; ")
}

func expiry(at int64) string {
	if at == 0 {
		return ""
	}
	return time.Unix(at, 0).UTC().Format(time.RFC3339)
}

// createKey makes a key with the limits, restrictions and expiry of another and keeps
// its text in the context.
func (s *session) createKey(ctx context.Context, project, city string, grant bsn.Key) (string, bsn.Key, error) {
	_, k, err := s.account()
	if err != nil {
		return "", bsn.Key{}, err
	}
	id := s.projectID(project)
	_, name, err := bsn.SplitID(id, s.ctx.Account)
	if err != nil {
		return "", bsn.Key{}, err
	}
	secret, record := bsn.NewKey(city)
	register := ledger.AddKey
	if grant.Restricted() {
		record.Limits, record.Restrictions, record.Expires = grant.Limits, grant.Restrictions, grant.Expires
		register = ledger.SetKey
	}
	if _, err := s.write(ctx, k, register(name, record)); err != nil {
		return "", bsn.Key{}, err
	}
	s.keep(id, city, secret)
	return secret, record, s.saveContext()
}

func (s *session) keep(project, city, secret string) {
	if s.ctx.Keys == nil {
		s.ctx.Keys = map[string]map[string]string{}
	}
	if s.ctx.Keys[project] == nil {
		s.ctx.Keys[project] = map[string]string{}
	}
	s.ctx.Keys[project][city] = secret
}
