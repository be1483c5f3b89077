package city

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway/journal"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/receipt"
)

// The gateway's journal becomes receipts: when a period is over, it is closed, its
// rows are written into a file, the receipt goes to the ledger, the file is kept for
// proofs, and the journal's own files are deleted. Each step may be cut off and is
// done again: the file, once written, decides what the receipt says.

const (
	settlePause = time.Second
	// settleGrace is how long after a period's end, in ledger time, it is closed at the
	// earliest: a gateway may be late by as much as it learns of blocks.
	settleGrace = 2 * time.Second
	// sweepAge is how long the journal's files stay after their receipt is on the
	// ledger: the gateway learns of it in that time and counts on.
	sweepAge = 10 * time.Second
	// receiptVersion is the protocol version from which on there are receipts.
	receiptVersion = 2
	maxSettlement  = 1 << 30
)

// settlement is a period's rows, and the journal's files that they are from.
type settlement struct {
	Until int64          `json:"until"`
	Files []string       `json:"files"`
	Rows  []bsn.UsageRow `json:"rows"`
}

func (h Home) receipts(name string) string { return h.path("receipts", name) }

// pendingName is the file of a period whose receipt is not on the ledger yet, and
// settledName that of one whose receipt is.
const pendingName = "pending.json"

func settledName(until int64) string { return fmt.Sprintf("%012d.json", until) }

// journalDir is where this city's gateways count.
func (d *daemon) journalDir() (string, error) {
	dir, err := d.runtime.Dir(gatewayID)
	return filepath.Join(dir, journalFolder), err
}

// settle puts the city's receipts on the ledger until ctx ends.
func (d *daemon) settle(ctx context.Context) {
	for {
		d.try("receipts", d.settleNext(ctx))
		select {
		case <-ctx.Done():
			return
		case <-time.After(settlePause):
		}
	}
}

// settleNext brings the oldest period that is over one step further.
func (d *daemon) settleNext(ctx context.Context) error {
	d.settling.Lock()
	defer d.settling.Unlock()
	v := d.mirror.view()
	if !v.fresh || !v.cities[d.home.Name].Status.Member() {
		return nil
	}
	dir, err := d.journalDir()
	if err != nil {
		return err
	}
	if err := d.missRows(ctx, dir); err != nil {
		return err
	}
	if err := d.sweep(dir, v.time, sweepAge); err != nil {
		return err
	}
	s, err := readSettlement(d.home.receipts(pendingName))
	if errors.Is(err, fs.ErrNotExist) {
		s, err = d.closePeriod(ctx, v, dir)
	}
	if err != nil || s.Until == 0 {
		return err
	}
	return d.bill(ctx, v, s)
}

// closePeriod writes down what was counted in the oldest period that is over or, where
// the city's last receipt is due, that is open still: this is cut short then. The
// zero settlement: there is none.
func (d *daemon) closePeriod(ctx context.Context, v view, dir string) (s settlement, err error) {
	last := d.departure.isLast()
	over := func(f journal.File) bool {
		return last || time.Unix(f.Until, 0).Add(settleGrace).Before(v.time)
	}
	files, err := journal.Read(dir)
	if err != nil || !slices.ContainsFunc(files, over) || !d.takesReceipts(ctx) {
		return s, err
	}
	// What is settled must not be found again.
	settled, err := d.forgetSettled(dir, v.time)
	if err != nil {
		return s, err
	}
	if files, err = journal.Read(dir); err != nil || !slices.ContainsFunc(files, over) {
		return s, err
	}
	oldest := slices.MinFunc(files, func(a, b journal.File) int { return cmp.Compare(a.Until, b.Until) })
	if err := journal.Close(dir, oldest.Until); err != nil {
		return s, err
	}
	if files, err = journal.Read(dir); err != nil {
		return s, err
	}
	files = slices.DeleteFunc(files, func(f journal.File) bool { return f.Until > oldest.Until })
	if len(files) == 0 {
		return s, nil
	}
	until := oldest.Until
	if last {
		until = min(until, v.time.Unix())
	}
	if until <= settled {
		return s, nil // the ledger's time goes on
	}
	for _, f := range files {
		if f.Live {
			return s, fmt.Errorf("a gateway that runs still counts in the period until %s", time.Unix(oldest.Until, 0).UTC().Format(time.RFC3339))
		}
		if f.Damage != "" {
			d.log.Error("part of the gateway's journal cannot be read and is not billed", "file", f.Name, "damage", f.Damage)
		}
		s.Files = append(s.Files, f.Name)
	}
	if err := journal.Sync(dir, s.Files); err != nil {
		return settlement{}, err
	}
	rows, err := d.billable(ctx, journal.Rows(files))
	if err != nil {
		return settlement{}, err
	}
	if len(rows) == 0 {
		return settlement{}, journal.Remove(dir, s.Files)
	}
	s.Until, s.Rows = until, rows
	return s, writeSettlement(d.home.receipts(pendingName), s)
}

