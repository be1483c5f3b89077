package main

import (
	"testing"
	"time"

	"github.com/openbsn/bsn"
)

func TestParseSince(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"": {}, "48h": now.Add(-48 * time.Hour), "2026-11-01": time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC),
	} {
		if got, err := parseSince(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"yesterday", "-1h", "2026-13-01"} {
		if got, err := parseSince(text, now); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

// Receipts are summed up by the day in which their period ends, and by city.
func TestUsageByDay(t *testing.T) {
	midnight := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	use := func(city string, until time.Time, units uint64) receiptedView {
		return receiptedView{City: city, Until: until, ProjectUse: bsn.ProjectUse{Calls: 1, Units: units}}
	}
	v := usageView{Receipts: []receiptedView{
		use("paris", midnight.Add(-time.Hour), 1), use("paris", midnight, 2), use("lyon", midnight, 4), use("paris", midnight.Add(time.Hour), 8),
	}}
	got := v.billed(false)
	if len(got) != 3 || got[0].Receipt != "2026-11-21" || got[0].Units != 3 || got[0].Calls != 2 || got[1].City != "lyon" || got[2].Receipt != "2026-11-22" || got[2].Units != 8 {
		t.Errorf("%+v", got)
	}
	if len(v.billed(true)) != 4 {
		t.Error("each receipt")
	}
}
