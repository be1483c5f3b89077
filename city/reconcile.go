package city

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger"
)

// pause is the longest time between two looks at what should be; what failed is
// tried again then.
const pause = 2 * time.Second

// aloneAfter is how long a daemon that was started waits for the ledger before it
// takes care of what it knew last.
const aloneAfter = 5 * time.Second

// reconcile closes, again and again, the difference between what the ledger asks
// of this city and what is. Each step looks at the whole, so that none depends on
// having seen every change, and each may be cut off anywhere.
func (d *daemon) reconcile(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer d.fetches.wg.Wait()
	d.try("mirror", d.mirror.restore(d.home.mirrorFile()))
	ctx, end := context.WithCancel(ctx)
	defer end() // also where the city has left: nobody else ends these then
	wg.Go(func() { d.follow(ctx) })
	wg.Go(func() { d.keepMirror(ctx) })
	wg.Go(func() { d.tend(ctx) })
	wg.Go(func() { d.settle(ctx) })
	// The gateway serves from the last known state: it does not wait for the ledger.
	d.try("gateway", d.startGateway(ctx))
	wait, cancel := context.WithTimeout(ctx, aloneAfter)
	if err := d.ledger.Ready(wait); err != nil && ctx.Err() == nil {
		d.log.Warn("the ledger is not ready: taking care of what it said last", "height", d.mirror.view().height)
	}
	cancel()
	for ctx.Err() == nil {
		v := d.mirror.view()
		if v.height > 0 {
			if err := d.step(ctx, v); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
		case <-d.wake:
		case <-time.After(pause):
		}
	}
	return nil
}

// follow keeps the mirror.
func (d *daemon) follow(ctx context.Context) {
	for ctx.Err() == nil {
		err := d.ledger.Ready(ctx)
		if err == nil {
			err = d.followFrom(ctx)
		}
		if ctx.Err() == nil {
			d.log.Warn("following the ledger was cut off", "error", err)
			time.Sleep(time.Second)
		}
	}
}

func (d *daemon) followFrom(ctx context.Context) error {
	height, err := d.mirror.load(ctx, d.ledger)
	if err != nil {
		return err
	}
	rouse(d.wake)
	// The block of that height comes again: it says how old all this is.
	for b, err := range d.ledger.Follow(ctx, max(height, 1)) {
		if err != nil {
			return err
		}
		changed, err := d.mirror.apply(b)
		if err != nil {
			return err
		}
		if changed {
			rouse(d.wake)
		}
	}
	return ctx.Err()
}

func rouse(wake chan<- struct{}) {
	select {
	case wake <- struct{}{}:
	default: // it is awake
	}
}

// step does all that can be done now and writes what the city has to say to the
// ledger in one transaction. Error: errEnded.
func (d *daemon) step(ctx context.Context, v view) error {
	var say []ledger.Message
	self, ok := v.cities[d.home.Name]
	if !ok {
		d.try("city", fmt.Errorf("the ledger does not know this city"))
		return nil
	}
	if !self.Status.Member() {
		if d.part(ctx, v, self) {
			return nil
		}
		return d.end(ctx, self)
	}
	if self.Status == bsn.CityAdmitted {
		say = append(say, ledger.ActivateCity())
	}
	if c := d.addresses(self); c.API != self.API || c.Gateway != self.Gateway || !slices.Equal(c.Link, self.Link) {
		say = append(say, ledger.UpdateCity(c.API, c.Gateway, c.Link))
	}
	if !d.departure.isLast() {
		d.try("gateway", d.startGateway(ctx))
	}
	d.try("keys", d.rotate(ctx, v, self))
	d.try("link", d.acquaint(inTouch(v), v.chains))
	d.try("peers", d.connect(v, self))
	of, waits := d.chains(ctx, v, self)
	say = append(say, of...)
	if self.Status == bsn.CityLeaving {
		say = append(say, d.leave(ctx, v, self, waits)...)
	} else {
		say = append(say, d.apps(ctx, v, self)...)
	}
	if v.fresh {
		d.say(ctx, say)
	}
	return nil
}

