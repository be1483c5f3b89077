// Package publish takes an app from its folder to the cities that serve it: the
// first of the five journeys, from the publisher's side, where the account's key
// is. Publish reads top to bottom; every step may be cut off and done again.
package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/city/api"
	"github.com/openbsn/bsn/framework/evm"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/ledger/key"
	"github.com/openbsn/bsn/manifest"
)

// pollPause is the time between two looks at how far the cities are.
const pollPause = 200 * time.Millisecond

// Publisher publishes for one account.
type Publisher struct {
	Account string
	Key     key.Key
	// City is the API of any city: it takes the package and the records.
	City *api.Client
	// APIKey returns the project's key for a city, or an error that says how to
	// get one.
	APIKey func(city string) (string, error)
	// Report is told of each step as it begins; Log takes what compilers say.
	Report func(step string)
	Log    io.Writer
}

// Options override an app's manifest.
type Options struct {
	Chain  string
	Cities []string
}

// Result is what was published.
type Result struct {
	App       string            `json:"app"`
	Version   int               `json:"version"`
	Chain     string            `json:"chain"`
	Artifact  string            `json:"artifact"`
	Contracts []bsn.Contract    `json:"contracts"`
	Gateways  map[string]string `json:"gateways"` // by city: where the app is described
}

// Publish makes the app in a folder be served in the chosen cities and returns
// when its contracts are on the chain and every one of the cities' gateways
// answers for it. An unchanged app that is served already stays as it is.
func (p Publisher) Publish(ctx context.Context, dir string, o Options) (Result, error) {
	p.Report("read " + manifest.File)
	m, chain, err := p.manifest(ctx, dir, o)
	if err != nil {
		return Result{}, err
	}
	keys := map[string]string{}
	for _, city := range m.Cities {
		if keys[city], err = p.APIKey(city); err != nil {
			return Result{}, err
		}
	}
	client, err := ledger.NewClient(p.City, p.Key)
	if err != nil {
		return Result{}, err
	}

	p.Report("compile")
	pkg, err := evm.Build(ctx, dir, m, p.Log)
	if err != nil {
		return Result{}, err
	}
	p.Report(fmt.Sprintf("upload the package (%d KiB)", (len(pkg)+1023)/1024))
	hash, err := p.City.PutArtifact(ctx, pkg)
	if err != nil {
		return Result{}, err
	}
	p.Report("record on the ledger")
	number, err := p.record(ctx, client, m.Name, bsn.Version{
		Artifact: hash, Chain: chain.Name, Cities: m.Cities, Roles: m.Roles, Limits: m.Limits,
	})
	if err != nil {
		return Result{}, err
	}

	p.Report(fmt.Sprintf("version %d: wait for %s to accept", number, strings.Join(m.Cities, ", ")))
	v, err := p.wait(ctx, m.Name, number, bsn.PlacementAccepted)
	if errors.Is(err, ErrRefused) {
		// Nothing is deployed yet: the cities that accepted need not keep it.
		undo := p.write(ctx, client, ledger.WithdrawApp(m.Name, number))
		return Result{}, errors.Join(err, undo)
	}
	if err != nil {
		return Result{}, err
	}
	gateways, err := p.gateways(ctx, m.Cities)
	if err != nil {
		return Result{}, err
	}
	first := m.Cities[0]
	if err := p.deploy(ctx, client, m.Name, v, chain, pkg, gateways[first], keys[first]); err != nil {
		return Result{}, err
	}

	p.Report("wait for the cities to serve it")
	if v, err = p.wait(ctx, m.Name, number, bsn.PlacementServing); err != nil {
		return Result{}, err
	}
	p.Report("ask every gateway")
	out := Result{App: bsn.ID(p.Account, m.Name), Version: number, Chain: chain.Name, Artifact: hash, Contracts: v.Contracts, Gateways: map[string]string{}}
	for _, city := range m.Cities {
		url := fmt.Sprintf("%s/app/%s@%d", gateways[city], out.App, number)
		if err := answers(ctx, url, keys[city], out.App, v); err != nil {
			return Result{}, fmt.Errorf("gateway of city %q: %w", city, err)
		}
		out.Gateways[city] = url
	}
	return out, nil
}

// manifest reads the app's own and applies the options.
func (p Publisher) manifest(ctx context.Context, dir string, o Options) (manifest.Manifest, bsn.Chain, error) {
	var chain bsn.Chain
	m, err := manifest.Load(dir)
	if err != nil {
		return m, chain, err
	}
	if o.Chain != "" {
		m.Chain, m.Framework = o.Chain, ""
	}
	if len(o.Cities) > 0 {
		m.Cities = o.Cities
	}
	if m.Chain == "" {
		return m, chain, fmt.Errorf("app %q names no chain: choose one with --chain", m.Name)
	}
	b, err := p.City.Get(ctx, bsn.KindChain, m.Chain)
	if err != nil {
		return m, chain, err
	}
	if err := json.Unmarshal(b, &chain); err != nil {
		return m, chain, fmt.Errorf("decode chain: %w", err)
	}
	if len(m.Cities) == 0 {
		return m, chain, fmt.Errorf("app %q names no cities: choose from %s with --cities", m.Name, strings.Join(chain.Committee, ","))
	}
	return m, chain, nil
}

