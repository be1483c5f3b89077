package city

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/city/api"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/ledger/key"
)

func TestInitTwiceGivesTheSame(t *testing.T) {
	h := Home{t.TempDir(), "paris"}
	if _, err := h.Load(); !errors.Is(err, ErrNoCity) {
		t.Errorf("before: %v", err)
	}
	first, err := h.Init("op")
	if err != nil {
		t.Fatal(err)
	}
	// As if it had been cut off before its end.
	if err := os.Remove(h.stateFile()); err != nil {
		t.Fatal(err)
	}
	again, err := h.Init("op")
	if err != nil || hex.EncodeToString(again.CityKey) != hex.EncodeToString(first.CityKey) || !bytes.Equal(again.NodeKey, first.NodeKey) ||
		hex.EncodeToString(again.OperatorKey) != hex.EncodeToString(first.OperatorKey) || hex.EncodeToString(again.ConsensusKey) != hex.EncodeToString(first.ConsensusKey) {
		t.Errorf("first %+v, again %+v, %v", first, again, err)
	}
	if _, err := h.Init("other"); err == nil || !strings.Contains(err.Error(), `operator "op"`) {
		t.Errorf("for another operator: %v", err)
	}
	for _, name := range []string{"", "../x", "Paris"} {
		if _, err := (Home{h.Root, name}).Init("op"); !errors.Is(err, bsn.ErrName) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := h.Found("op", "test-net", 77, bsn.Parameters{}); err != nil {
		t.Fatal(err)
	}
	if err := h.Found("op", "test-net", 77, bsn.Parameters{}); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("founded twice: %v", err)
	}
	if s, err := h.Load(); err != nil || s.Network != "test-net" || s.Net != 77 || s.Index != 1 || s.Operator != "op" {
		t.Errorf("%+v %v", s, err)
	}
	secret, err := secretFile(h.path("gateway.secret"))
	if err != nil || len(secret) != 64 {
		t.Errorf("%q %v", secret, err)
	}
	if same, err := secretFile(h.path("gateway.secret")); err != nil || same != secret {
		t.Errorf("another secret: %v", err)
	}
	err = filepath.WalkDir(h.Root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && path != h.Root && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if local, err := Local(h.Root); err != nil || len(local) != 1 || local[0] != h {
		t.Errorf("%v %v", local, err)
	}
}

func TestOneDaemonOfACity(t *testing.T) {
	h := Home{t.TempDir(), "paris"}
	if _, err := h.Init("op"); err != nil {
		t.Fatal(err)
	}
	if pid, err := h.PID(); pid != 0 || err != nil {
		t.Errorf("%d %v", pid, err)
	}
	// Who asks must not keep a daemon from starting.
	stop := make(chan struct{})
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := h.PID(); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	for range 200 {
		unlock, err := h.lock()
		if err != nil {
			t.Fatal(err)
		}
		unlock()
	}
	close(stop)
	<-asked
	unlock, err := h.lock()
	if err != nil {
		t.Fatal(err)
	}
	if pid, err := h.PID(); pid != os.Getpid() || err != nil {
		t.Errorf("%d %v", pid, err)
	}
	if _, err := h.lock(); err == nil || !strings.Contains(err.Error(), "running already") {
		t.Errorf("a second daemon: %v", err)
	}
	unlock()
	if pid, err := h.PID(); pid != 0 || err != nil {
		t.Errorf("%d %v", pid, err)
	}
}

// founder is a city whose ledger runs and whose API takes applications.
func founder(t *testing.T) (d *daemon, operator *ledger.Client, url string) {
	t.Helper()
	h := Home{t.TempDir(), "chongqing"}
	if err := h.Found("op", "test-net", 77, bsn.Parameters{}); err != nil {
		t.Fatal(err)
	}
	d = &daemon{home: h, log: slog.New(slog.DiscardHandler), wake: make(chan struct{}, 1)}
	d.metrics = newMetrics(d)
	var err error
	if d.state, err = h.Load(); err != nil {
		t.Fatal(err)
	}
	own, err := key.Load(h.keyFile())
	if err != nil {
		t.Fatal(err)
	}
	if d.ledger, err = ledger.Hold(ledger.NodeConfig{Home: h.ledger(), Listen: "127.0.0.1:0", Log: d.log}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.ledger.Stop() })
	if err := d.ledger.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.own.set(own, d.ledger); err != nil {
		t.Fatal(err)
	}
	k, err := key.Load(OperatorKey(h.Root, "op"))
	if err != nil {
		t.Fatal(err)
	}
	if operator, err = ledger.NewClient(d.ledger, k); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(api.Handler(api.City{Network: "test-net", Name: h.Name, Operator: "op", Ledger: d.ledger, Apply: d.apply}))
	t.Cleanup(s.Close)
	return d, operator, s.URL
}

