package journal

import (
	"cmp"
	"slices"

	"github.com/openbsn/bsn"
)

// Merge sums up rows that count the same, in order of project, key, chain and class.
func Merge(rows []bsn.UsageRow) []bsn.UsageRow {
	sums := map[Row]bsn.UsageRow{}
	for _, r := range rows {
		k := Row{r.Project, r.Key, r.Chain, r.Class}
		sum := sums[k]
		sum.Calls += r.Calls
		sum.Units += r.Units
		sums[k] = sum
	}
	out := make([]bsn.UsageRow, 0, len(sums))
	for k, sum := range sums {
		out = append(out, bsn.UsageRow{Project: k.Project, Key: k.Key, Chain: k.Chain, Class: k.Class, Calls: sum.Calls, Units: sum.Units})
	}
	slices.SortFunc(out, func(a, b bsn.UsageRow) int {
		return cmp.Or(cmp.Compare(a.Project, b.Project), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Chain, b.Chain), cmp.Compare(a.Class, b.Class))
	})
	return out
}

// Rows are the rows of all files together.
func Rows(files []File) []bsn.UsageRow {
	var all []bsn.UsageRow
	for _, f := range files {
		all = append(all, f.Rows...)
	}
	return Merge(all)
}
