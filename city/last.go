package city

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway/journal"
	"github.com/openbsn/bsn/receipt"
)

// The period that is open when a city goes is billed too. One that leaves ends its
// gateway, puts a receipt until that moment on the ledger, and has left only then. One
// that was evicted writes no more: what it has not billed is kept in a file, from which
// its operator puts one last receipt on the ledger.

// lastName is the file of what a city that was evicted has not billed.
const lastName = "last.json"

// settleLast ends the gateway of a city that leaves and says what its receipts wait
// for; nothing: all is billed.
func (d *daemon) settleLast(ctx context.Context) []string {
	if !d.takesReceipts(ctx) {
		return nil
	}
	d.departure.setLast()
	if err := d.runtime.Stop(ctx, gatewayID); err != nil {
		return []string{fmt.Sprintf("its gateway has not ended: %v", err)}
	}
	open, err := d.unsettled()
	switch {
	case err != nil:
		return []string{fmt.Sprintf("its last receipt: %v", err)}
	case open:
		return []string{"its last receipt: what its gateway counted is not on the ledger yet"}
	}
	return nil
}

// unsettled tells whether there is anything that no receipt has.
func (d *daemon) unsettled() (bool, error) {
	if !d.settling.TryLock() {
		return true, nil
	}
	defer d.settling.Unlock()
	_, err := readSettlement(d.home.receipts(pendingName))
	if !errors.Is(err, fs.ErrNotExist) {
		return true, err
	}
	files, err := d.open()
	return len(files) > 0, err
}

// open are the journal's files that no receipt has.
func (d *daemon) open() ([]journal.File, error) {
	names, err := d.settled()
	if err != nil {
		return nil, err
	}
	var last settlement
	if len(names) > 0 {
		if last, err = readSettlement(d.home.receipts(names[len(names)-1])); err != nil {
			return nil, err
		}
	}
	dir, err := d.journalDir()
	if err != nil {
		return nil, err
	}
	files, err := journal.Read(dir)
	return slices.DeleteFunc(files, last.has), err
}

// keepLast writes down what a city that was evicted has not billed. Its gateway has
// ended.
func (d *daemon) keepLast(ctx context.Context, self bsn.City) error {
	d.settling.Lock()
	defer d.settling.Unlock()
	dir, err := d.journalDir()
	if err != nil {
		return err
	}
	pending, err := readSettlement(d.home.receipts(pendingName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil {
		if pending, err = d.takeBack(ctx, pending); err != nil {
			return err
		}
	}
	files, err := d.open()
	if err != nil {
		return err
	}
	files = slices.DeleteFunc(files, func(f journal.File) bool { return slices.Contains(pending.Files, f.Name) })
	rows, err := d.billable(ctx, journal.Merge(append(journal.Rows(files), pending.Rows...)))
	if err != nil || len(rows) == 0 {
		return err
	}
	s := settlement{Until: self.Since, Files: pending.Files, Rows: rows}
	for _, f := range files {
		s.Files = append(s.Files, f.Name)
	}
	if err := journal.Sync(dir, s.Files); err != nil {
		return err
	}
	if err := writeSettlement(d.home.receipts(lastName), s); err != nil {
		return err
	}
	d.log.Warn("what was called and is not billed yet can be billed by the city's operator, for a day",
		"rows", len(rows), "bill", "bsn city settle "+d.home.Name)
	return nil
}

// takeBack returns what of a settlement no receipt on the ledger has.
func (d *daemon) takeBack(ctx context.Context, s settlement) (settlement, error) {
	uses, err := receipt.Projects(s.Rows)
	if err != nil {
		return s, err
	}
	parts := partsOf(d.home.Name, s.Until, uses)
	for _, r := range parts {
		done, err := d.billed(ctx, r)
		if err != nil {
			return s, err
		}
		if !done {
			break
		}
		s.Rows = slices.DeleteFunc(s.Rows, func(row bsn.UsageRow) bool {
			return slices.ContainsFunc(r.Projects, func(p bsn.ProjectUse) bool { return p.Project == row.Project })
		})
	}
	return s, nil
}

// partsOf are the parts of a receipt.
func partsOf(city string, until int64, uses []bsn.ProjectUse) (out []bsn.Receipt) {
	for part := range slices.Chunk(uses, bsn.MaxReceiptProjects) {
		out = append(out, bsn.Receipt{City: city, Until: until, Part: len(out) + 1, Projects: part})
	}
	for i := range out {
		out[i].Parts = len(out)
	}
	return out
}

// LastReceipt is the receipt that a city that was evicted left to its operator, in
// its parts. Error: fs.ErrNotExist if there is none.
func (h Home) LastReceipt() ([]bsn.Receipt, error) {
	s, err := readSettlement(h.receipts(lastName))
	if err != nil {
		return nil, err
	}
	uses, err := receipt.Projects(s.Rows)
	if err != nil {
		return nil, err
	}
	return partsOf(h.Name, s.Until, uses), nil
}

// KeepLast keeps the rows of that receipt once it is on the ledger.
func (h Home) KeepLast() error {
	s, err := readSettlement(h.receipts(lastName))
	if err != nil {
		return err
	}
	return moveSettlement(h.receipts(lastName), h.receipts(settledName(s.Until)))
}
