package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openbsn/bsn"
)

func hold(t *testing.T, home string) *Holder {
	t.Helper()
	h := must[*Holder](t)(Hold(NodeConfig{Home: home, Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler), pause: 10 * time.Millisecond}))
	t.Cleanup(func() {
		if err := h.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := h.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return h
}

// slow tells whether somebody was told to try again, as on a machine that is so busy
// that a node takes longer to start than anyone waits.
func slow(err error) bool { return errors.Is(err, ErrRestarting) || errors.Is(err, ErrHalted) }

func update(port int) Message { return UpdateCity(fmt.Sprintf("http://127.0.0.1:%d", port), "", nil) }

// Writers, readers and followers do not notice that the node is restarted.
func TestRestartGoesUnnoticed(t *testing.T) {
	t.Parallel()
	h := hold(t, home(t))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all sync.WaitGroup
	var writes atomic.Int64
	all.Go(func() {
		c := must[*Client](t)(NewClient(h, seed("city0")))
		for ctx.Err() == nil {
			if _, err := c.Write(context.WithoutCancel(ctx), update(int(writes.Load())+1)); slow(err) {
				continue
			} else if err != nil {
				t.Errorf("write: %v", err)
				return
			}
			writes.Add(1)
		}
	})
	all.Go(func() {
		for ctx.Err() == nil {
			if _, err := h.Get(ctx, bsn.KindCity, "city-0"); err != nil && ctx.Err() == nil && !slow(err) {
				t.Errorf("get: %v", err)
			}
			if _, name, _, err := h.Who(seed("city0").Address()); !slow(err) && (err != nil || name != "city-0") {
				t.Errorf("who: %s, %v", name, err)
			}
			time.Sleep(time.Millisecond)
		}
	})
	var seen, followed atomic.Int64
	follow, unfollow := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() {
		next := int64(1)
		for b, err := range h.Follow(follow, 1) {
			if err != nil || b.Height != next {
				t.Errorf("follow: block %d in place of %d: %v", b.Height, next, err)
				return
			}
			next++
			seen.Add(int64(len(b.Changes)))
			followed.Store(b.Height)
		}
	})
	for range 4 {
		for before := writes.Load(); writes.Load() < before+2 && !t.Failed(); {
			time.Sleep(10 * time.Millisecond)
		}
		if err := h.Restart(nil); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	all.Wait()
	c := must[*Client](t)(NewClient(h, seed("city0")))
	last := must[Result](t)(c.Write(t.Context(), update(65000)))
	for followed.Load() < last.Height && !t.Failed() {
		time.Sleep(10 * time.Millisecond)
	}
	unfollow()
	following.Wait()
	if n := writes.Load() + 1; seen.Load() < n {
		t.Errorf("%d writes, %d changes followed", n, seen.Load())
	}
}

// A node that does not come back leaves its holder saying why, until it does.
func TestNodeThatDoesNotStart(t *testing.T) {
	t.Parallel()
	dir := home(t)
	h := hold(t, dir)
	before := must[Status](t)(h.Status(t.Context()))
	file := filepath.Join(dir, "config", "genesis.json")
	err := h.Restart(func(*NodeConfig) {
		if err := os.Rename(file, file+".away"); err != nil {
			t.Error(err)
		}
	})
	if err == nil {
		t.Fatal("it started without its genesis")
	}
	s := must[Status](t)(h.Status(t.Context()))
	if !s.Restarting || s.Error == "" || s.Height < before.Height || s.Network != "test-net" {
		t.Errorf("status: %+v", s)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := h.Get(ctx, bsn.KindCity, "city-0"); err == nil {
		t.Error("read without a node")
	}
	if _, err := h.Get(t.Context(), bsn.KindCity, "city-0"); !errors.Is(err, ErrRestarting) {
		t.Errorf("read without a node: %v", err)
	}
	if err := os.Rename(file+".away", file); err != nil {
		t.Fatal(err)
	}
	if err := h.Ready(t.Context()); err != nil { // by itself
		t.Fatal(err)
	}
	get[bsn.City](t, h, bsn.KindCity, "city-0")
	if err := h.Stop(); err != nil {
		t.Error(err)
	}
	if err := h.Restart(nil); err == nil {
		t.Error("restarted after the end")
	}
}
