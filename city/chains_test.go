package city

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/artifact"
	"github.com/openbsn/bsn/config"
	"github.com/openbsn/bsn/ledger/key"
)

// framework builds one genesis, takes that alone, and breaks on some bytes.
type framework struct{ bsn.Framework }

func (framework) Genesis(bsn.Chain) ([]byte, error) { return []byte("mine"), nil }

func (framework) CheckGenesis(_ bsn.Chain, b []byte) error { return readable(b) }

func (framework) Describe(b []byte) ([]bsn.Interface, error) { return nil, readable(b) }

func readable(b []byte) error {
	if bytes.HasPrefix(b, []byte("panic")) {
		panic("a decoder's mistake")
	}
	if !bytes.Equal(b, []byte("mine")) {
		return errors.New("differs")
	}
	return nil
}

func alone(t *testing.T) *daemon {
	t.Helper()
	d := &daemon{
		home: Home{t.TempDir(), "paris"}, state: State{Network: "test-net"}, log: slog.New(slog.DiscardHandler), own: signer{key: key.New()},
		wake: make(chan struct{}, 1), frameworks: map[string]bsn.Framework{"kaia": framework{}},
	}
	var err error
	if d.artifacts, err = artifact.Open(t.TempDir(), 1<<10, 1<<20); err != nil {
		t.Fatal(err)
	}
	d.metrics = newMetrics(d)
	return d
}

