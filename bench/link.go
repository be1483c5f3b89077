package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/link"
)

const (
	linkCalls = 5000
	linkBytes = 512 << 20
)

// linkPort is the port at which the server of the benchmark listens.
var linkPort = bsn.Port{Service: bsn.ServiceCity, Port: 17900}

// measureLink compares a connection between two links with one straight over the
// loopback. Both are of this process: what is measured is the work, not a wire.
func measureLink(ctx context.Context, _ options, r *report) error {
	far, near, err := linkEnds()
	if err != nil {
		return err
	}
	defer near.Close()
	defer far.Close()
	server, err := net.Listen("tcp", bsn.HostPort(linkFar.Addr(2, linkPort.Service), linkPort.Port))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer server.Close()
	go serveLink(server)
	direct, through := server.Addr().String(), bsn.HostPort(linkNear.Addr(2, linkPort.Service), linkPort.Port)
	say("waiting for the link")
	for len(near.State()) == 0 || near.State()[0].Latency == 0 {
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	var calls, rates [2]float64
	for i, at := range []string{direct, through} {
		if calls[i], err = linkCall(ctx, at); err != nil {
			return err
		}
		if rates[i], err = linkRate(ctx, at); err != nil {
			return err
		}
	}
	r.add("link.added.p50_us", calls[1]-calls[0], "µs", against("a round trip over the loopback, µs", calls[0]),
		"median of %d round trips of 64 bytes over one connection, less that without the link; TCP between the links", linkCalls)
	r.add("link.throughput_mib_s", rates[1], "MiB/s", against("loopback, MiB/s", rates[0]),
		"%d MiB one way over one connection; sender, both links and receiver share the machine's processors", linkBytes>>20)
	return nil
}

// The two ends stand for two machines: each has virtual addresses of its own.
const linkNear, linkFar bsn.Net = 118, 119

// linkEnds are city 1 on one machine and city 2, which can be dialled, on another.
func linkEnds() (far, near *link.Link, err error) {
	at := bsn.HostPort(linkFar.Addr(2, bsn.ServiceCity), bsn.PortLink)
	cities := []bsn.City{{Name: "near", Index: 1}, {Name: "far", Index: 2, Link: []string{at}}}
	configs := []link.Config{{Net: linkNear, Index: 1}, {Net: linkFar, Index: 2, Listen: []string{at}, Announce: []string{at}}}
	var links []*link.Link
	for i := range cities {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, nil, fmt.Errorf("make key: %w", err)
		}
		cities[i].NodeKey, configs[i].Key, configs[i].Log = public, private, slog.New(slog.DiscardHandler)
		l, err := link.New(configs[i])
		if err != nil {
			return nil, nil, errors.Join(err, closeAll(links))
		}
		links = append(links, l)
	}
	links[0].Know([]bsn.Neighbour{{City: cities[1], Ports: []bsn.Port{linkPort}}})
	links[1].Know([]bsn.Neighbour{{City: cities[0], Ports: []bsn.Port{linkPort}}})
	return links[1], links[0], nil
}

func closeAll(links []*link.Link) (err error) {
	for _, l := range links {
		err = errors.Join(err, l.Close())
	}
	return err
}

// serveLink answers each 64 bytes, as long as they begin with 'c', with the same;
// of a connection that begins otherwise it takes all that comes and says so.
func serveLink(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			b := make([]byte, 64)
			for {
				if _, err := io.ReadFull(c, b); err != nil {
					return
				}
				if b[0] != 'c' {
					if _, err := io.Copy(io.Discard, c); err != nil {
						return
					}
					c.Write([]byte{1}) // who does not get it measures nothing
					return
				}
				if _, err := c.Write(b); err != nil {
					return
				}
			}
		}()
	}
}

func dialLink(ctx context.Context, at string) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", at)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return c, c.SetDeadline(time.Now().Add(2 * time.Minute))
}

// linkCall is the median of round trips, in microseconds.
func linkCall(ctx context.Context, at string) (float64, error) {
	c, err := dialLink(ctx, at)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	b := append([]byte("c"), make([]byte, 63)...)
	var times []float64
	for i := range linkCalls + linkCalls/10 {
		start := time.Now()
		if _, err := c.Write(b); err != nil {
			return 0, fmt.Errorf("call: %w", err)
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return 0, fmt.Errorf("call: %w", err)
		}
		if i >= linkCalls/10 { // the first ones warm it up
			times = append(times, float64(time.Since(start).Nanoseconds())/1e3)
		}
	}
	return median(times), nil
}

// linkRate is how fast bytes go one way, in MiB/s.
func linkRate(ctx context.Context, at string) (float64, error) {
	c, err := dialLink(ctx, at)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	b := make([]byte, 256<<10)
	start := time.Now()
	for range linkBytes / len(b) {
		if _, err := c.Write(b); err != nil {
			return 0, fmt.Errorf("send: %w", err)
		}
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, fmt.Errorf("send: %w", err)
	}
	if _, err := io.ReadFull(c, b[:1]); err != nil {
		return 0, fmt.Errorf("wait for all to arrive: %w", err)
	}
	return float64(linkBytes>>20) / time.Since(start).Seconds(), nil
}
