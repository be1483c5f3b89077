package city

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/artifact"
	"github.com/openbsn/bsn/city/api"
)

const (
	// maxTries is how often an artifact is asked for, with doubling pauses from
	// firstPause on, before the city says that it cannot be had: after some eight
	// minutes.
	maxTries   = 10
	firstPause = time.Second
	// maxFetches is how many artifacts are fetched at a time.
	maxFetches = 4
)

// errFetching means that an artifact is not here yet; errUnavailable that it was
// asked for often enough.
var (
	errFetching    = errors.New("not here yet")
	errUnavailable = errors.New("no city has it")
)

// fetches are the artifacts that are being fetched in the background, so that
// whoever names one that nobody has, or that a slow city has, holds up nobody else.
type fetches struct {
	mu      sync.Mutex
	wg      sync.WaitGroup
	running int
	tries   map[string]*attempts // by hash
}

type attempts struct {
	running bool
	count   int
	next    time.Time
	last    error
}

// begin tells whether it is time to fetch an artifact, and then do so. Errors:
// errFetching, errUnavailable.
func (f *fetches) begin(hash string, at time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tries == nil {
		f.tries = map[string]*attempts{}
	}
	t := f.tries[hash]
	if t == nil {
		t = &attempts{}
		f.tries[hash] = t
	}
	switch {
	case t.count >= maxTries && !t.running:
		return fmt.Errorf("%w: %v", errUnavailable, t.last)
	case t.running || at.Before(t.next) || f.running == maxFetches:
		return errFetching
	}
	t.running = true
	t.count++
	f.running++
	return nil
}

// count is how many are running.
func (f *fetches) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.running
}

// end records how a fetch ended.
func (f *fetches) end(hash string, err error, at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running--
	t := f.tries[hash]
	if err == nil {
		delete(f.tries, hash)
		return
	}
	t.running, t.last, t.next = false, err, at.Add(firstPause<<(t.count-1))
}

// want returns an artifact if it is here, and otherwise sees to it that it comes.
// Errors: errFetching, errUnavailable.
func (d *daemon) want(ctx context.Context, v view, hash string, first ...string) ([]byte, error) {
	if d.artifacts.Has(hash) {
		return d.artifacts.Get(hash)
	}
	if err := d.fetches.begin(hash, time.Now()); err != nil {
		return nil, err
	}
	d.fetches.wg.Go(func() {
		_, err := d.fetch(ctx, v, hash, first...)
		d.fetches.end(hash, err, time.Now())
		if err == nil {
			rouse(d.wake)
		}
	})
	return nil, errFetching
}

// fetch returns an artifact, from here or else from the named cities, then from
// any other.
func (d *daemon) fetch(ctx context.Context, v view, hash string, first ...string) (b []byte, err error) {
	names := slices.Clone(first)
	for _, name := range slices.Sorted(maps.Keys(v.cities)) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	var sources []string
	for _, name := range names {
		if _, ok := v.cities[name]; ok && name != d.home.Name {
			sources = append(sources, "http://"+name)
		}
	}
	if !d.artifacts.Has(hash) {
		defer func() { d.metrics.fetched(err) }()
	}
	if err := d.artifacts.Fetch(ctx, &http.Client{Transport: byName{d, v}}, sources, hash); err != nil {
		return nil, err
	}
	return d.artifacts.Get(hash)
}

// fetchNamed fetches an artifact for a caller of the API. It asks nobody for what
// no record names: that would let every caller have every city asked for anything.
func (d *daemon) fetchNamed(ctx context.Context, hash string) error {
	v := d.mirror.view()
	if !d.artifacts.Has(hash) && !v.names(hash) {
		return fmt.Errorf("%w: %.64s", artifact.ErrNotFound, hash)
	}
	_, err := d.fetch(ctx, v, hash)
	return err
}

const (
	// tidyPause is the time between two looks for artifacts that no record names, and
	// unnamedLife how long one is kept: it may be that of a record yet to come.
	tidyPause   = time.Hour
	unnamedLife = 24 * time.Hour
)

// tidy deletes the artifacts that no record names, so that uploads do not fill the
// disk.
func (d *daemon) tidy(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(tidyPause):
		}
		v := d.mirror.view()
		if !v.fresh {
			continue
		}
		named := v.named()
		n, err := d.artifacts.Tidy(time.Now().Add(-unnamedLife), func(hash string) bool { return named[hash] })
		d.try("tidy", err)
		if n > 0 {
			d.log.Info("deleted artifacts that no record names", "count", n)
		}
	}
}

// named are the hashes of all artifacts that apps and chains name.
func (v view) named() map[string]bool {
	m := map[string]bool{}
	for _, c := range v.chains {
		m[c.Genesis] = true
	}
	for _, a := range v.apps {
		for _, version := range a.Versions {
			m[version.Artifact] = true
		}
	}
	return m
}

// names tells whether an app or a chain has an artifact of this hash.
func (v view) names(hash string) bool {
	for _, c := range v.chains {
		if c.Genesis == hash {
			return true
		}
	}
	for _, a := range v.apps {
		if slices.ContainsFunc(a.Versions, func(version bsn.Version) bool { return version.Artifact == hash }) {
			return true
		}
	}
	return false
}

// byName takes requests to http://CITY to that city's API, signed for it.
type byName struct {
	d *daemon
	v view
}

// RoundTrip implements http.RoundTripper.
func (t byName) RoundTrip(r *http.Request) (*http.Response, error) {
	c := t.v.cities[r.URL.Host]
	r = r.Clone(r.Context())
	r.URL.Host, r.Host = t.d.apiOf(c), ""
	return t.d.city(c).HTTP().Transport.RoundTrip(r)
}

// dialled are the clients of other cities, by name.
type dialled struct {
	mu sync.Mutex
	m  map[string]*api.Client
}

// forget has all clients made anew.
func (l *dialled) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.m = nil
}

// apiOf is where this machine reaches a city's API, host:port: at its virtual address.
func (d *daemon) apiOf(c bsn.City) string {
	return bsn.HostPort(d.state.Net.Addr(c.Index, bsn.ServiceCity), bsn.PortAPI)
}

// city returns the client of a city's API, which signs as this city.
func (d *daemon) city(c bsn.City) *api.Client {
	d.dialled.mu.Lock()
	defer d.dialled.mu.Unlock()
	if d.dialled.m == nil {
		d.dialled.m = map[string]*api.Client{}
	}
	known := d.dialled.m[c.Name]
	if known == nil {
		own, _ := d.own.get()
		known = api.Dial("http://"+d.apiOf(c), d.state.Network, c.Name, own)
		d.dialled.m[c.Name] = known
	}
	return known
}
