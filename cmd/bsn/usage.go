package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/openbsn/bsn"
)

// usageView is what `bsn usage --json` prints; with --all it prints a list of them.
type usageView struct {
	// Usage is what the receipts of all cities sum up to.
	bsn.Usage
	Quota bsn.Quota `json:"quota"`
	// Open is what is in no receipt yet, by city; of cities that did not answer,
	// Missing says why.
	Open    []openUsage    `json:"open"`
	Missing []missingUsage `json:"missing"`
	// Receipts are those that charge the project, oldest first.
	Receipts []receiptedView `json:"receipts"`
}

type openUsage struct {
	City string `json:"city"`
	bsn.UsageRow
}

type missingUsage struct {
	City  string `json:"city"`
	Error string `json:"error"`
}

// receiptedView is what a receipt has of a project.
type receiptedView struct {
	Receipt string    `json:"receipt"`
	City    string    `json:"city"`
	Until   time.Time `json:"until"`
	bsn.ProjectUse
}

// usageFilter says which receipts, and of which cities, are wanted.
type usageFilter struct {
	city  string
	since time.Time
}

func usageCommand(s *session) *cobra.Command {
	var asJSON *bool
	var all, receipts bool
	var account, since string
	var f usageFilter
	c := &cobra.Command{
		Use:   "usage [PROJECT]",
		Short: "what a project used: not billed yet, from the cities' gateways, and billed, from their receipts",
		Long: `usage shows what a project used in each city: what is not billed yet by key, chain and class
of methods, and what is billed, summed up by day (UTC) or, with --receipts, of each receipt.`,
		Example: `  bsn usage
  bsn usage web --city paris --since 48h
  bsn usage --all --since 2026-11-01 --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if f.since, err = parseSince(since, time.Now()); err != nil {
				return err
			}
			if all = all || account != ""; all && len(args) > 0 {
				return errors.New("either one project or --all of an account's")
			}
			var ids []string
			if !all {
				ids = []string{s.projectID(strings.Join(args, ""))}
			} else if ids, err = s.projectsOf(cmd.Context(), or(account, s.ctx.Account)); err != nil {
				return err
			}
			views, err := s.usage(cmd.Context(), f, ids)
			switch {
			case err != nil:
				return err
			case *asJSON && all:
				return printJSON(cmd.OutOrStdout(), views)
			case *asJSON:
				return printJSON(cmd.OutOrStdout(), views[0])
			}
			return tellUsage(cmd, views, receipts)
		},
	}
	asJSON = jsonFlag(c)
	c.Flags().BoolVar(&all, "all", false, "all projects of the account")
	c.Flags().StringVar(&account, "account", "", "all projects of this account")
	c.Flags().StringVar(&f.city, "city", "", "only what this city counted")
	c.Flags().StringVar(&since, "since", "", "only receipts since then: 2026-11-01, or so long ago: 48h")
	c.Flags().BoolVar(&receipts, "receipts", false, "each receipt, not their sums by day")
	return c
}

// parseSince reads a date (UTC), or a duration before now; nothing is the zero time.
func parseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.DateOnly, text); err == nil {
		return t, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, fmt.Errorf("--since %q is neither a date, 2026-11-01, nor a time, 48h", text)
}

func (s *session) projectsOf(ctx context.Context, account string) (ids []string, err error) {
	if account == "" {
		return nil, errNoAccount
	}
	l, err := s.reader()
	if err != nil {
		return nil, err
	}
	all, err := list[bsn.Project](ctx, l, bsn.KindProject)
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		if p.Account == account {
			ids = append(ids, p.ID())
		}
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("account %q has no projects", account)
	}
	return ids, nil
}

// usage looks up what projects used; at least one.
func (s *session) usage(ctx context.Context, f usageFilter, ids []string) ([]usageView, error) {
	l, err := s.reader()
	if err != nil {
		return nil, err
	}
	receipts, err := list[bsn.Receipt](ctx, l, bsn.KindReceipt)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(receipts, func(a, b bsn.Receipt) int { return cmp.Compare(a.Until, b.Until) })
	cities, err := list[bsn.City](ctx, l, bsn.KindCity)
	if err != nil {
		return nil, err
	}
	var out []usageView
	for _, id := range ids {
		v := usageView{Open: []openUsage{}, Missing: []missingUsage{}, Receipts: []receiptedView{}}
		project, err := read[bsn.Project](ctx, l, bsn.KindProject, id)
		if err != nil {
			return nil, err
		}
		if v.Usage, err = read[bsn.Usage](ctx, l, bsn.KindUsage, id); err != nil && !errors.Is(err, bsn.ErrNoRecord) {
			return nil, err
		}
		v.Project, v.Quota = id, project.Quota
		if v.Settled == nil {
			v.Settled = map[string]int64{}
		}
		for _, r := range receipts {
			until := time.Unix(r.Until, 0).UTC()
			if f.city != "" && r.City != f.city || until.Before(f.since) {
				continue
			}
			for _, p := range r.Projects {
				if p.Project == id {
					v.Receipts = append(v.Receipts, receiptedView{r.ID(), r.City, until, p})
				}
			}
		}
		for _, c := range cities {
			_, known := s.ctx.Cities[c.Name]
			has := slices.ContainsFunc(project.Keys, func(k bsn.Key) bool { return k.City == c.Name })
			if !c.Status.Member() || f.city != "" && c.Name != f.city || !known && !has {
				continue // who is out has billed what there was
			}
			rows, err := s.rows(ctx, c.Name, id, 0)
			if err != nil {
				v.Missing = append(v.Missing, missingUsage{c.Name, err.Error()})
				continue
			}
			for _, r := range rows {
				v.Open = append(v.Open, openUsage{c.Name, r.UsageRow})
			}
		}
		out = append(out, v)
	}
	return out, nil
}

// tellUsage prints it for people.
func tellUsage(cmd *cobra.Command, views []usageView, receipts bool) error {
	out := cmd.OutOrStdout()
	for i, v := range views {
		if i > 0 {
			fmt.Fprintln(out)
		}
		if len(views) > 1 {
			fmt.Fprintln(out, v.Project)
		}
		var rows [][]string
		for _, r := range v.billed(receipts) {
			rows = append(rows, []string{r.City, r.Receipt, "all", "all", "all", fmt.Sprint(r.Calls), fmt.Sprint(r.Units)})
		}
		open := uint64(0)
		for _, o := range v.Open {
			rows = append(rows, []string{o.City, "not billed yet", cmp.Or(o.Key, "token"), o.Chain, string(o.Class), fmt.Sprint(o.Calls), fmt.Sprint(o.Units)})
			open += o.Units
		}
		if len(rows) == 0 {
			fmt.Fprintln(out, "nothing was used, as far as the cities that answer and their receipts say")
		} else if err := table(out, "CITY BILLED KEY CHAIN CLASS CALLS UNITS", rows); err != nil {
			return err
		}
		for _, m := range v.Missing {
			fmt.Fprintf(cmd.ErrOrStderr(), "what is not billed yet in %s is missing: %s\n", m.City, m.Error)
		}
		if v.Month != "" {
			fmt.Fprintf(out, "\nbilled: %d compute units on %s%s, %d in %s%s; not billed yet: %d\n",
				v.DayUnits, v.Day, ofQuota(v.Quota.Daily), v.MonthUnits, v.Month, ofQuota(v.Quota.Monthly), open)
		}
	}
	return nil
}

func ofQuota(most int64) string {
	if most == 0 {
		return ""
	}
	return fmt.Sprintf(" (of a quota of %d)", most)
}

// billed are the receipts, or their sums by day and city with the day in place of the
// receipt's id.
func (v usageView) billed(each bool) (out []receiptedView) {
	for _, r := range v.Receipts {
		if each {
			out = append(out, r)
			continue
		}
		day := bsn.UsageDay(r.Until.Unix())
		i := slices.IndexFunc(out, func(o receiptedView) bool { return o.City == r.City && o.Receipt == day })
		if i < 0 {
			i = len(out)
			out = append(out, receiptedView{City: r.City, Receipt: day})
		}
		out[i].Calls += r.Calls
		out[i].Units += r.Units
	}
	return out
}
