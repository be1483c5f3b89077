package link

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/openbsn/bsn"
)

// joinProtocol lets the holder of an invitation reach the API of the city that
// issued it, which takes nothing from a stranger but an application. A stream begins
// with the invitation, two bytes of length before it (big endian); the answer is a
// text of the same form, empty if the invitation is good, else why it is not.
const joinProtocol = "/bsn/join/1"

// maxText bounds an invitation and an answer, in bytes.
const maxText = 4 << 10

func writeText(w io.Writer, text string) error {
	text = text[:min(len(text), maxText)]
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(text))), text...))
	return err
}

func readText(r io.Reader) (string, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return "", err
	}
	n := binary.BigEndian.Uint16(size[:])
	if n > maxText {
		return "", fmt.Errorf("text of %d bytes, the most is %d", n, maxText)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return "", err
	}
	return string(b), nil
}

// letIn takes an invited stranger to the city's API.
func (l *Link) letIn(s network.Stream) {
	l.wg.Go(func() {
		if err := l.admit(s); err != nil {
			s.Reset()
			l.cfg.Log.Debug("stranger not let in", "error", err)
		}
	})
}

func (l *Link) admit(s network.Stream) error {
	s.SetDeadline(time.Now().Add(headerTimeout))
	invitation, err := readText(s)
	if err != nil {
		return fmt.Errorf("read invitation: %w", err)
	}
	if err := l.cfg.Invited(invitation); err != nil {
		if err := writeText(s, err.Error()); err != nil {
			return err
		}
		return s.Close()
	}
	l.gate.guest(s.Conn())
	at := bsn.HostPort(l.cfg.Net.Addr(l.cfg.Index, bsn.ServiceCity), bsn.PortAPI)
	c, err := (&net.Dialer{Timeout: connectTimeout}).DialContext(l.ctx, "tcp", at)
	if err != nil {
		return err
	}
	if err := writeText(s, ""); err != nil {
		abort(c.(*net.TCPConn))
		return err
	}
	s.SetDeadline(time.Time{})
	// Kept by a neighbour of its own, which is nobody's: it ends with the connection.
	guest := newNeighbour(l, s.Conn().RemotePeer(), bsn.Neighbour{Ports: bsn.CityPorts})
	defer guest.end()
	return guest.carry(c.(*net.TCPConn), s, bsn.Port{Service: bsn.ServiceCity, Port: bsn.PortAPI}, false)
}

// Door is the way of a city that is not part of the network yet to the one that
// invited it.
type Door struct {
	l          *Link
	to         *neighbour
	invitation string
}

// Knock opens a way to the inviting city, of which only node key and link count.
// It connects when it is used.
func Knock(key ed25519.PrivateKey, to bsn.City, invitation string, log *slog.Logger) (*Door, error) {
	if len(to.Link) == 0 {
		return nil, errors.New("the inviting city has no address for its link")
	}
	if len(invitation) > maxText {
		return nil, fmt.Errorf("invitation of %d bytes, the most is %d", len(invitation), maxText)
	}
	if _, err := peerID(to.NodeKey); err != nil {
		return nil, err
	}
	l, err := New(Config{Key: key, Log: log})
	if err != nil {
		return nil, err
	}
	l.Know([]bsn.Neighbour{{City: to}})
	for _, p := range l.neighbours() {
		return &Door{l, p, invitation}, nil
	}
	return nil, errors.Join(errors.New("this city's node key is the inviting one's"), l.Close())
}

// Close ends it.
func (d *Door) Close() error { return d.l.Close() }

// Dial connects to the inviting city's API, whatever address is named.
func (d *Door) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if err := d.to.await(ctx); err != nil {
		return nil, err
	}
	s, err := d.l.host.NewStream(ctx, d.to.id, joinProtocol)
	if err != nil {
		return nil, fmt.Errorf("open stream to the inviting city: %w", err)
	}
	s.SetDeadline(time.Now().Add(headerTimeout))
	if err := writeText(s, d.invitation); err != nil {
		s.Reset()
		return nil, fmt.Errorf("show invitation: %w", err)
	}
	answer, err := readText(s)
	if err == nil && answer != "" {
		err = errors.New(answer)
	}
	if err != nil {
		s.Reset()
		return nil, fmt.Errorf("show invitation: %w", err)
	}
	s.SetDeadline(time.Time{})
	return streamConn{s}, nil
}

// streamConn is a stream as a net.Conn.
type streamConn struct{ network.Stream }

// LocalAddr implements net.Conn.
func (c streamConn) LocalAddr() net.Addr { return peerAddr(c.Conn().LocalPeer()) }

// RemoteAddr implements net.Conn.
func (c streamConn) RemoteAddr() net.Addr { return peerAddr(c.Conn().RemotePeer()) }

type peerAddr peer.ID

func (peerAddr) Network() string  { return "libp2p" }
func (a peerAddr) String() string { return peer.ID(a).String() }
