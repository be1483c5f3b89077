package city

import (
	"cmp"
	"slices"

	"github.com/openbsn/bsn"
)

// meshSize is up to how many cities every ledger node is connected to every other.
const meshSize = 8

// neighbours chooses the cities to whose ledger nodes this city's connects. In a
// large network they are those that follow it at the distances 1, 2, 4, 8 … on the
// ring of all cities in order of index: with the connections that others make to
// it each node has some 2·log2(n), everything is a few hops away, and no few
// cities that fail cut the network in two.
//
// It is to let go of those that are far: neither it nor they connect. As cities come
// and go others become neighbours, and if none were let go of, every node would be
// connected to every other in the end.
func neighbours(self bsn.City, cities map[string]bsn.City) (near, far []bsn.City) {
	var ring []bsn.City
	for _, c := range cities {
		if c.Status == bsn.CityActive && c.Name != self.Name {
			ring = append(ring, c)
		}
	}
	// It begins with the city after this one.
	after := func(c bsn.City) int { return (c.Index - self.Index + bsn.MaxCities + 1) % (bsn.MaxCities + 1) }
	slices.SortFunc(ring, func(a, b bsn.City) int { return cmp.Compare(after(a), after(b)) })
	for i, c := range ring {
		there := i + 1
		back := len(ring) + 1 - there
		switch {
		case len(ring) < meshSize, powerOfTwo(there):
			near = append(near, c)
		case !powerOfTwo(back):
			far = append(far, c)
		}
	}
	return near, far
}

func powerOfTwo(n int) bool { return n&(n-1) == 0 }
