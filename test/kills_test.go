package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// Between two kills passes a random time between these.
const (
	leastPause = 200 * time.Millisecond
	mostPause  = 4 * time.Second
)

// homeOf is the home folder that a city's state lies in: that of the virtual host
// of the city's name, if the script has hosts.
func homeOf(ts *testscript.TestScript, city string) string {
	if s := siteOf(ts); s != nil {
		return filepath.Join(s.folder, city)
	}
	return ts.Getenv("BSN_HOME")
}

// daemonPlace is where a city's daemon is started.
func daemonPlace(ts *testscript.TestScript, city string) (place, error) {
	p := placeOf(ts)
	if s := siteOf(ts); s != nil {
		h, err := s.find(city)
		if err != nil {
			return p, err
		}
		p.enter = h.Enter()
	}
	p.env = append(p.env, "BSN_HOME="+homeOf(ts, city))
	return p, nil
}

// supervise does what an init system does, until the script ends.
func supervise(ts *testscript.TestScript, cities []string) (output, error) {
	ctx, cancel := context.WithCancel(context.Background())
	var g sync.WaitGroup
	ts.Defer(func() {
		cancel()
		g.Wait()
	})
	for _, city := range cities {
		p, err := daemonPlace(ts, city)
		if err != nil {
			return output{}, err
		}
		home := homeOf(ts, city)
		g.Go(func() {
			for ctx.Err() == nil {
				if _, err := findPart(home, city, "daemon"); err != nil {
					// If it cannot start now, it is tried again. A start that has begun is let finish.
					start, end := context.WithTimeout(context.WithoutCancel(ctx), callTimeout+awaitTimeout)
					p.bsn(start, "city", "start", city, "--detach")
					end()
				}
				pause(ctx, awaitPause)
			}
		})
	}
	return output{}, nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// victim is a process that is to be killed.
type victim struct{ home, city, part string }

func kills(ts *testscript.TestScript, args []string) (output, error) {
	if len(args) < 2 {
		return output{}, errors.New("usage: kills COUNT CITY…")
	}
	count, err := strconv.Atoi(args[0])
	if err != nil {
		return output{}, err
	}
	var all []victim
	for _, city := range args[1:] {
		home := homeOf(ts, city)
		for _, p := range processes(home) {
			if p.city == city {
				all = append(all, victim{home, city, p.part})
			}
		}
	}
	if len(all) == 0 || count < len(all) {
		return output{}, fmt.Errorf("%d kills are too few for %d processes", count, len(all))
	}
	killed := map[victim]int{}
	order := rand.Perm(len(all))
	for i := range count {
		time.Sleep(leastPause + rand.N(mostPause-leastPause))
		v := all[rand.IntN(len(all))]
		if i < len(all) { // each once, in random order
			v = all[order[i]]
		}
		if err := killOne(v); err != nil {
			return output{}, err
		}
		killed[v]++
	}
	report := struct {
		Kills     int            `json:"kills"`
		Processes int            `json:"processes"`
		ByProcess map[string]int `json:"byProcess"`
	}{count, len(killed), map[string]int{}}
	for v, n := range killed {
		report.ByProcess[v.city+" "+v.part] = n
	}
	text, err := json.Marshal(report)
	return output{stdout: string(text) + "\n"}, err
}

// killOne kills a process, once it runs.
func killOne(v victim) error {
	for deadline := time.Now().Add(awaitTimeout); ; time.Sleep(10 * time.Millisecond) {
		p, err := findPart(v.home, v.city, v.part)
		if err == nil {
			err = syscall.Kill(p.pid, syscall.SIGKILL)
		}
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
