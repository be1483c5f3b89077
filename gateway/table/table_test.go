package table

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func TestLikeAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var table Table[string, int]
		model := map[string]int{}
		for range rapid.IntRange(0, 300).Draw(t, "steps") {
			key := fmt.Sprint(rapid.IntRange(0, 100).Draw(t, "key"))
			value := rapid.Int().Draw(t, "value")
			if _, has := model[key]; !has && rapid.Bool().Draw(t, "fails") {
				if _, err := table.Add(key, func() (int, error) { return 0, errors.New("no") }); err == nil {
					t.Fatal("error is lost")
				}
				continue
			}
			if _, has := model[key]; !has {
				model[key] = value
			}
			if got, err := table.Add(key, func() (int, error) { return value, nil }); err != nil || got != model[key] {
				t.Fatalf("%s: %d, %v; want %d", key, got, err, model[key])
			}
		}
		all := map[string]int{}
		for k, v := range table.All() {
			all[k] = v
		}
		if len(all) != len(model) {
			t.Fatalf("%d entries, want %d", len(all), len(model))
		}
		for k, want := range model {
			if got, found := table.Get(k); !found || got != want || all[k] != want {
				t.Fatalf("%s: %d, %v; want %d", k, got, found, want)
			}
		}
		if _, found := table.Get("none"); found {
			t.Fatal("found what is not there")
		}
	})
}

func TestConcurrentAdds(t *testing.T) {
	var table Table[int, *int]
	var all sync.WaitGroup
	seen := make([][]*int, 8)
	for g := range seen {
		all.Go(func() {
			for k := range 2000 {
				v, err := table.Add(k, func() (*int, error) { return new(int), nil })
				if err != nil {
					t.Error(err)
				}
				seen[g] = append(seen[g], v)
			}
		})
	}
	all.Wait()
	for g := range seen {
		for k, v := range seen[g] {
			if v != seen[0][k] {
				t.Fatalf("key %d has two values", k)
			}
		}
	}
}

func TestGetTakesNoMemory(t *testing.T) {
	type key struct{ a, b string }
	var table Table[key, int]
	for i := range 100 {
		if _, err := table.Add(key{fmt.Sprint(i), "b"}, func() (int, error) { return i, nil }); err != nil {
			t.Fatal(err)
		}
	}
	k := key{"50", "b"}
	if n := testing.AllocsPerRun(100, func() { table.Get(k) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
