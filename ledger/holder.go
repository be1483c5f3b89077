package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	cmttypes "github.com/cometbft/cometbft/types"

	"github.com/openbsn/bsn"
)

// ErrRestarting means that a city's ledger node is not there for the moment.
var ErrRestarting = errors.New("the ledger node of this city is restarting: try again")

const (
	// restartWait is how long a reader waits for a node that is restarting.
	restartWait = 5 * time.Second
	// levelWait is how long a transaction waits for a node to catch up.
	levelWait = 20 * time.Second
	// restartPause is the time between two tries to start a node that does not.
	restartPause = 2 * time.Second
)

// Holder runs a city's ledger node and can restart it beneath those who use it:
// they wait for the next one, and a follower goes on where it was. It is a
// bsn.Ledger and a Conn, as Node is.
type Holder struct {
	restarting sync.Mutex // by one at a time
	retrying   bool       // guarded by restarting

	mu      sync.Mutex
	ctx     context.Context // ends with Stop
	end     context.CancelFunc
	config  NodeConfig
	network string
	tenure  *tenure
	changed chan struct{} // closes with the next change of tenure
	last    Status        // of the node before
	failed  error         // why the last start failed
	note    string        // how far the preparation is
	stopped bool
}

// tenure is the time of one node.
type tenure struct {
	node  *Node
	ctx   context.Context // ends when the node is about to stop
	end   context.CancelFunc
	users sync.WaitGroup
}

// Hold starts a node and holds it until Stop. Where there is something to prepare it
// does so in the background.
func Hold(c NodeConfig) (*Holder, error) {
	h := &Holder{config: c, changed: make(chan struct{})}
	h.ctx, h.end = context.WithCancel(context.Background())
	if c.Prepare != nil {
		doc, err := cmttypes.GenesisDocFromFile(GenesisFile(c.Home))
		if err != nil {
			return nil, fmt.Errorf("read genesis: %w", err)
		}
		h.network, h.retrying = doc.ChainID, true
		go h.retry(0)
		return h, nil
	}
	if err := h.start(); err != nil {
		return nil, err
	}
	h.network = h.tenure.node.Network()
	return h, nil
}

func (h *Holder) start() error {
	h.mu.Lock()
	c := h.config
	h.mu.Unlock()
	err := h.prepare(c)
	var n *Node
	if err == nil {
		n, err = Start(c)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failed = err; err != nil {
		return err
	}
	t := &tenure{node: n}
	t.ctx, t.end = context.WithCancel(context.Background())
	h.set(t)
	if n.guard != nil && n.guard.vouch() {
		go h.vouched(t)
	}
	go func() {
		select {
		case <-n.due:
			c.Log.Info("the ledger changes its protocol version: its node restarts", "height", n.app.LastBlockHeight()+1)
			if err := h.Restart(nil); err != nil {
				c.Log.Error("the ledger node does not restart; it is tried again", "error", err)
			}
		case <-t.ctx.Done():
		}
	}()
	return nil
}

// prepare does once what comes before the first start.
func (h *Holder) prepare(c NodeConfig) error {
	if c.Prepare == nil {
		return nil
	}
	tell := func(text string) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.note = text
	}
	err := c.Prepare(h.ctx, tell)
	tell("")
	if err == nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.config.Prepare = nil
	}
	return err
}

// vouched releases a restored node whose former self is said to be gone, once it has
// heard from its peers what that signed last. Then it starts again: consensus does
// not ask a second time for a signature that it did not get.
func (h *Holder) vouched(t *tenure) {
	_, err := use(t.ctx, h, 0, func(ctx context.Context, n *Node, _ bool) (struct{}, error) {
		if err := n.Ready(ctx); err != nil {
			return struct{}{}, err
		}
		select {
		case <-ctx.Done():
			return struct{}{}, ctx.Err()
		case <-time.After(goneWait):
		}
		height, round, step, err := n.votes(ctx)
		if err == nil {
			n.guard.vouched(height, round, step)
		}
		return struct{}{}, err
	})
	if err == nil {
		err = h.Restart(nil)
	}
	if err != nil && h.ctx.Err() == nil {
		h.config.Log.Warn("the restored node does not take its part yet", "error", err)
	}
}

// set changes the tenure, with mu held.
func (h *Holder) set(t *tenure) {
	h.tenure = t
	close(h.changed)
	h.changed = make(chan struct{})
}