func keep(t *testing.T, d *daemon, text string) string {
	t.Helper()
	hash, err := d.store([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return hash
}

func TestGenesisIsProposedAnsweredAndReplaced(t *testing.T) {
	d := alone(t)
	mine, panics := keep(t, d, "mine"), keep(t, d, "panic")
	nowhere := artifact.Hash([]byte("nowhere"))
	no := func(cities ...string) (out []bsn.Approval) {
		for _, c := range cities {
			out = append(out, bsn.Approval{City: c})
		}
		return out
	}
	committee := []string{"rome", "paris", "oslo", "bonn"}
	for name, c := range map[string]struct {
		chain bsn.Chain
		time  int64
		says  int
	}{
		"not its turn":                {bsn.Chain{}, 14, 0},
		"its turn":                    {bsn.Chain{}, 15, 1},
		"another's, and right":        {bsn.Chain{Genesis: mine, Proposer: "rome"}, 0, 1},
		"another's, and a bomb":       {bsn.Chain{Genesis: panics, Proposer: "rome"}, 0, 1},
		"answered":                    {bsn.Chain{Genesis: mine, Proposer: "rome", Approvals: no("paris")}, 0, 0},
		"to be had from nobody":       {bsn.Chain{Genesis: nowhere, Proposer: "rome"}, 0, 0},
		"refused by the others":       {bsn.Chain{Genesis: panics, Proposer: "rome", Approvals: no("oslo", "paris")}, 60, 1},
		"refused, but it is the same": {bsn.Chain{Genesis: mine, Proposer: "rome", Approvals: no("oslo", "bonn")}, 60, 0},
		"its own was refused":         {bsn.Chain{Genesis: panics, Proposer: "paris", Approvals: no("paris", "oslo", "bonn")}, 60, 0},
	} {
		c.chain.Name, c.chain.Framework, c.chain.Committee = "a", "kaia", committee
		v := view{time: time.Unix(c.time, 0), cities: map[string]bsn.City{}}
		say, err := d.genesis(t.Context(), v, bsn.City{Name: "paris"}, c.chain, framework{})
		if err != nil || len(say) != c.says {
			t.Errorf("%s: says %d things (%v), want %d", name, len(say), err, c.says)
		}
		d.fetches.wg.Wait()
	}
	// In the end it refuses what nobody can show it.
	for range maxTries {
		d.fetches.mu.Lock()
		if a := d.fetches.tries[nowhere]; a != nil {
			a.next = time.Time{}
		}
		d.fetches.mu.Unlock()
		if _, err := d.want(t.Context(), view{}, nowhere); !errors.Is(err, errFetching) && !errors.Is(err, errUnavailable) {
			t.Fatal(err)
		}
		d.fetches.wg.Wait()
	}
	say, err := d.genesis(t.Context(), view{}, bsn.City{Name: "paris"}, bsn.Chain{Name: "a", Committee: committee, Genesis: nowhere, Proposer: "rome"}, framework{})
	if err != nil || len(say) != 1 {
		t.Errorf("says %d things (%v)", len(say), err)
	}
}

func TestPackagesFromOutside(t *testing.T) {
	d := alone(t)
	d.cfg.City.Refuse = []config.Refusal{{App: "mallory/*", Reason: "unpaid"}}
	v := view{chains: map[string]bsn.Chain{"a": {Name: "a", Framework: "kaia"}, "b": {Name: "b", Framework: "other"}}}
	for name, c := range map[string]struct {
		account, text, chain, status, reason string
	}{
		"good":              {"alice", "mine", "a", "accepted", ""},
		"unreadable":        {"alice", "junk", "a", "refused", "differs"},
		"a bomb":            {"alice", "panic", "a", "refused", "cannot be read"},
		"unwanted":          {"mallory", "mine", "a", "refused", "unpaid"},
		"unknown framework": {"alice", "mine", "b", "refused", "other"},
	} {
		version := bsn.Version{Number: 1, Chain: c.chain, Artifact: keep(t, d, c.text), Cities: []string{"paris"}}
		p, ok := d.place(t.Context(), v, bsn.City{Name: "paris"}, bsn.App{Account: c.account, Name: "x"}, version)
		if !ok || string(p.Status) != c.status || !strings.Contains(p.Reason, c.reason) {
			t.Errorf("%s: %+v %v", name, p, ok)
		}
	}
}

// listenAs opens the API's port of cities with these numbers, in a net that is free.
func listenAs(t *testing.T, cities ...int) (bsn.Net, []net.Listener) {
	t.Helper()
	for n := bsn.Net(255); n > 200; n-- {
		var out []net.Listener
		for _, c := range cities {
			if l, err := net.Listen("tcp", bsn.HostPort(n.Addr(c, bsn.ServiceCity), bsn.PortAPI)); err == nil {
				out = append(out, l)
			}
		}
		if len(out) == len(cities) {
			return n, out
		}
		for _, l := range out {
			l.Close()
		}
	}
	t.Fatal("no net is free")
	return 0, nil
}

// TestCitiesAtVirtualAddresses: other cities are asked at their virtual addresses,
// whatever they say of themselves, and one that refuses does not keep an artifact
// from being fetched elsewhere.
func TestCitiesAtVirtualAddresses(t *testing.T) {
	content := []byte("genesis")
	hash := artifact.Hash(content)
	var asked []string
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Host+r.URL.Path)
		if r.Header.Get("Bsn-Signature") == "" {
			t.Error("a request is not signed")
		}
		if len(asked) == 1 { // signed for another city
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		w.Write(content)
	})
	d := alone(t)
	number, listeners := listenAs(t, 251, 252)
	d.state.Net = number
	for _, l := range listeners {
		s := &httptest.Server{Listener: l, Config: &http.Server{Handler: answer}}
		s.Start()
		defer s.Close()
	}
	v := view{cities: map[string]bsn.City{
		"mallory": {Name: "mallory", Index: 251, API: "http://127.0.0.1:1"}, "rome": {Name: "rome", Index: 252, API: "http://127.0.0.1:1"},
		"paris": {Name: "paris", Index: 253},
	}, chains: map[string]bsn.Chain{"a": {Genesis: hash}}}
	b, err := d.fetch(t.Context(), v, hash, "mallory")
	if err != nil || !bytes.Equal(b, content) {
		t.Errorf("%q %v", b, err)
	}
	at := func(i int) string { return listeners[i].Addr().String() + "/artifacts/" + hash }
	if fmt.Sprint(asked) != fmt.Sprint([]string{at(0), at(1)}) {
		t.Errorf("asked %v", asked)
	}
	// Nobody is asked for what no record names.
	d.mirror.cities, d.mirror.chains = v.cities, v.chains
	if err := d.fetchNamed(t.Context(), artifact.Hash([]byte("other"))); !errors.Is(err, artifact.ErrNotFound) || len(asked) != 2 {
		t.Errorf("%v, asked %v", err, asked)
	}
	if err := d.fetchNamed(t.Context(), hash); err != nil {
		t.Error(err)
	}
}

// A city that was taken out of a committee has to see the block that lets it go.
func TestPeersOfAChain(t *testing.T) {
	c := bsn.Chain{Committee: []string{"a", "b"}, Nodes: []bsn.ChainNode{{City: "b"}, {City: "c"}}}
	for city, takes := range map[string]bool{"a": true, "b": true, "c": true, "d": false} {
		if takesPart(c, city) != takes {
			t.Errorf("city %s: %v", city, !takes)
		}
	}
}
