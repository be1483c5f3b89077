package city

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/city/api"
	"github.com/openbsn/bsn/ledger"
)

// apps answers for every version of an app that chose this city and is not
// served, refused or withdrawn yet.
func (d *daemon) apps(ctx context.Context, v view, self bsn.City) []ledger.Message {
	var say []ledger.Message
	for _, id := range slices.Sorted(maps.Keys(v.apps)) {
		a := v.apps[id]
		for _, version := range a.Versions {
			if version.Withdrawn || !slices.Contains(version.Cities, self.Name) {
				continue
			}
			p, ok := d.place(ctx, v, self, a, version)
			if ok && p != version.Placements[self.Name] {
				say = append(say, ledger.PlaceApp(id, version.Number, p))
			}
		}
	}
	return say
}

// place says how far this city is with a version; not ok is: no further.
func (d *daemon) place(ctx context.Context, v view, self bsn.City, a bsn.App, version bsn.Version) (p bsn.Placement, ok bool) {
	what := fmt.Sprintf("app %s version %d", a.ID(), version.Number)
	chain := v.chains[version.Chain]
	f := d.frameworks[chain.Framework]
	if f == nil {
		return bsn.Placement{Status: bsn.PlacementRefused, Reason: "this city does not know framework " + chain.Framework}, true
	}
	switch version.Placements[self.Name].Status {
	case "":
		if reason := d.cfg.City.Refused(a.Account, a.Name); reason != "" {
			return bsn.Placement{Status: bsn.PlacementRefused, Reason: reason}, true
		}
		pkg, err := d.fetch(ctx, v, version.Artifact, version.Cities...)
		if err != nil {
			d.try(what, fmt.Errorf("fetch package: %w", err))
			return p, false
		}
		if _, err := f.Describe(pkg); err != nil {
			return bsn.Placement{Status: bsn.PlacementRefused, Reason: "package: " + err.Error()}, true
		}
		return bsn.Placement{Status: bsn.PlacementAccepted}, true
	case bsn.PlacementAccepted:
		if len(version.Contracts) == 0 || slices.ContainsFunc(version.Contracts, func(c bsn.Contract) bool { return c.CodeHash == "" }) {
			return p, false // the publisher has not deployed yet
		}
		call, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if err := f.Verify(call, f.Endpoint(d.state.Net, chain, self.Index), version); err != nil {
			d.try(what, err)
			return p, false
		}
		d.try(what, nil)
		return bsn.Placement{Status: bsn.PlacementServing}, true
	}
	return p, false
}

func (d *daemon) store(b []byte) (hash string, err error) {
	return d.artifacts.Put(bytes.NewReader(b), "")
}

// fetch returns an artifact, from here or else from the named cities, then from
// any other.
func (d *daemon) fetch(ctx context.Context, v view, hash string, first ...string) ([]byte, error) {
	if d.artifacts.Has(hash) {
		return d.artifacts.Get(hash)
	}
	names := slices.Clone(first)
	for _, name := range slices.Sorted(maps.Keys(v.cities)) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	var sources []string
	clients := cityClients{}
	for _, name := range names {
		if c, ok := v.cities[name]; ok && name != d.home.Name {
			sources = append(sources, c.API)
			clients[c.API] = api.Dial(c.API, d.state.Network, name, d.key).HTTP().Transport
		}
	}
	if err := d.artifacts.Fetch(ctx, &http.Client{Transport: clients}, sources, hash); err != nil {
		return nil, err
	}
	return d.artifacts.Get(hash)
}

// cityClients signs a request for the city that it goes to.
type cityClients map[string]http.RoundTripper

// RoundTrip implements http.RoundTripper.
func (c cityClients) RoundTrip(r *http.Request) (*http.Response, error) {
	t, ok := c[r.URL.Scheme+"://"+r.URL.Host]
	if !ok {
		return nil, fmt.Errorf("no city at %s", r.URL.Host)
	}
	return t.RoundTrip(r)
}
