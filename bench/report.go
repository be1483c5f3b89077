package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/google/renameio/v2"
)

// row is one figure.
type row struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Versus says what the value is held against, a goal or another figure, and
	// Ratio is the value divided by that.
	Versus string   `json:"versus"`
	Ratio  *float64 `json:"ratio"`
	// Date is when it was measured: a row that a run leaves out is carried over.
	Date string `json:"date"`
	// Note says how, and shows what the value was taken from.
	Note string `json:"note,omitempty"`
}

// versus is what a value is held against.
type versus struct {
	text string
	base float64
}

func atMost(goal float64) versus  { return versus{"goal: at most " + plain(goal), goal} }
func atLeast(goal float64) versus { return versus{"goal: at least " + plain(goal), goal} }

func against(what string, base float64) versus {
	return versus{what + ": " + plain(base), base}
}

// goal says beside what else is aimed at.
func (v versus) goal(format string, args ...any) versus {
	v.text += "; goal: " + fmt.Sprintf(format, args...)
	return v
}

// report is the results of one benchmark.
type report struct {
	path string
	rows []row // in order of name
}

func resultFile(folder, name string) string { return filepath.Join(folder, name+".json") }

// openReport begins with what is recorded already.
func openReport(folder, name string) (*report, error) {
	r := &report{path: resultFile(folder, name)}
	return r, readJSON(r.path, &r.rows)
}

// add records a figure in place of the one of the same name.
func (r *report) add(name string, value float64, unit string, v versus, note string, args ...any) {
	w := row{
		Name: name, Value: round(value), Unit: unit, Versus: v.text,
		Date: time.Now().Format(time.DateOnly), Note: fmt.Sprintf(note, args...),
	}
	if v.base != 0 {
		ratio := round(value / v.base)
		w.Ratio = &ratio
	}
	at, found := slices.BinarySearchFunc(r.rows, name, func(w row, name string) int {
		switch {
		case w.Name < name:
			return -1
		case w.Name > name:
			return 1
		}
		return 0
	})
	if found {
		r.rows[at] = w
	} else {
		r.rows = slices.Insert(r.rows, at, w)
	}
	say("%s = %s %s  %s", name, plain(w.Value), unit, v.text)
}

func (r *report) save() error { return writeJSON(r.path, r.rows) }

func (r *report) print(w io.Writer) {
	today := time.Now().Format(time.DateOnly)
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "\nNAME\tVALUE\tUNIT\tVERSUS\tRATIO\tMEASURED")
	for _, row := range r.rows {
		ratio := "-"
		if row.Ratio != nil {
			ratio = plain(*row.Ratio)
		}
		when := "now"
		if row.Date != today {
			when = row.Date
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", row.Name, plain(row.Value), row.Unit, row.Versus, ratio, when)
	}
	t.Flush()
}

// round keeps four significant digits: more would only seem to be known.
func round(v float64) float64 {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	f, err := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 4, 64), 64)
	if err != nil {
		panic(err) // what FormatFloat writes can be parsed
	}
	return f
}

func plain(v float64) string { return strconv.FormatFloat(round(v), 'f', -1, 64) }

// quantile is the q-quantile of the values, interpolated; 0 if there are none.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}

func median(values []float64) float64 { return quantile(values, 0.5) }

// list writes values for a note.
func list(values []float64) string {
	s := ""
	for i, v := range values {
		if i > 0 {
			s += ", "
		}
		s += strconv.FormatFloat(v, 'g', 3, 64)
	}
	return s
}

// readJSON leaves v as it is if there is no such file.
func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read results: %w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode results: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make folder of results: %w", err)
	}
	if err := renameio.WriteFile(path, append(b, '\n'), 0o644, renameio.WithTempDir(filepath.Dir(path))); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}