// takesReceipts tells whether the ledger knows receipts.
func (d *daemon) takesReceipts(ctx context.Context) bool {
	b, err := d.ledger.Get(ctx, bsn.KindProtocol, bsn.ProtocolID)
	var p bsn.Protocol
	return err == nil && json.Unmarshal(b, &p) == nil && p.Version >= receiptVersion
}

// billable leaves out rows of projects that the ledger does not know: that of a
// network which was founded anew.
func (d *daemon) billable(ctx context.Context, rows []bsn.UsageRow) ([]bsn.UsageRow, error) {
	known := map[string]bool{}
	for _, r := range rows {
		if _, asked := known[r.Project]; asked {
			continue
		}
		_, err := d.ledger.Get(ctx, bsn.KindProject, r.Project)
		if err != nil && !errors.Is(err, bsn.ErrNoRecord) {
			return nil, err
		}
		if known[r.Project] = err == nil; err != nil {
			d.log.Error("usage of a project that the ledger does not know is not billed", "project", r.Project)
		}
	}
	return slices.DeleteFunc(rows, func(r bsn.UsageRow) bool { return !known[r.Project] }), nil
}

// bill puts a settlement's receipt on the ledger and keeps its rows.
func (d *daemon) bill(ctx context.Context, v view, s settlement) error {
	uses, err := receipt.Projects(s.Rows)
	if err != nil {
		return err
	}
	_, client := d.own.get()
	for _, r := range partsOf(d.home.Name, s.Until, uses) {
		if done, err := d.billed(ctx, r); err != nil || done {
			if err != nil {
				return d.setAside(v, s, err)
			}
			continue
		}
		write, cancel := context.WithTimeout(ctx, 30*time.Second)
		_, err := client.Write(write, ledger.PutReceipt(r))
		cancel()
		if err != nil {
			return d.setAside(v, s, fmt.Errorf("put the receipt until %d on the ledger: %w", s.Until, err))
		}
	}
	pending, now := d.home.receipts(pendingName), time.Now()
	if err := os.Chtimes(pending, now, now); err != nil { // sweep counts from now
		return fmt.Errorf("keep rows of a receipt: %w", err)
	}
	if err := moveSettlement(pending, d.home.receipts(settledName(s.Until))); err != nil {
		return err
	}
	d.log.Info("receipt is on the ledger", "until", time.Unix(s.Until, 0).UTC(), "projects", len(uses), "rows", len(s.Rows))
	return nil
}

// errBilledOtherwise means that the ledger will never take a receipt.
var errBilledOtherwise = errors.New("ledger has another receipt of this city for that time or a later one")

// billed tells whether a part of a receipt is on the ledger. Error: errBilledOtherwise.
func (d *daemon) billed(ctx context.Context, r bsn.Receipt) (bool, error) {
	page, _, err := d.ledger.List(ctx, bsn.KindReceipt, fmt.Sprintf("%s/%010d", r.City, r.Until), 2*r.Parts)
	if err != nil {
		return false, err
	}
	for _, c := range page {
		var old bsn.Receipt
		if err := json.Unmarshal(c.Record, &old); err != nil {
			return false, fmt.Errorf("decode receipt %q: %w", c.ID, err)
		}
		switch {
		case old.City != r.City:
		case old.ID() == r.ID():
			if !slices.Equal(old.Projects, r.Projects) {
				return false, errBilledOtherwise
			}
			return true, nil
		case old.Until > r.Until:
			return false, errBilledOtherwise
		}
	}
	return false, nil
}

// setAside gives up a settlement that will never be billed, so that it does not hold
// up those that follow: its rows stay in a file.
func (d *daemon) setAside(v view, s settlement, why error) error {
	if !errors.Is(why, errBilledOtherwise) && v.time.Sub(time.Unix(s.Until, 0)) <= bsn.MaxReceiptAge {
		return why
	}
	name := d.home.receipts("unbilled-" + settledName(s.Until))
	d.log.Error("usage is not billed", "until", time.Unix(s.Until, 0).UTC(), "reason", why, "rows", name)
	dir, err := d.journalDir()
	if err == nil {
		err = journal.Remove(dir, s.Files)
	}
	if err == nil {
		err = moveSettlement(d.home.receipts(pendingName), name)
	}
	return err
}

