package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A gateway that is replaced hands its sockets to the one that follows, over a Unix
// socket in their folder: both have the same queue of connections for a while, so
// that none is refused. The one that follows says so once it serves; the other then
// takes no more connections, answers what it has, and ends.

const (
	// handoverTimeout is how long the one that follows may take until it serves.
	handoverTimeout = 30 * time.Second
	// warmTimeout is how long it waits for the chains' nodes, so that it does not
	// answer worse than the one before.
	warmTimeout = 10 * time.Second
	// lingerTimeout is how long clients that keep calling have to be told, with their
	// next answer, to connect anew.
	lingerTimeout = 3 * time.Second
	maxHandover   = 16 << 10
	// taken is what the one that follows says.
	taken = "taken\n"
)

// inherit asks the gateway that runs, if there is one, for its sockets. The function
// tells it that they are served.
func inherit(path string) (sockets map[string]net.Listener, serves func() error, err error) {
	sockets, serves = map[string]net.Listener{}, func() error { return nil }
	if path == "" {
		return sockets, serves, nil
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return sockets, serves, nil // there is none
	}
	if err := c.SetDeadline(time.Now().Add(handoverTimeout)); err != nil {
		return nil, nil, fmt.Errorf("take over: %w", err)
	}
	text, rights := make([]byte, maxHandover), make([]byte, unix.CmsgSpace(4*64))
	n, oob, _, _, err := c.(*net.UnixConn).ReadMsgUnix(text, rights)
	if err != nil {
		c.Close()
		return sockets, serves, nil // it ends just now
	}
	sockets, err = received(text[:n], rights[:oob])
	if err != nil {
		c.Close()
		return nil, nil, fmt.Errorf("take over: %w", err)
	}
	return sockets, func() error {
		defer c.Close()
		_, err := c.Write([]byte(taken))
		return err
	}, nil
}

func received(text, rights []byte) (map[string]net.Listener, error) {
	var addresses []string
	if err := json.Unmarshal(text, &addresses); err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	var fds []int
	for _, m := range messages {
		more, err := unix.ParseUnixRights(&m)
		if err != nil {
			return nil, err
		}
		fds = append(fds, more...)
	}
	out := map[string]net.Listener{}
	for i, fd := range fds {
		unix.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), "socket")
		if i < len(addresses) {
			l, err := net.FileListener(f)
			if err != nil {
				f.Close()
				return nil, err
			}
			out[addresses[i]] = l
		}
		f.Close()
	}
	return out, nil
}

// offer hands the sockets to whoever follows, until ctx ends or one has said that it
// serves them, and tells which.
func offer(ctx context.Context, path string, addresses []string, sockets []net.Listener) (handed bool, err error) {
	if path == "" {
		<-ctx.Done()
		return false, nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("offer sockets: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return false, fmt.Errorf("offer sockets: %w", err)
	}
	l.SetUnlinkOnClose(false) // by then it is the one that follows who listens there
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return false, nil
			}
			return false, fmt.Errorf("offer sockets: %w", err)
		}
		err = hand(c, addresses, sockets)
		c.Close()
		if err == nil {
			return true, nil
		}
	}
}

func hand(c *net.UnixConn, addresses []string, sockets []net.Listener) error {
	if err := c.SetDeadline(time.Now().Add(handoverTimeout)); err != nil {
		return err
	}
	text, err := json.Marshal(addresses)
	if err != nil {
		return err
	}
	var fds []int
	for _, s := range sockets {
		f, err := s.(*net.TCPListener).File()
		if err != nil {
			return err
		}
		defer f.Close()
		fds = append(fds, int(f.Fd()))
	}
	if _, _, err := c.WriteMsgUnix(text, unix.UnixRights(fds...), nil); err != nil {
		return err
	}
	answer := make([]byte, len(taken))
	if n, err := c.Read(answer); err != nil || string(answer[:n]) != taken {
		return errors.New("whoever asked for the sockets does not serve them")
	}
	return nil
}

// warm waits until the records are known and each chain has a node that answers.
func (g *Gateway) warm(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, warmTimeout)
	defer cancel()
	for !g.isWarm() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (g *Gateway) isWarm() bool {
	if !g.directory.state().known {
		return false
	}
	for _, p := range *g.upstreams.pools.Load() {
		answers := len(p.nodes) == 0
		for _, n := range p.nodes {
			answers = answers || n.head.Load() > 0
		}
		if !answers {
			return false
		}
	}
	return true
}

// tellReplaced has clients that keep a connection connect anew.
func (g *Gateway) tellReplaced(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.replaced.Err() != nil {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}
