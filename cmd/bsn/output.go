package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/sys/unix"
)

// jsonFlag gives a listing its --json.
func jsonFlag(c *cobra.Command) *bool {
	return c.Flags().Bool("json", false, "print JSON")
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// table prints rows below their headings.
func table(w io.Writer, headings string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 4, 3, ' ', 0)
	fmt.Fprintln(t, strings.ReplaceAll(headings, " ", "\t"))
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	return t.Flush()
}

// show prints a listing in either form.
func show(c *cobra.Command, asJSON bool, v any, headings string, rows func() [][]string) error {
	if asJSON {
		return printJSON(c.OutOrStdout(), v)
	}
	return table(c.OutOrStdout(), headings, rows())
}

// steps shows what a command does, one line a step with the time it took: live
// on a terminal, plainly elsewhere.
type steps struct {
	mu    sync.Mutex
	w     io.Writer
	live  bool
	text  string
	since time.Time
	stop  chan struct{}
	ended sync.WaitGroup
}

func newSteps(w io.Writer) *steps { return &steps{w: w, live: isTerminal(w)} }

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// begin ends the step before and begins another.
func (s *steps) begin(text string) {
	s.end("✓")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text, s.since, s.stop = text, time.Now(), make(chan struct{})
	if !s.live {
		return
	}
	fmt.Fprintf(s.w, "  … %s", text)
	s.ended.Add(1)
	go func(stop chan struct{}) {
		defer s.ended.Done()
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Second):
				s.mu.Lock()
				fmt.Fprintf(s.w, "\r\033[K  … %s (%s)", s.text, time.Since(s.since).Round(time.Second))
				s.mu.Unlock()
			}
		}
	}(s.stop)
}

func (s *steps) end(mark string) {
	s.mu.Lock()
	if s.stop == nil {
		s.mu.Unlock()
		return
	}
	close(s.stop)
	s.stop = nil
	clear := ""
	if s.live {
		clear = "\r\033[K"
	}
	fmt.Fprintf(s.w, "%s  %s %s (%s)\n", clear, mark, s.text, time.Since(s.since).Round(100*time.Millisecond))
	s.mu.Unlock()
	s.ended.Wait()
}

func (s *steps) done()   { s.end("✓") }
func (s *steps) failed() { s.end("✗") }

// finish ends the last step according to how the command went.
func (s *steps) finish(err *error) {
	if *err != nil {
		s.failed()
		return
	}
	s.done()
}

// bar shows a long count, such as packages compiled. It returns what to call with
// each change, and what to call at the end.
func bar(w io.Writer, name string) (progress func(done, total int), end func()) {
	if !isTerminal(w) {
		last := time.Now()
		return func(done, total int) {
			if total > 0 && time.Since(last) > 10*time.Second {
				last = time.Now()
				fmt.Fprintf(w, "    %s: %d of %d packages\n", name, done, total)
			}
		}, func() {}
	}
	p := mpb.New(mpb.WithOutput(w), mpb.WithWidth(40))
	b := p.AddBar(0, mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name("    "+name+" ")),
		mpb.AppendDecorators(decor.CountersNoUnit("%d of %d packages"), decor.Elapsed(decor.ET_STYLE_GO, decor.WC{W: 6})))
	return func(done, total int) {
			b.SetTotal(int64(total), false)
			b.SetCurrent(int64(done))
		}, func() {
			b.Abort(true)
			p.Wait()
		}
}
