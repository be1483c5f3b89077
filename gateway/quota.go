package gateway

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway/journal"
	"github.com/openbsn/bsn/gateway/table"
)

// A project's quotas, in compute units a day and a month, are kept by what the
// ledger's receipts say of all cities, and what this city's journal holds beyond
// that, of this process and any other. What other cities serve and have not billed
// yet is not known here: by so much a quota can be overdrawn.

// quotaPause is the least time between two looks at what projects used elsewhere and
// before.
const quotaPause = time.Second

// quotas are what projects with a quota used, by the project's id.
type quotas struct{ table.Table[string, *quota] }

// quota is what one project used.
type quota struct {
	known atomic.Pointer[used]
	// recorded is what this process counted since known was read, and reserved what
	// calls in progress will cost.
	recorded, reserved atomic.Int64
}

// used is what a project used until some moment.
type used struct{ day, month int64 }

// quota takes a call's compute units from the project's quotas. What was taken is
// given back, or counted, by quotaDone.
func (g *Gateway) quota(c *caller, units int) (answer, bool) {
	most := c.project.Quota
	if most == (bsn.Quota{}) {
		return answer{}, true
	}
	q, err := g.quotaOf(c.id)
	if err != nil {
		return unmetered(err), false
	}
	known := q.known.Load()
	more := q.reserved.Add(int64(units)) + q.recorded.Load()
	over := kindDaily
	limit, taken, span := most.Daily, known.day+more, "day"
	if limit == 0 || taken <= limit {
		over, limit, taken, span = kindMonthly, most.Monthly, known.month+more, "month"
	}
	if limit == 0 || taken <= limit {
		return answer{}, true
	}
	q.reserved.Add(-int64(units))
	now := g.directory.now().UTC()
	ends := endOfDay(now)
	if span == "month" {
		ends = endOfMonth(now)
	}
	return exceed(over, ends.Sub(now), "project %s has used %d of its %d compute units of this %s, and this call costs %d: the next %s begins at %s",
		c.id, taken-int64(units), limit, span, units, span, ends.Format(time.RFC3339)), false
}

// quotaOf finds what a project with a quota used.
func (g *Gateway) quotaOf(id string) (*quota, error) {
	return g.quotas.Add(id, func() (*quota, error) {
		q := &quota{}
		return q, g.lookAtQuotas(map[string]*quota{id: q})
	})
}

func endOfDay(t time.Time) time.Time {
	t = t.UTC()
	return time.Date(t.Year(), t.Month(), t.Day()+1, 0, 0, 0, 0, time.UTC)
}

func endOfMonth(t time.Time) time.Time {
	t = t.UTC()
	return time.Date(t.Year(), t.Month()+1, 1, 0, 0, 0, 0, time.UTC)
}

// quotaDone ends what quota began.
func (g *Gateway) quotaDone(c *caller, units int, counted bool) {
	if units == 0 || c.project.Quota == (bsn.Quota{}) {
		return
	}
	if q, known := g.quotas.Get(c.id); known {
		if counted {
			q.recorded.Add(int64(units))
		}
		q.reserved.Add(-int64(units))
	}
}

// watchQuotas keeps what projects used level with the ledger and the journal until
// ctx ends.
func (g *Gateway) watchQuotas(ctx context.Context) {
	for failing := false; ; {
		began := time.Now()
		all := map[string]*quota{}
		for id, q := range g.quotas.All() {
			all[id] = q
		}
		if err := g.lookAtQuotas(all); err != nil != failing {
			if failing = err != nil; failing {
				g.log.Error("quotas are not level with the journal: what was counted before still holds", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(quotaPause, 20*time.Since(began))):
		}
	}
}

// lookAtQuotas reads what projects used.
func (g *Gateway) lookAtQuotas(all map[string]*quota) error {
	if len(all) == 0 {
		return nil
	}
	// Read first: what is counted meanwhile is counted twice for a moment, and never
	// left out.
	before := map[string]int64{}
	for id, q := range all {
		before[id] = q.recorded.Load()
	}
	files, err := g.unsettled()
	if err != nil {
		return err
	}
	now := g.directory.now().Unix() + 1
	for id, q := range all {
		q.known.Store(usedBy(g.directory.usage(id), id, g.cfg.City, files, now))
		q.recorded.Add(-before[id])
	}
	return nil
}

func (g *Gateway) unsettled() ([]journal.File, error) {
	if g.cfg.Journal != "" {
		return journal.Read(g.cfg.Journal)
	}
	rows, err := g.meter.journal.Rows()
	if err != nil {
		return nil, fmt.Errorf("read what was called: %w", err)
	}
	return []journal.File{{Until: 1 << 40, Rows: rows}}, nil
}

// usedBy sums up what a project used on the day and in the month of a time: by the
// ledger's record, and by the files of a city's journal that it does not count yet.
func usedBy(u bsn.Usage, id, city string, files []journal.File, now int64) *used {
	day, month := bsn.UsageDay(now), bsn.UsageMonth(now)
	out := &used{}
	if u.Day >= day {
		out.day = int64(u.DayUnits)
	}
	if u.Month >= month {
		out.month = int64(u.MonthUnits)
	}
	for _, f := range files {
		if f.Until <= u.Settled[city] || bsn.UsageMonth(f.Until) < month {
			continue
		}
		for _, r := range f.Rows {
			if r.Project != id {
				continue
			}
			out.month += int64(r.Units)
			if bsn.UsageDay(f.Until) >= day {
				out.day += int64(r.Units)
			}
		}
	}
	return out
}
