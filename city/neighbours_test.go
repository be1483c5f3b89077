package city

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/openbsn/bsn"
)

// TestNeighboursHoldTogether: whatever cities there are, their ledger nodes are
// connected, over few hops, also when a third of them is gone.
func TestNeighboursHoldTogether(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cities := map[string]bsn.City{}
		for _, index := range rapid.SliceOfNDistinct(rapid.IntRange(1, bsn.MaxCities), 1, 100, rapid.ID[int]).Draw(t, "indices") {
			name := fmt.Sprintf("c%d", index)
			cities[name] = bsn.City{Name: name, Index: index, Status: bsn.CityActive}
		}
		degree := map[string]int{}
		edges := map[string][]string{}
		for name, c := range cities {
			near, far := neighbours(c, cities)
			for _, f := range far {
				theirs, ours := neighbours(f, cities)
				if !slices.ContainsFunc(ours, func(o bsn.City) bool { return o.Name == name }) || slices.ContainsFunc(theirs, func(o bsn.City) bool { return o.Name == name }) {
					t.Fatalf("%s lets go of %s, which does not let go of it", name, f.Name)
				}
			}
			for _, n := range near {
				if n.Name == name {
					t.Fatalf("%s is its own neighbour", name)
				}
				degree[name]++
				degree[n.Name]++
				edges[name] = append(edges[name], n.Name)
				edges[n.Name] = append(edges[n.Name], name)
			}
		}
		for name, d := range degree {
			if d > 2*max(8, meshSize) {
				t.Errorf("%s has %d connections", name, d)
			}
		}
		reach(t, edges, cities, nil)
		gone := map[string]bool{}
		for name := range cities {
			if len(gone) < len(cities)/3 && rapid.Bool().Draw(t, name) {
				gone[name] = true
			}
		}
		reach(t, edges, cities, gone)
	})
}

func reach(t *rapid.T, edges map[string][]string, cities map[string]bsn.City, gone map[string]bool) {
	t.Helper()
	seen := map[string]bool{}
	var front []string
	for name := range cities {
		if !gone[name] {
			front = []string{name}
			break
		}
	}
	for len(front) > 0 {
		var next []string
		for _, name := range front {
			if seen[name] || gone[name] {
				continue
			}
			seen[name] = true
			next = append(next, edges[name]...)
		}
		front = next
	}
	if len(seen) != len(cities)-len(gone) {
		t.Fatalf("%d of %d cities hold together", len(seen), len(cities)-len(gone))
	}
}

func TestNeighboursAreActive(t *testing.T) {
	cities := map[string]bsn.City{
		"paris":  {Name: "paris", Index: 1, Status: bsn.CityActive},
		"vienna": {Name: "vienna", Index: 2, Status: bsn.CityAdmitted},
		"berlin": {Name: "berlin", Index: 3, Status: bsn.CityActive},
	}
	if n, _ := neighbours(cities["paris"], cities); len(n) != 1 || n[0].Name != "berlin" {
		t.Errorf("neighbours of paris: %v", n)
	}
}
