package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/ledger/key"
)

func accountCommand(s *session) *cobra.Command {
	c := &cobra.Command{Use: "account", Short: "accounts, which own projects and apps"}
	l := &cobra.Command{Use: "list", Short: "the network's accounts", Args: cobra.NoArgs}
	asJSON := jsonFlag(l)
	l.RunE = func(cmd *cobra.Command, _ []string) error {
		r, err := s.reader()
		if err != nil {
			return err
		}
		accounts, err := list[bsn.Account](cmd.Context(), r, bsn.KindAccount)
		if err != nil {
			return err
		}
		return show(cmd, *asJSON, accounts, "ACCOUNT PORTAL KEYS ETHEREUM", func() (rows [][]string) {
			for _, a := range accounts {
				rows = append(rows, []string{a.Name, a.Portal, agreement(a.Identity), ethereum(a.Identity)})
			}
			return rows
		})
	}
	var portal string
	create := &cobra.Command{
		Use:   "create NAME",
		Short: "make an account's key here and register it through a portal of this machine",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := s.createAccount(cmd.Context(), portal, args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "account %s: %s on EVM chains\nits key is %s: keep a copy, nobody else has it\nnext: bsn context set --account %s\n", a.Name, ethereum(a.Identity), s.accountKey(a.Name), a.Name)
			return nil
		},
	}
	create.Flags().StringVar(&portal, "portal", "demo", "the portal that registers it")
	c.AddCommand(l, create, accountShow(s), holderKeys(s, bsn.KindAccount), guardCommand(s), accountRecover(s), recoveryCommand(s))
	return c
}

func (s *session) createAccount(ctx context.Context, portal, name string) (bsn.Account, error) {
	if err := bsn.CheckName("account", name); err != nil {
		return bsn.Account{}, err
	}
	p, err := key.Load(s.portalKey(portal))
	if err != nil {
		return bsn.Account{}, fmt.Errorf("key of portal %q: %w", portal, err)
	}
	k, err := key.LoadOrNew(s.accountKey(name))
	if err != nil {
		return bsn.Account{}, err
	}
	if _, err := s.write(ctx, p, ledger.RegisterAccount(name, ledger.NewOffer(k, s.ctx.Network, bsn.KindAccount, name))); err != nil {
		return bsn.Account{}, err
	}
	conn, err := s.dial("", p)
	if err != nil {
		return bsn.Account{}, err
	}
	return read[bsn.Account](ctx, conn, bsn.KindAccount, name)
}

func projectCommand(s *session) *cobra.Command {
	c := &cobra.Command{Use: "project", Short: "projects: access to chains and apps"}
	l := &cobra.Command{Use: "list", Short: "the account's projects", Args: cobra.NoArgs}
	asJSON := jsonFlag(l)
	all := l.Flags().Bool("all", false, "those of all accounts")
	l.RunE = func(cmd *cobra.Command, _ []string) error {
		r, err := s.reader()
		if err != nil {
			return err
		}
		projects, err := list[bsn.Project](cmd.Context(), r, bsn.KindProject)
		if err != nil {
			return err
		}
		projects = slices.DeleteFunc(projects, func(p bsn.Project) bool { return !*all && p.Account != s.ctx.Account })
		return show(cmd, *asJSON, projects, "PROJECT KEYS RATE QUOTA STATE", func() (rows [][]string) {
			for _, p := range projects {
				live := 0
				for _, k := range p.Keys {
					if !k.Revoked {
						live++
					}
				}
				rows = append(rows, []string{p.ID(), fmt.Sprint(live), or(rates(p.Limits), "default"), dash(quota(p.Quota)), state(p.Revoked)})
			}
			return rows
		})
	}
	c.AddCommand(l, projectSet(s, "create", "make a project"), projectSet(s, "set", "set a project's requests per second and deployers: what is not named stays"), projectLimits(s))
	c.AddCommand(&cobra.Command{
		Use: "revoke NAME", Short: "end a project and all its keys, in every city, for good", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, k, err := s.account()
			if err != nil {
				return err
			}
			res, err := s.write(cmd.Context(), k, ledger.RevokeProject(args[0]))
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "project %s is revoked, in block %d\n", args[0], res.Height)
			return nil
		},
	})
	return c
}

