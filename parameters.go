package bsn

import (
	"fmt"
	"strings"
)

// ParametersID is the id of the one record of kind [KindParameters].
const ParametersID = "network"

// Parameters are the figures of a network that its operators change by vote. The
// names of the fields in JSON are the names by which they are set; [ParameterList]
// has their bounds.
type Parameters struct {
	// VotingPeriod is how long a proposal stays open, in seconds of ledger time.
	VotingPeriod int64 `json:"votingPeriod"`
	// OpenProposals is the most open proposals of one operator, its cities' included.
	OpenProposals int64 `json:"openProposals"`
	// Writes to the ledger in an hour of ledger time, for one writer of each kind.
	OperatorWrites int64 `json:"operatorWrites"`
	CityWrites     int64 `json:"cityWrites"`
	PortalWrites   int64 `json:"portalWrites"`
	AccountWrites  int64 `json:"accountWrites"`
	// AbsenceThreshold is after how many seconds of ledger time without a signed
	// block an operator is recorded as absent.
	AbsenceThreshold int64 `json:"absenceThreshold"`
	// AbsenceWindow is over how many seconds of ledger time absences are summed up.
	AbsenceWindow int64 `json:"absenceWindow"`
	// ReceiptPeriod is for how many seconds of ledger time a city's receipt stands.
	// It is there from protocol version 2 on.
	ReceiptPeriod int64 `json:"receiptPeriod,omitempty"`
}

// Parameter describes one of the parameters.
type Parameter struct {
	Name    string `json:"name"`
	Meaning string `json:"meaning"`
	Default int64  `json:"default"`
	Min     int64  `json:"min"`
	Max     int64  `json:"max"`
	field   func(*Parameters) *int64
	since   uint64 // protocol version
}

const (
	minute = 60
	hour   = 60 * minute
	day    = 24 * hour
)

// ParameterList has all parameters.
var ParameterList = []Parameter{
	{"votingPeriod", "seconds for which a proposal stays open", 7 * day, minute, 90 * day, func(p *Parameters) *int64 { return &p.VotingPeriod }, 1},
	{"openProposals", "open proposals of one operator", 20, 1, 1000, func(p *Parameters) *int64 { return &p.OpenProposals }, 1},
	// An operator and its cities must always be able to propose and vote.
	{"operatorWrites", "ledger writes of an operator in an hour", 10_000, 1000, 1_000_000, func(p *Parameters) *int64 { return &p.OperatorWrites }, 1},
	{"cityWrites", "ledger writes of a city in an hour", 20_000, 1000, 10_000_000, func(p *Parameters) *int64 { return &p.CityWrites }, 1},
	{"portalWrites", "ledger writes of a portal in an hour, its accounts' included", 100_000, 1, 10_000_000, func(p *Parameters) *int64 { return &p.PortalWrites }, 1},
	{"accountWrites", "ledger writes of an account in an hour", 1000, 1, 1_000_000, func(p *Parameters) *int64 { return &p.AccountWrites }, 1},
	{"absenceThreshold", "seconds without a signed block after which an operator is recorded as absent", minute, minute, day, func(p *Parameters) *int64 { return &p.AbsenceThreshold }, 1},
	{"absenceWindow", "seconds over which absences are summed up", 7 * day, hour, 90 * day, func(p *Parameters) *int64 { return &p.AbsenceWindow }, 1},
	{"receiptPeriod", "seconds for which a city's receipt stands", hour, 10, day, func(p *Parameters) *int64 { return &p.ReceiptPeriod }, 2},
}

// Value returns the parameter's value in p.
func (d Parameter) Value(p Parameters) int64 { return *d.field(&p) }

// Complete returns p with the default in place of each zero.
func (p Parameters) Complete() Parameters {
	for _, d := range ParameterList {
		if f := d.field(&p); *f == 0 {
			*f = d.Default
		}
	}
	return p
}

// Check tells whether all values are within their bounds.
func (p Parameters) Check() error {
	for _, d := range ParameterList {
		if err := d.check(*d.field(&p)); err != nil {
			return err
		}
	}
	return nil
}

func (d Parameter) check(value int64) error {
	if value < d.Min || value > d.Max {
		return fmt.Errorf("parameter %s (%s) is between %d and %d, not %d", d.Name, d.Meaning, d.Min, d.Max, value)
	}
	return nil
}

// At returns p without the parameters that a protocol version does not have yet.
func (p Parameters) At(version uint64) Parameters {
	for _, d := range ParameterList {
		if d.since > version {
			*d.field(&p) = 0
		}
	}
	return p
}

// With returns p with one parameter changed under a protocol version. The error names
// the parameters that it has, or the bounds.
func (p Parameters) With(version uint64, name string, value int64) (Parameters, error) {
	var names []string
	for _, d := range ParameterList {
		if d.since > version {
			continue
		}
		if d.Name == name {
			*d.field(&p) = value
			return p, d.check(value)
		}
		names = append(names, d.Name)
	}
	return p, fmt.Errorf("there is no parameter %.32q: there are %s", name, strings.Join(names, ", "))
}
