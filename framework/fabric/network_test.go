package fabric

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyperledger/fabric-gateway/pkg/client"
	"google.golang.org/grpc"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/framework/fabric/authority"
	"github.com/openbsn/bsn/framework/fabric/channel"
	"github.com/openbsn/bsn/runtime/process"
)

// chaincodeName is how the example is called on every channel.
const chaincodeName = "assets"

// network are the Fabric nodes of some cities, each of an operator of its own, as
// processes that each city's own runtime keeps running.
type network struct {
	t        *testing.T
	cities   []*city
	programs Programs
	// assets is the example chaincode, built.
	assets string
}

type city struct {
	t         *testing.T
	site      bsn.Site
	operator  string
	authority *authority.Authority
	runtime   *process.Runtime
	specs     []bsn.NodeSpec        // orderer, peer
	dirs      []string              // theirs
	node      authority.Credentials // the orderer's, as the city first posted it
	admin     authority.Credentials
	orderer   *Orderer
	conn      *grpc.ClientConn
	peer      *Peer
	chaincode int // how many it runs
}

// enrolled is the day of the first certificates: long ago, so that they are due.
var enrolled = time.Now().Add(-300 * 24 * time.Hour)

// newNetwork starts an orderer and a peer in each city and waits until they answer.
func newNetwork(t *testing.T, cities ...string) *network {
	t.Helper()
	programs, err := Build(t.Context(), Config{}, func(done, total int) {
		if done%200 == 0 || done == total {
			t.Logf("building: %d of %d", done, total)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	n := &network{t: t, programs: programs, assets: buildAssets(t)}
	begin := time.Now()
	n.add(freeNet(t, len(cities)), cities...)
	t.Logf("%d orderers and %d peers answer %.1f s after the start of the first", len(cities), len(cities), time.Since(begin).Seconds())
	return n
}

// add starts further cities and waits until their nodes answer.
func (n *network) add(virtual bsn.Net, cities ...string) {
	n.t.Helper()
	for _, name := range cities {
		c := &city{t: n.t, operator: "operator-" + name, site: bsn.Site{
			Net: virtual, City: bsn.City{Name: name, Index: len(n.cities) + 1}, Chain: bsn.Chain{Name: "shared", Index: 1},
		}}
		n.cities = append(n.cities, c)
		c.start(n.t.TempDir(), n.programs)
	}
	for _, c := range n.cities[len(n.cities)-len(cities):] {
		n.eventually(c.site.City.Name+" answers", func(ctx context.Context) error {
			if _, err := c.orderer.Channels(ctx); err != nil {
				return err
			}
			_, err := c.peer.Channels(ctx)
			return err
		})
	}
}

func (c *city) start(root string, programs Programs) {
	t := c.t
	t.Helper()
	var err error
	if c.authority, err = authority.Open(filepath.Join(root, "authority"), c.operator); err != nil {
		t.Fatal(err)
	}
	if c.runtime, err = process.Open(filepath.Join(root, "nodes"), slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, s := range c.runtime.List() {
			if t.Failed() {
				t.Logf("%s restarted %d times; %s; at last it wrote:\n%s", s.ID, s.Restarts, s.Error, c.tail(s.ID))
			}
		}
		if err := c.runtime.StopAll(context.Background()); err != nil {
			t.Error(err)
		}
		c.runtime.Close()
	})
	orderer, err := PlanOrderer(c.site, c.operator, programs.Orderer)
	if err != nil {
		t.Fatal(err)
	}
	peer, err := PlanPeer(c.site, c.operator, programs.Peer)
	if err != nil {
		t.Fatal(err)
	}
	c.specs = []bsn.NodeSpec{orderer, peer}
	for i, m := range []authority.Member{OrdererMember(c.site), PeerMember(c.site)} {
		dir, err := c.runtime.Dir(c.specs[i].ID)
		if err != nil {
			t.Fatal(err)
		}
		c.dirs = append(c.dirs, dir)
		if _, err := c.authority.Enrol(dir, m, enrolled); err != nil {
			t.Fatal(err)
		}
		if err := c.runtime.Start(t.Context(), c.specs[i]); err != nil {
			t.Fatal(err)
		}
	}
	if c.node, err = authority.Load(c.dirs[0]); err != nil {
		t.Fatal(err)
	}
	adminDir := filepath.Join(root, "admin")
	if _, err := c.authority.Enrol(adminDir, authority.Member{Name: "admin", Role: authority.RoleAdmin}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if c.admin, err = authority.Load(adminDir); err != nil {
		t.Fatal(err)
	}
	if c.orderer, err = NewOrderer(c.site, c.admin); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.orderer.Close)
	if c.conn, err = Dial(c.site, c.authority.Roots()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.conn.Close() })
	c.peer = NewPeer(c.conn, c.admin)
}

// tail is the end of a node's log.
func (c *city) tail(id string) string {
	r, err := c.runtime.Logs(context.Background(), id, 15, false)
	if err != nil {
		return err.Error()
	}
	defer r.Close()
	text := make([]byte, 16<<10)
	k, _ := r.Read(text)
	return string(text[:k])
}

// buildAssets builds the example as a publisher does: one static program.
func buildAssets(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "assets")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", binary, ".")
	cmd.Dir = filepath.Join("..", "..", "examples", "assets")
	cmd.Env = append(cmd.Environ(), "GOWORK=off", "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the example: %v\n%s", err, out)
	}
	return binary
}

