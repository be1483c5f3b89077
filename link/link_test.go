package link

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/openbsn/bsn"
)

// machine stands for a machine with one city: it has a net of its own, so that the
// cities of one test, in one process, do not meet at virtual addresses.
type machine struct {
	t    *testing.T
	key  ed25519.PrivateKey
	net  bsn.Net
	city bsn.City
	link *Link
	cfg  Config
}

var testPort = bsn.Port{Service: bsn.ServiceCity, Port: 17800}

// nets counts the nets that are in use; each has one machine.
var nets atomic.Int32

func newMachine(t *testing.T, index int) *machine {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, key: private, net: freeNet(t)}
	m.city = bsn.City{Name: fmt.Sprintf("city-%d", index), Index: index, NodeKey: private.Public().(ed25519.PublicKey)}
	m.cfg = Config{Key: private, Net: m.net, Index: index, Log: slog.New(slog.DiscardHandler)}
	return m
}

// freeNet returns a net that nothing else on this machine uses, other test runs
// included: its holder listens there until the test ends.
func freeNet(t *testing.T) bsn.Net {
	t.Helper()
	for range 300 {
		n := bsn.Net(130 + nets.Add(1)%60)
		l, err := net.Listen("tcp", bsn.HostPort(n.Addr(254, 254), 1))
		if err == nil {
			t.Cleanup(func() { l.Close() })
			return n
		}
	}
	t.Fatal("no net is free")
	return 0
}

// reachable gives the machine an address that others can reach.
func (m *machine) reachable() *machine {
	m.t.Helper()
	l, err := net.Listen("tcp", bsn.HostPort(m.net.Addr(253, 1), 0))
	if err != nil {
		m.t.Fatal(err)
	}
	at := l.Addr().String()
	l.Close()
	m.cfg.Listen, m.cfg.Announce, m.city.Link = []string{at}, []string{at}, []string{at}
	return m
}

func (m *machine) open() *machine {
	m.t.Helper()
	var err error
	if m.link, err = New(m.cfg); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { m.link.Close() })
	return m
}

// knows tells the machine of others, with which the ports are open.
func (m *machine) knows(ports []bsn.Port, others ...*machine) {
	var all []bsn.Neighbour
	for _, o := range others {
		all = append(all, bsn.Neighbour{City: o.city, Ports: ports})
	}
	m.link.Know(all)
}

// acquaint tells all machines of each other.
func acquaint(all ...*machine) {
	for _, m := range all {
		m.knows([]bsn.Port{testPort}, all...)
	}
}

// at is the address of a city's port on this machine.
func (m *machine) at(o *machine, p bsn.Port) string {
	return bsn.HostPort(m.net.Addr(o.city.Index, p.Service), p.Port)
}

// serve runs a server on the city's own address: it answers with all that it was
// told, once it was told all.
func (m *machine) serve(p bsn.Port) {
	m.t.Helper()
	l, err := net.Listen("tcp", m.at(m, p))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b, err := io.ReadAll(c)
				if err == nil {
					c.Write(append([]byte("said "), b...))
				}
			}()
		}
	}()
}

// ask connects from one machine to a city and has a text repeated.
func (m *machine) ask(o *machine, p bsn.Port, text []byte) ([]byte, error) {
	c, err := net.DialTimeout("tcp", m.at(o, p), time.Second)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := c.Write(text); err != nil {
		return nil, err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return nil, err
	}
	return io.ReadAll(c)
}