// rates says what limits there are, for people.
func rates(l bsn.Limits) string {
	var parts []string
	if l.RequestsPerSecond > 0 {
		parts = append(parts, fmt.Sprintf("%d/s", l.RequestsPerSecond))
	}
	if l.UnitsPerSecond > 0 {
		parts = append(parts, fmt.Sprintf("%d units/s", l.UnitsPerSecond))
	}
	return strings.Join(parts, ", ")
}

func quota(q bsn.Quota) string {
	var parts []string
	if q.Daily > 0 {
		parts = append(parts, fmt.Sprintf("%d/day", q.Daily))
	}
	if q.Monthly > 0 {
		parts = append(parts, fmt.Sprintf("%d/month", q.Monthly))
	}
	return strings.Join(parts, ", ")
}

func state(revoked bool) string {
	if revoked {
		return "revoked"
	}
	return "active"
}

func projectSet(s *session, use, short string) *cobra.Command {
	var rate int
	var deployers []string
	c := &cobra.Command{
		Use: use + " NAME", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, k, err := s.account()
			if err != nil {
				return err
			}
			if rate < 0 {
				return errors.New("requests per second must not be negative")
			}
			l, err := s.reader()
			if err != nil {
				return err
			}
			id := bsn.ID(name, args[0])
			p, err := read[bsn.Project](cmd.Context(), l, bsn.KindProject, id)
			known := err == nil
			if err != nil && (!errors.Is(err, bsn.ErrNoRecord) || use == "set") {
				return err
			}
			p.Name = args[0]
			if cmd.Flags().Changed("rate") {
				p.Limits.RequestsPerSecond = rate
			}
			if cmd.Flags().Changed("deployer") {
				p.Deployers = deployers
			}
			if _, err := s.write(cmd.Context(), k, ledger.SetProject(p)); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "project %s\n", id)
			if !known {
				fmt.Fprintf(cmd.OutOrStdout(), "next: bsn key create --project %s --city CITY\n", p.Name)
			}
			return nil
		},
	}
	c.Flags().IntVar(&rate, "rate", 0, "requests per second at each gateway, averaged over ten seconds (default: the gateway's)")
	c.Flags().StringSliceVar(&deployers, "deployer", nil, "all Ethereum addresses, beside the account's own, that may create contracts")
	return c
}

func projectLimits(s *session) *cobra.Command {
	var l bsn.Limits
	var q bsn.Quota
	c := &cobra.Command{
		Use:     "limits NAME",
		Short:   "set how much a project may use, in calls and in compute units: what is not named stays",
		Example: `  bsn project limits web --rps 100 --cups 2000 --daily 5000000 --monthly 100000000`,
		Args:    cobra.ExactArgs(1),
	}
	c.Flags().IntVar(&l.RequestsPerSecond, "rps", 0, "requests per second at each gateway, averaged over ten seconds; 0 for the gateway's default")
	c.Flags().IntVar(&l.UnitsPerSecond, "cups", 0, "compute units per second, likewise")
	c.Flags().Int64Var(&q.Daily, "daily", 0, "compute units in a day, in all cities together; 0 for no bound")
	c.Flags().Int64Var(&q.Monthly, "monthly", 0, "compute units in a month, likewise")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		_, k, err := s.account()
		if err != nil {
			return err
		}
		r, err := s.reader()
		if err != nil {
			return err
		}
		p, err := read[bsn.Project](cmd.Context(), r, bsn.KindProject, s.projectID(args[0]))
		if err != nil {
			return err
		}
		for name, set := range map[string]func(){
			"rps":     func() { p.Limits.RequestsPerSecond = l.RequestsPerSecond },
			"cups":    func() { p.Limits.UnitsPerSecond = l.UnitsPerSecond },
			"daily":   func() { p.Quota.Daily = q.Daily },
			"monthly": func() { p.Quota.Monthly = q.Monthly },
		} {
			if cmd.Flags().Changed(name) {
				set()
			}
		}
		if err := errors.Join(p.Limits.Check(), p.Quota.Check()); err != nil {
			return err
		}
		if _, err := s.write(cmd.Context(), k, ledger.SetLimits(p)); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "project %s: %s at each gateway, %s\n", p.ID(), or(rates(p.Limits), "the default"), or(quota(p.Quota), "no quota"))
		return nil
	}
	return c
}

