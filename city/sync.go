package city

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger"
)

const (
	// maxSources is how many cities a new one asks for the ledger's state.
	maxSources = 7
	// lonely is after how long a new city that reaches nobody starts its ledger node all
	// the same: its peers may come later.
	lonely = time.Minute
)

// prepareLedger says what is to be done before the ledger node starts: a city
// without the ledger's state takes it over from others, if it knows a block to prove
// it from. Nil: nothing.
func (d *daemon) prepareLedger() (func(context.Context, func(string)) error, error) {
	empty, err := ledger.Empty(d.home.ledger())
	if err != nil {
		return nil, err
	}
	if d.state.Trust.Height == 0 || !empty && !d.state.Resync {
		return nil, nil
	}
	began := time.Now()
	return func(ctx context.Context, tell func(string)) error {
		report := func(text string) {
			tell(text)
			d.log.Info(text)
		}
		tell("syncing: asking other cities for the ledger's state")
		height, err := ledger.Sync(ctx, ledger.SyncConfig{
			Home: d.home.ledger(), Trust: d.state.Trust, Sources: d.sources(), Log: d.log.With("part", "sync"), Report: report,
		})
		switch {
		case errors.Is(err, ledger.ErrReplay):
			d.log.Info("syncing: the ledger is followed block by block", "reason", err)
		case err != nil && ctx.Err() == nil && empty && !errors.Is(err, ledger.ErrForked) && time.Since(began) > lonely:
			d.log.Warn("the ledger's state cannot be taken over now; the ledger node starts without it", "error", err)
		case err != nil:
			if ctx.Err() == nil {
				d.try("sync", err)
			}
			return err
		default:
			d.log.Info("took over the ledger's state", "height", height)
		}
		if !d.state.Resync {
			return nil
		}
		d.state.Resync = false
		return d.home.update(func(s *State) { s.Resync = false })
	}, nil
}

// sources are other cities, of as many operators as possible.
func (d *daemon) sources() map[string]ledger.Source {
	all := slices.Clone(d.others())
	slices.SortFunc(all, func(a, b bsn.City) int { return a.Index - b.Index })
	seen := map[string]int{}
	turn := map[string]int{} // which of its operator's cities it is
	for _, c := range all {
		turn[c.Name] = seen[c.Operator]
		seen[c.Operator]++
	}
	slices.SortStableFunc(all, func(a, b bsn.City) int { return turn[a.Name] - turn[b.Name] })
	out := map[string]ledger.Source{}
	for _, c := range all {
		if c.Name != d.home.Name && (c.Status == bsn.CityActive || c.Status == bsn.CityLeaving) && len(out) < maxSources {
			out[c.Name] = d.city(c)
		}
	}
	return out
}
