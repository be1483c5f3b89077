package city

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway/journal"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/ledger/key"
	"github.com/openbsn/bsn/receipt"
	"github.com/openbsn/bsn/runtime/process"
)

// billing is a city with projects alice/main and alice/side, whose gateways count.
type billing struct {
	*testing.T
	*daemon
	dir string
	now int64 // the gateways' time
}

func startBilling(t *testing.T) *billing {
	d, operator, _ := founder(t)
	write := func(c *ledger.Client, m ...ledger.Message) ledger.Result {
		t.Helper()
		r, err := c.Write(t.Context(), m...)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	portal, alice := key.New(), key.New()
	r := write(operator, ledger.Propose("", ledger.RegisterPortal("demo", ledger.NewOffer(portal, "test-net", bsn.KindPortal, "demo"), "")))
	write(operator, ledger.Vote(r.Proposal(), true))
	client := func(k key.Key) *ledger.Client {
		c, err := ledger.NewClient(d.ledger, k)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	write(client(portal), ledger.RegisterAccount("alice", ledger.NewOffer(alice, "test-net", bsn.KindAccount, "alice")))
	write(client(alice), ledger.SetProject(bsn.Project{Name: "main"}), ledger.SetProject(bsn.Project{Name: "side"}))
	run, err := process.Open(d.home.Nodes(), d.log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { run.Close() })
	d.runtime = run
	ctx, cancel := context.WithCancel(context.Background())
	following := make(chan struct{})
	go func() { d.follow(ctx); close(following) }()
	t.Cleanup(func() { cancel(); <-following })
	b := &billing{T: t, daemon: d, now: time.Now().Unix() - 100}
	if b.dir, err = d.journalDir(); err != nil {
		t.Fatal(err)
	}
	b.await("the city follows its ledger", func() bool { v := d.mirror.view(); return v.fresh && v.cities["chongqing"].Status.Member() })
	return b
}

func (b *billing) await(what string, holds func() bool) {
	b.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatalf("not within a minute: %s", what)
		}
	}
}

// gateway is one that counts; it ends with Close.
func (b *billing) gateway() *journal.Journal {
	return journal.New(journal.Config{
		Dir: b.dir, Now: func() (int64, bool) { return b.now, true }, Period: func() int64 { return 10 }, Log: slog.New(slog.DiscardHandler),
	})
}

func (b *billing) count(j *journal.Journal, project string, calls int) {
	b.Helper()
	for range calls {
		if err := j.Add(journal.Row{Project: project, Key: "0123456789ab", Chain: "a1", Class: bsn.MethodRead}, 3); err != nil {
			b.Fatal(err)
		}
	}
}

func (b *billing) end(j *journal.Journal) {
	b.Helper()
	if err := j.Close(); err != nil {
		b.Fatal(err)
	}
}

func (b *billing) settleOnce() {
	b.Helper()
	if err := b.settleNext(b.Context()); err != nil {
		b.Fatal(err)
	}
}

func (b *billing) receipts() []bsn.Receipt {
	b.Helper()
	all, err := readAll[bsn.Receipt](b.Context(), b.ledger, bsn.KindReceipt)
	if err != nil {
		b.Fatal(err)
	}
	return all
}

// restart is a daemon that knows no more than what is on the disk.
func (b *billing) restart() { b.asked = asked{} }

func TestSettle(t *testing.T) {
	b := startBilling(t)
	b.settleOnce() // nothing was counted
	one, two := b.gateway(), b.gateway()
	b.count(one, "alice/main", 5)
	b.count(two, "alice/main", 2)
	b.count(two, "alice/side", 1)
	b.count(two, "bob/none", 9)
	b.end(one)
	until := b.now/10*10 + 10
	if err := b.settleNext(t.Context()); err == nil || !strings.Contains(err.Error(), "still counts") {
		t.Fatalf("a gateway that runs is not waited for: %v", err)
	}
	if rows, err := b.daemon.usage("alice/main", 0); err != nil || len(rows) != 1 || rows[0].Calls != 7 {
		t.Errorf("not billed yet: %+v, %v", rows, err)
	}
	b.end(two)
	b.settleOnce()
	all := b.receipts()
	if len(all) != 1 || all[0].Until != until || len(all[0].Projects) != 2 || all[0].Charges[0] != (bsn.Charge{Account: "alice", Units: 24}) {
		t.Fatalf("receipts: %+v", all)
	}
	rows, err := b.daemon.usage("alice/main", until)
	if err != nil {
		t.Fatal(err)
	}
	if err := receipt.Verify(all[0].Projects[0], rows); err != nil {
		t.Error(err)
	}
	if rows, err := b.daemon.usage("alice/main", 0); err != nil || len(rows) != 0 {
		t.Errorf("not billed yet: %+v, %v", rows, err)
	}
	if _, err := b.daemon.usage("alice/main", until+10); !errors.Is(err, bsn.ErrNoRecord) {
		t.Errorf("rows of no receipt: %v", err)
	}

	// A daemon that is cut off after any step does the rest, and nothing twice.
	bill := func(cut func(s settlement)) {
		t.Helper()
		b.now += 10
		j := b.gateway()
		b.count(j, "alice/main", 1)
		b.end(j)
		s, err := b.closePeriod(t.Context(), b.mirror.view(), b.dir)
		if err != nil || len(s.Rows) != 1 {
			t.Fatalf("%+v, %v", s, err)
		}
		cut(s)
		b.restart()
		b.settleOnce()
		b.restart()
		b.settleOnce()
	}
	bill(func(settlement) {})
	bill(func(s settlement) {
		if err := b.bill(t.Context(), b.mirror.view(), s); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(b.home.receipts(settledName(s.Until)), b.home.receipts(pendingName)); err != nil {
			t.Fatal(err)
		}
	})
	bill(func(s settlement) {
		if err := b.bill(t.Context(), b.mirror.view(), s); err != nil {
			t.Fatal(err)
		}
	})
	total := uint64(0)
	for _, r := range b.receipts() {
		for _, c := range r.Charges {
			total += c.Units
		}
	}
	if n := len(b.receipts()); n != 4 || total != 24+3*3 {
		t.Errorf("%d receipts of %d units", n, total)
	}

	// What the ledger will never take does not hold up what follows.
	b.now += 10
	j := b.gateway()
	b.count(j, "alice/main", 1)
	b.end(j)
	s, err := b.closePeriod(t.Context(), b.mirror.view(), b.dir)
	if err != nil {
		t.Fatal(err)
	}
	other := s
	other.Rows = []bsn.UsageRow{{Project: "alice/side", Chain: "a1", Class: bsn.MethodRead, Calls: 1, Units: 1}}
	uses, err := receipt.Projects(other.Rows)
	if err != nil {
		t.Fatal(err)
	}
	_, client := b.own.get()
	if _, err := client.Write(t.Context(), ledger.PutReceipt(bsn.Receipt{City: "chongqing", Until: s.Until, Part: 1, Parts: 1, Projects: uses})); err != nil {
		t.Fatal(err)
	}
	b.settleOnce()
	if _, err := os.Stat(b.home.receipts("unbilled-" + settledName(s.Until))); err != nil {
		t.Error(err)
	}
	bill(func(settlement) {})

	// The journal's files go in time.
	if err := b.sweep(b.dir, time.Now(), 0); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(b.dir, "*.journal")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if err := b.sweep(b.dir, time.Now().Add(2*bsn.ReceiptRetention), 0); err != nil {
		t.Fatal(err)
	}
	if names, err := b.settled(); err != nil || len(names) > 0 {
		t.Errorf("kept for ever: %v, %v", names, err)
	}
}