// halt ends the tenure, if there is one, once nobody uses its node.
func (h *Holder) halt() error {
	h.mu.Lock()
	t := h.tenure
	if t == nil {
		h.mu.Unlock()
		return nil
	}
	h.set(nil)
	h.mu.Unlock()
	t.end()
	t.node.leave() // or who waits for the application would wait for ever
	t.users.Wait()
	if s, err := t.node.Status(context.Background()); err == nil && t.node.needs == nil {
		h.mu.Lock()
		h.last = s
		h.mu.Unlock()
	}
	peers := t.node.dialled()
	err := t.node.Stop()
	h.mu.Lock()
	h.config.Peers = peers
	h.mu.Unlock()
	return err
}

// Restart stops the node, lets change alter its configuration, and starts it
// again. Change may also touch the node's files; nil changes nothing. The error says
// why the node does not start; that is tried again until it does, while the rest of
// the city goes on without it.
func (h *Holder) Restart(change func(*NodeConfig)) error {
	h.restarting.Lock()
	defer h.restarting.Unlock()
	h.mu.Lock()
	stopped := h.stopped
	h.mu.Unlock()
	if stopped {
		return errors.New("restart ledger node: the city is stopping")
	}
	if err := h.halt(); err != nil {
		return fmt.Errorf("stop ledger node: %w", err)
	}
	if change != nil {
		h.mu.Lock()
		change(&h.config)
		h.mu.Unlock()
	}
	err := h.start()
	if err != nil && !h.retrying {
		h.retrying = true
		go h.retry(restartPause)
	}
	return err
}

// retry starts the node again and again, first after a pause, until one runs or none
// is wanted.
func (h *Holder) retry(pause time.Duration) {
	for done := false; !done; pause = restartPause {
		time.Sleep(pause)
		h.restarting.Lock()
		h.mu.Lock()
		done = h.stopped || h.tenure != nil
		h.mu.Unlock()
		if !done {
			done = h.start() == nil
		}
		h.retrying = !done
		h.restarting.Unlock()
	}
}

// Stop ends the node for good.
func (h *Holder) Stop() error {
	h.end()
	h.restarting.Lock()
	defer h.restarting.Unlock()
	h.mu.Lock()
	h.stopped = true
	h.mu.Unlock()
	return h.halt()
}

// enter returns the present tenure, or waits for the next one at most so long; 0
// means as long as ctx. The caller leaves it with users.Done.
func (h *Holder) enter(ctx context.Context, wait time.Duration) (*tenure, error) {
	var late <-chan time.Time
	for {
		h.mu.Lock()
		t, changed, failed := h.tenure, h.changed, h.failed
		if t != nil {
			t.users.Add(1)
		}
		h.mu.Unlock()
		if t != nil {
			return t, nil
		}
		if late == nil && wait > 0 {
			late = time.After(wait)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the ledger node: %w", ctx.Err())
		case <-late:
			if failed != nil {
				return nil, fmt.Errorf("%w (%v)", ErrRestarting, failed)
			}
			return nil, ErrRestarting
		}
	}
}

// use calls f with the node, again with the next one if the node was stopped
// meanwhile and f failed. The context that f gets ends with the node.
func use[T any](ctx context.Context, h *Holder, wait time.Duration, f func(ctx context.Context, n *Node, again bool) (T, error)) (T, error) {
	for again := false; ; again = true {
		t, err := h.enter(ctx, wait)
		if err != nil {
			var zero T
			return zero, err
		}
		inner, cancel := context.WithCancel(ctx)
		stop := context.AfterFunc(t.ctx, cancel)
		v, err := f(inner, t.node, again)
		interrupted := t.ctx.Err() != nil
		stop()
		cancel()
		t.users.Done()
		if err == nil || !interrupted || ctx.Err() != nil {
			return v, err
		}
	}
}

// Network is the ledger's chain id.
func (h *Holder) Network() string { return h.network }

// Connect is Node's, and holds over restarts.
func (h *Holder) Connect(peers, others []string) error {
	_, err := use(context.Background(), h, restartWait, func(_ context.Context, n *Node, _ bool) (struct{}, error) {
		return struct{}{}, n.Connect(peers, others)
	})
	return err
}

// Status asks the node. While there is none it tells of the one before.
func (h *Holder) Status(ctx context.Context) (Status, error) {
	h.mu.Lock()
	t, s, failed, note := h.tenure, h.last, h.failed, h.note
	if t != nil {
		t.users.Add(1)
	}
	h.mu.Unlock()
	if t != nil {
		defer t.users.Done()
		now, err := t.node.Status(ctx)
		if now.Time.IsZero() {
			now.Time = s.Time // it stands still
		}
		return now, err
	}
	s.Network, s.Restarting, s.Peers = h.network, true, 0
	s.Halted = time.Since(s.Time) > haltedAfter
	if failed != nil {
		s.Error = failed.Error()
	}
	if note != "" {
		s.Restarting, s.Halted, s.Syncing, s.Error = false, false, true, note
	}
	return s, nil
}

