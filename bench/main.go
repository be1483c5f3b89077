// Command bench measures the system on the real software:
//
//	go run ./bench all            every benchmark
//	go run ./bench network        one of them
//	go run ./bench -only call,kaia network
//
// It prints a table and writes results/NAME.json, which docs/benchmarks.md
// describes. A benchmark is one file that registers itself. Goals are shown
// beside what was measured; missing one is no error.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// benchmark is what `bench NAME` runs.
type benchmark struct {
	name, about string
	run         func(context.Context, options, *report) error
}

// options are the command line's.
type options struct {
	bsn  string   // the binary to measure
	only []string // stages to run; empty is all
	// profiles is the folder for processor profiles of the gateway; empty for none.
	profiles string
	cold     bool
	idle     time.Duration
}

// wants tells whether a stage is asked for.
func (o options) wants(stage string) bool {
	return len(o.only) == 0 || slices.Contains(o.only, stage)
}

var benchmarks []benchmark

// register is called by each benchmark's file.
func register(b benchmark) struct{} {
	benchmarks = append(benchmarks, b)
	return struct{}{}
}

func main() {
	var o options
	var only, results string
	flag.StringVar(&o.bsn, "bsn", "bin/bsn", "the `binary` to measure")
	flag.StringVar(&results, "results", "bench/results", "`folder` of the recorded results")
	flag.StringVar(&only, "only", "", "comma-separated `stages`; what the others measured last is carried over")
	flag.StringVar(&o.profiles, "profiles", "", "`folder` for processor profiles of the gateway, which cost it a little")
	flag.BoolVar(&o.cold, "cold", false, "measure only a start with nothing built, which compiles for minutes")
	flag.DurationVar(&o.idle, "idle", 5*time.Minute, "how long to watch an idle network")
	flag.Usage = usage
	flag.Parse()
	if only != "" {
		o.only = strings.Split(only, ",")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if is, err := role(ctx, flag.Args()); is {
		if err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(ctx, o, results, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprintln(flag.CommandLine.Output(), "usage: go run ./bench [flags] all|NAME...")
	for _, b := range benchmarks {
		fmt.Fprintf(flag.CommandLine.Output(), "  %-10s %s\n", b.name, b.about)
	}
	flag.PrintDefaults()
}

func run(ctx context.Context, o options, results string, names []string) error {
	if len(names) == 0 {
		flag.Usage()
		return errors.New("name a benchmark, or all")
	}
	var chosen []benchmark
	for _, name := range names {
		before := len(chosen)
		for _, b := range benchmarks {
			if name == b.name || name == "all" {
				chosen = append(chosen, b)
			}
		}
		if len(chosen) == before {
			return fmt.Errorf("there is no benchmark %q", name)
		}
	}
	for _, b := range chosen {
		r, err := openReport(results, b.name)
		if err != nil {
			return err
		}
		m, err := describe(ctx, b.name, o.bsn)
		if err != nil {
			return err
		}
		err = b.run(ctx, o, r)
		// What was measured before something failed is kept.
		if err := errors.Join(err, r.save()); err != nil {
			return fmt.Errorf("benchmark %s: %w", b.name, err)
		}
		if err := m.save(results, b.name); err != nil {
			return err
		}
		r.print(os.Stdout)
	}
	return nil
}

// say tells what is being done: nothing that takes over a second is silent.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s  %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
}

// sleepStep is the longest silence of sleep.
const sleepStep = 30 * time.Second

// sleep waits, and says so now and then.
func sleep(ctx context.Context, d time.Duration, what string) error {
	say("%s: %s", what, d)
	for ; d > sleepStep; d -= sleepStep {
		if err := pause(ctx, sleepStep); err != nil {
			return err
		}
		say("%s: %s left", what, d-sleepStep)
	}
	return pause(ctx, d)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
