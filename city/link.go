package city

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/link"
)

// linked is the city's link, from when it is first needed on.
type linked struct {
	mu    sync.Mutex
	link  bsn.Link // nil: not needed yet
	local map[string]bool
}

func (l *linked) get() bsn.Link {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.link
}

func (l *linked) state() []bsn.LinkState {
	if x := l.get(); x != nil {
		return x.State()
	}
	return nil
}

func (l *linked) close() error {
	l.mu.Lock()
	x := l.link
	l.link = nil
	l.mu.Unlock()
	if x == nil {
		return nil
	}
	return x.Close()
}

// acquaint tells the link of all cities, and of the chains that they share with this
// one. It is opened with the first city that is elsewhere, or if it is to be reached.
func (d *daemon) acquaint(cities []bsn.City, chains map[string]bsn.Chain) error {
	cities = slices.DeleteFunc(slices.Clone(cities), func(c bsn.City) bool { return c.Name == d.home.Name })
	slices.SortFunc(cities, func(a, b bsn.City) int { return cmp.Compare(a.Index, b.Index) })
	var all []bsn.Neighbour
	needed := d.cfg.City.Link.Listen != ""
	for _, c := range cities {
		n := bsn.Neighbour{City: c, Local: d.isLocal(c.Name), Ports: d.shared(c.Name, chains)}
		needed = needed || !n.Local
		all = append(all, n)
	}
	if !needed && d.link.get() == nil {
		return d.rememberCities(cities)
	}
	if err := d.openLink(); err != nil {
		return err
	}
	d.link.get().Know(all)
	return d.rememberCities(cities)
}

// openLink opens the link with the node key as it is now, once.
func (d *daemon) openLink() error {
	d.link.mu.Lock()
	defer d.link.mu.Unlock()
	if d.link.link != nil {
		return nil
	}
	key, err := ledger.NodeKey(d.home.ledger())
	if err != nil {
		return err
	}
	listen := d.cfg.City.Link.Addresses()
	if len(listen) == 0 {
		listen = []string{d.addr(bsn.PortLink)}
	}
	l, err := link.New(link.Config{
		Key: key, Net: d.state.Net, Index: d.state.Index, Listen: listen, Announce: d.cfg.City.Link.Announced(),
		Connect:     map[bsn.Port]func(context.Context, string) (*net.UnixConn, error){{Service: bsn.ServiceCity, Port: bsn.PortForward}: d.toGateway},
		PortMapping: d.cfg.City.Link.PortMapping, Log: d.log.With("part", "link"), Metrics: d.metrics.registry,
		Invited: func(text string) error {
			i, err := ParseInvitation(text)
			if err != nil {
				return err
			}
			return d.issued(i)
		},
	})
	if err != nil {
		return err
	}
	d.link.link = l
	d.log.Info("link is open", "listen", listen, "announced", slog.AnyValue(d.cfg.City.Link.Announced()))
	return nil
}

// vacantTimeout and vacantPause are how long, and how often, a city tries to have its
// own addresses.
const (
	vacantTimeout = 20 * time.Second
	vacantPause   = 100 * time.Millisecond
)

// vacant waits until the city's own addresses are free: while its state was not on
// this machine, the links of the cities here listened there for it, and they let go
// once they notice.
func (d *daemon) vacant(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, vacantTimeout)
	defer cancel()
	// The gateway's may be held by the one that outlived the daemon before.
	for _, port := range []int{bsn.PortLedger, bsn.PortAPI} {
		for {
			l, err := net.Listen("tcp", d.addr(port))
			if err == nil {
				l.Close()
				break
			}
			if !errors.Is(err, unix.EADDRINUSE) {
				break // whoever listens there tells
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("an address of this city is taken by another program: %w", err)
			case <-time.After(vacantPause):
			}
		}
	}
	return nil
}

// shared are the ports that are open between this city and another.
func (d *daemon) shared(city string, chains map[string]bsn.Chain) []bsn.Port {
	ports := slices.Clone(bsn.CityPorts)
	for _, c := range chains {
		f := d.frameworks[c.Framework]
		if f == nil || !takesPart(c, city) || !takesPart(c, d.home.Name) {
			continue
		}
		for _, port := range f.PeerPorts() {
			ports = append(ports, bsn.Port{Service: bsn.ChainService(c.Index), Port: port})
		}
	}
	slices.SortFunc(ports, func(a, b bsn.Port) int { return cmp.Or(a.Service-b.Service, a.Port-b.Port) })
	return ports
}

// takesPart tells whether a city's node belongs to a chain's peers: that of a member,
// and that of a city which is out of the committee, since it has to follow the chain
// until the chain has let it go.
func takesPart(c bsn.Chain, city string) bool {
	_, posted := c.Node(city)
	return posted || c.Member(city)
}

// isLocal tells whether a city's state lies on this machine. That it is a city of
// this network, which does not change, is read once.
func (d *daemon) isLocal(name string) bool {
	h := Home{d.home.Root, name}
	if _, err := os.Stat(h.stateFile()); err != nil {
		return false
	}
	d.link.mu.Lock()
	defer d.link.mu.Unlock()
	if !d.link.local[name] {
		s, err := h.Load()
		if err != nil || s.Network != "" && s.Network != d.state.Network {
			return false
		}
		if s.Network == "" {
			return true // about to join: it does not know yet that it was admitted
		}
		if d.link.local == nil {
			d.link.local = map[string]bool{}
		}
		d.link.local[name] = true
	}
	return true
}

// others are the other cities, as this one knew them last.
func (d *daemon) others() []bsn.City {
	d.link.mu.Lock()
	defer d.link.mu.Unlock()
	return d.state.Cities
}

// rememberCities keeps what a start without the ledger needs.
func (d *daemon) rememberCities(cities []bsn.City) error {
	if old := d.others(); len(cities) == len(old) && (len(cities) == 0 || reflect.DeepEqual(cities, old)) {
		return nil
	}
	if err := d.home.update(func(s *State) { s.Cities = cities }); err != nil {
		return fmt.Errorf("keep other cities' addresses: %w", err)
	}
	d.link.mu.Lock()
	defer d.link.mu.Unlock()
	d.state.Cities = cities
	return nil
}
