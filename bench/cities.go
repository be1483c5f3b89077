package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/city"
	"github.com/openbsn/bsn/city/api"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/ledger/key"
)

var _ = register(benchmark{"cities", "networks of 4, 20 and 50 cities, and what lies between cities", citiesBench})

// cityStage is a part of the benchmark that can be run alone, with networks of its own.
type cityStage struct {
	name string
	run  func(context.Context, options, *report) error
}

// cityStages run in this order.
var cityStages = []cityStage{
	{"link", measureLink},
	{"join", join},
	{"4", scale(4)},
	{"20", scale(20)},
	{"50", scale(50)},
	{"upgrade", upgradeCities},
}

func citiesBench(ctx context.Context, o options, r *report) error {
	for _, name := range o.only {
		if !slices.ContainsFunc(cityStages, func(s cityStage) bool { return s.name == name }) {
			return fmt.Errorf("there is no stage %q", name)
		}
	}
	for _, s := range cityStages {
		if !o.wants(s.name) {
			continue
		}
		if err := s.run(ctx, o, r); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// member is a city of a grown network and the operator that runs it.
type member struct{ city, operator string }

// members plans a network of n cities: four of five are the first of an operator,
// the rest are second cities, which do not validate.
func members(n int) []member {
	operators := n - n/5
	if n <= 4 {
		operators = n
	}
	var out []member
	for i := range n {
		out = append(out, member{fmt.Sprintf("city-%02d", i+1), fmt.Sprintf("operator-%02d", i%operators+1)})
	}
	return out
}

const grownNetwork = "bsn-grown"

// grown is a network of many cities, grown from one by joining.
type grown struct {
	*local
	cities []member
	api    map[string]string // of the cities that are active
}

// grow founds a network and has n-1 cities join, as many at a time as there are
// already, and four when this machine has enough to do with those that it runs.
func grow(ctx context.Context, o options, n int) (g *grown, err error) {
	l, err := newLocal(o.bsn)
	if err != nil {
		return nil, err
	}
	g = &grown{local: l}
	plan := members(n)
	if _, err := g.run(ctx, "city", "init", plan[0].city, "--operator", plan[0].operator, "--network", grownNetwork,
		"--net", strconv.Itoa(int(g.net)), "--account-writes", strconv.Itoa(writes)); err != nil {
		return g, err
	}
	if _, err := g.run(ctx, "city", "start", plan[0].city, "--detach"); err != nil {
		return g, err
	}
	g.cities = plan[:1]
	for len(g.cities) < n {
		atOnce := min(len(g.cities), 10)
		if len(g.cities) > 20 {
			atOnce = 4
		}
		next := plan[len(g.cities):min(n, len(g.cities)+atOnce)]
		say("%d cities, and %d more join", len(g.cities), len(next))
		if err := g.admit(ctx, next); err != nil {
			return g, err
		}
	}
	return g, nil
}

// admit has cities apply at cities that are part of the network, and every
// operator vote for them.
func (g *grown) admit(ctx context.Context, next []member) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	applying, stop := context.WithCancel(ctx)
	defer stop()
	voting := make(chan error, 1)
	go func() { voting <- g.vote(applying) }()
	join, joining := errgroup.WithContext(ctx)
	join.SetLimit(5)
	for i, m := range next {
		join.Go(func() error {
			if _, err := g.run(joining, "city", "init", m.city, "--operator", m.operator); err != nil {
				return err
			}
			invitation, err := g.run(joining, "city", "invite", m.city, "--by", g.cities[i%len(g.cities)].city)
			if err != nil {
				return err
			}
			_, err = g.run(joining, "city", "join", strings.TrimSpace(string(invitation)), "--city", m.city)
			return err
		})
	}
	joined := make(chan error, 1)
	go func() { joined <- join.Wait() }()
	select {
	case err := <-voting:
		return err
	case err := <-joined:
		if err != nil {
			return err
		}
	}
	stop()
	<-voting
	start, starting := errgroup.WithContext(ctx)
	start.SetLimit(2)
	for _, m := range next {
		start.Go(func() error {
			_, err := g.run(starting, "city", "start", m.city, "--detach")
			return err
		})
	}
	if err := start.Wait(); err != nil {
		return err
	}
	g.cities = g.cities[:len(g.cities)+len(next)] // the plan's own order
	return g.active(ctx, len(g.cities))
}

// client is a client of the i-th city that signs as an operator.
func (g *grown) client(i int, operator string) (*api.Client, key.Key, error) {
	k, err := key.Load(city.OperatorKey(g.home, operator))
	if err != nil {
		return nil, k, err
	}
	name := g.cities[i].city
	url, ok := g.api[name]
	if !ok { // the founder's
		url = "http://" + bsn.HostPort(g.net.Addr(1, bsn.ServiceCity), bsn.PortAPI)
	}
	return api.Dial(url, grownNetwork, name, k), k, nil
}

// vote has every operator say yes to everything, until ctx ends.
func (g *grown) vote(ctx context.Context) error {
	done := map[string]bool{}
	for ctx.Err() == nil {
		reader, _, err := g.client(0, g.cities[0].operator)
		if err != nil {
			return err
		}
		proposals, err := records[bsn.Proposal](ctx, reader, bsn.KindProposal)
		if err != nil {
			return err
		}
		operators, err := records[bsn.Operator](ctx, reader, bsn.KindOperator)
		if err != nil {
			return err
		}
		votes := new(errgroup.Group)
		votes.SetLimit(8)
		for _, o := range operators {
			if o.ValidatingCity == "" {
				continue
			}
			var yes []ledger.Message
			for _, p := range proposals {
				id := fmt.Sprint(o.Name, p.ID)
				if _, voted := p.Votes[o.Name]; p.Status == bsn.ProposalOpen && !voted && !done[id] {
					done[id] = true
					yes = append(yes, ledger.Vote(p.ID, true))
				}
			}
			if len(yes) == 0 {
				continue
			}
			at := slices.IndexFunc(g.cities, func(m member) bool { return m.city == o.ValidatingCity })
			votes.Go(func() error {
				conn, k, err := g.client(max(at, 0), o.Name)
				if err != nil {
					return err
				}
				c, err := ledger.NewClient(conn, k)
				if err != nil {
					return err
				}
				for _, one := range yes {
					// Refused: it was decided in the meantime.
					if _, err := c.Write(ctx, one); err != nil && !errors.Is(err, ledger.ErrRefused) {
						return err
					}
				}
				return nil
			})
		}
		if err := votes.Wait(); err != nil && ctx.Err() == nil {
			return err
		}
		_ = pause(ctx, 200*time.Millisecond) // it ends with ctx, as the loop does
	}
	return nil
}

// active waits until n cities take their part.
func (g *grown) active(ctx context.Context, n int) error {
	for {
		reader, _, err := g.client(0, g.cities[0].operator)
		if err != nil {
			return err
		}
		cities, err := records[bsn.City](ctx, reader, bsn.KindCity)
		g.api = map[string]string{}
		for _, c := range cities {
			if c.Status == bsn.CityActive {
				g.api[c.Name] = c.API
			}
		}
		if err == nil && len(g.api) >= n {
			return nil
		}
		if err := pause(ctx, 300*time.Millisecond); err != nil {
			return fmt.Errorf("wait for %d cities to follow the ledger: %w", n, err)
		}
	}
}

// signUp makes a portal and an account, and returns the account's key.
func (g *grown) signUp(ctx context.Context) (key.Key, error) {
	if _, err := g.run(ctx, "portal", "register", "demo", "--operator", g.cities[0].operator); err != nil {
		return key.Key{}, err
	}
	voting, stop := context.WithCancel(ctx)
	defer stop()
	failed := make(chan error, 1)
	go func() { failed <- g.vote(voting) }()
	for {
		_, err := g.run(ctx, "account", "create", "bench")
		if err == nil {
			break
		}
		select {
		case <-time.After(time.Second):
		case because := <-failed:
			return key.Key{}, errors.Join(err, because)
		case <-ctx.Done():
			return key.Key{}, errors.Join(err, ctx.Err())
		}
	}
	return key.Load(filepath.Join(g.home, "accounts", "bench.key"))
}

// close stops the network and deletes it, however many cities it has.
func (g *grown) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if _, err := g.run(ctx, "reset", "--yes"); err != nil {
		return err
	}
	return os.RemoveAll(g.home)
}

