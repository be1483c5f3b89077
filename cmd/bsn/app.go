package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/framework/evm"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/publish"
)

func sortedKeys[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

func appCommand(s *session) *cobra.Command {
	c := &cobra.Command{Use: "app", Short: "publish, call and list apps"}
	c.AddCommand(appPublish(s), appCall(s), appQuery(s), appList(s), appShow(s), appWithdraw(s))
	return c
}

func appPublish(s *session) *cobra.Command {
	var o publish.Options
	c := &cobra.Command{
		Use:     "publish FOLDER",
		Short:   "publish the app in a folder with a bsn.yaml; done again, it goes on or changes nothing",
		Example: `  bsn app publish examples/certificates --chain chongqing --cities chongqing,paris`,
		Args:    cobra.ExactArgs(1),
	}
	asJSON := jsonFlag(c)
	timeout := c.Flags().Duration("timeout", 5*time.Minute, "give up after this long; a later publish goes on from there")
	c.Flags().StringVar(&o.Chain, "chain", "", "the chain (default: the manifest's)")
	c.Flags().StringSliceVar(&o.Cities, "cities", nil, "the cities that serve it (default: the manifest's)")
	c.RunE = func(cmd *cobra.Command, args []string) (err error) {
		name, k, err := s.account()
		if err != nil {
			return err
		}
		client, err := s.dial("", k)
		if err != nil {
			return err
		}
		dir, err := filepath.Abs(args[0])
		if err != nil {
			return fmt.Errorf("find folder: %w", err)
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), *timeout)
		defer cancel()
		st := newSteps(cmd.ErrOrStderr())
		p := publish.Publisher{Account: name, Key: k, City: client, APIKey: s.apiKey, Report: st.begin, Log: cmd.ErrOrStderr()}
		res, err := p.Publish(ctx, dir, o)
		st.finish(&err)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), res)
		}
		w := cmd.OutOrStdout()
		fmt.Fprintf(w, "app %s version %d is served on chain %s\n", res.App, res.Version, res.Chain)
		for _, c := range res.Contracts {
			fmt.Fprintf(w, "  contract %s  %s\n", c.Name, c.Address)
		}
		for _, city := range sortedKeys(res.Gateways) {
			fmt.Fprintf(w, "  city %s  %s\n", city, res.Gateways[city])
		}
		return nil
	}
	return c
}

// appRef is an app as the command line names it: account/app@version.
type appRef struct {
	id      string
	version int // 0: the newest one served
}

func (s *session) appRef(text string) (appRef, error) {
	name, v, versioned := strings.Cut(text, "@")
	if !strings.Contains(name, "/") && s.ctx.Account == "" {
		return appRef{}, fmt.Errorf("whose app %q? Write account/%s, or choose an account with `bsn context set --account NAME`", name, name)
	}
	account, app, err := bsn.SplitID(name, s.ctx.Account)
	if err != nil {
		return appRef{}, err
	}
	r := appRef{id: bsn.ID(account, app)}
	if versioned {
		if r.version, err = strconv.Atoi(v); err != nil || r.version < 1 {
			return r, fmt.Errorf("version %q: it is a number from 1", v)
		}
	}
	return r, nil
}

// at finds a version that a city serves, and the city.
func (s *session) at(ctx context.Context, text, city string) (app bsn.App, v bsn.Version, cityName string, err error) {
	ref, err := s.appRef(text)
	if err != nil {
		return app, v, "", err
	}
	l, err := s.reader()
	if err != nil {
		return app, v, "", err
	}
	if app, err = read[bsn.App](ctx, l, bsn.KindApp, ref.id); err != nil {
		return app, v, "", err
	}
	if city != "" {
		v, ok := app.Serving(city, ref.version)
		if !ok {
			return app, v, "", fmt.Errorf("city %q does not serve app %q: see `bsn app show %s`", city, text, text)
		}
		return app, v, city, nil
	}
	if latest, ok := app.Latest(); ok {
		// One that the project has a key for, if there is one.
		keyed := func(city string) bool { return s.ctx.Keys[s.project()][city] != "" }
		cities := slices.Clone(latest.Cities)
		if i := slices.IndexFunc(cities, keyed); i > 0 {
			cities[0], cities[i] = cities[i], cities[0]
		}
		for _, city := range cities {
			if v, ok := app.Serving(city, ref.version); ok {
				return app, v, city, nil
			}
		}
	}
	return app, v, "", fmt.Errorf("no city serves app %q: see `bsn app show %s`", text, text)
}