// Ready waits until the node, or one after it, has caught up with its peers.
func (h *Holder) Ready(ctx context.Context) error {
	_, err := use(ctx, h, 0, func(ctx context.Context, n *Node, _ bool) (struct{}, error) { return struct{}{}, n.Ready(ctx) })
	return err
}

// Who tells what kind of writer an address is, by what name and under whom.
func (h *Holder) Who(address string) (kind bsn.Kind, name, parent string, err error) {
	_, err = use(context.Background(), h, restartWait, func(_ context.Context, n *Node, _ bool) (struct{}, error) {
		kind, name, parent, err = n.Who(address)
		return struct{}{}, err
	})
	return kind, name, parent, err
}

// Writer implements Conn.
func (h *Holder) Writer(ctx context.Context, address string) (Signer, error) {
	return use(ctx, h, restartWait, func(ctx context.Context, n *Node, _ bool) (Signer, error) { return n.Writer(ctx, address) })
}

// Submit implements Conn. A transaction that waits for its block while the node
// restarts is handed in again, and takes effect once.
func (h *Holder) Submit(ctx context.Context, tx []byte) (Result, error) {
	return use(ctx, h, restartWait, func(ctx context.Context, n *Node, again bool) (Result, error) {
		if !again {
			n.level(ctx)
			return n.Submit(ctx, tx)
		}
		return n.submitAgain(ctx, tx)
	})
}

// level waits, not for long, for a node that was restarted to catch up with its
// peers: before that it takes no transactions.
func (n *Node) level(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, levelWait)
	defer cancel()
	_ = n.Ready(ctx) // Submit says what is wrong
}

// Get implements bsn.Ledger.
func (h *Holder) Get(ctx context.Context, kind bsn.Kind, id string) (json.RawMessage, error) {
	return use(ctx, h, restartWait, func(ctx context.Context, n *Node, _ bool) (json.RawMessage, error) {
		return n.Get(ctx, kind, id)
	})
}

// List implements bsn.Ledger.
func (h *Holder) List(ctx context.Context, kind bsn.Kind, after string, limit int) (page []bsn.Change, height int64, err error) {
	page, err = use(ctx, h, restartWait, func(ctx context.Context, n *Node, _ bool) (page []bsn.Change, err error) {
		page, height, err = n.List(ctx, kind, after, limit)
		return page, err
	})
	return page, height, err
}

// Follow implements bsn.Ledger. While a block is in the caller's hands the node is
// free to stop.
func (h *Holder) Follow(ctx context.Context, from int64) iter.Seq2[bsn.Block, error] {
	return func(yield func(bsn.Block, error) bool) {
		for ; ctx.Err() == nil; from++ {
			b, err := use(ctx, h, 0, func(ctx context.Context, n *Node, _ bool) (bsn.Block, error) { return n.next(ctx, from) })
			if ctx.Err() != nil || !yield(b, err) || err != nil {
				return
			}
		}
	}
}

// LightBlock implements Source.
func (h *Holder) LightBlock(ctx context.Context, height int64) ([]byte, error) {
	return use(ctx, h, restartWait, func(ctx context.Context, n *Node, _ bool) ([]byte, error) { return n.LightBlock(ctx, height) })
}

// ProveReceipt is described with [Node.ProveReceipt].
func (h *Holder) ProveReceipt(ctx context.Context, id string) (Proof, error) {
	return use(ctx, h, restartWait, func(ctx context.Context, n *Node, _ bool) (Proof, error) { return n.ProveReceipt(ctx, id) })
}

// Snapshots implements Source.
func (h *Holder) Snapshots(ctx context.Context) (offered []Snapshot, oldestBlock int64, err error) {
	offered, err = use(ctx, h, restartWait, func(ctx context.Context, n *Node, _ bool) (offered []Snapshot, err error) {
		offered, oldestBlock, err = n.Snapshots(ctx)
		return offered, err
	})
	return offered, oldestBlock, err
}

// SnapshotChunk implements Source.
func (h *Holder) SnapshotChunk(ctx context.Context, height int64, format, index uint32) ([]byte, error) {
	return use(ctx, h, restartWait, func(ctx context.Context, n *Node, _ bool) ([]byte, error) {
		return n.SnapshotChunk(ctx, height, format, index)
	})
}
