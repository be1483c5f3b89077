package ledger

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/openbsn/bsn"
)

// metered makes a receipt of city-0.
func metered(until int64, uses ...bsn.ProjectUse) bsn.Receipt {
	return bsn.Receipt{City: "city-0", Until: until, Part: 1, Parts: 1, Projects: uses}
}

func spent(project string, units uint64) bsn.ProjectUse {
	return bsn.ProjectUse{Project: project, Calls: 1 + units/2, Units: units, Rows: 2, Root: strings.Repeat("ab", 32)}
}

// billing makes a network with projects alice/main, alice/side and bob/main, at a time
// well within a day and month.
func billing(t tester) *machine {
	m := settle(t, 2, bsn.Parameters{})
	m.write(t, m.client(t, "alice"), SetProject(bsn.Project{Name: "main"}), SetProject(bsn.Project{Name: "side"}))
	m.write(t, m.client(t, "bob"), SetProject(bsn.Project{Name: "main"}))
	m.time = time.Date(2030, 6, 15, 12, 0, 0, 0, time.UTC)
	m.block(t)
	return m
}

func TestReceipts(t *testing.T) {
	t.Parallel()
	m := billing(t)
	city, now := m.cities[0], m.time.Unix()
	good := metered(now-10, spent("alice/main", 20), spent("alice/side", 3), spent("bob/main", 0))

	for reason, bad := range map[string]bsn.Receipt{
		"is not over":       metered(now+1000, spent("bob/main", 1)),
		"too late":          metered(now-int64(bsn.MaxReceiptAge/time.Second)-100, spent("bob/main", 1)),
		"there is no proj":  metered(now-10, spent("bob/none", 1)),
		"not in order":      metered(now-10, spent("bob/main", 1), spent("alice/main", 1)),
		"comes twice":       metered(now-10, spent("bob/main", 1), spent("bob/main", 1)),
		"0 projects":        metered(now - 10),
		"part 0 of 1":       {City: "city-0", Until: now - 10, Part: 0, Parts: 1, Projects: good.Projects},
		"part 2 of 1":       {City: "city-0", Until: now - 10, Part: 2, Parts: 1, Projects: good.Projects},
		"does not follow":   {City: "city-0", Until: now - 10, Part: 2, Parts: 2, Projects: good.Projects},
		"can be billed":     metered(now-10, bsn.ProjectUse{Project: "bob/main", Units: 1, Rows: 1, Root: strings.Repeat("ab", 32)}),
		"root of 32 bytes":  metered(now-10, bsn.ProjectUse{Project: "bob/main", Calls: 1, Units: 1, Rows: 1, Root: "abcd"}),
		"city \"none\": no": {City: "none", Until: now - 10, Part: 1, Parts: 1, Projects: good.Projects},
	} {
		m.refuses(t, city, reason, PutReceipt(bad))
	}
	m.refuses(t, m.cities[1], "is of operator", PutReceipt(good))
	m.refuses(t, m.operators[1], "is of operator", PutReceipt(good))
	m.refuses(t, m.client(t, "alice"), "takes the key of", PutReceipt(good))

	m.write(t, city, PutReceipt(good))
	r := read[bsn.Receipt](t, m, bsn.KindReceipt, good.ID())
	want := []bsn.Charge{{Account: "alice", Units: 23}, {Account: "bob", Units: 0}}
	if !slices.Equal(r.Charges, want) || !slices.Equal(r.Projects, good.Projects) || r.Received != m.time.Unix() {
		t.Errorf("receipt: %+v", r)
	}
	received := r.Received

	// The same again changes nothing, whoever of the two says it; anything else for
	// that time, or before, is refused.
	m.write(t, m.operators[0], PutReceipt(good))
	if r := read[bsn.Receipt](t, m, bsn.KindReceipt, good.ID()); r.Received != received {
		t.Errorf("received again: %+v", r)
	}
	m.refuses(t, city, "nothing is billed twice", PutReceipt(metered(now-10, spent("alice/main", 21))))
	m.refuses(t, city, "nothing is billed twice", PutReceipt(metered(now-20, spent("alice/main", 20))))
	u := read[bsn.Usage](t, m, bsn.KindUsage, "alice/main")
	if u.Day != "2030-06-15" || u.DayUnits != 20 || u.Month != "2030-06" || u.MonthUnits != 20 || u.Units != 20 || u.Settled["city-0"] != now-10 {
		t.Errorf("usage: %+v", u)
	}

	// Another city bills the same period of its own.
	other := metered(now-10, spent("alice/main", 5))
	other.City = "city-1"
	m.write(t, m.cities[1], PutReceipt(other))
	// The next day, and a month later.
	m.time = m.time.Add(24 * time.Hour)
	m.write(t, city, PutReceipt(metered(m.time.Unix(), spent("alice/main", 7))))
	u = read[bsn.Usage](t, m, bsn.KindUsage, "alice/main")
	if u.Day != "2030-06-16" || u.DayUnits != 7 || u.MonthUnits != 32 || u.Units != 32 || u.Settled["city-1"] != now-10 {
		t.Errorf("usage: %+v", u)
	}

	// Parts come one after the other.
	until := m.time.Unix() + 1
	one := bsn.Receipt{City: "city-0", Until: until, Part: 1, Parts: 2, Projects: []bsn.ProjectUse{spent("alice/main", 1), spent("alice/side", 1)}}
	two := bsn.Receipt{City: "city-0", Until: until, Part: 2, Parts: 2, Projects: []bsn.ProjectUse{spent("bob/main", 1)}}
	m.block(t)
	m.block(t)
	m.refuses(t, city, "does not follow", PutReceipt(two))
	m.write(t, city, PutReceipt(one))
	again := two
	again.Projects = one.Projects[1:]
	m.refuses(t, city, "does not follow", PutReceipt(again))
	m.write(t, city, PutReceipt(two))
	m.write(t, city, PutReceipt(one), PutReceipt(two))

	m.compare(t)
	m.restart(t, m.export(t))
	m.refuses(t, m.client(t, "city0"), "nothing is billed twice", PutReceipt(metered(until, spent("alice/main", 9))))
	m.write(t, m.client(t, "city0"), PutReceipt(one))

	// What is kept is bounded.
	m.time = m.time.Add(bsn.ReceiptRetention + 10*time.Second)
	for range 4 {
		m.block(t)
		m.write(t, m.client(t, "city0"), PutReceipt(metered(m.time.Unix(), spent("bob/main", 1))))
	}
	for id, text := range m.records(t) {
		if strings.HasPrefix(id, "receipt city-0/") && strings.Contains(text, fmt.Sprint(until)) {
			t.Errorf("%s is still kept", id)
		}
	}
}