func appCall(s *session) *cobra.Command {
	var city, contract string
	c := &cobra.Command{
		Use:   "call APP FUNCTION [ARGUMENT …]",
		Short: "change something: a transaction signed by the account's key",
		Example: `  bsn app call certificates issue 0x70997970C51812dc3A010C7d01b50e0d17dc79C8 "first prize" --city paris
  bsn app call alice/game@2 move 3 4`,
		Args: cobra.MinimumNArgs(2),
	}
	asJSON := jsonFlag(c)
	c.Flags().StringVar(&city, "city", "", "the city whose gateway is used (default: the app's first)")
	c.Flags().StringVar(&contract, "contract", "", "the contract, where several have the function")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		app, v, city, err := s.at(ctx, args[0], city)
		if err != nil {
			return err
		}
		_, k, err := s.account()
		if err != nil {
			return err
		}
		l, err := s.reader()
		if err != nil {
			return err
		}
		pkg, err := l.Artifact(ctx, v.Artifact)
		if err != nil {
			return err
		}
		chain, err := read[bsn.Chain](ctx, l, bsn.KindChain, v.Chain)
		if err != nil {
			return err
		}
		gateway, secret, err := s.gateway(city)
		if err != nil {
			return err
		}
		node, err := evm.Dial(ctx, gateway+"/rpc/"+v.Chain, http.Header{"X-Api-Key": {secret}})
		if err != nil {
			return err
		}
		receipt, err := evm.Invoke(ctx, node, k.ECDSA(), chain.NetworkID, pkg, v.Contracts, contract, args[1], evm.Text(args[2:]))
		if err != nil {
			return fmt.Errorf("call %s of app %s in city %s: %w", args[1], app.ID(), city, err)
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), receipt)
		}
		w := cmd.OutOrStdout()
		fmt.Fprintf(w, "done in block %d of chain %s, through city %s\ntransaction %s\n", receipt.Block, v.Chain, city, receipt.Hash)
		for _, e := range receipt.Events {
			fmt.Fprintf(w, "event %s %s\n", e.Name, e.Args)
		}
		return nil
	}
	return c
}

// gateway is the URL of a city's gateway and the project's key for it.
func (s *session) gateway(city string) (base, secret string, err error) {
	if secret, err = s.apiKey(city); err != nil {
		return "", "", err
	}
	c, ok := s.ctx.Cities[city]
	if !ok || c.Gateway == "" {
		return "", "", fmt.Errorf("the gateway of city %q is not known here: bsn context set --city %s --api URL --gateway URL", city, city)
	}
	return c.Gateway, secret, nil
}

func appQuery(s *session) *cobra.Command {
	var city, contract string
	c := &cobra.Command{
		Use:     "query APP FUNCTION [ARGUMENT …]",
		Short:   "read something, through a city's gateway; its daemon is not needed",
		Example: `  bsn app query certificates holder 1 --city chongqing`,
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			ref, err := s.appRef(args[0])
			if err != nil {
				return err
			}
			d, base, secret, err := s.describe(ctx, ref, city)
			if err != nil {
				return err
			}
			if contract == "" {
				if contract, err = d.contractOf(args[1]); err != nil {
					return err
				}
			}
			q := url.Values{"arg": args[2:]}
			address := fmt.Sprintf("%s/app/%s@%d/%s/%s?%s", base, ref.id, d.Version, url.PathEscape(contract), url.PathEscape(args[1]), q.Encode())
			var answer struct {
				Result json.RawMessage `json:"result"`
			}
			if err := askApp(ctx, address, secret, &answer); err != nil {
				return err
			}
			var text string
			if json.Unmarshal(answer.Result, &text) != nil || string(answer.Result) == "null" {
				text = string(answer.Result)
			}
			fmt.Fprintln(cmd.OutOrStdout(), text)
			return nil
		},
	}
	c.Flags().StringVar(&city, "city", "", "the city whose gateway is used (default: one that serves the app)")
	c.Flags().StringVar(&contract, "contract", "", "the contract, where several have the function")
	return c
}

// description is what a gateway says of an app.
type description struct {
	Version   int `json:"version"`
	Contracts []struct {
		Name      string         `json:"name"`
		Functions []bsn.Function `json:"functions"`
	} `json:"contracts"`
}

// describe asks the gateway of the city, or else of any city that the project has
// a key for, what the app is there.
func (s *session) describe(ctx context.Context, ref appRef, city string) (d description, base, secret string, err error) {
	cities := []string{city}
	if city == "" {
		if cities = sortedKeys(s.ctx.Keys[s.project()]); len(cities) == 0 {
			return d, "", "", fmt.Errorf("project %q has no keys here: make one with `bsn key create --city CITY`", s.project())
		}
	}
	path := "/app/" + ref.id
	if ref.version > 0 {
		path = fmt.Sprintf("%s@%d", path, ref.version)
	}
	var errs []error
	for _, name := range cities {
		if base, secret, err = s.gateway(name); err == nil {
			if err = askApp(ctx, base+path, secret, &d); err == nil {
				return d, base, secret, nil
			}
		}
		errs = append(errs, fmt.Errorf("city %s: %w", name, err))
	}
	return d, "", "", errors.Join(errs...)
}