// freeNet finds a second byte of addresses at which nothing listens.
func freeNet(t *testing.T, cities int) bsn.Net {
	t.Helper()
	for candidate := 100 + os.Getpid()%100; candidate < 250; candidate++ {
		free := true
		for i := range cities {
			l, err := net.Listen("tcp", bsn.HostPort(bsn.Net(candidate).Addr(i+1, bsn.ChainService(1)), PortOrderer))
			if err == nil {
				l.Close()
			}
			free = free && err == nil
		}
		if free {
			return bsn.Net(candidate)
		}
	}
	t.Fatal("no free addresses")
	return 0
}

// eventually repeats something until it succeeds.
func (n *network) eventually(what string, do func(ctx context.Context) error) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute)
	defer cancel()
	for {
		try, done := context.WithTimeout(ctx, 10*time.Second)
		err := do(try)
		done()
		if err == nil {
			return
		}
		if sleep(ctx, 100*time.Millisecond) != nil {
			n.t.Fatalf("%s: not in time: %v", what, err)
		}
	}
}

// channelOf says what the cities' records say of a channel: all order, some are members.
func (n *network) channelOf(name, app string, members []*city) channel.Channel {
	n.t.Helper()
	c := channel.Channel{Name: name, App: app, Time: 1_790_000_000}
	for i, city := range n.cities {
		o := channel.Operator{Name: city.operator, Roots: city.authority.Roots()}
		c.Orderers = append(c.Orderers, channel.Orderer{
			ID: uint32(i + 1), Operator: o, Address: netip.AddrPortFrom(Address(city.site), PortOrderer),
			Identity: city.node.Identity(), TLS: city.node.TLSCertificate(),
		})
		if slices.Contains(members, city) {
			c.Members = append(c.Members, channel.Member{Operator: o, Peers: []netip.AddrPort{netip.AddrPortFrom(Address(city.site), PortPeer)}})
		}
	}
	return c
}

// publish makes a channel for an app and puts the example into force on it.
func (n *network) publish(account, app string, members []*city) string {
	t := n.t
	t.Helper()
	begin := time.Now()
	c := n.channelOf(channel.Name(account, app), bsn.ID(account, app), members)
	block, err := c.Genesis()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for _, city := range n.cities {
		slices.Reverse(c.Orderers)
		slices.Reverse(c.Members)
		if err := c.CheckGenesis(block); err != nil {
			t.Fatal(err)
		}
		if err := city.orderer.Join(ctx, c.Name, block); err != nil {
			t.Fatal(err)
		}
	}
	for _, city := range members {
		if err := city.peer.Join(ctx, c.Name, block); err != nil {
			t.Fatal(err)
		}
	}
	joined := time.Since(begin)

	d := Definition{Channel: c.Name, Name: chaincodeName, Version: "1", Sequence: 1}
	for _, city := range members {
		n.approve(ctx, city, d)
	}
	if err := members[0].peer.Commit(ctx, d); err != nil {
		t.Fatal(err)
	}
	t.Logf("channel %s: joined by %d orderers and %d peers after %.1f s, chaincode in force after %.1f s",
		c.Name, len(n.cities), len(members), joined.Seconds(), time.Since(begin).Seconds())
	return c.Name
}

