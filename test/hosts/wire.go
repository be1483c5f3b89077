package hosts

import (
	"container/heap"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// Bounds of what is under way, as a real line has them: what exceeds them is
// lost.
const (
	maxUnderway = 1 << 16
	maxPacket   = 1 << 16
)

// wire forwards packets between hosts.
type wire struct {
	mu    sync.RWMutex
	hosts map[netip.Addr]*Host // by the address at which others reach them
	rules

	reading sync.WaitGroup
	later   later
}

// rules say what becomes of a packet; the zero value delivers all at once.
type rules struct {
	delay map[*Host]time.Duration
	loss  map[*Host]float64
	group map[*Host]int // from 1; 0: in none
}

func newWire() *wire {
	w := &wire{hosts: map[netip.Addr]*Host{}}
	w.rules = rules{delay: map[*Host]time.Duration{}, loss: map[*Host]float64{}, group: map[*Host]int{}}
	w.later.wake = make(chan struct{}, 1)
	w.later.end = make(chan struct{})
	w.reading.Go(w.deliverLater)
	return w
}

// Cut divides the hosts into groups: no packet passes between hosts of different
// groups. Hosts that are in none reach all. It replaces a former cut; without
// groups nothing is cut.
func (n *Network) Cut(groups ...[]*Host) {
	n.wire.mu.Lock()
	defer n.wire.mu.Unlock()
	clear(n.wire.group)
	for i, g := range groups {
		for _, h := range g {
			n.wire.group[h] = i + 1
		}
	}
}

// Delay makes each packet from and to a host take longer, so that an answer
// takes twice that.
func (n *Network) Delay(h *Host, d time.Duration) {
	n.wire.mu.Lock()
	defer n.wire.mu.Unlock()
	n.wire.delay[h] = d
}

// Lose makes each packet from and to a host get lost with this probability.
func (n *Network) Lose(h *Host, probability float64) {
	n.wire.mu.Lock()
	defer n.wire.mu.Unlock()
	n.wire.loss[h] = probability
}

// plug connects a host.
func (w *wire) plug(h *Host) {
	w.mu.Lock()
	w.hosts[h.Addr] = h
	w.mu.Unlock()
	w.reading.Go(func() {
		buffer := make([]byte, maxPacket)
		for {
			size, err := h.tun.Read(buffer)
			if err != nil {
				return // closed
			}
			w.send(h, packet(buffer[:size]))
		}
	})
}

// send takes a packet that a host sent. The packet's bytes are the caller's again
// afterwards.
func (w *wire) send(from *Host, p packet) {
	if !p.valid() || p.source() != from.inside {
		return
	}
	if from.nat != nil && !from.nat.out(p, time.Now()) {
		return
	}
	w.mu.RLock()
	to := w.hosts[p.destination()]
	lost := to == nil || w.group[from] != w.group[to] && w.group[from] != 0 && w.group[to] != 0
	loss := 1 - (1-w.loss[from])*(1-w.loss[to])
	delay := w.delay[from] + w.delay[to]
	w.mu.RUnlock()
	switch {
	case lost || loss > 0 && rand.Float64() < loss:
	case delay == 0:
		arrive(to, p)
	default:
		w.later.add(underway{time.Now().Add(delay), to, append(packet(nil), p...)})
	}
}

// arrive hands a packet to the host that it is for, if that one's router lets it in.
func arrive(to *Host, p packet) {
	if to.nat != nil && !to.nat.in(p, time.Now()) {
		return
	}
	to.tun.Write(p) // a host whose buffers are full loses packets
}

// deliverLater delivers what is under way, when it is due.
func (w *wire) deliverLater() {
	timer := time.NewTimer(time.Hour)
	for {
		p, wait := w.later.due(time.Now())
		if p.to != nil {
			arrive(p.to, p.packet)
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-w.later.wake:
		case <-w.later.end:
			return
		}
	}
}

// close ends the forwarding.
func (w *wire) close() {
	close(w.later.end)
	w.mu.Lock()
	for _, h := range w.hosts {
		h.tun.SetReadDeadline(time.Now()) // ends Read
	}
	w.mu.Unlock()
	w.reading.Wait()
}

// underway is a delayed packet.
type underway struct {
	due    time.Time
	to     *Host
	packet packet
}

// later holds delayed packets in the order in which they are due; those that are
// due at one time stay in order, since their times differ by when they were sent.
type later struct {
	mu      sync.Mutex
	packets packets
	wake    chan struct{}
	end     chan struct{}
}

func (l *later) add(p underway) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.packets) >= maxUnderway {
		return
	}
	heap.Push(&l.packets, p)
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// due takes the packet that is due next. If none is due now, it says how long to
// wait.
func (l *later) due(now time.Time) (p underway, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.packets) == 0 {
		return underway{}, time.Hour
	}
	if wait := l.packets[0].due.Sub(now); wait > 0 {
		return underway{}, wait
	}
	return heap.Pop(&l.packets).(underway), 0
}

// packets is a heap, earliest first.
type packets []underway

func (p packets) Len() int           { return len(p) }
func (p packets) Less(i, j int) bool { return p[i].due.Before(p[j].due) }
func (p packets) Swap(i, j int)      { p[i], p[j] = p[j], p[i] }

// Push implements heap.Interface.
func (p *packets) Push(x any) { *p = append(*p, x.(underway)) }

// Pop implements heap.Interface.
func (p *packets) Pop() any {
	last := (*p)[len(*p)-1]
	(*p)[len(*p)-1] = underway{}
	*p = (*p)[:len(*p)-1]
	return last
}