// records reads all records of a kind.
func records[T any](ctx context.Context, l bsn.Ledger, kind bsn.Kind) (out []T, err error) {
	for after := ""; ; {
		page, _, err := l.List(ctx, kind, after, 0)
		if err != nil || len(page) == 0 {
			return out, err
		}
		for _, c := range page {
			var v T
			if err := json.Unmarshal(c.Record, &v); err != nil {
				return nil, fmt.Errorf("decode %s %q: %w", kind, c.ID, err)
			}
			out, after = append(out, v), c.ID
		}
	}
}

// join measures how long a fifth city needs, from its invitation until it takes
// its part in the ledger.
func join(ctx context.Context, o options, r *report) (err error) {
	g, err := grow(ctx, o, 4)
	if g != nil {
		defer func() { err = errors.Join(err, g.close()) }()
	}
	if err != nil {
		return err
	}
	var took []float64
	for i := range starts {
		say("a city joins (%d of %d)", i+1, starts)
		plan := append(slices.Clone(g.cities), member{fmt.Sprintf("joining-%d", i), fmt.Sprintf("joiner-%d", i)})
		g.cities = plan[:len(g.cities)]
		start := time.Now()
		if err := g.admit(ctx, plan[len(g.cities):]); err != nil {
			return err
		}
		took = append(took, time.Since(start).Seconds())
	}
	r.add("join.seconds", median(took), "s", versus{},
		"a city of a new operator joins four: keys made, invited, applied, voted in by all, started, active on the ledger; median of %s", list(took))
	return nil
}
