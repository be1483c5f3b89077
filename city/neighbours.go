package city

import (
	"cmp"
	"slices"

	"github.com/openbsn/bsn"
)

// meshSize is up to how many cities every ledger node is connected to every other.
const meshSize = 8

// neighbours chooses the cities whose ledger nodes this city's connects to. In a
// large network they are those that follow it at the distances 1, 2, 4, 8 … on the
// ring of all cities in order of index: with the connections that others make to
// it each node has some 2·log2(n), everything is a few hops away, and no few
// cities that fail cut the network in two.
func neighbours(self bsn.City, cities map[string]bsn.City) []bsn.City {
	var ring []bsn.City
	for _, c := range cities {
		if c.Status == bsn.CityActive && c.Name != self.Name {
			ring = append(ring, c)
		}
	}
	// It begins with the city after this one.
	after := func(c bsn.City) int { return (c.Index - self.Index + bsn.MaxCities + 1) % (bsn.MaxCities + 1) }
	slices.SortFunc(ring, func(a, b bsn.City) int { return cmp.Compare(after(a), after(b)) })
	if len(ring) < meshSize {
		return ring
	}
	var out []bsn.City
	for distance := 1; distance <= len(ring); distance *= 2 {
		out = append(out, ring[distance-1])
	}
	return out
}