// A city that was evicted has one receipt left, by its operator, until then and soon
// after; and what it says beyond what it said before is not charged.
func TestLastReceiptOfAnEvictedCity(t *testing.T) {
	t.Parallel()
	m := billing(t)
	alice := m.client(t, "alice")
	of := func(until int64, uses ...bsn.ProjectUse) bsn.Receipt {
		r := metered(until, uses...)
		r.City = "city-1"
		return r
	}
	now := m.time.Unix()
	m.write(t, m.cities[1], PutReceipt(of(now-20, spent("alice/main", 30), spent("bob/main", 4))))
	m.write(t, m.cities[1], PutReceipt(of(now-10, spent("alice/main", 10))))
	before := read[bsn.Usage](t, m, bsn.KindUsage, "alice/main")
	m.pass(t, EvictCity("city-1"))
	since := m.city(t, 1).Since
	good := of(since, spent("alice/main", 25), spent("alice/side", 1000), spent("bob/main", 7))

	m.refuses(t, m.cities[1], "was evicted", PutReceipt(good)) // its own key writes no more
	m.refuses(t, m.operators[0], "is of operator", PutReceipt(good))
	m.refuses(t, alice, "takes the key of", PutReceipt(good))
	for _, until := range []int64{now - 5, since - 1, since + 1} {
		m.refuses(t, m.operators[1], "its last receipt is until", PutReceipt(of(until, spent("bob/main", 1))))
	}
	m.write(t, m.operators[1], PutReceipt(good))
	r := read[bsn.Receipt](t, m, bsn.KindReceipt, good.ID())
	want := []bsn.Charge{{Account: "alice", Units: 25}, {Account: "bob", Units: 4}}
	if !slices.Equal(r.Charges, want) || !slices.Equal(r.Projects, good.Projects) {
		t.Errorf("charges %+v, want %+v; projects %+v", r.Charges, want, r.Projects)
	}
	if u := read[bsn.Usage](t, m, bsn.KindUsage, "alice/main"); u.Units != before.Units+25 {
		t.Errorf("usage %+v after %+v", u, before)
	}
	if u := read[bsn.Usage](t, m, bsn.KindUsage, "alice/side"); u.Units != 0 {
		t.Errorf("charged for what it never served before: %+v", u)
	}

	// Once only, also from an exported state; the same again changes nothing.
	m.write(t, m.operators[1], PutReceipt(good))
	m.refuses(t, m.operators[1], "nothing is billed twice", PutReceipt(of(since, spent("alice/main", 26))))
	m.compare(t)
	m.restart(t, m.export(t))
	m.write(t, m.client(t, "op1"), PutReceipt(good))
	m.refuses(t, m.client(t, "op1"), "nothing is billed twice", PutReceipt(of(since, spent("alice/main", 26))))
	m.rest(t)
}

