package fabric

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hyperledger/fabric-gateway/pkg/client"
	cb "github.com/hyperledger/fabric-protos-go-apiv2/common"
	"github.com/hyperledger/fabric-protos-go-apiv2/msp"
	ob "github.com/hyperledger/fabric-protos-go-apiv2/orderer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/framework/fabric/authority"
)

// TestNetwork runs four operators' real orderers and peers, with two apps on them.
func TestNetwork(t *testing.T) {
	if os.Getenv("BSN_LONG") == "" {
		t.Skip("builds Fabric and runs eight of its nodes, too slow beside all other tests: BSN_LONG=1 runs it")
	}
	n := newNetwork(t, "chongqing", "hongkong", "paris", "saopaulo")
	begin := time.Now()
	first := n.publish("alice", "assets", n.cities)
	t.Logf("first app in force after %.1f s", time.Since(begin).Seconds())
	second := n.publish("bob", "assets", n.cities[:3])

	t.Run("assets", func(t *testing.T) { n.within(t).testAssets(first) })
	t.Run("isolation", func(t *testing.T) { n.within(t).testIsolation(first, second) })
	t.Run("administration", func(t *testing.T) { n.within(t).testAdministration(first) })
	t.Run("orderer killed", func(t *testing.T) { n.within(t).testKill(first, second) })
	t.Run("renewal", func(t *testing.T) { n.within(t).testRenewal(first) })
	t.Run("fifth city", func(t *testing.T) { n.within(t).testGrowth(first) })
	t.Run("leave", func(t *testing.T) { n.within(t).testLeave(second) })
}

// within is the network for a part of a test.
func (n *network) within(t *testing.T) *network {
	part := &network{t: t, programs: n.programs, assets: n.assets}
	for _, c := range n.cities {
		copied := *c
		copied.t = t
		part.cities = append(part.cities, &copied)
	}
	return part
}

