package city

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway/journal"
	"github.com/openbsn/bsn/receipt"
	"github.com/openbsn/bsn/runtime/process"
)

// label counts calls of one unit in a row of their own.
func (b *billing) label(j *journal.Journal, name string, calls int) {
	b.Helper()
	for range calls {
		if err := j.Add(journal.Row{Project: "alice/main", Chain: name, Class: bsn.MethodRead}, 1); err != nil {
			b.Fatal(err)
		}
	}
}

// A city that leaves bills the period that is open, cut short.
func TestLastReceipt(t *testing.T) {
	b := startBilling(t)
	b.now = time.Now().Unix()
	j := b.gateway()
	b.label(j, "a1", 3)
	if waits := b.settleLast(t.Context()); len(waits) != 1 || !strings.Contains(waits[0], "not on the ledger yet") {
		t.Fatalf("waits for %v", waits)
	}
	if err := b.settleNext(t.Context()); err == nil || !strings.Contains(err.Error(), "still counts") {
		t.Fatalf("a gateway that runs is not waited for: %v", err)
	}
	b.end(j)
	b.await("the last receipt is on the ledger", func() bool {
		b.settleOnce()
		return len(b.settleLast(t.Context())) == 0
	})
	all := b.receipts()
	if len(all) != 1 || all[0].Until > all[0].Received || all[0].Projects[0].Units != 3 {
		t.Fatalf("receipts: %+v", all)
	}
	// What is counted all the same, by a gateway that was started again meanwhile, too.
	b.restart()
	j = b.gateway()
	b.label(j, "a1", 2)
	b.end(j)
	b.await("that is on the ledger too", func() bool {
		b.settleOnce()
		return len(b.settleLast(t.Context())) == 0
	})
	if all := b.receipts(); len(all) != 2 || all[1].Projects[0].Units != 2 {
		t.Fatalf("receipts: %+v", all)
	}
}

// What a city that was evicted has not billed is kept, all of it and once.
func TestKeepLast(t *testing.T) {
	b := startBilling(t)
	if _, err := b.home.LastReceipt(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing is left: %v", err)
	}
	j := b.gateway()
	b.label(j, "billed", 1)
	b.end(j)
	b.settleOnce()
	b.now += 10
	j = b.gateway()
	b.label(j, "pending", 2)
	b.end(j)
	if s, err := b.closePeriod(t.Context(), b.mirror.view(), b.dir); err != nil || len(s.Rows) != 1 {
		t.Fatalf("%+v, %v", s, err)
	}
	b.now += 10
	j = b.gateway()
	b.label(j, "open", 3)
	b.end(j)
	self := bsn.City{Name: "chongqing", Since: time.Now().Unix()}
	for range 2 { // cut off, and done again
		if err := b.keepLast(t.Context(), self); err != nil {
			t.Fatal(err)
		}
	}
	parts, err := b.home.LastReceipt()
	if err != nil || len(parts) != 1 || parts[0].Until != self.Since || parts[0].Projects[0].Units != 5 || parts[0].Projects[0].Rows != 2 {
		t.Fatalf("%+v, %v", parts, err)
	}
	if err := b.home.KeepLast(); err != nil {
		t.Fatal(err)
	}
	rows, err := b.daemon.usage("alice/main", self.Since)
	if err != nil {
		t.Fatal(err)
	}
	if err := receipt.Verify(parts[0].Projects[0], rows); err != nil {
		t.Error(err)
	}
}

// moved makes the city's folder anew: with nothing, or from a backup.
func (b *billing) moved(t interface{ Fatalf(string, ...any) }, backup string) {
	root := b.TempDir()
	if backup != "" {
		if _, err := Restore(b.Context(), root, backup, RestoreOptions{}); err != nil {
			t.Fatalf("restore: %v", err)
		}
	} else {
		h := Home{root, b.home.Name}
		if err := os.MkdirAll(h.Dir(), 0o700); err != nil {
			t.Fatalf("%v", err)
		}
		if err := h.save(b.state); err != nil {
			t.Fatalf("%v", err)
		}
	}
	b.home = Home{root, b.home.Name}
	run, err := process.Open(b.home.Nodes(), b.log)
	if err != nil {
		t.Fatalf("%v", err)
	}
	b.runtime = run
	b.Cleanup(func() { run.Close() })
	if b.dir, err = b.journalDir(); err != nil {
		t.Fatalf("%v", err)
	}
	b.restart()
}

// A city that was restored from before its last receipt puts no other in its place, and
// keeps the rows that it cannot bill; what the backup has and nobody billed it bills.
func TestRestoredCityBillsNothingTwice(t *testing.T) {
	b := startBilling(t)
	b.moved(t, "") // its ledger's node runs in the first folder
	j := b.gateway()
	b.label(j, "before", 3)
	backup := filepath.Join(t.TempDir(), "city.bsn")
	if _, err := b.home.Backup(t.Context(), backup, BackupOptions{}); err != nil {
		t.Fatal(err)
	}
	b.label(j, "after", 2)
	b.end(j)
	b.settleOnce()
	first := b.receipts()
	if len(first) != 1 || first[0].Projects[0].Units != 5 {
		t.Fatalf("receipts: %+v", first)
	}
	b.moved(t, backup)
	if open, err := b.open(); err != nil || len(open) != 1 || open[0].Rows[0].Calls != 3 {
		t.Fatalf("in the backup: %+v, %v", open, err)
	}
	j = b.gateway()
	b.label(j, "in the same period", 1) // of what it is, it hears with its first look at the ledger
	b.end(j)
	for range 3 {
		b.settleOnce()
	}
	if again := b.receipts(); len(again) != 1 || !slices.Equal(again[0].Projects, first[0].Projects) {
		t.Errorf("receipts after the restore: %+v", again)
	}
	s, err := readSettlement(b.home.receipts("unbilled-" + settledName(first[0].Until)))
	if err != nil || len(s.Rows) != 2 {
		t.Errorf("rows that are not billed: %+v, %v", s, err)
	}
	j = b.gateway()
	b.label(j, "then", 4)
	b.end(j)
	b.settleOnce()
	if all := b.receipts(); len(all) != 2 || all[1].Until <= first[0].Until || all[1].Projects[0].Units != 4 {
		t.Errorf("receipts of what came then: %+v", all)
	}
}

