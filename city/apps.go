package city

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger"
)

// appsTime is how long one look at the apps may take: their nodes may be slow.
const appsTime = 10 * time.Second

// apps answers for every version of an app that chose this city and is not
// served, refused or withdrawn yet. It takes them in no order, so that those for
// which the time did not suffice have their turn another time.
func (d *daemon) apps(ctx context.Context, v view, self bsn.City) []ledger.Message {
	look, cancel := context.WithTimeout(ctx, appsTime)
	defer cancel()
	var say []ledger.Message
	for id, a := range v.apps {
		for _, version := range a.Versions {
			if version.Withdrawn || !slices.Contains(version.Cities, self.Name) {
				continue
			}
			if look.Err() != nil {
				return say
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
		pkg, err := d.want(ctx, v, version.Artifact, version.Cities...)
		if errors.Is(err, errFetching) {
			return p, false
		}
		if err == nil {
			err = safely(func() error { _, err := f.Describe(pkg); return err })
		}
		if err != nil {
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

// safely runs what reads bytes from outside: whatever they do to it, they do not
// end the daemon.
func safely(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("it cannot be read: %v", r)
		}
	}()
	return f()
}

func (d *daemon) store(b []byte) (hash string, err error) {
	return d.artifacts.Put(bytes.NewReader(b), "")
}