// answers waits until a city answers.
func (m *machine) answers(o *machine) {
	m.t.Helper()
	text := bytes.Repeat([]byte("all cities are one network. "), 100_000)
	var err error
	for range 300 {
		var b []byte
		if b, err = m.ask(o, testPort, text); err == nil && bytes.Equal(b, append([]byte("said "), text...)) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	m.t.Fatalf("%s does not reach %s: %v; links %+v", m.city.Name, o.city.Name, err, m.link.State())
}

func (m *machine) state(o *machine) bsn.LinkState {
	m.t.Helper()
	for _, s := range m.link.State() {
		if s.City == o.city.Name {
			return s
		}
	}
	m.t.Fatalf("%s does not know %s", m.city.Name, o.city.Name)
	return bsn.LinkState{}
}

func (m *machine) await(o *machine, what string, ok func(bsn.LinkState) bool) {
	m.t.Helper()
	for range 600 {
		if ok(m.state(o)) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	m.t.Fatalf("%s to %s is not %s: %+v", m.city.Name, o.city.Name, what, m.state(o))
}

func TestForward(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	a, b := newMachine(t, 1), newMachine(t, 2).reachable()
	a.cfg.Metrics = registry
	a.open()
	b.open()
	acquaint(a, b)
	a.serve(testPort)
	b.serve(testPort)
	a.answers(b)
	b.answers(a) // though only b can be dialled
	a.await(b, "measured", func(s bsn.LinkState) bool { return s.Connected && !s.Relayed && s.Latency > 0 && s.Streams == 0 })
	if s := a.state(b); s.Sent < 2_000_000 || s.Received < s.Sent || !strings.Contains(s.Address, "/tcp/") {
		t.Errorf("%+v", s)
	}
	metrics, err := registry.Gather()
	if err != nil || len(metrics) != 5 {
		t.Errorf("%v %v", metrics, err)
	}
	// Ports that are not open, and at which nothing listens.
	closed, silent := bsn.Port{Service: 1, Port: 17801}, bsn.Port{Service: 11, Port: 17802}
	b.serve(closed)
	a.knows([]bsn.Port{testPort, closed, silent}, b)
	b.knows([]bsn.Port{testPort, silent}, a)
	for _, p := range []bsn.Port{closed, silent} {
		var got []byte
		for range 100 { // until it listens there
			if got, err = a.ask(b, p, []byte("hello")); err == nil || !errors.Is(err, os.ErrDeadlineExceeded) && !strings.Contains(err.Error(), "refused") {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if err == nil || len(got) > 0 {
			t.Errorf("port %v answered %q", p, got)
		}
	}
	a.answers(b)
	// What is taken away ends, and is not listened at any more.
	c, err := net.Dial("tcp", a.at(b, testPort))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a.await(b, "busy", func(s bsn.LinkState) bool { return s.Streams == 1 })
	b.knows([]bsn.Port{silent}, a)
	c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.ReadAll(c); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection goes on at a port that was closed: %v", err)
	}
	a.knows(nil)
	for range 100 {
		if _, err = net.Dial("tcp", a.at(b, testPort)); err != nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err == nil {
		t.Error("it listens for a city that it does not know")
	}
}

func TestStrangers(t *testing.T) {
	t.Parallel()
	a, b := newMachine(t, 1), newMachine(t, 2).reachable()
	a.open()
	b.open()
	a.knows([]bsn.Port{testPort}, b) // but not the other way round
	b.serve(testPort)
	a.await(b, "refused", func(s bsn.LinkState) bool { return !s.Connected && s.Error != "" })
	if got, err := a.ask(b, testPort, []byte("hello")); err == nil {
		t.Errorf("a stranger was answered %q", got)
	}
	b.knows([]bsn.Port{testPort}, a)
	a.answers(b)
	// Left, it is cut off.
	b.knows(nil)
	a.await(b, "cut off", func(s bsn.LinkState) bool { return !s.Connected })
}

func TestRelay(t *testing.T) {
	t.Parallel()
	a, b, r := newMachine(t, 1).open(), newMachine(t, 2).open(), newMachine(t, 3).reachable().open()
	acquaint(a, b, r)
	for _, m := range []*machine{a, b, r} {
		m.serve(testPort)
	}
	a.answers(r)
	a.answers(b)
	b.answers(a)
	if s := a.state(b); !s.Relayed {
		t.Errorf("not relayed: %+v", s)
	}
	// The relay serves nobody whom it does not know.
	r.knows([]bsn.Port{testPort}, b)
	a.await(b, "cut off", func(s bsn.LinkState) bool { return !s.Connected })
	acquaint(a, b, r)
	a.answers(b)
	// Once it has an address it is reached directly.
	if err := b.link.Close(); err != nil {
		t.Fatal(err)
	}
	b.reachable().open()
	acquaint(a, b, r)
	a.await(b, "direct", func(s bsn.LinkState) bool { return s.Connected && !s.Relayed })
	a.answers(b)
}

func TestTakeover(t *testing.T) {
	t.Parallel()
	// Two cities on one machine, and one elsewhere.
	a, c := newMachine(t, 1), newMachine(t, 3).reachable().open()
	b := newMachine(t, 2)
	b.net, b.cfg.Net = a.net, a.net
	a.open()
	b.open()
	acquaint(b, c)
	b.answersOnce(c)
	a.link.Know([]bsn.Neighbour{{City: b.city, Local: true, Ports: []bsn.Port{testPort}}, {City: c.city, Ports: []bsn.Port{testPort}}})
	c.knows([]bsn.Port{testPort}, a, b)
	c.serve(testPort)
	a.await(c, "taken", func(s bsn.LinkState) bool { return s.Connected && strings.Contains(s.Error, "in use") })
	if s := a.state(b); !s.Local || s.Connected {
		t.Errorf("%+v", s)
	}
	b.link.Close()
	a.await(c, "taken over", func(s bsn.LinkState) bool { return s.Error == "" })
	a.answers(c)
}

// answersOnce waits until the machine listens for a city.
func (m *machine) answersOnce(o *machine) {
	m.t.Helper()
	for range 200 {
		if c, err := net.Dial("tcp", m.at(o, testPort)); err == nil {
			c.Close()
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	m.t.Fatalf("%s does not listen for %s", m.city.Name, o.city.Name)
}

func TestCutAndBack(t *testing.T) {
	t.Parallel()
	a, b := newMachine(t, 1).open(), newMachine(t, 2).reachable().open()
	acquaint(a, b)
	b.serve(testPort)
	a.answers(b)
	c, err := net.Dial("tcp", a.at(b, testPort))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b.link.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.ReadAll(c); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection to a city that has gone: %v", err)
	}
	b.open()
	acquaint(a, b)
	a.answers(b)
}

// TestSlowReader: what nobody reads stops the sender, and nothing else.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	a, b := newMachine(t, 1).open(), newMachine(t, 2).reachable().open()
	acquaint(a, b)
	l, err := net.Listen("tcp", b.at(b, testPort))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a.await(b, "connected", func(s bsn.LinkState) bool { return s.Connected })
	a.answersOnce(b)
	if first, err := l.Accept(); err != nil {
		t.Fatal(err)
	} else {
		first.Close()
	}
	c, err := net.Dial("tcp", a.at(b, testPort))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	slow, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	sent, chunk := 0, make([]byte, 1<<20)
	for sent < 1<<30 {
		c.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := c.Write(chunk)
		sent += n
		if err != nil {
			break
		}
	}
	if sent > 256<<20 {
		t.Errorf("%d MiB went to somebody who reads nothing", sent>>20)
	}
	l.Close()
	b.serve(testPort)
	a.answers(b)
	go c.(*net.TCPConn).CloseWrite()
	if n, err := io.Copy(io.Discard, slow); err != nil || n != int64(sent) {
		t.Errorf("%d bytes came, %d were sent: %v", n, sent, err)
	}
}

func TestJoin(t *testing.T) {
	t.Parallel()
	a := newMachine(t, 1).reachable()
	a.cfg.Invited = func(text string) error {
		if text != "good" {
			return errors.New("this city did not issue the invitation")
		}
		return nil
	}
	a.open()
	api := bsn.Port{Service: bsn.ServiceCity, Port: bsn.PortAPI}
	l, err := net.Listen("tcp", a.at(a, api))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })}
	go s.Serve(l)
	defer s.Close()
	for invitation, want := range map[string]string{"good": "", "bad": "did not issue"} {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		d, err := Knock(private, a.city, invitation, a.cfg.Log)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		client := &http.Client{Transport: &http.Transport{DialContext: d.Dial}, Timeout: 30 * time.Second}
		res, err := client.Post("http://inviting/", "text/plain", strings.NewReader("hello"))
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v", invitation, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil || string(body) != "hello" {
			t.Errorf("%q %v", body, err)
		}
		res.Body.Close()
		// A guest has no other way in.
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		stream, err := d.l.host.NewStream(ctx, d.to.id, forwardProtocol)
		if err == nil {
			header := encodeHeader(api)
			stream.Write(header[:])
			stream.SetReadDeadline(time.Now().Add(10 * time.Second))
			if b, err := io.ReadAll(stream); err == nil {
				t.Errorf("a guest's connection was carried: %v", b)
			}
		}
	}
	// No more than so many at once: what a stranger believes before it is told says
	// nothing, so the inviting city's connections are counted.
	for range maxStrangersOfIP + 2 {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		d, err := Knock(private, a.city, "good", a.cfg.Log)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
	}
	connected := 0
	for range 100 {
		time.Sleep(100 * time.Millisecond)
		connected = len(a.link.host.Network().Conns())
		if connected > 0 && connected <= maxStrangersOfIP {
			return
		}
	}
	t.Errorf("%d strangers of one address are connected, the most is %d", connected, maxStrangersOfIP)
}

