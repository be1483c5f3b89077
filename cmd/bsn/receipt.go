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
	"github.com/openbsn/bsn/receipt"
)

// usageView is what `bsn usage --json` prints.
type usageView struct {
	// Usage is what the receipts of all cities sum up to.
	bsn.Usage
	// Open is what is in no receipt yet, by city; of cities that did not answer,
	// Missing says why.
	Open     []openUsage     `json:"open"`
	Missing  []missingUsage  `json:"missing"`
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

func usageCommand(s *session) *cobra.Command {
	var asJSON *bool
	c := &cobra.Command{
		Use:   "usage [PROJECT]",
		Short: "what a project used: not billed yet, from the cities' gateways, and billed, from their receipts",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := s.usage(cmd.Context(), strings.Join(args, ""))
			if err != nil {
				return err
			}
			if *asJSON {
				return printJSON(cmd.OutOrStdout(), v)
			}
			var rows [][]string
			for _, o := range v.Open {
				rows = append(rows, []string{o.City, "not billed yet", cmp.Or(o.Key, "token"), o.Chain, string(o.Class), fmt.Sprint(o.Calls), fmt.Sprint(o.Units)})
			}
			for _, r := range v.Receipts {
				rows = append(rows, []string{r.City, r.Until.Format(time.RFC3339), "all", "all", "all", fmt.Sprint(r.Calls), fmt.Sprint(r.Units)})
			}
			if err := table(cmd.OutOrStdout(), "CITY UNTIL KEY CHAIN CLASS CALLS UNITS", rows); err != nil {
				return err
			}
			for _, m := range v.Missing {
				fmt.Fprintf(cmd.ErrOrStderr(), "what is not billed yet in %s is missing: %s\n", m.City, m.Error)
			}
			if v.Month != "" {
				fmt.Fprintf(cmd.OutOrStdout(), "\nbilled: %d compute units on %s, %d in %s\n", v.DayUnits, v.Day, v.MonthUnits, v.Month)
			}
			return nil
		},
	}
	asJSON = jsonFlag(c)
	return c
}

func (s *session) usage(ctx context.Context, name string) (v usageView, err error) {
	v = usageView{Open: []openUsage{}, Missing: []missingUsage{}, Receipts: []receiptedView{}}
	id := s.projectID(name)
	l, err := s.reader()
	if err != nil {
		return v, err
	}
	if _, err := l.Get(ctx, bsn.KindProject, id); err != nil {
		return v, err
	}
	v.Usage, err = read[bsn.Usage](ctx, l, bsn.KindUsage, id)
	if err != nil && !errors.Is(err, bsn.ErrNoRecord) {
		return v, err
	}
	v.Project = id
	if v.Settled == nil {
		v.Settled = map[string]int64{}
	}
	all, err := list[bsn.Receipt](ctx, l, bsn.KindReceipt)
	if err != nil {
		return v, err
	}
	for _, r := range all {
		for _, p := range r.Projects {
			if p.Project == id {
				v.Receipts = append(v.Receipts, receiptedView{r.ID(), r.City, time.Unix(r.Until, 0).UTC(), p})
			}
		}
	}
	for _, city := range sortedKeys(s.ctx.Cities) {
		rows, err := s.rows(ctx, city, id, 0)
		if err != nil {
			v.Missing = append(v.Missing, missingUsage{city, err.Error()})
			continue
		}
		for _, r := range rows {
			v.Open = append(v.Open, openUsage{city, r.UsageRow})
		}
	}
	return v, nil
}

// rows asks a city for a project's rows.
func (s *session) rows(ctx context.Context, city, project string, until int64) ([]receipt.Proven, error) {
	k, err := s.anyKey()
	if err != nil {
		return nil, err
	}
	c, err := s.dial(city, k)
	if err != nil {
		return nil, err
	}
	return c.Usage(ctx, project, until)
}

func receiptCommand(s *session) *cobra.Command {
	c := &cobra.Command{Use: "receipt", Short: "receipts: what each city metered and billed in each period"}
	c.AddCommand(receiptList(s), receiptShow(s), receiptVerify(s))
	return c
}

