package hosts

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// patience bounds what a test waits for; silence is how long nothing must come
// for it to count as never.
const (
	patience = 20 * time.Second
	silence  = 300 * time.Millisecond
)

// makeHosts makes a network of hosts a, b …; a name with a trailing ~ is behind a router.
func makeHosts(t *testing.T, names ...string) (*Network, []*Host) {
	t.Helper()
	if err := Unable(); err != nil {
		if os.Getenv("BSN_HOSTS") == "required" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	n, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	var out []*Host
	for _, name := range names {
		plain, router := strings.CutSuffix(name, "~")
		h, err := n.Add(plain, router)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, h)
	}
	return n, out
}

// echo answers at TCP port 7 of a host with what it gets.
func echo(t *testing.T, h *Host) {
	t.Helper()
	var l net.Listener
	err := h.Do(func() (err error) {
		l, err = net.Listen("tcp4", "0.0.0.0:7")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
}

// through sends bytes to the echo of a host and compares what comes back.
func through(from, to *Host, size int, within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	c, err := from.DialContext(ctx, "tcp4", fmt.Sprintf("%s:7", to.Addr))
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(within))
	sent := make([]byte, size)
	rand.Read(sent)
	go c.Write(sent)
	got := make([]byte, size)
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(sent, got) {
		return fmt.Errorf("%d bytes came back changed", size)
	}
	return nil
}

// udp listens at a UDP port of a host.
func udp(t *testing.T, h *Host, port int) net.PacketConn {
	t.Helper()
	var c net.PacketConn
	err := h.Do(func() (err error) {
		c, err = net.ListenPacket("udp4", fmt.Sprintf("0.0.0.0:%d", port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func tell(t *testing.T, c net.PacketConn, to netip.AddrPort, text string) {
	t.Helper()
	if _, err := c.WriteTo([]byte(text), net.UDPAddrFromAddrPort(to)); err != nil {
		t.Fatal(err)
	}
}

// hear returns the next text that comes, and from where; empty if none does.
func hear(c net.PacketConn, within time.Duration) (text string, from netip.AddrPort) {
	c.SetReadDeadline(time.Now().Add(within))
	b := make([]byte, 1500)
	size, addr, err := c.ReadFrom(b)
	if err != nil {
		return "", netip.AddrPort{}
	}
	return string(b[:size]), addr.(*net.UDPAddr).AddrPort()
}

func TestHostsReachEachOther(t *testing.T) {
	_, h := makeHosts(t, "a", "b")
	echo(t, h[1])
	if err := through(h[0], h[1], 1<<20, patience); err != nil {
		t.Fatal(err)
	}
	a, b := udp(t, h[0], 1000), udp(t, h[1], 1000)
	tell(t, a, netip.AddrPortFrom(h[1].Addr, 1000), "hello")
	if text, from := hear(b, patience); text != "hello" || from != netip.AddrPortFrom(h[0].Addr, 1000) {
		t.Fatalf("got %q from %s", text, from)
	}
}

func TestLoopbacksAreApart(t *testing.T) {
	_, h := makeHosts(t, "a", "b")
	for _, x := range h {
		err := x.Do(func() error { // each can take an address that the other has
			l, err := net.Listen("tcp4", "127.66.1.1:7700")
			if err == nil {
				t.Cleanup(func() { l.Close() })
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestDelay(t *testing.T) {
	const delay = 40 * time.Millisecond
	n, h := makeHosts(t, "a", "b")
	echo(t, h[1])
	n.Delay(h[0], delay)
	start := time.Now()
	if err := through(h[0], h[1], 1<<16, patience); err != nil {
		t.Fatal(err)
	}
	// The handshake goes there and back, and so do the bytes.
	if took := time.Since(start); took < 4*delay {
		t.Errorf("it took %s, with a delay of %s each way", took, delay)
	}
}

func TestLoss(t *testing.T) {
	n, h := makeHosts(t, "a", "b")
	echo(t, h[1])
	n.Lose(h[1], 0.05)
	if err := through(h[0], h[1], 1<<16, time.Minute); err != nil { // TCP makes up for it
		t.Error(err)
	}
	n.Lose(h[1], 0.5)
	a, b := udp(t, h[0], 1000), udp(t, h[1], 1000)
	for range 200 {
		tell(t, a, netip.AddrPortFrom(h[1].Addr, 1000), "hello")
	}
	got := 0
	for {
		if text, _ := hear(b, silence); text == "" {
			break
		}
		got++
	}
	if got == 0 || got == 200 {
		t.Errorf("%d of 200 packets arrived where half get lost", got)
	}
	n.Lose(h[1], 1)
	if err := through(h[0], h[1], 1, silence); err == nil {
		t.Error("it passes where all is lost")
	}
}

func TestCut(t *testing.T) {
	n, h := makeHosts(t, "a", "b", "c", "d")
	for _, x := range h {
		echo(t, x)
	}
	n.Cut([]*Host{h[0], h[1]}, []*Host{h[2]})
	for _, c := range []struct {
		from, to int
		passes   bool
	}{{0, 1, true}, {0, 2, false}, {2, 1, false}, {3, 0, true}, {2, 3, true}} {
		within := patience
		if !c.passes {
			within = silence
		}
		if err := through(h[c.from], h[c.to], 10, within); (err == nil) != c.passes {
			t.Errorf("from %s to %s: %v", h[c.from].Name, h[c.to].Name, err)
		}
	}
	n.Cut()
	if err := through(h[0], h[2], 10, patience); err != nil {
		t.Errorf("after the cut has healed: %v", err)
	}
}

// A connection outlives a cut that is shorter than its patience.
func TestConnectionOutlivesCut(t *testing.T) {
	n, h := makeHosts(t, "a", "b")
	echo(t, h[1])
	c, err := h[0].DialContext(t.Context(), "tcp4", fmt.Sprintf("%s:7", h[1].Addr))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	n.Cut(h[:1], h[1:])
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	c.SetReadDeadline(time.Now().Add(silence))
	if _, err := io.ReadFull(c, b); err == nil {
		t.Fatal("an answer passed the cut")
	}
	n.Cut()
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
}

func TestRouterLetsOutAndNotIn(t *testing.T) {
	_, h := makeHosts(t, "a", "b~")
	echo(t, h[0])
	echo(t, h[1])
	if err := through(h[1], h[0], 1<<20, patience); err != nil {
		t.Fatalf("from behind the router: %v", err)
	}
	if err := through(h[0], h[1], 10, silence); err == nil {
		t.Error("a call from outside passed the router")
	}

	a, b := udp(t, h[0], 1000), udp(t, h[1], 1000)
	other := udp(t, h[0], 2000)
	tell(t, b, netip.AddrPortFrom(h[0].Addr, 1000), "hello")
	text, mapped := hear(a, patience)
	if text != "hello" || mapped.Addr() != h[1].Addr || mapped.Port() == 1000 {
		t.Fatalf("got %q from %s", text, mapped)
	}
	tell(t, other, mapped, "who are you") // the same address, another port
	tell(t, a, mapped, "hello yourself")
	if text, _ := hear(b, patience); text != "hello yourself" {
		t.Fatalf("got %q", text)
	}
	if text, _ := hear(b, silence); text != "" {
		t.Errorf("%q passed the router from a port that was not called", text)
	}
	// The mapping is the same whoever is called.
	tell(t, b, netip.AddrPortFrom(h[0].Addr, 2000), "hello")
	if _, again := hear(other, patience); again != mapped {
		t.Errorf("mapped to %s for one and %s for another", mapped, again)
	}
}

// Two hosts behind routers meet once each has learnt the other's outer port from
// a third, which is what hole punching is.
func TestHolePunching(t *testing.T) {
	_, h := makeHosts(t, "a~", "b~", "c")
	a, b, c := udp(t, h[0], 1000), udp(t, h[1], 1000), udp(t, h[2], 1000)
	tell(t, a, netip.AddrPortFrom(h[2].Addr, 1000), "a")
	_, outerA := hear(c, patience)
	tell(t, b, netip.AddrPortFrom(h[2].Addr, 1000), "b")
	_, outerB := hear(c, patience)
	tell(t, a, outerB, "too early")
	if text, _ := hear(b, silence); text != "" {
		t.Fatalf("%q passed the router", text)
	}
	tell(t, b, outerA, "hello")
	if text, from := hear(a, patience); text != "hello" || from != outerB {
		t.Fatalf("got %q from %s", text, from)
	}
	tell(t, a, outerB, "hello yourself")
	if text, _ := hear(b, patience); text != "hello yourself" {
		t.Fatalf("got %q", text)
	}
}

func TestProcessesEndWithTheirHost(t *testing.T) {
	n, h := makeHosts(t, "a")
	words := append(h[0].Enter(), "sleep", "1000")
	cmd := exec.Command(words[0], words[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		pids, err := h[0].Processes()
		if err != nil {
			t.Fatal(err)
		}
		if len(pids) == 1 && pids[0] == cmd.Process.Pid {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("processes %v, not %d", pids, cmd.Process.Pid)
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("it was not killed")
	}
	n.hosts = nil // closed already
	n.wire = newWire()
}

// What a killed test run left is ended by the next.
func TestOrphansEnd(t *testing.T) {
	_, h := makeHosts(t, "a")
	words := append(h[0].Enter(), "env", marker+"=1.never", "sleep", "1000") // as if process 1 had been another
	cmd := exec.Command(words[0], words[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		if err := endOrphans(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ended:
			return
		case <-time.After(time.Millisecond): // it may not have got its environment yet
		}
	}
}