func (n *network) testAssets(channel string) {
	t := n.t
	here, there := n.cities[0], n.cities[3]
	carol, dave := here.participant("carol", "alice/assets"), there.participant("dave", "alice/assets")
	ours, theirs := here.contract(carol, channel), there.contract(dave, channel)

	const made = `{"id":"lamp","color":"blue","size":5,"owner":"carol","value":300}`
	if got := n.submit(ours, "Create", "lamp", "blue", "5", "carol", "300"); got != made {
		t.Errorf("made %s", got)
	}
	n.reads(theirs, made, "Read", "lamp")
	if _, err := theirs.SubmitTransaction("Create", "lamp", "red", "1", "dave", "1"); err == nil || !strings.Contains(explain(err).Error(), "exists already") {
		t.Errorf("made twice: %v", err)
	}
	n.submit(theirs, "Update", "lamp", "green", "5", "carol", "350")
	if got := n.submit(theirs, "Transfer", "lamp", "dave"); got != `"carol"` {
		t.Errorf("the old owner was %s", got)
	}
	const last = `{"id":"lamp","color":"green","size":5,"owner":"dave","value":350}`
	n.reads(ours, last, "Read", "lamp")
	n.reads(ours, "["+last+"]", "List")
	n.submit(ours, "Delete", "lamp")
	n.reads(theirs, "false", "Exists", "lamp")

	answer, err := ours.EvaluateTransaction("History", "lamp")
	if err != nil {
		t.Fatal(explain(err))
	}
	var changes []struct {
		Transaction string
		Time        time.Time
		Deleted     bool
		Asset       struct{ Color, Owner string }
	}
	if err := json.Unmarshal(answer, &changes); err != nil {
		t.Fatal(err)
	}
	var story []string
	for _, c := range changes {
		story = append(story, fmt.Sprint(c.Asset.Color, " ", c.Asset.Owner, " ", c.Deleted))
		if len(c.Transaction) != 64 || c.Time.IsZero() {
			t.Errorf("a change without its transaction: %+v", c)
		}
	}
	if want := []string{"  true", "green dave false", "green carol false", "blue carol false"}; !slices.Equal(story, want) {
		t.Errorf("its history is %q, want %q", story, want)
	}

	// Events, from the first block; then on from where a listener stopped.
	want := []string{"Create", "Update", "Transfer", "Delete"}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var checkpoint client.InMemoryCheckpointer
	listen := func(count int) (names []string) {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		events, err := there.network(dave, channel).ChaincodeEvents(ctx, chaincodeName, client.WithStartBlock(0), client.WithCheckpoint(&checkpoint))
		if err != nil {
			t.Fatal(err)
		}
		for e := range events {
			checkpoint.CheckpointChaincodeEvent(e)
			if names = append(names, e.EventName); len(names) == count {
				break
			}
		}
		return names
	}
	if got := append(listen(1), listen(3)...); !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

// testIsolation: who may call one app learns nothing of another on the same peers.
func (n *network) testIsolation(first, second string) {
	t := n.t
	here := n.cities[0]
	carol := here.participant("carol", "alice/assets")
	erin := here.participant("erin", "bob/assets")
	nobody := here.participant("nobody")
	n.submit(here.contract(erin, second), "Create", "secret", "black", "1", "erin", "7")
	n.reads(here.contract(erin, second), "true", "Exists", "secret")
	n.reads(here.contract(carol, first), "false", "Exists", "secret") // a state of its own

	const refused = "Failed evaluating policy"
	for name, c := range map[string]struct {
		who     authority.Credentials
		channel string
	}{"another app's": {carol, second}, "the first's": {erin, first}, "no app's": {nobody, first}} {
		contract := here.contract(c.who, c.channel)
		if answer, err := contract.EvaluateTransaction("Read", "secret"); err == nil || !strings.Contains(explain(err).Error(), refused) {
			t.Errorf("%s participant reads %q, %v", name, answer, explain(err))
		}
		if _, err := contract.SubmitTransaction("Create", "mine", "red", "1", "me", "1"); err == nil || !strings.Contains(explain(err).Error(), refused) {
			t.Errorf("%s participant writes: %v", name, explain(err))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		events, err := here.network(c.who, c.channel).ChaincodeEvents(ctx, chaincodeName, client.WithStartBlock(0))
		if err == nil {
			if e, open := <-events; open {
				t.Errorf("%s participant hears %v", name, e)
			}
			if ctx.Err() != nil {
				t.Errorf("%s participant is left listening", name)
			}
		}
		cancel()
		if status := n.deliver(here, c.who, c.channel); status != cb.Status_FORBIDDEN {
			t.Errorf("%s participant gets blocks from the orderer: %v", name, status)
		}
	}
	// The way is open to those who belong there, so that what is refused is not refused to all.
	for name, c := range map[string]struct {
		who     authority.Credentials
		channel string
	}{"the app's": {erin, second}, "the operator": {here.admin, second}} {
		if status := n.deliver(here, c.who, c.channel); status != cb.Status_SUCCESS {
			t.Errorf("%s gets no blocks from the orderer: %v", name, status)
		}
	}

	// The fourth city is no member of the second channel: its peer has none of it, and
	// its participants, whatever their operator lets them, are strangers there.
	away := n.cities[3]
	mallory := away.participant("mallory", "bob/assets")
	channels, err := away.peer.Channels(t.Context())
	if err != nil || !slices.Equal(channels, []string{first}) {
		t.Errorf("its peer has %q, %v", channels, err)
	}
	for _, at := range []*city{away, here} {
		if answer, err := at.contract(mallory, second).EvaluateTransaction("Read", "secret"); err == nil {
			t.Errorf("a stranger reads %q in %s", answer, at.site.City.Name)
		}
	}
}

// deliver asks a city's orderer for block 0 of a channel and returns its last word.
func (n *network) deliver(c *city, who authority.Credentials, channel string) cb.Status {
	t := n.t
	t.Helper()
	conn, err := DialOrderer(c.site, c.authority.Roots())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	encode := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	zero := &ob.SeekPosition{Type: &ob.SeekPosition_Specified{Specified: &ob.SeekSpecified{}}}
	payload := encode(&cb.Payload{
		Header: &cb.Header{
			ChannelHeader:   encode(&cb.ChannelHeader{Type: int32(cb.HeaderType_DELIVER_SEEK_INFO), ChannelId: channel, Timestamp: timestamppb.Now()}),
			SignatureHeader: encode(&cb.SignatureHeader{Creator: encode(&msp.SerializedIdentity{Mspid: who.Operator, IdBytes: who.Identity()}), Nonce: []byte("once")}),
		},
		Data: encode(&ob.SeekInfo{Start: zero, Stop: zero}),
	})
	signature, err := who.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stream, err := ob.NewAtomicBroadcastClient(conn).Deliver(ctx)
	if err == nil {
		err = stream.Send(&cb.Envelope{Payload: payload, Signature: signature})
	}
	for err == nil {
		var answer *ob.DeliverResponse
		if answer, err = stream.Recv(); err == nil && answer.GetBlock() == nil {
			return answer.GetStatus()
		}
	}
	t.Fatal(err)
	return cb.Status_UNKNOWN
}

// testAdministration: who is not of the operator cannot rule its nodes, and what
// was done already is no error.
func (n *network) testAdministration(channel string) {
	t := n.t
	here, other := n.cities[0], n.cities[1]
	for port, name := range map[int]string{portAdmin: "admin", portOrdererOperations: "orderer's operations", portPeerOperations: "peer's operations"} {
		for who, certificates := range map[string][]tls.Certificate{"nobody": nil, "another operator": {other.admin.TLS}, "the operator": {here.admin.TLS}} {
			config, err := clientTLS(here.authority.Roots().TLS)
			if err != nil {
				t.Fatal(err)
			}
			// Sent whether the server asks for its issuer or not.
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if len(certificates) == 0 {
					return new(tls.Certificate), nil
				}
				return &certificates[0], nil
			}
			conn, err := tls.Dial("tcp", bsn.HostPort(Address(here.site), port), config)
			if err == nil {
				// The server judges after the client is done: only an answer tells.
				_, err = fmt.Fprintf(conn, "GET /healthz HTTP/1.0\r\n\r\n")
				if err == nil {
					_, err = conn.Read(make([]byte, 1))
				}
				conn.Close()
			}
			if (err == nil) != (who == "the operator") {
				t.Errorf("%s at the %s port: %v", who, name, err)
			}
		}
	}
	if _, err := NewPeer(here.conn, other.admin).Channels(t.Context()); err == nil {
		t.Error("another operator's administrator rules the peer")
	}
	if _, err := NewPeer(here.conn, here.participant("carol", "alice/assets")).Installed(t.Context()); err == nil {
		t.Error("a participant rules the peer")
	}

	for i, node := range []string{"orderer", "peer"} {
		var want []string
		for _, port := range here.specs[i].Ports {
			want = append(want, fmt.Sprintf("%s:%d", here.specs[i].Address, port))
		}
		slices.Sort(want)
		if got := listeners(t, here.pid(i)); !slices.Equal(got, want) {
			t.Errorf("the %s listens at %v, want %v", node, got, want)
		}
	}

	block, err := n.channelOf(channel, "alice/assets", n.cities).Genesis()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(here.orderer.Join(t.Context(), channel, block), here.peer.Join(t.Context(), channel, block)); err != nil {
		t.Errorf("joined again: %v", err)
	}
	if err := here.orderer.Join(t.Context(), "nonsense", []byte("nonsense")); err == nil {
		t.Error("an orderer joined by nonsense")
	}
	d := Definition{Channel: channel, Name: chaincodeName, Version: "1", Sequence: 1}
	ids, err := here.peer.Installed(t.Context())
	if err != nil || len(ids) != 2 {
		t.Fatalf("installed: %q, %v", ids, err)
	}
	if all, err := here.peer.Committed(t.Context(), channel); err != nil || !slices.Equal(all, []Definition{d}) {
		t.Errorf("in force: %v, %v", all, err)
	}
	if err := here.peer.Commit(t.Context(), d); err != nil {
		t.Errorf("committed again: %v", err)
	}
	d.Sequence = 9
	if err := here.peer.Commit(t.Context(), d); err == nil || !strings.Contains(err.Error(), "sequence") {
		t.Errorf("a definition out of sequence: %v", err)
	}
	if p, err := here.orderer.Channel(t.Context(), channel); err != nil || p.Relation != "consenter" || p.Status != "active" {
		t.Errorf("its part: %+v, %v", p, err)
	}
	if _, err := here.orderer.Channel(t.Context(), "nothing"); !errors.Is(err, ErrNotJoined) {
		t.Errorf("a channel that is not: %v", err)
	}
}

// testKill kills the leader of both channels while transactions go on in two cities.
// None that was acknowledged is lost, and the orderer comes level again.
func (n *network) testKill(first, second string) {
	t := n.t
	type writer struct {
		name     string
		contract *client.Contract
		acked    []string
		failed   int
		gap      time.Duration
	}
	var writers []*writer
	for i, channel := range []string{first, first, second, second} {
		at := n.cities[1+i%2]
		writers = append(writers, &writer{
			name: fmt.Sprintf("w%d", i), contract: at.contract(at.participant("writer", "alice/assets", "bob/assets"), channel),
		})
	}
	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for _, w := range writers {
		group.Go(func() {
			last := time.Now()
			for i := 0; ctx.Err() == nil; i++ {
				id := fmt.Sprintf("%s-%d", w.name, i)
				try, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				_, err := w.contract.SubmitWithContext(try, "Create", client.WithArguments(id, "grey", "1", "writer", "1"))
				cancel()
				if err != nil {
					w.failed++
					continue
				}
				w.acked = append(w.acked, id)
				w.gap = max(w.gap, time.Since(last))
				last = time.Now()
			}
		})
	}
	pause := func(d time.Duration) {
		if sleep(t.Context(), d) != nil {
			t.Fatal("the test ended")
		}
	}
	pause(3 * time.Second)
	victim := n.cities[0] // number 1 leads every channel at first
	before := victim.pid(0)
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// It is kept down, so that the others have to go on without it.
	if err := victim.runtime.Stop(t.Context(), victim.specs[0].ID); err != nil {
		t.Fatal(err)
	}
	pause(12 * time.Second)
	if err := victim.runtime.Start(t.Context(), victim.specs[0]); err != nil {
		t.Fatal(err)
	}
	pause(5 * time.Second)
	stop()
	group.Wait()

	for i, w := range writers {
		t.Logf("%s: %d acknowledged, %d failed, longest gap %.1f s", w.name, len(w.acked), w.failed, w.gap.Seconds())
		if len(w.acked) == 0 || w.gap > 40*time.Second {
			t.Errorf("%s did not go on", w.name)
		}
		channel := []string{first, first, second, second}[i]
		at := n.cities[2-i%2] // the other city
		contract := at.contract(at.participant("auditor", "alice/assets", "bob/assets"), channel)
		n.eventually("all that was acknowledged", func(ctx context.Context) error {
			answer, err := contract.EvaluateWithContext(ctx, "List")
			if err != nil {
				return explain(err)
			}
			var all []struct{ ID string }
			if err := json.Unmarshal(answer, &all); err != nil {
				return err
			}
			there := make(map[string]bool)
			for _, a := range all {
				there[a.ID] = true
			}
			for _, id := range w.acked {
				if !there[id] {
					return fmt.Errorf("%s is lost", id)
				}
			}
			return nil
		})
	}
	for _, channel := range []string{first, second} {
		at := n.cities[1]
		n.level(at.peer, victim.orderer, channel, at.contract(at.participant("writer", "alice/assets", "bob/assets"), channel))
	}
}

// testRenewal replaces the certificates of one city's nodes while the others work.
func (n *network) testRenewal(channel string) {
	t := n.t
	c, elsewhere := n.cities[2], n.cities[0]
	watcher := elsewhere.contract(elsewhere.participant("watcher", "alice/assets"), channel)
	for i, m := range []authority.Member{OrdererMember(c.site), PeerMember(c.site)} {
		old, err := authority.Load(c.dirs[i])
		if err != nil {
			t.Fatal(err)
		}
		if days := time.Until(old.Expires()).Hours() / 24; days > 66 {
			t.Fatalf("its certificates hold for %.0f days: nothing to renew", days)
		}
		if renewed, err := c.authority.Enrol(c.dirs[i], m, time.Now()); err != nil || !renewed {
			t.Fatalf("renewed %v, %v", renewed, err)
		}
		renewed, err := authority.Load(c.dirs[i])
		if err != nil {
			t.Fatal(err)
		}
		if days := time.Until(renewed.Expires()).Hours() / 24; days < 360 {
			t.Errorf("new certificates hold for %.0f days", days)
		}
		if orderer := m.Role == authority.RoleOrderer; renewed.Certificate.Equal(old.Certificate) != orderer {
			t.Errorf("the %s's identity is not as channels ask for", m.Role)
		}
		if err := errors.Join(c.runtime.Stop(t.Context(), c.specs[i].ID), c.runtime.Start(t.Context(), c.specs[i])); err != nil {
			t.Fatal(err)
		}
		n.submit(watcher, "Create", fmt.Sprint("while renewed ", i), "grey", "1", "watcher", "1")
	}
	n.eventually("answers with new certificates", func(ctx context.Context) error {
		_, err := c.peer.Channels(ctx)
		return err
	})
	own := c.contract(c.participant("erin", "alice/assets"), channel)
	n.eventually("a transaction through the renewed peer", func(ctx context.Context) error {
		_, err := own.SubmitWithContext(ctx, "Update", client.WithArguments("while renewed 0", "green", "1", "erin", "1"))
		return err
	})

	// With another orderer away, blocks need the renewed one's signature.
	away := n.cities[3]
	if err := away.runtime.Stop(t.Context(), away.specs[0].ID); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := away.runtime.Start(t.Context(), away.specs[0]); err != nil {
			t.Error(err)
		}
	}()
	n.eventually("a block signed by the renewed orderer", func(ctx context.Context) error {
		_, err := own.SubmitWithContext(ctx, "Update", client.WithArguments("while renewed 1", "green", "1", "erin", "1"))
		return err
	})
}