// contractOf finds the one contract that has the function.
func (d description) contractOf(function string) (string, error) {
	var found, all []string
	for _, c := range d.Contracts {
		for _, f := range c.Functions {
			all = append(all, f.Name)
			if name, _, _ := strings.Cut(f.Name, "("); f.Name == function || name == function {
				found = append(found, c.Name)
			}
		}
	}
	switch found = slices.Compact(found); len(found) {
	case 0:
		return "", fmt.Errorf("no function %q: there are %s", function, strings.Join(all, ", "))
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("several contracts have function %q: name one with --contract: %s", function, strings.Join(found, ", "))
}

// maxAnswer bounds what a gateway answers, in bytes.
const maxAnswer = 32 << 20

// askApp gets an address of a gateway and decodes its answer. The error is the
// gateway's own.
func askApp(ctx context.Context, address, secret string, answer any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fmt.Errorf("ask gateway: %w", err)
	}
	r.Header.Set("X-Api-Key", secret)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("ask gateway: %w", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("ask gateway: %w", err)
	}
	if res.StatusCode == http.StatusOK {
		if err := json.Unmarshal(b, answer); err != nil {
			return fmt.Errorf("read gateway's answer: %w", err)
		}
		return nil
	}
	var refusal struct {
		Error json.RawMessage `json:"error"`
	}
	var text string
	var rpc struct {
		Message string `json:"message"`
	}
	switch {
	case json.Unmarshal(b, &refusal) != nil:
		return fmt.Errorf("ask gateway: %s", res.Status)
	case json.Unmarshal(refusal.Error, &text) == nil:
		return errors.New(text)
	case json.Unmarshal(refusal.Error, &rpc) == nil:
		return errors.New(rpc.Message)
	}
	return fmt.Errorf("ask gateway: %s", res.Status)
}

func appList(s *session) *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "the account's apps", Args: cobra.NoArgs}
	asJSON := jsonFlag(c)
	all := c.Flags().Bool("all", false, "those of all accounts")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		l, err := s.reader()
		if err != nil {
			return err
		}
		apps, err := list[bsn.App](cmd.Context(), l, bsn.KindApp)
		if err != nil {
			return err
		}
		apps = slices.DeleteFunc(apps, func(a bsn.App) bool { return !*all && a.Account != s.ctx.Account })
		return show(cmd, *asJSON, apps, "APP VERSION CHAIN STATE", func() (rows [][]string) {
			for _, a := range apps {
				v, ok := a.Latest()
				if !ok {
					rows = append(rows, []string{a.ID(), "-", "-", "withdrawn"})
					continue
				}
				rows = append(rows, []string{a.ID(), fmt.Sprint(v.Number), v.Chain, placements(v)})
			}
			return rows
		})
	}
	return c
}

// placements says where a version stands, "chongqing serving, paris accepted".
func placements(v bsn.Version) string {
	var out []string
	for _, city := range v.Cities {
		p := v.Placements[city]
		text := city + " " + string(p.Status)
		if p.Status == "" {
			text = city + " waiting"
		}
		if p.Reason != "" {
			text += " (" + p.Reason + ")"
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func appShow(s *session) *cobra.Command {
	c := &cobra.Command{Use: "show APP", Short: "an app's versions, contracts and where they are served", Args: cobra.ExactArgs(1)}
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		ref, err := s.appRef(args[0])
		if err != nil {
			return err
		}
		l, err := s.reader()
		if err != nil {
			return err
		}
		a, err := read[bsn.App](cmd.Context(), l, bsn.KindApp, ref.id)
		if err != nil {
			return err
		}
		return show(cmd, *asJSON, a, "VERSION CHAIN CONTRACT ADDRESS STATE", func() (rows [][]string) {
			for _, v := range a.Versions {
				if ref.version != 0 && v.Number != ref.version {
					continue
				}
				where := placements(v)
				if v.Withdrawn {
					where = "withdrawn"
				}
				for _, c := range v.Contracts {
					rows = append(rows, []string{fmt.Sprint(v.Number), v.Chain, c.Name, c.Address, where})
				}
				if len(v.Contracts) == 0 {
					rows = append(rows, []string{fmt.Sprint(v.Number), v.Chain, "-", "-", where})
				}
			}
			return rows
		})
	}
	return c
}

func appWithdraw(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "withdraw APP[@VERSION]", Short: "take an app, or one version of it, out of service", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := s.appRef(args[0])
			if err != nil {
				return err
			}
			name, k, err := s.account()
			if err != nil {
				return err
			}
			account, app, err := bsn.SplitID(ref.id, name)
			if err != nil {
				return err
			}
			if account != name {
				return fmt.Errorf("app %q is not account %q's", ref.id, name)
			}
			if _, err := s.write(cmd.Context(), k, ledger.WithdrawApp(app, ref.version)); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is withdrawn: gateways no longer serve it; what is on the chain stays there\n", args[0])
			return nil
		},
	}
}
