package bsn

import (
	"fmt"
	"strings"
	"time"
)

// UsageRow is what one key used of one chain, in one class of methods, in one city
// and period: a row of the city's journal, and a leaf of the tree whose root the
// city's receipt has.
type UsageRow struct {
	Project string `json:"project"` // its id
	// Key is the id of the project's key; empty for calls with a token.
	Key   string      `json:"key,omitempty"`
	Chain string      `json:"chain"`
	Class MethodClass `json:"class"`
	Calls uint64      `json:"calls"`
	Units uint64      `json:"units"` // compute units
}

const (
	// MaxReceiptProjects is the most projects of one part of a receipt.
	MaxReceiptProjects = 300
	// MaxReceiptAge is how long after its period's end, in ledger time, a receipt may
	// come at the latest, and ReceiptRetention how long it is kept.
	MaxReceiptAge    = 7 * 24 * time.Hour
	ReceiptRetention = 92 * 24 * time.Hour
	// LastReceiptAge is how long after a city's eviction its operator may still put its
	// last receipt on the ledger.
	LastReceiptAge = 24 * time.Hour
)

// Receipt is what a city metered in a period, signed by the city. It has several
// parts if it is large.
type Receipt struct {
	City string `json:"city"`
	// Until is the end of the period in Unix seconds of ledger time. What it counts
	// came after the Until of the city's receipt before.
	Until int64 `json:"until"`
	Part  int   `json:"part"` // from 1
	Parts int   `json:"parts"`
	// Charges are what each account used, in order of name, and Projects what each
	// project did, in order of id. The last receipt of a city that was evicted charges
	// less where it says more of a project than any receipt of that city did before.
	Charges  []Charge     `json:"charges"`
	Projects []ProjectUse `json:"projects"`
	// Received is the ledger time at which it came, in Unix seconds.
	Received int64 `json:"received"`
}

// ID is the receipt's "city/until/part".
func (r Receipt) ID() string { return fmt.Sprintf("%s/%010d/%d", r.City, r.Until, r.Part) }

// Charge is what an account used, in compute units.
type Charge struct {
	Account string `json:"account"`
	Units   uint64 `json:"units"`
}

// ProjectUse is what a project used in the period of a receipt.
type ProjectUse struct {
	Project string `json:"project"` // its id
	Calls   uint64 `json:"calls"`
	Units   uint64 `json:"units"` // compute units
	// Rows is the number of its rows, and Root the root of their Merkle tree
	// (RFC 6962 with SHA-256) in hex. Leaves are the rows in compact JSON, in order of
	// key, chain and class.
	Rows int    `json:"rows"`
	Root string `json:"root"`
}

// Usage is what a project used in all cities, as far as their receipts say.
type Usage struct {
	Project string `json:"project"` // its id
	// Day and Month are the latest of which something is known, as in 2026-11-22 and
	// 2026-11, cut by ledger time (UTC). A receipt counts for those in which its
	// period ends.
	Day        string `json:"day"`
	DayUnits   uint64 `json:"dayUnits"` // compute units
	Month      string `json:"month"`
	MonthUnits uint64 `json:"monthUnits"`
	Units      uint64 `json:"units"` // since ever
	// Settled is until when each city's receipts count, in Unix seconds of ledger time.
	Settled map[string]int64 `json:"settled"`
}

// UsageDay and UsageMonth are the day and month of a time as [Usage] writes them.
// The end of a period belongs to what ends with it.
func UsageDay(until int64) string { return time.Unix(until-1, 0).UTC().Format(time.DateOnly) }

// UsageMonth is described with [UsageDay].
func UsageMonth(until int64) string { return UsageDay(until)[:len("2006-01")] }

// Add takes in what a city's receipt for a period that ended at a time says of the
// project.
func (u Usage) Add(city string, until int64, units uint64) Usage {
	// What comes late for a day that is over changes nothing any more.
	switch day := UsageDay(until); {
	case day > u.Day:
		u.Day, u.DayUnits = day, units
	case day == u.Day:
		u.DayUnits += units
	}
	switch month := UsageMonth(until); {
	case month > u.Month:
		u.Month, u.MonthUnits = month, units
	case month == u.Month:
		u.MonthUnits += units
	}
	u.Units += units
	settled := map[string]int64{city: until}
	for name, at := range u.Settled {
		settled[name] = max(at, settled[name])
	}
	u.Settled = settled
	return u
}

// ChargesOf sums up projects' use by account.
func ChargesOf(projects []ProjectUse) []Charge {
	var out []Charge
	for _, p := range projects { // ids begin with the account, so that those of one follow each other
		account, _, _ := strings.Cut(p.Project, "/")
		if n := len(out); n == 0 || out[n-1].Account != account {
			out = append(out, Charge{Account: account})
		}
		out[len(out)-1].Units += p.Units
	}
	return out
}