func receiptList(s *session) *cobra.Command {
	var asJSON *bool
	var city string
	c := &cobra.Command{
		Use:   "list",
		Short: "list the receipts that the ledger keeps, oldest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := s.reader()
			if err != nil {
				return err
			}
			all, err := list[bsn.Receipt](cmd.Context(), l, bsn.KindReceipt)
			if err != nil {
				return err
			}
			all = slices.DeleteFunc(all, func(r bsn.Receipt) bool { return city != "" && r.City != city })
			slices.SortStableFunc(all, func(a, b bsn.Receipt) int { return cmp.Compare(a.Until, b.Until) })
			return show(cmd, *asJSON, all, "RECEIPT UNTIL ACCOUNTS PROJECTS UNITS", func() (rows [][]string) {
				for _, r := range all {
					units := uint64(0)
					for _, c := range r.Charges {
						units += c.Units
					}
					rows = append(rows, []string{r.ID(), time.Unix(r.Until, 0).UTC().Format(time.RFC3339), fmt.Sprint(len(r.Charges)), fmt.Sprint(len(r.Projects)), fmt.Sprint(units)})
				}
				return rows
			})
		},
	}
	asJSON = jsonFlag(c)
	c.Flags().StringVar(&city, "city", "", "only those of this city")
	return c
}

func receiptShow(s *session) *cobra.Command {
	var asJSON *bool
	c := &cobra.Command{
		Use:     "show RECEIPT",
		Short:   "show what a receipt says of each project",
		Example: "  bsn receipt show paris/1924992000/1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := s.reader()
			if err != nil {
				return err
			}
			r, err := read[bsn.Receipt](cmd.Context(), l, bsn.KindReceipt, args[0])
			if err != nil {
				return err
			}
			return show(cmd, *asJSON, r, "PROJECT CALLS UNITS ROWS ROOT", func() (rows [][]string) {
				for _, p := range r.Projects {
					rows = append(rows, []string{p.Project, fmt.Sprint(p.Calls), fmt.Sprint(p.Units), fmt.Sprint(p.Rows), p.Root})
				}
				return rows
			})
		},
	}
	asJSON = jsonFlag(c)
	return c
}

// verifiedView is what `bsn receipt verify --json` prints of each receipt.
type verifiedView struct {
	receiptedView
	Verified bool             `json:"verified"`
	Error    string           `json:"error,omitempty"`
	Proven   []receipt.Proven `json:"proven"`
}

func receiptVerify(s *session) *cobra.Command {
	var asJSON *bool
	var project string
	c := &cobra.Command{
		Use:   "verify [RECEIPT]",
		Short: "fetch a project's rows from the cities and check them against the receipts on the ledger",
		Long: `verify asks the city of each receipt that charges the project (or of the one that is
named) for the rows, and checks here that they are all that the receipt counts, row by
row against the root that the ledger has.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id := s.projectID(project)
			l, err := s.reader()
			if err != nil {
				return err
			}
			all, err := list[bsn.Receipt](cmd.Context(), l, bsn.KindReceipt)
			if err != nil {
				return err
			}
			views, wrong := []verifiedView{}, 0
			for _, r := range all {
				i := slices.IndexFunc(r.Projects, func(p bsn.ProjectUse) bool { return p.Project == id })
				if i < 0 || len(args) > 0 && r.ID() != args[0] {
					continue
				}
				v := s.verify(cmd.Context(), r, r.Projects[i])
				if !v.Verified {
					wrong++
				}
				views = append(views, v)
			}
			if len(views) == 0 {
				return fmt.Errorf("no receipt that is asked for charges project %s: see `bsn receipt list`", id)
			}
			if err := show(cmd, *asJSON, views, "RECEIPT CALLS UNITS ROWS VERIFIED", func() (rows [][]string) {
				for _, v := range views {
					rows = append(rows, []string{v.Receipt, fmt.Sprint(v.Calls), fmt.Sprint(v.Units), fmt.Sprint(v.ProjectUse.Rows), cmp.Or(v.Error, "yes")})
				}
				return rows
			}); err != nil {
				return err
			}
			if wrong > 0 {
				return fmt.Errorf("%d of %d receipts could not be verified", wrong, len(views))
			}
			return nil
		},
	}
	asJSON = jsonFlag(c)
	c.Flags().StringVar(&project, "project", "", "project (default: the context's)")
	return c
}

func (s *session) verify(ctx context.Context, r bsn.Receipt, use bsn.ProjectUse) verifiedView {
	v := verifiedView{receiptedView: receiptedView{r.ID(), r.City, time.Unix(r.Until, 0).UTC(), use}, Proven: []receipt.Proven{}}
	rows, err := s.rows(ctx, r.City, use.Project, r.Until)
	if err == nil {
		v.Proven = rows
		err = receipt.Verify(use, rows)
	}
	if err != nil {
		v.Error = err.Error()
	}
	v.Verified = err == nil
	return v
}
