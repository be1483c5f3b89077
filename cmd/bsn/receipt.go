package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/receipt"
)

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
