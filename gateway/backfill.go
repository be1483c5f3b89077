package gateway

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
)

// between fetches blocks by their numbers.
func (t *tail) between(ctx context.Context, f *feed, from, to int64) ([]*block, error) {
	list := make([]*block, to-from+1)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(tailParallel)
	for i := range list {
		group.Go(func() (err error) {
			list[i], err = t.block(ctx, f, "ByNumber", `"0x`+strconv.FormatInt(from+int64(i), 16)+`"`)
			return err
		})
	}
	return list, group.Wait()
}

func (t *tail) byHash(ctx context.Context, f *feed, h hash) (*block, error) {
	b, err := t.block(ctx, f, "ByHash", `"`+h.String()+`"`)
	if err == nil && b.hash != h {
		err = fmt.Errorf("node gives block %v for %v", b.hash, h)
	}
	return b, err
}

// block asks a node for a block by its number or hash.
func (t *tail) block(ctx context.Context, f *feed, by, which string) (*block, error) {
	ctx, cancel := context.WithTimeout(ctx, tailAsk)
	defer cancel()
	method, params := t.namespace+"_getBlock"+by, `[`+which+`,false]`
	if t.headers {
		method, params = t.namespace+"_getHeader"+by, `[`+which+`]`
	}
	a, err := f.call(ctx, method, []byte(params), nil)
	switch {
	case err != nil:
		return nil, err
	case a.failure != nil:
		return nil, fmt.Errorf("%w: %s", errUnknown, clip(a.failure))
	case string(a.result) == "null":
		return nil, fmt.Errorf("%w %s", errUnknown, which)
	}
	return parseBlock(a.result)
}

// logsTries is how often a node is asked for logs that its own block says there
// are: some have them a moment after the block.
const logsTries = 20

// logsOf gets all logs of a block.
func (t *tail) logsOf(ctx context.Context, f *feed, b *block) ([]entry, error) {
	if b.noLogs {
		return nil, nil
	}
	for try := 1; ; try++ {
		asking, cancel := context.WithTimeout(ctx, tailAsk)
		a, err := f.call(asking, t.namespace+"_getLogs", []byte(`[{"blockHash":"`+b.hash.String()+`"}]`), nil)
		cancel()
		if err != nil {
			return nil, err
		}
		var entries []entry
		if err = errUnknown; a.failure == nil && string(a.result) != "null" {
			entries, err = parseLogs(a.result, b.hash)
		}
		if err == nil && (len(entries) > 0 || !b.bloom) {
			return entries, nil
		}
		if try == logsTries {
			return nil, fmt.Errorf("get logs of block %d: %w %s", b.number, cmp.Or(err, errUnknown), clip(a.failure))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// fill gets the logs of blocks that have none yet.
func (t *tail) fill(ctx context.Context, f *feed, blocks []*block) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(tailParallel)
	for _, b := range blocks {
		t.mu.Lock()
		loaded := b.loaded
		t.mu.Unlock()
		if loaded {
			continue
		}
		group.Go(func() error {
			entries, err := t.logsOf(ctx, f, b)
			if err != nil {
				return err
			}
			t.mu.Lock()
			defer t.mu.Unlock()
			b.entries, b.loaded = entries, true
			return nil
		})
	}
	return group.Wait()
}