// projectID completes a project's name; empty means the context's project.
func (s *session) projectID(name string) string {
	switch {
	case name == "":
		return s.project()
	case strings.Contains(name, "/"):
		return name
	}
	return bsn.ID(s.ctx.Account, name)
}

func contextCommand(s *session) *cobra.Command {
	c := &cobra.Command{Use: "context", Short: "the network, city, account and project that commands mean by default"}
	asJSON := jsonFlag(c)
	keys := c.Flags().Bool("show-keys", false, "show API keys in full")
	c.Args = cobra.NoArgs
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		shown := s.ctx
		if !*keys {
			shown.Keys = map[string]map[string]string{}
			for project, cities := range s.ctx.Keys {
				shown.Keys[project] = map[string]string{}
				for city, secret := range cities {
					shown.Keys[project][city] = "key " + bsn.HashKey(secret)[:12]
				}
			}
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), shown)
		}
		w := cmd.OutOrStdout()
		fmt.Fprintf(w, "network  %s\ncity     %s\naccount  %s\nproject  %s\n", dash(shown.Network), dash(shown.City), dash(shown.Account), dash(s.project()))
		var rows [][]string
		for _, name := range sortedKeys(shown.Cities) {
			rows = append(rows, []string{name, shown.Cities[name].API, shown.Cities[name].Gateway, dash(shown.Keys[s.project()][name])})
		}
		fmt.Fprintln(w)
		return table(w, "CITY API GATEWAY KEY", rows)
	}
	c.AddCommand(contextSet(s))
	return c
}

func contextSet(s *session) *cobra.Command {
	var set cliContext
	var address cityAddress
	c := &cobra.Command{
		Use: "set", Short: "choose account, project and city, or name a city of another network", Args: cobra.NoArgs,
		Example: `  bsn context set --account alice --project web
  bsn context set --network bsn-main --city paris --api https://… --gateway https://…`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if set.Account != "" && set.Account != s.ctx.Account {
				s.ctx.Project = "" // another account's project is not meant
			}
			for _, f := range []struct{ from, to *string }{
				{&set.Network, &s.ctx.Network}, {&set.Account, &s.ctx.Account}, {&set.Project, &s.ctx.Project}, {&set.City, &s.ctx.City},
			} {
				if *f.from != "" {
					*f.to = *f.from
				}
			}
			if address != (cityAddress{}) {
				if set.City == "" {
					return errors.New("--api and --gateway go with --city: whose are they?")
				}
				if s.ctx.Cities == nil {
					s.ctx.Cities = map[string]cityAddress{}
				}
				known := s.ctx.Cities[set.City]
				s.ctx.Cities[set.City] = cityAddress{API: or(address.API, known.API), Gateway: or(address.Gateway, known.Gateway)}
			}
			if _, ok := s.ctx.Cities[s.ctx.City]; s.ctx.City != "" && !ok {
				return fmt.Errorf("city %q is not known here: say where with --api and --gateway", s.ctx.City)
			}
			if err := s.saveContext(); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "network %s, city %s, account %s, project %s\n", dash(s.ctx.Network), dash(s.ctx.City), dash(s.ctx.Account), dash(s.ctx.Project))
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&set.Network, "network", "", "the network's name")
	f.StringVar(&set.City, "city", "", "the city to talk to")
	f.StringVar(&address.API, "api", "", "URL of that city's API")
	f.StringVar(&address.Gateway, "gateway", "", "URL of that city's gateway")
	f.StringVar(&set.Account, "account", "", "the account to act as")
	f.StringVar(&set.Project, "project", "", "the project whose keys are used")
	return c
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
