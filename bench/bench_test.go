package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestReportCarriesOver(t *testing.T) {
	folder := t.TempDir()
	r, err := openReport(folder, "some")
	if err != nil {
		t.Fatal(err)
	}
	r.add("some.second", 2, "s", atMost(4), "median of %s", list([]float64{1, 2, 3}))
	r.add("some.first", 12345.678, "x", versus{}, "")
	r.rows[1].Date = "2020-01-02" // as if it had been measured then
	if err := r.save(); err != nil {
		t.Fatal(err)
	}

	r, err = openReport(folder, "some")
	if err != nil {
		t.Fatal(err)
	}
	r.add("some.first", 7, "x", atLeast(14), "")
	if err := r.save(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(folder, "some.json"))
	if err != nil {
		t.Fatal(err)
	}
	var rows []map[string]any
	if err := json.Unmarshal(b, &rows); err != nil {
		t.Fatal(err)
	}
	today := time.Now().Format(time.DateOnly)
	want := []map[string]any{
		{"name": "some.first", "value": 7., "unit": "x", "versus": "goal: at least 14", "ratio": 0.5, "date": today},
		{"name": "some.second", "value": 2., "unit": "s", "versus": "goal: at most 4", "ratio": 0.5, "date": "2020-01-02", "note": "median of 1, 2, 3"},
	}
	if len(rows) != len(want) {
		t.Fatalf("%d rows: %s", len(rows), b)
	}
	for i := range want {
		for name, value := range want[i] {
			if rows[i][name] != value {
				t.Errorf("row %d: %s is %v, want %v", i, name, rows[i][name], value)
			}
		}
	}
	if left, _ := filepath.Glob(filepath.Join(folder, "*")); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func TestReportRefusesWhatItCannotRead(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(resultFile(folder, "some"), []byte(`{"not":"rows"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openReport(folder, "some"); err == nil {
		t.Error("rows were read from something else")
	}
}

func TestQuantile(t *testing.T) {
	for _, test := range []struct {
		values []float64
		q      float64
		want   float64
	}{
		{nil, 0.5, 0},
		{[]float64{3}, 0.95, 3},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 2, 3}, 0.5, 2.5},
		{[]float64{10, 0}, 0.95, 9.5},
		{[]float64{2, 1}, 1, 2},
	} {
		if got := quantile(test.values, test.q); got != test.want {
			t.Errorf("%v of %v is %v, want %v", test.q, test.values, got, test.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Float64Range(-1e6, 1e6), 1, 50).Draw(t, "values")
		low, high := rapid.Float64Range(0, 1).Draw(t, "q"), rapid.Float64Range(0, 1).Draw(t, "other q")
		a, b := quantile(values, min(low, high)), quantile(values, max(low, high))
		if a > b || a < slices.Min(values) || b > slices.Max(values) {
			t.Fatalf("quantiles %v and %v of %v", a, b, values)
		}
	})
}

func TestRound(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 12345.6: "12350", 0.123456: "0.1235", 3: "3", -2.00004: "-2"} {
		if got := plain(v); got != want {
			t.Errorf("%v is written %s, want %s", v, got, want)
		}
	}
}

func TestProcess(t *testing.T) {
	before, started, err := stat(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if started.After(time.Now()) || started.Before(time.Now().Add(-time.Hour)) {
		t.Errorf("this process started at %s", started)
	}
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); { // use the processor
	}
	if after, _, err := stat(os.Getpid()); err != nil || after <= before {
		t.Errorf("processor time went from %v to %v, %v", before, after, err)
	}
	if all, own, err := memory(os.Getpid()); err != nil || own < 1 || all < own || all > 10_000 {
		t.Errorf("memory is %v MiB, %v of them its own, %v", all, own, err)
	}
	if _, _, err := memory(1 << 30); err == nil {
		t.Error("memory of no process")
	}
}

func TestFolder(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "deeper"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "deeper/two"} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := folderMiB(dir); err != nil || got != 2 {
		t.Errorf("%v MiB, %v", got, err)
	}
}

func TestUnknownBenchmark(t *testing.T) {
	if err := run(t.Context(), options{}, t.TempDir(), []string{"no-such"}); err == nil {
		t.Error("a benchmark that there is not was run")
	}
}