// approve installs the example at a city's peer, starts it and approves it.
func (n *network) approve(ctx context.Context, city *city, d Definition) {
	t := n.t
	t.Helper()
	address, err := ChaincodeAddress(city.site, city.chaincode)
	if err != nil {
		t.Fatal(err)
	}
	city.chaincode++
	code := Chaincode{Label: "assets_1", Address: address}
	pkg, err := code.Package()
	if err != nil {
		t.Fatal(err)
	}
	id, err := PackageID(pkg)
	if err != nil {
		t.Fatal(err)
	}
	if err := city.peer.Install(ctx, pkg); err != nil {
		t.Fatal(err)
	}
	spec, err := code.Plan(city.site, n.assets)
	if err != nil {
		t.Fatal(err)
	}
	if err := city.runtime.Start(ctx, spec); err != nil {
		t.Fatal(err)
	}
	if err := city.peer.Approve(ctx, d, id); err != nil {
		t.Fatal(err)
	}
}

// participant makes the credentials of somebody who may call the apps: the key is
// made on its own side, the operator's authority sees a request for it.
func (c *city) participant(name string, apps ...string) authority.Credentials {
	t := c.t
	t.Helper()
	own := filepath.Join(t.TempDir(), name)
	// A folder's form is the same for all; the identity is then replaced by one with
	// the apps as units.
	if _, err := c.authority.Enrol(own, authority.Member{Name: name, Role: authority.RoleClient}, time.Now()); err != nil {
		t.Fatal(err)
	}
	credentials, err := authority.Load(own)
	if err != nil {
		t.Fatal(err)
	}
	request, err := authority.Request(credentials.Key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := c.authority.Sign(request, authority.Subject{Name: name, Role: authority.RoleClient, Units: apps}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if credentials.Certificate, err = authority.ParseCertificate(text); err != nil {
		t.Fatal(err)
	}
	return credentials
}

// contract is the example on a channel, as seen by somebody through the city's peer.
func (c *city) contract(who authority.Credentials, channel string) *client.Contract {
	c.t.Helper()
	return c.network(who, channel).GetContract(chaincodeName)
}

func (c *city) network(who authority.Credentials, channel string) *client.Network {
	c.t.Helper()
	g, err := Connect(c.conn, who)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { g.Close() })
	return g.GetNetwork(channel)
}

// submit submits a transaction and returns what it answered. As callers do, it tries
// again while the members' peers are not all as far as what was read.
func (n *network) submit(c *client.Contract, function string, args ...string) (answer string) {
	n.t.Helper()
	n.eventually(fmt.Sprint(function, " ", args), func(ctx context.Context) error {
		b, err := c.SubmitWithContext(ctx, function, client.WithArguments(args...))
		if err == nil {
			answer = string(b)
			return nil
		}
		if err = explain(err); !strings.Contains(err.Error(), "do not match") {
			n.t.Fatalf("%s %v: %v", function, args, err)
		}
		return err
	})
	return answer
}

// reads waits until a call answers what is wanted: a peer may be a block behind.
func (n *network) reads(c *client.Contract, want, function string, args ...string) {
	n.t.Helper()
	n.eventually(fmt.Sprint(function, " ", args), func(ctx context.Context) error {
		answer, err := c.EvaluateWithContext(ctx, function, client.WithArguments(args...))
		if err != nil {
			return explain(err)
		}
		if string(answer) != want {
			return fmt.Errorf("answers %s, want %s", answer, want)
		}
		return nil
	})
}
