package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

const (
	// victim is the city whose node is killed, and victimIndex its index.
	victim, victimIndex = "saopaulo", 4
	deadFor             = 80 * time.Second
	levelTimeout        = 2 * time.Minute
	kills               = 2 // with the daemon there, which restarts the node
)

// faults measures the chain with one of four validators dead, and how soon a
// restarted node is level with the others.
//
// A city's daemon restarts its node, so it is ended first: the node is then
// killed with SIGKILL and stays dead until the daemon is back.
func faults(ctx context.Context, _ options, l *local, r *report) error {
	if err := l.stopDaemonAndKill(ctx); err != nil {
		return err
	}
	others, err := l.node(1)
	if err != nil {
		return err
	}
	rate, gap, err := blocks(ctx, others, deadFor)
	if err != nil {
		return err
	}
	r.add("kaia.one_dead.blocks_per_second", rate, "blocks/s", atLeast(0.8),
		"daemon of one city stopped, its node killed with SIGKILL; over %s, longest gap %.1f s", deadFor, gap.Seconds())
	say("start city %s, whose node is %s behind", victim, deadFor)
	var level []float64
	go func() {
		// Its failure shows: the node does not become level.
		_, _ = l.run(ctx, "city", "start", victim, "--detach")
	}()
	took, err := l.awaitLevel(ctx)
	if err != nil {
		return err
	}
	level = append(level, took.Seconds())
	for i := range kills {
		if err := sleep(ctx, 10*time.Second, "let the chain go on"); err != nil {
			return err
		}
		say("kill the node of %s (%d of %d)", victim, i+1, kills)
		if err := l.kill(ctx); err != nil {
			return err
		}
		if took, err = l.awaitLevel(ctx); err != nil {
			return err
		}
		level = append(level, took.Seconds())
	}
	r.add("kaia.restart.level.seconds", median(level), "s", atMost(5),
		"from the start of the process to the height of the others; first after %s dead, then killed with SIGKILL and restarted by its daemon; median of %s", deadFor, list(level))
	return nil
}

func (l *local) stopDaemonAndKill(ctx context.Context) error {
	say("stop the daemon of %s and kill its node", victim)
	pids, err := l.nodes(ctx, kaiaNode)
	if err != nil {
		return err
	}
	if _, err := l.run(ctx, "city", "stop", victim, "--daemon-only"); err != nil {
		return err
	}
	return kill(pids[victim])
}

func (l *local) kill(ctx context.Context) error {
	pids, err := l.nodes(ctx, kaiaNode)
	if err != nil {
		return err
	}
	return kill(pids[victim])
}

func kill(pid int) error {
	if pid <= 0 {
		return fmt.Errorf("node of %s does not run", victim)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill node of %s: %w", victim, err)
	}
	return nil
}

// blocks counts the blocks of a span, and finds the longest time without one.
func blocks(ctx context.Context, e endpoint, span time.Duration) (perSecond float64, gap time.Duration, err error) {
	say("count blocks: %s", span)
	first, err := e.height(ctx)
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	height, since := first, start
	for time.Since(start) < span {
		h, err := e.height(ctx)
		if err != nil {
			return 0, 0, err
		}
		if gap = max(gap, time.Since(since)); h > height {
			height, since = h, time.Now()
		}
		time.Sleep(20 * time.Millisecond)
	}
	return float64(height-first) / time.Since(start).Seconds(), gap, nil
}

// awaitLevel waits until the victim's node answers and has the height of another
// node, and returns how long that took since its process started.
func (l *local) awaitLevel(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, levelTimeout)
	defer cancel()
	own, err := l.node(victimIndex)
	if err != nil {
		return 0, err
	}
	other, err := l.node(1)
	if err != nil {
		return 0, err
	}
	for ctx.Err() == nil {
		want, err := other.height(ctx)
		if err != nil {
			return 0, err
		}
		if have, err := own.height(ctx); err == nil && have >= want {
			at := time.Now()
			pids, err := l.nodes(ctx, kaiaNode)
			if err != nil {
				return 0, err
			}
			_, started, err := stat(pids[victim])
			return at.Sub(started), err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return 0, errors.Join(fmt.Errorf("node of %s did not become level", victim), ctx.Err())
}