func TestConfig(t *testing.T) {
	t.Parallel()
	m := newMachine(t, 1)
	for name, change := range map[string]func(*Config){
		"a name to listen at": func(c *Config) { c.Listen = []string{"paris.example.org:7800"} },
		"no port":             func(c *Config) { c.Listen = []string{"127.0.0.1"} },
		"no address":          func(c *Config) { c.Announce = []string{"here"} },
		"no key":              func(c *Config) { c.Key = nil },
	} {
		cfg := m.cfg
		change(&cfg)
		if l, err := New(cfg); err == nil {
			l.Close()
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := Knock(m.key, m.city, "x", m.cfg.Log); err == nil {
		t.Error("a door without an address")
	}
	for _, host := range []string{"paris.example.org:7800", "[::1]:7800", "10.0.0.1:7800"} {
		if a, err := multiaddrs([]string{host}); err != nil || len(a) != 2 {
			t.Errorf("%s: %v %v", host, a, err)
		}
	}
}

func FuzzHeader(f *testing.F) {
	f.Add([]byte{1, 0x1e, 0x14}, []byte{0, 1, 'x'})
	f.Add([]byte{0, 0, 0}, []byte{255, 255})
	f.Fuzz(func(t *testing.T, header, text []byte) {
		if len(header) == headerSize {
			if p, err := decodeHeader([headerSize]byte(header)); err == nil && encodeHeader(p) != [headerSize]byte(header) {
				t.Errorf("% x is %+v", header, p)
			}
		}
		s, err := readText(bytes.NewReader(text))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := writeText(&b, s); err != nil || len(s) > maxText || !bytes.HasPrefix(text, b.Bytes()) {
			t.Errorf("%q: %v", s, err)
		}
	})
}

// What the city connects by itself is told which city is at the other end.
func TestConnect(t *testing.T) {
	a, b := newMachine(t, 1).reachable(), newMachine(t, 2).reachable()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if b, err := io.ReadAll(c); err == nil {
					c.Write(b)
				}
			}()
		}
	}()
	b.cfg.Connect = map[bsn.Port]func(context.Context, string) (*net.UnixConn, error){
		testPort: func(ctx context.Context, city string) (*net.UnixConn, error) {
			c, err := new(net.Dialer).DialContext(ctx, "unix", socket)
			if err != nil {
				return nil, err
			}
			_, err = c.Write([]byte(city + " says "))
			return c.(*net.UnixConn), err
		},
	}
	a.open()
	b.open()
	acquaint(a, b)
	var got []byte
	for range 300 {
		if got, err = a.ask(b, testPort, []byte("hello")); err == nil && string(got) == "city-1 says hello" {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("%q (%v)", got, err)
}