// Later than a day after the eviction, after a city has left, and where the operator is
// evicted itself, there is no last receipt.
func TestNoLastReceipt(t *testing.T) {
	t.Parallel()
	m := running(t)
	m.write(t, m.client(t, "alice"), SetProject(bsn.Project{Name: "main"}))
	last := func(i int) bsn.Receipt {
		r := metered(m.city(t, i).Since, spent("alice/main", 0))
		r.City = fmt.Sprintf("city-%d", i)
		return r
	}
	m.pass(t, EvictOperator("op-3"))
	m.refuses(t, m.operators[3], "was evicted", PutReceipt(last(3)))
	m.write(t, m.operators[2], LeaveCity("city-2", 0))
	m.write(t, m.operators[2], EndCity("city-2"))
	m.refuses(t, m.operators[2], "meters nothing any more", PutReceipt(last(2)))
	m.pass(t, EvictCity("city-1"))
	m.time = m.time.Add(bsn.LastReceiptAge)
	m.refuses(t, m.operators[1], "too late", PutReceipt(last(1)))
}

// Empty blocks change nothing, whatever was billed before.
func TestReceiptsLeaveEmptyBlocksEmpty(t *testing.T) {
	t.Parallel()
	m := billing(t)
	m.write(t, m.cities[0], PutReceipt(metered(m.time.Unix(), spent("bob/main", 1))))
	m.rest(t)
	m.time = m.time.Add(200 * 24 * time.Hour)
	m.rest(t)
}

// Whatever a city says in whatever order: each unit of a period is billed once, and
// what the projects used is the sum of the receipts.
func TestNothingIsBilledTwice(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := billing(t)
		start := m.time.Unix()
		accepted := map[string]bsn.Receipt{}
		for range rapid.IntRange(1, 12).Draw(t, "receipts") {
			city := rapid.IntRange(0, 1).Draw(t, "city")
			r := metered(start+int64(rapid.IntRange(-3, 12).Draw(t, "until")), spent("alice/main", uint64(rapid.IntRange(0, 3).Draw(t, "units"))))
			r.City = fmt.Sprintf("city-%d", city)
			old, had := accepted[r.ID()]
			later := true
			for _, a := range accepted {
				later = later && (a.City != r.City || a.Until < r.Until)
			}
			want := had && old.Projects[0] == r.Projects[0] || later && r.Until <= m.time.Unix()+1
			_, err := m.cities[city].Write(context.Background(), PutReceipt(r))
			if (err == nil) != want {
				t.Fatalf("until %d at %d: %v, want accepted: %v", r.Until, m.time.Unix(), err, want)
			}
			if err == nil {
				accepted[r.ID()] = r
			}
		}
		sum := uint64(0)
		for _, r := range accepted {
			sum += r.Projects[0].Units
		}
		if len(accepted) > 0 {
			if u := read[bsn.Usage](t, m, bsn.KindUsage, "alice/main"); u.Units != sum || u.MonthUnits != sum {
				t.Fatalf("usage %+v, want %d", u, sum)
			}
		}
		m.compare(t)
	})
}

// Under the first version there are neither receipts nor their parameter, not even in
// the words of a refusal.
func TestReceiptsAreOfTheSecondVersion(t *testing.T) {
	first := must[coder](t)(newCoder(1))
	if _, err := first.registry.Resolve("/bsn.ledger.receipt.v1.MsgReceipt"); err == nil {
		t.Error("version 1 knows the message")
	}
	p, err := (bsn.Parameters{}).Complete().With(1, "nonsense", 1)
	if err == nil || strings.Contains(err.Error(), "receiptPeriod") {
		t.Errorf("refusal under version 1: %v", err)
	}
	if _, err := p.With(1, "receiptPeriod", 60); err == nil {
		t.Error("version 1 has the parameter")
	}
	if p.At(1).ReceiptPeriod != 0 || p.At(2).ReceiptPeriod == 0 {
		t.Errorf("parameters: %+v", p)
	}
}