// sweep deletes the journal's files of the newest settled period once its receipt is
// so old, and rows that need not be kept any more.
func (d *daemon) sweep(dir string, now time.Time, age time.Duration) error {
	names, err := d.settled()
	if err != nil || len(names) == 0 {
		return err
	}
	newest := d.home.receipts(names[len(names)-1])
	info, err := os.Stat(newest)
	if err != nil {
		return fmt.Errorf("read receipts: %w", err)
	}
	if time.Since(info.ModTime()) >= age && d.asked.changed("swept", "journal", newest) {
		s, err := readSettlement(newest)
		if err == nil {
			err = journal.Remove(dir, s.Files)
		}
		if err != nil {
			d.asked.forget("swept", "journal")
			return err
		}
	}
	for _, name := range names {
		if until, _ := settledUntil(name); now.Sub(time.Unix(until, 0)) > bsn.ReceiptRetention {
			if err := os.Remove(d.home.receipts(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("delete rows of an old receipt: %w", err)
			}
		}
	}
	return nil
}

// forgetSettled deletes all of the journal's files that receipts have, and tells until
// when these are.
func (d *daemon) forgetSettled(dir string, now time.Time) (until int64, err error) {
	if err := d.sweep(dir, now, 0); err != nil {
		return 0, err
	}
	names, err := d.settled()
	if err != nil || len(names) == 0 {
		return 0, err
	}
	// Files of older receipts come with a backup that was made while they were settled.
	until, _ = settledUntil(names[len(names)-1])
	files, err := journal.Read(dir)
	var old []string
	for _, f := range files {
		if f.Until <= until && !f.Live {
			old = append(old, f.Name)
		}
	}
	if err != nil || len(old) == 0 {
		return until, err
	}
	return until, journal.Remove(dir, old)
}

// missRows says once which rows are not here though their receipts are on the ledger:
// those since the backup that the city was restored from. Nothing more is counted in
// their periods.
func (d *daemon) missRows(ctx context.Context, dir string) error {
	if !d.asked.changed("missed", "receipts", "") {
		return nil
	}
	missing, newest := map[int64]bool{}, int64(0)
	err := func() error {
		names, err := d.settled()
		if err != nil {
			return err
		}
		for after := d.home.Name + "/"; ; {
			page, _, err := d.ledger.List(ctx, bsn.KindReceipt, after, 0)
			if err != nil {
				return err
			}
			for _, c := range page {
				var r bsn.Receipt
				if err := json.Unmarshal(c.Record, &r); err != nil {
					return fmt.Errorf("decode receipt %q: %w", c.ID, err)
				}
				if r.City != d.home.Name {
					return nil
				}
				newest = max(newest, r.Until)
				if after = c.ID; !slices.Contains(names, settledName(r.Until)) {
					missing[r.Until] = true
				}
			}
			if len(page) == 0 {
				return nil
			}
		}
	}()
	if err == nil && newest > 0 {
		err = journal.Close(dir, newest)
	}
	if err != nil {
		d.asked.forget("missed", "receipts")
		return err
	}
	// The newest may be about to be kept.
	if pending, err := readSettlement(d.home.receipts(pendingName)); err == nil {
		delete(missing, pending.Until)
	}
	if len(missing) > 0 {
		d.log.Warn("this city has receipts on the ledger whose rows are not here: nobody can look at them any more",
			"receipts", len(missing), "newest", time.Unix(slices.Max(slices.Collect(maps.Keys(missing))), 0).UTC())
	}
	return nil
}

// has tells whether a file of the journal is among those that a settlement is from, or
// older than they are.
func (s settlement) has(f journal.File) bool {
	return f.Until <= s.Until || slices.Contains(s.Files, f.Name)
}

// settled names the files of settled periods, oldest first.
func (d *daemon) settled() (names []string, err error) {
	entries, err := os.ReadDir(d.home.receipts(""))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read receipts: %w", err)
	}
	for _, e := range entries {
		if _, ok := settledUntil(e.Name()); ok {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func settledUntil(name string) (int64, bool) {
	number, is := strings.CutSuffix(name, ".json")
	until, err := strconv.ParseInt(number, 10, 64)
	return until, is && err == nil && name == settledName(until)
}

// usage returns a project's rows: those of the receipt until then, with their proofs,
// or with 0 those that are in none yet. Error: bsn.ErrNoRecord.
func (d *daemon) usage(project string, until int64) ([]receipt.Proven, error) {
	of := func(rows []bsn.UsageRow) []bsn.UsageRow {
		return slices.DeleteFunc(rows, func(r bsn.UsageRow) bool { return r.Project != project })
	}
	if until != 0 {
		s, err := readSettlement(d.home.receipts(settledName(until)))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("rows of a receipt of city %s until %d: %w", d.home.Name, until, bsn.ErrNoRecord)
		}
		if err != nil {
			return nil, err
		}
		return receipt.Prove(of(s.Rows))
	}
	files, err := d.open()
	if err != nil {
		return nil, err
	}
	var out []receipt.Proven
	for i, r := range of(journal.Rows(files)) {
		out = append(out, receipt.Proven{UsageRow: r, Index: i})
	}
	return out, nil
}

func readSettlement(path string) (s settlement, err error) {
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxSettlement {
		err = fmt.Errorf("it has %d bytes", info.Size())
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(path)
	}
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return s, fmt.Errorf("read rows of a receipt (%s): %w", filepath.Base(path), err)
	}
	return s, nil
}

func writeSettlement(path string, s settlement) error {
	b, err := json.Marshal(s)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = renameio.WriteFile(path, b, 0o600, renameio.WithTempDir(filepath.Dir(path)))
	}
	if err == nil {
		err = syncFolder(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("write rows of a receipt: %w", err)
	}
	return nil
}

func moveSettlement(from, to string) error {
	err := os.Rename(from, to)
	if err == nil {
		err = syncFolder(filepath.Dir(to))
	}
	if err != nil {
		return fmt.Errorf("keep rows of a receipt: %w", err)
	}
	return nil
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