// testLeave: an orderer that left a channel keeps nothing of it and serves the other.
func (n *network) testLeave(channel string) {
	t := n.t
	c := n.cities[3]
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	n.eventually("orderer answers", func(ctx context.Context) error {
		_, err := c.orderer.Channels(ctx)
		return err
	})
	if err := c.orderer.Leave(ctx, channel); err != nil {
		t.Fatal(err)
	}
	if all, err := c.orderer.Channels(ctx); err != nil || len(all) != 1 || slices.Contains(all, channel) {
		t.Errorf("it has %q, %v", all, err)
	}
	if err := c.orderer.Leave(ctx, channel); err != nil {
		t.Errorf("left again: %v", err)
	}
	at := n.cities[1]
	n.submit(at.contract(at.participant("writer", "bob/assets"), channel), "Create", "after", "grey", "1", "writer", "1")
}

// pid is the process of the city's orderer (0) or peer (1).
func (c *city) pid(i int) int {
	c.t.Helper()
	for _, s := range c.runtime.List() {
		if s.ID == c.specs[i].ID && s.PID != 0 {
			return s.PID
		}
	}
	c.t.Fatalf("%s does not run", c.specs[i].ID)
	return 0
}

// listeners are the TCP addresses at which a process listens.
func listeners(t *testing.T, pid int) []string {
	t.Helper()
	own := make(map[string]bool)
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name())); err == nil {
			own[to] = true
		}
	}
	var found []string
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil {
			continue // no IPv6
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			const listening = "0A"
			if len(f) < 10 || f[3] != listening || !own["socket:["+f[9]+"]"] {
				continue
			}
			var a, b, c, d byte
			var port int
			if _, err := fmt.Sscanf(f[1], "%02X%02X%02X%02X:%04X", &d, &c, &b, &a, &port); err != nil || len(f[1]) != 13 {
				found = append(found, f[1])
				continue
			}
			found = append(found, fmt.Sprintf("%d.%d.%d.%d:%d", a, b, c, d, port))
		}
	}
	slices.Sort(found)
	return found
}