// addresses is the city's record with the addresses at which it serves, as
// configured here. One that is no address of a host, such as 0.0.0.0, is not told
// to others.
func (d *daemon) addresses(c bsn.City) bsn.City {
	set := func(to *string, prefix, addr string) {
		if a, err := netip.ParseAddrPort(addr); err == nil && !a.Addr().IsUnspecified() {
			*to = prefix + addr
		}
	}
	set(&c.API, "http://", or(d.cfg.City.API, d.addr(bsn.PortAPI)))
	c.Link = d.cfg.City.Link.Announced()
	set(&c.Gateway, "http://", or(first(d.cfg.Gateway.Addresses()), d.addr(bsn.PortGateway)))
	return c
}

// maxSay is the most messages that go into one transaction.
const maxSay = 100

// say writes messages in few transactions; if one is refused, one by one, so that
// one that is out of date does not hold up the rest.
func (d *daemon) say(ctx context.Context, messages []ledger.Message) {
	for part := range slices.Chunk(messages, maxSay) {
		d.sayTogether(ctx, part)
	}
}

func (d *daemon) sayTogether(ctx context.Context, messages []ledger.Message) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_, client := d.own.get()
	_, err := client.Write(ctx, messages...)
	if !errors.Is(err, ledger.ErrRefused) || len(messages) == 1 {
		d.try("ledger", err)
		return
	}
	for _, m := range messages {
		_, err := client.Write(ctx, m)
		d.try("ledger", err)
	}
}

// connect keeps the ledger node connected to those of its neighbours.
func (d *daemon) connect(v view, self bsn.City) error {
	var peers, others []string
	near, far := neighbours(self, v.cities)
	for _, c := range near {
		peers = append(peers, d.peer(c))
	}
	for _, c := range far {
		others = append(others, c.NodeID())
	}
	slices.Sort(others)
	// With none known yet it stays with those that it joined through.
	if len(peers) == 0 || !d.asked.changed("peers", "", strings.Join(append(slices.Clone(peers), others...), ",")) {
		return nil
	}
	err := d.ledger.Connect(peers, others)
	if err != nil {
		d.asked.forget("peers", "")
	}
	return err
}

// firstPeers are the ledger's nodes to begin with.
func (d *daemon) firstPeers() (out []string) {
	cities := map[string]bsn.City{}
	for _, c := range d.others() {
		cities[c.Name] = c
	}
	near, _ := neighbours(bsn.City{Name: d.home.Name, Index: d.state.Index}, cities)
	for _, c := range near {
		out = append(out, d.peer(c))
	}
	return out
}

// peer is where the ledger's nodes reach a city's, "id@host:port": at its virtual
// address, wherever it is.
func (d *daemon) peer(c bsn.City) string {
	return c.NodeID() + "@" + bsn.HostPort(d.state.Net.Addr(c.Index, bsn.ServiceCity), bsn.PortLedger)
}

// try logs what failed, each cause once until it changes.
func (d *daemon) try(what string, err error) {
	if err == nil {
		d.asked.forget("error", what)
		return
	}
	if d.asked.changed("error", what, err.Error()) {
		d.log.Warn("cannot do its part now, will try again", "part", what, "error", err)
	}
}

// asked remembers what was done or said, so that it is not done or said again.
type asked struct {
	mu sync.Mutex
	m  map[[2]string]string
}

// changed stores a text and tells whether another, or none, was there.
func (a *asked) changed(kind, id, text string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	old, ok := a.m[[2]string{kind, id}]
	if a.m == nil {
		a.m = map[[2]string]string{}
	}
	a.m[[2]string{kind, id}] = text
	return !ok || old != text
}

func (a *asked) forget(kind, id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.m, [2]string{kind, id})
}
