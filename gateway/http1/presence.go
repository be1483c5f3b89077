package http1

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Presence is the context of what is done for the client of one connection. It ends
// when the client has hung up, which is looked for while somebody waits for it: no
// goroutine reads meanwhile, and a request that is answered at once costs nothing.
type Presence struct {
	turns  atomic.Uint64 // grows whenever somebody begins to wait
	looked uint64        // turns at the last look; of who looks
	count  atomic.Int32  // of those who wait
	gone   atomic.Bool

	mu      sync.Mutex
	waiting []Waiting
	done    chan struct{} // made for who asks
}

// Waiting is told when what it waits for does not matter any more.
type Waiting interface{ Interrupt() }

// Enter has Interrupt called, once, if the client hangs up before Leave.
func (p *Presence) Enter(w Waiting) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone.Load() {
		w.Interrupt()
		return
	}
	p.waiting = append(p.waiting, w)
	p.count.Add(1)
	p.turns.Add(1)
}

// Leave takes back what Enter was told, and says whether it came before the client
// hung up. Interrupt has returned by then, or is not called.
func (p *Presence) Leave(w Waiting) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, one := range p.waiting {
		if one == w {
			last := len(p.waiting) - 1
			p.waiting[i], p.waiting[last] = p.waiting[last], nil
			p.waiting = p.waiting[:last]
			p.count.Add(-1)
			return true
		}
	}
	return false
}

// end tells all who wait.
func (p *Presence) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone.Swap(true) {
		return
	}
	for _, w := range p.waiting {
		w.Interrupt()
	}
	p.waiting = nil
	p.count.Store(0)
	if p.done != nil {
		close(p.done)
	}
}

// waits tells whether somebody has waited since the last look.
func (p *Presence) waits() bool {
	if p.count.Load() == 0 {
		return false
	}
	turns := p.turns.Load()
	same := turns == p.looked
	p.looked = turns
	return same
}

// Deadline implements context.Context.
func (p *Presence) Deadline() (time.Time, bool) { return time.Time{}, false }

// Value implements context.Context.
func (p *Presence) Value(any) any { return nil }

// Err implements context.Context.
func (p *Presence) Err() error {
	if p.gone.Load() {
		return context.Canceled
	}
	return nil
}

// Done implements context.Context.
func (p *Presence) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done == nil {
		p.done = make(chan struct{})
		if p.gone.Load() {
			close(p.done)
		}
	}
	return p.done
}

// AfterFunc is how contexts that are made of this one wait for its end; see
// [context.AfterFunc].
func (p *Presence) AfterFunc(f func()) (stop func() bool) {
	w := &afterwards{f}
	p.Enter(w)
	return func() bool { return p.Leave(w) }
}

type afterwards struct{ f func() }

// Interrupt implements Waiting.
func (a *afterwards) Interrupt() { go a.f() }

// presenceTick is the time between two looks at the clients who wait. Who has waited
// for less than one is not looked at.
const presenceTick = 250 * time.Millisecond

// watchClients looks for clients that have hung up, until the server has stopped.
func (s *Server) watchClients() {
	tick := time.NewTicker(presenceTick)
	defer tick.Stop()
	var waiting []*conn
	for range tick.C {
		waiting = waiting[:0]
		s.mu.Lock()
		for c := range s.open {
			if c.presence.waits() {
				waiting = append(waiting, c)
			}
		}
		over := s.closing.Load() && len(s.open) == 0
		s.mu.Unlock()
		for _, c := range waiting {
			if Gone(c.raw) {
				c.presence.end()
			}
		}
		clear(waiting)
		if over {
			return
		}
	}
}

// Gone tells whether the other side of a connection has hung up, without reading from
// it: what it sent before may still wait there. Who only says that nothing more will
// come counts as gone too.
func Gone(c net.Conn) (gone bool) {
	for {
		switch x := c.(type) {
		case *counted:
			c = x.Conn
		case *prefixed:
			c = x.Conn
		case *tls.Conn:
			c = x.NetConn()
		case syscall.Conn:
			raw, err := x.SyscallConn()
			if err != nil {
				return false
			}
			_ = raw.Control(func(fd uintptr) {
				one := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
				n, err := unix.Poll(one, 0)
				gone = err == nil && n > 0 && one[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
			})
			return gone
		default:
			return false
		}
	}
}
