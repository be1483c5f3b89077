package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/city"
	"github.com/openbsn/bsn/city/api"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/ledger/key"
	"github.com/openbsn/bsn/receipt"
)

// verifiedView is what `bsn receipt verify --json` prints of each receipt.
type verifiedView struct {
	receiptedView
	// Block is the ledger's block that proves the receipt, and Trust what that is proven
	// from.
	Block    int64            `json:"block,omitempty"`
	Trust    trustView        `json:"trust"`
	Verified bool             `json:"verified"`
	Error    string           `json:"error,omitempty"`
	Proven   []receipt.Proven `json:"proven"`
}

// trustView is a block of the ledger that is taken for granted, and why.
type trustView struct {
	ledger.Trust
	From string `json:"from"`
}

// provePause is the time between two tries to have a receipt proven that is so new
// that its proof comes with the ledger's next block, and proveTries how many there are.
const (
	provePause = time.Second
	proveTries = 15
)

func receiptVerify(s *session) *cobra.Command {
	var asJSON *bool
	var project, trust string
	c := &cobra.Command{
		Use:   "verify [RECEIPT]",
		Short: "fetch a project's rows from the cities and check them against the receipts on the ledger",
		Long: `verify asks the city of each receipt that charges the project (or of the one that is
named) for the rows, and checks here that they are all that the receipt counts, row by
row against the root in the receipt. And it checks that the network has this receipt: its
record is proven from a block of the ledger, and that by the signatures of the operators
from a block that is trusted. No city is believed.

Trusted is the block of --trust (bsn ledger trust, on a machine that you trust), else one
that a city of this machine has, else one that more than half of the cities known here
have, and no other one contradicts.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, id := cmd.Context(), s.projectID(project)
			l, err := s.reader()
			if err != nil {
				return err
			}
			given, err := parseTrust(trust)
			if err != nil {
				return err
			}
			from, err := s.trusted(ctx, given)
			if err != nil {
				return err
			}
			all, err := list[bsn.Receipt](ctx, l, bsn.KindReceipt)
			if err != nil {
				return err
			}
			views, wrong := []verifiedView{}, 0
			for _, r := range all {
				i := slices.IndexFunc(r.Projects, func(p bsn.ProjectUse) bool { return p.Project == id })
				if i < 0 || len(args) > 0 && r.ID() != args[0] {
					continue
				}
				v := s.verify(ctx, l, from, r, r.Projects[i])
				if !v.Verified {
					wrong++
				}
				views = append(views, v)
			}
			if len(views) == 0 {
				return fmt.Errorf("no receipt that is asked for charges project %s: see `bsn receipt list`", id)
			}
			if err := show(cmd, *asJSON, views, "RECEIPT CALLS UNITS ROWS BLOCK VERIFIED", func() (rows [][]string) {
				for _, v := range views {
					rows = append(rows, []string{v.Receipt, fmt.Sprint(v.Calls), fmt.Sprint(v.Units), fmt.Sprint(v.ProjectUse.Rows), fmt.Sprint(v.Block), cmp.Or(v.Error, "yes")})
				}
				return rows
			}); err != nil {
				return err
			}
			if !*asJSON {
				tellChecked(cmd.OutOrStdout(), from, len(views)-wrong)
			}
			if wrong > 0 {
				return fmt.Errorf("%d of %d receipts could not be verified", wrong, len(views))
			}
			return nil
		},
	}
	asJSON = jsonFlag(c)
	c.Flags().StringVar(&project, "project", "", "project (default: the context's)")
	c.Flags().StringVar(&trust, "trust", "", "block of the ledger to begin with, HEIGHT:HASH (default: that of a city of this machine, or of most cities)")
	return c
}

func tellChecked(w io.Writer, from trustView, good int) {
	if good > 0 {
		fmt.Fprintf(w, "\nchecked: each row by its proof against the root in its receipt; the sums; and each receipt by its proof against the ledger's\n"+
			"block, which the operators' signatures prove from block %d (%.12s…), trusted as %s\n", from.Height, from.Hash, from.From)
	}
}

// verify checks a receipt that the city behind l names, and its city's rows.
func (s *session) verify(ctx context.Context, l *api.Client, from trustView, r bsn.Receipt, use bsn.ProjectUse) verifiedView {
	v := verifiedView{
		receiptedView: receiptedView{r.ID(), r.City, time.Unix(r.Until, 0).UTC(), use},
		Trust:         from, Proven: []receipt.Proven{},
	}
	err := func() error {
		proven, block, err := s.proveReceipt(ctx, l, from.Trust, r.ID())
		if err != nil {
			return err
		}
		i := slices.IndexFunc(proven.Projects, func(p bsn.ProjectUse) bool { return p.Project == use.Project })
		if i < 0 || proven.Projects[i] != use {
			return errors.New("the city that was asked names another receipt than the ledger has")
		}
		v.Block = block
		rows, err := s.rows(ctx, r.City, use.Project, r.Until)
		if err != nil {
			return err
		}
		v.Proven = rows
		return receipt.Verify(use, rows)
	}()
	if err != nil {
		v.Error = err.Error()
	}
	v.Verified = err == nil
	return v
}

// proveReceipt returns a receipt that the network has, and the block that proves it.
func (s *session) proveReceipt(ctx context.Context, l *api.Client, from ledger.Trust, id string) (bsn.Receipt, int64, error) {
	for try := 1; ; try++ {
		p, err := l.ProveReceipt(ctx, id)
		if err == nil {
			r, err := ledger.VerifyReceipt(ctx, s.ctx.Network, from, l, id, p)
			return r, p.Height, err
		}
		if !errors.Is(err, bsn.ErrNoRecord) || try == proveTries {
			return bsn.Receipt{}, 0, err
		}
		select {
		case <-ctx.Done():
			return bsn.Receipt{}, 0, ctx.Err()
		case <-time.After(provePause):
		}
	}
}

// trusted finds a block of the ledger to begin with.
func (s *session) trusted(ctx context.Context, given ledger.Trust) (trustView, error) {
	if given.Height > 0 {
		return trustView{given, "you named it"}, nil
	}
	local, err := city.Local(s.root)
	if err != nil {
		return trustView{}, err
	}
	for _, h := range local {
		if state, err := h.Load(); err != nil || state.Network != s.ctx.Network {
			continue
		}
		if t, err := h.Trust(ctx); err == nil && t.Height > 0 {
			return trustView{t, "city " + h.Name + " of this machine has it"}, nil
		}
	}
	return s.agreed(ctx)
}

// agreed is a block that more than half of the cities known here have, and none another.
func (s *session) agreed(ctx context.Context) (trustView, error) {
	k, err := s.anyKey()
	if err != nil {
		return trustView{}, err
	}
	var heights []int64
	clients := map[string]*api.Client{}
	for name, c := range s.ctx.Cities {
		client := api.Dial(c.API, s.ctx.Network, name, k)
		t, err := trustWithin(ctx, s.ctx.Network, client, 0)
		if err != nil {
			continue
		}
		clients[name], heights = client, append(heights, t.Height)
	}
	all := len(s.ctx.Cities)
	few := fmt.Errorf("too few of the %d cities known here answer with a block of the ledger, it takes more than half: name one that you trust with --trust (`bsn ledger trust` prints one)", all)
	if 2*len(heights) <= all {
		return trustView{}, few
	}
	// The highest that more than half have: whoever is far behind, or says to be far
	// ahead, does not matter.
	slices.Sort(heights)
	height := heights[len(heights)-1-all/2]
	var same ledger.Trust
	var have []string
	for _, name := range sortedKeys(clients) {
		t, err := trustWithin(ctx, s.ctx.Network, clients[name], height)
		switch {
		case err != nil:
		case same.Height > 0 && t != same:
			return trustView{}, fmt.Errorf("cities %s and %s have different blocks %d: one of them lies; name a block that you trust with --trust", have[0], name, height)
		default:
			same, have = t, append(have, name)
		}
	}
	if 2*len(have) <= all {
		return trustView{}, few
	}
	return trustView{same, strings.Join(have, ", ") + " have it"}, nil
}

// trustTimeout is how long a city may take to name a block.
const trustTimeout = 5 * time.Second

func trustWithin(ctx context.Context, network string, source ledger.Source, height int64) (ledger.Trust, error) {
	ctx, cancel := context.WithTimeout(ctx, trustTimeout)
	defer cancel()
	return ledger.TrustAt(ctx, network, source, height)
}

func citySettle(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "settle CITY",
		Short: "bill what a city that was evicted served last; within a day",
		Long: `settle puts one last receipt on the ledger for a city of this machine that was evicted: of
what it served and had not billed by then. It is signed with the operator's key. Of each
project it charges at most as much as the largest receipt of this city before did.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := s.localCity(args[0])
			if err != nil {
				return err
			}
			state, err := h.Load()
			if err != nil {
				return err
			}
			k, err := key.Load(city.OperatorKey(s.root, state.Operator))
			if err != nil {
				return err
			}
			return s.settleLast(cmd, h, k)
		},
	}
}

func (s *session) settleLast(cmd *cobra.Command, h city.Home, k key.Key) error {
	parts, err := h.LastReceipt()
	if err != nil {
		return fmt.Errorf("city %q has nothing left to bill: %w", h.Name, err)
	}
	if s.cityName == "" && s.ctx.City == h.Name { // it ended
		for _, name := range sortedKeys(s.ctx.Cities) {
			if name != h.Name && api.Answers(s.ctx.Cities[name].API) {
				s.cityName = name
				break
			}
		}
	}
	for _, r := range parts {
		if _, err := s.write(cmd.Context(), k, ledger.PutReceipt(r)); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "receipt %s is on the ledger\n", r.ID())
	}
	return h.KeepLast()
}
