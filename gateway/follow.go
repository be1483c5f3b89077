package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/renameio/v2"
	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/age"
)

const (
	pageSize = 500
	// The ledger has a block at least every ten seconds. A connection that stays
	// silent for longer than this is given up and made anew.
	ledgerSilence = 45 * time.Second

	retryFirst = 200 * time.Millisecond
	retryMax   = 5 * time.Second

	// savePause is the least time between two writings of the state file.
	savePause = time.Second
	// agePause is the time between two writings of how old the state is.
	agePause = 10 * time.Second
	// maxState bounds the state file, which is read into memory at start.
	maxState = 1 << 30
)

// follower keeps the directory level with the ledger.
type follower struct {
	ledger    bsn.Ledger
	directory *directory
	// chains is called with all chains whenever one of them changed.
	chains func([]bsn.Chain)
	// rights is called when somebody may have lost the right to call.
	rights func()
	log    *slog.Logger
}

// run follows the ledger until ctx ends. While the ledger does not answer, the
// directory stays as it is and run tries again.
func (f *follower) run(ctx context.Context) {
	// The records of an earlier run may be of a ledger that has been reset, so the
	// first contact always reads afresh.
	next := int64(0)
	failing, pause := false, retryFirst
	for ctx.Err() == nil {
		reached := next
		err := f.follow(ctx, &next)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, bsn.ErrPruned) {
			next = 0
		}
		if next > reached { // it answered
			failing, pause = false, retryFirst
		}
		if !failing {
			failing = true
			f.log.Warn("ledger does not answer; serving the last known state", "height", f.directory.state().height, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, retryMax)
	}
}

// follow takes in blocks from the given height on, and all records first if
// that is 0, until an error. Next is kept level with what has been taken in.
func (f *follower) follow(ctx context.Context, next *int64) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(ledgerSilence, func() { cancel(errors.New("ledger sent no block for too long")) })
	defer silence.Stop()

	// Pages are read at different heights. Fresh records are used only when they
	// have been brought to the highest of them, so that nothing that a later page
	// knows as revoked comes back for a moment. The block of the lowest is read
	// again, since it says how old they are.
	var fresh *records
	var level int64
	if *next == 0 {
		var err error
		if fresh, level, err = f.list(ctx); err != nil {
			return err
		}
		*next = max(fresh.Height, 1)
	}
	for block, err := range f.ledger.Follow(ctx, *next) {
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			if fresh != nil {
				*next = 0
			}
			return fmt.Errorf("follow the ledger: %w", err)
		}
		silence.Reset(ledgerSilence)
		*next = block.Height + 1
		if fresh != nil {
			_, broken := fresh.advance(block)
			f.report(broken)
			if block.Height >= level {
				f.install(fresh)
				fresh = nil
			}
			continue
		}
		chains, broken := f.directory.advance(block, time.Now())
		f.report(broken)
		if chains {
			f.chains(f.directory.chains())
		}
		if slices.ContainsFunc(block.Changes, func(c bsn.Change) bool { return c.Kind == bsn.KindProject || c.Kind == bsn.KindAccount }) {
			f.rights()
		}
	}
	if fresh != nil {
		*next = 0
	}
	return errors.New("follow the ledger: the stream ended")
}

func (f *follower) install(r *records) {
	f.chains(r.chains()) // first, so that whose key is known also finds the chain
	f.directory.replace(r, time.Now())
	f.rights()
	f.log.Info("read the ledger", "height", r.Height, "chains", len(r.Chains), "projects", len(r.Projects), "apps", len(r.Apps))
}

func (f *follower) report(broken []error) {
	for _, err := range broken {
		f.log.Error("ledger record dropped", "error", err)
	}
}

// list reads all records. Their height is that of the oldest page, and level
// that of the newest one.
func (f *follower) list(ctx context.Context) (r *records, level int64, err error) {
	r = newRecords()
	oldest := int64(-1)
	for _, kind := range followed {
		after := ""
		for {
			page, height, err := f.ledger.List(ctx, kind, after, pageSize)
			if err != nil {
				return nil, 0, fmt.Errorf("list %s records: %w", kind, err)
			}
			if oldest < 0 || height < oldest {
				oldest = height
			}
			level = max(level, height)
			r.Height = height
			for _, c := range page {
				if err := r.apply(c); err != nil {
					f.report([]error{err})
				}
			}
			if len(page) == 0 { // a page of large records is shorter
				break
			}
			after = page[len(page)-1].ID
		}
	}
	r.Height = oldest
	return r, level, nil
}

// ageFile is where it is kept how old the state in a file is.
func ageFile(state string) string { return state + ".age" }

// loadState reads the records that an earlier run saved, nil if there are none,
// and how old they are.
func loadState(path string) (r *records, counted age.State, err error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, counted, nil
	}
	if err == nil && info.Size() > maxState {
		err = fmt.Errorf("%d bytes are more than a gateway ever writes", info.Size())
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(path)
	}
	r = newRecords()
	if err == nil {
		err = json.Unmarshal(text, r)
	}
	if err != nil {
		return nil, counted, fmt.Errorf("read gateway state %s: %w", path, err)
	}
	// Without it the records are as old as their last change: that errs on the safe side.
	if text, err := os.ReadFile(ageFile(path)); err == nil {
		_ = json.Unmarshal(text, &counted)
	}
	for _, id := range slices.Sorted(maps.Keys(r.Projects)) {
		r.learnKeys(id)
	}
	return r, counted, nil
}

// keepState saves the directory when it has changed, until ctx ends, and once
// more then. A large state is written more seldom, so that writing never takes
// more than a twentieth of the time. How old it is is written after it and never
// without it: records that lack a revocation must not count as young.
func keepState(ctx context.Context, d *directory, path string, log *slog.Logger) {
	pause, failing, counted := savePause, false, time.Time{}
	for {
		ended := false
		select {
		case <-ctx.Done():
			ended = true
		case <-time.After(pause):
		}
		r, old := d.snapshot(ended)
		began, saved := time.Now(), true
		if r != nil {
			err := saveState(path, r)
			if saved = err == nil; !saved {
				d.unsaved()
			}
			if err != nil && !failing {
				log.Error("gateway state is not saved; a restart without the ledger would not know it", "error", err)
			}
			failing = err != nil
			pause = max(savePause, 20*time.Since(began))
		}
		if saved && !old.Newest.IsZero() && (ended || r != nil || time.Since(counted) > agePause) {
			counted = time.Now()
			if err := saveFile(ageFile(path), old); err != nil {
				log.Error("how old the gateway's state is is not saved", "error", err)
			}
		}
		if ended {
			return
		}
	}
}

func saveState(path string, r *records) error { return saveFile(path, r) }

func saveFile(path string, v any) error {
	text, err := json.Marshal(v)
	if err == nil {
		err = renameio.WriteFile(path, text, 0o600, renameio.WithTempDir(filepath.Dir(path)))
	}
	if err != nil {
		return fmt.Errorf("save gateway state: %w", err)
	}
	return nil
}