// However settling, crashes, restored backups and the city's leaving follow each other:
// each counted call is billed once; or never, if it was on a disk that was lost.
func TestEachCallIsBilledOnce(t *testing.T) {
	b := startBilling(t)
	b.now -= 3 * 24 * 3600
	flag.Set("rapid.checks", "3")
	defer flag.Set("rapid.checks", "100")
	if os.Getenv("BSN_LONG") == "1" {
		flag.Set("rapid.checks", "30")
	}
	next := 0
	rapid.Check(t, func(t *rapid.T) {
		b.moved(t, "")
		b.departure.last = false
		b.now += 10
		if err := b.missRows(b.Context(), b.dir); err != nil {
			t.Fatal(err)
		}
		began := map[string]bool{}
		for _, r := range b.receipts() {
			began[r.ID()] = true
		}
		counted, lost := map[string]int{}, map[string]bool{}
		rows := map[int64][]bsn.UsageRow{} // of receipts, as they were kept
		billed := func() map[string]int {
			names, err := b.settled()
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				s, err := readSettlement(b.home.receipts(name))
				if err != nil {
					t.Fatal(err)
				}
				rows[s.Until] = s.Rows
			}
			out := map[string]int{}
			for _, r := range b.receipts() {
				if began[r.ID()] {
					continue
				}
				kept, known := rows[r.Until]
				if !known {
					// It was cut off between the ledger and the file.
					s, err := readSettlement(b.home.receipts(pendingName))
					if err != nil || s.Until != r.Until {
						t.Fatalf("receipt %s without rows: %v", r.ID(), err)
					}
					kept = s.Rows
				}
				if uses, err := receipt.Projects(kept); err != nil || !slices.Equal(uses, r.Projects) {
					t.Fatalf("receipt %s is not of its rows: %+v, %+v, %v", r.ID(), r.Projects, uses, err)
				}
				for _, row := range kept {
					out[row.Chain] += int(row.Calls)
				}
			}
			return out
		}
		var gateways []*journal.Journal
		stop := func() {
			for _, j := range gateways {
				b.end(j)
			}
			gateways = nil
		}
		backup, inBackup := "", map[string]bool{}
		for range rapid.IntRange(4, 14).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"count", "count", "count", "end", "time", "settle", "settle", "cut before the ledger", "cut after the ledger", "backup", "restore"}).Draw(t, "step") {
			case "count":
				if len(gateways) == 0 || rapid.Bool().Draw(t, "another gateway") {
					gateways = append(gateways, b.gateway())
				}
				next++
				name := fmt.Sprintf("c%d", next)
				counted[name] = rapid.IntRange(1, 3).Draw(t, "calls")
				b.label(gateways[len(gateways)-1], name, counted[name])
			case "end":
				stop()
			case "time":
				b.now += 10
			case "settle":
				_ = b.settleNext(b.Context()) // it may have to wait for a gateway
			case "cut before the ledger":
				if _, err := os.Stat(b.home.receipts(pendingName)); err != nil {
					_, _ = b.closePeriod(b.Context(), b.mirror.view(), b.dir)
				}
				b.restart()
			case "cut after the ledger":
				before, _ := b.settled()
				if b.settleNext(b.Context()) != nil {
					continue
				}
				if after, _ := b.settled(); len(after) > len(before) {
					billed()
					if err := os.Rename(b.home.receipts(after[len(after)-1]), b.home.receipts(pendingName)); err != nil {
						t.Fatal(err)
					}
				}
				b.restart()
			case "backup":
				backup, inBackup = filepath.Join(b.TempDir(), "city.bsn"), map[string]bool{}
				if _, err := b.home.Backup(b.Context(), backup, BackupOptions{}); err != nil {
					t.Fatalf("backup: %v", err)
				}
				for name := range counted {
					inBackup[name] = true
				}
			case "restore":
				if backup == "" {
					continue
				}
				stop()
				done := billed()
				for name := range counted {
					lost[name] = lost[name] || !inBackup[name] && done[name] == 0
				}
				b.moved(t, backup)
				if err := b.missRows(b.Context(), b.dir); err != nil { // as its start does
					t.Fatal(err)
				}
			}
		}
		stop()
		b.departure.last = true
		for open, tries := true, 0; open; tries++ {
			if tries > 100 {
				t.Fatal("it never ends")
			}
			if err := b.settleNext(b.Context()); err != nil {
				t.Fatal(err)
			}
			var err error
			if open, err = b.unsettled(); err != nil {
				t.Fatal(err)
			}
		}
		got := billed()
		for name, calls := range counted {
			switch {
			case lost[name] && got[name] != 0:
				t.Fatalf("%s was lost, and %d calls of it are billed", name, got[name])
			case !lost[name] && got[name] != calls:
				t.Fatalf("%s: %d calls were counted, %d are billed", name, calls, got[name])
			}
		}
		for name := range got {
			if counted[name] == 0 {
				t.Fatalf("%s is billed and was never counted", name)
			}
		}
	})
}