// deploy puts the contracts on the chain. Their addresses go to the ledger before
// the transactions go to the chain, so that whoever comes back after a break
// makes the same transactions again.
func (p Publisher) deploy(ctx context.Context, client *ledger.Client, name string, v bsn.Version, chain bsn.Chain, pkg []byte, gateway, apiKey string) error {
	if placed(v, bsn.PlacementServing) {
		return nil
	}
	c, err := evm.Dial(ctx, gateway+"/rpc/"+chain.Name, http.Header{"X-Api-Key": {apiKey}})
	if err != nil {
		return err
	}
	p.Report("plan the deployment")
	plan, err := evm.Plan(ctx, c, p.Key.ECDSA(), pkg, v.Contracts)
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(plan, v.Contracts) {
		if err := p.write(ctx, client, ledger.SetContracts(name, v.Number, plan)); err != nil {
			return err
		}
	}
	done, err := evm.Deploy(ctx, c, p.Key.ECDSA(), chain.NetworkID, pkg, plan, p.Report)
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(done, plan) {
		p.Report("record the contracts")
		if err := p.write(ctx, client, ledger.SetContracts(name, v.Number, done)); err != nil {
			return err
		}
	}
	return nil
}

// wait returns the version once every city is at least at the status. It ends
// early if one refuses.
func (p Publisher) wait(ctx context.Context, name string, number int, status bsn.PlacementStatus) (bsn.Version, error) {
	id := bsn.ID(p.Account, name)
	for {
		b, err := p.City.Get(ctx, bsn.KindApp, id)
		if err != nil {
			return bsn.Version{}, err
		}
		var a bsn.App
		if err := json.Unmarshal(b, &a); err != nil {
			return bsn.Version{}, fmt.Errorf("decode app: %w", err)
		}
		if number < 1 || number > len(a.Versions) {
			return bsn.Version{}, fmt.Errorf("app %q has no version %d", id, number)
		}
		v := a.Versions[number-1]
		if err := refusals(v); err != nil {
			return v, err
		}
		if placed(v, status) {
			return v, nil
		}
		select {
		case <-ctx.Done():
			return v, fmt.Errorf("wait for cities to be %s: %s: %w", status, behind(v, status), ctx.Err())
		case <-time.After(pollPause):
		}
	}
}

// placed tells whether every chosen city is at the status or further.
func placed(v bsn.Version, status bsn.PlacementStatus) bool { return behind(v, status) == "" }

// behind names the cities that are not that far.
func behind(v bsn.Version, status bsn.PlacementStatus) string {
	var out []string
	for _, city := range v.Cities {
		if at := v.Placements[city].Status; at != status && at != bsn.PlacementServing {
			out = append(out, city)
		}
	}
	return strings.Join(out, ", ")
}

// ErrRefused is wrapped where a chosen city does not take the app.
var ErrRefused = errors.New("refuses the app")

func refusals(v bsn.Version) error {
	var errs []error
	for _, city := range slices.Sorted(maps.Keys(v.Placements)) {
		if p := v.Placements[city]; p.Status == bsn.PlacementRefused {
			errs = append(errs, fmt.Errorf("city %q %w: %s", city, ErrRefused, p.Reason))
		}
	}
	if len(errs) > 0 {
		errs = append(errs, errors.New("publish it in other cities with --cities"))
	}
	return errors.Join(errs...)
}

func (p Publisher) gateways(ctx context.Context, cities []string) (map[string]string, error) {
	out := map[string]string{}
	for _, name := range cities {
		b, err := p.City.Get(ctx, bsn.KindCity, name)
		if err != nil {
			return nil, err
		}
		var c bsn.City
		if err := json.Unmarshal(b, &c); err != nil {
			return nil, fmt.Errorf("decode city: %w", err)
		}
		out[name] = c.Gateway
	}
	return out, nil
}

// answers waits until a gateway describes the app: it hears of it from the ledger
// a moment after everyone else. That a city says on the ledger that it serves is not
// enough.
func answers(ctx context.Context, url, apiKey, app string, v bsn.Version) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for {
		d, err := ask(ctx, url, apiKey)
		if err == nil {
			return d.differs(app, v)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pollPause):
		}
	}
}

// description is what a gateway says of an app.
type description struct {
	App       string `json:"app"`
	Version   int    `json:"version"`
	Artifact  string `json:"artifact"`
	Contracts []struct {
		Name    string `json:"name"`
		Address string `json:"address"`
	} `json:"contracts"`
}

// differs tells whether a gateway says something else than the ledger: callers
// would take its word for where the contracts are.
func (d description) differs(app string, v bsn.Version) error {
	if d.App != app || d.Version != v.Number || d.Artifact != v.Artifact || len(d.Contracts) != len(v.Contracts) {
		return fmt.Errorf("it says that it serves %s@%d with package %.64s and %d contracts, the ledger %s@%d with %s and %d: do not use this city",
			d.App, d.Version, d.Artifact, len(d.Contracts), app, v.Number, v.Artifact, len(v.Contracts))
	}
	for i, c := range v.Contracts {
		if d.Contracts[i].Name != c.Name || !strings.EqualFold(d.Contracts[i].Address, c.Address) {
			return fmt.Errorf("it says that contract %s is at %s, the ledger that %s is at %s: do not use this city",
				d.Contracts[i].Name, d.Contracts[i].Address, c.Name, c.Address)
		}
	}
	return nil
}

func ask(ctx context.Context, url, apiKey string) (d description, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return d, err
	}
	r.Header.Set("X-Api-Key", apiKey)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return d, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10)) // what could be read of the reason will do
		return d, fmt.Errorf("%s: %s", res.Status, strings.TrimSpace(string(text)))
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, res.Body, 16<<20)).Decode(&d); err != nil {
		return d, fmt.Errorf("read its description of the app: %w", err)
	}
	return d, nil
}