// join votes on the application as soon as there is one.
func join(t *testing.T, h Home, invitation string, operator *ledger.Client, d *daemon, yes bool) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return h.Join(ctx, invitation, func(string) {
		proposals, err := readAll[bsn.Proposal](ctx, d.ledger, bsn.KindProposal)
		if err != nil {
			t.Error(err)
		}
		for _, p := range proposals {
			if p.Status == bsn.ProposalOpen {
				if _, err := operator.Write(ctx, ledger.Vote(p.ID, yes)); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

func TestJoin(t *testing.T) {
	d, operator, url := founder(t)
	h := Home{t.TempDir(), "paris"}
	if _, err := h.Init("second"); err != nil {
		t.Fatal(err)
	}
	good, err := d.home.Invite("paris", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	i, err := ParseInvitation(good)
	if err != nil {
		t.Fatal(err)
	}
	// issue signs an altered invitation as the city itself could.
	issue := func(by key.Key, change func(*Invitation)) string {
		i := i
		change(&i)
		i.Signature = by.Sign(i.text())
		b, err := json.Marshal(i)
		if err != nil {
			t.Fatal(err)
		}
		return invitationPrefix + base64.RawURLEncoding.EncodeToString(b)
	}
	for name, c := range map[string]struct{ invitation, want string }{
		"nonsense":         {"bsn-invitation-%%%", "decode"},
		"for another city": {issue(d.own.key, func(i *Invitation) { i.City = "rome" }), `for city "rome"`},
		"by another":       {issue(key.New(), func(*Invitation) {}), "did not issue"},
		"another network":  {issue(d.own.key, func(i *Invitation) { i.Network = "other" }), "did not issue"},
		"expired":          {issue(d.own.key, func(i *Invitation) { i.Expires = 1 }), "expired"},
		"altered":          {strings.Replace(good, good[40:44], "AAAA", 1), ""},
	} {
		err := join(t, h, c.invitation, operator, d, true)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	// Voted down, it is told so; and another city of the name may apply.
	if err := join(t, h, good, operator, d, false); !errors.Is(err, ErrRejected) {
		t.Errorf("voted down: %v", err)
	}
	h = Home{t.TempDir(), "paris"}
	if _, err := h.Init("third"); err != nil {
		t.Fatal(err)
	}
	// Admitted, but what it is handed is not what the invitation names.
	for name, change := range map[string]func(*Invitation){
		"another genesis": func(i *Invitation) {
			sum := sha256.Sum256([]byte("another"))
			i.Genesis = hex.EncodeToString(sum[:])
		},
		"another net": func(i *Invitation) { i.Net = 78 },
	} {
		if err := join(t, h, issue(d.own.key, change), operator, d, true); err == nil || !strings.Contains(err.Error(), "do not join") {
			t.Errorf("%s: %v", name, err)
		}
		if s, err := h.Load(); err != nil || s.Network != "" {
			t.Errorf("%s: it joined all the same: %+v %v", name, s, err)
		}
		if _, err := os.Stat(ledger.GenesisFile(h.ledger())); err == nil {
			t.Errorf("%s: the genesis was kept", name)
		}
	}
	for range 2 { // again it changes nothing
		if err := join(t, h, good, operator, d, true); err != nil {
			t.Fatal(err)
		}
	}
	s, err := h.Load()
	if err != nil || s.Network != "test-net" || s.Net != 77 || s.Index != 2 || len(s.Cities) != 1 {
		t.Errorf("%+v %v", s, err)
	}
	// Whoever else holds the invitation comes too late.
	late := Home{t.TempDir(), "paris"}
	if _, err := late.Init("third"); err != nil {
		t.Fatal(err)
	}
	if err := join(t, late, good, operator, d, true); !errors.Is(err, api.ErrApplication) || !strings.Contains(err.Error(), "another city") {
		t.Errorf("late: %v", err)
	}
	if err := h.Found("third", "mine", 66, bsn.Parameters{}); err == nil {
		t.Error("a city of a network founded another")
	}
}

func FuzzParseInvitation(f *testing.F) {
	b, err := json.Marshal(Invitation{Network: "test-net", City: "paris", Nonce: []byte{1}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(invitationPrefix + base64.RawURLEncoding.EncodeToString(b))
	f.Add(invitationPrefix)
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		i, err := ParseInvitation(text)
		if err == nil && (len(text) > 2*maxInvitation || !strings.Contains(text, invitationPrefix)) {
			t.Errorf("%q is an invitation: %+v", text, i)
		}
		i.text() // is made of whatever was read
	})
}
