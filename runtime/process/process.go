// Package process runs a city's nodes as processes of this machine.
//
// Each node has a folder of its own below the runtime's: spec.json (what was
// asked for), state.json (what runs), log/, and the node's own files. Nodes
// outlive the daemon: they are no part of its session, write their log files
// themselves, and are taken over by the next daemon.
//
// A process counts as a node's only if its pid, its start in clock ticks, the
// machine's boot and a marker in its environment all match the record. The
// marker is recorded before the process is made, so that even a daemon that is
// killed in between leaves nothing that the next one would not find.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/openbsn/bsn"
)

// ErrInUse means that another daemon has the folder open.
var ErrInUse = errors.New("runtime folder is in use")

var _ bsn.Runtime = (*Runtime)(nil)

// lockTimeout is how long Open waits for a daemon that is just ending.
const lockTimeout = 2 * time.Second

// Runtime is the process driver of one folder.
type Runtime struct {
	dir  string // without symbolic links: it is a part of every marker
	boot string
	log  *slog.Logger
	// lock is held open, and locked, until Close. A process that is made inherits
	// it up to its exec: a killed daemon's lock is free only when its last process
	// shows its marker.
	lock *os.File

	ctx  context.Context // ends with Close
	end  context.CancelFunc
	work sync.WaitGroup

	mu    sync.Mutex
	nodes map[string]*node
}

// Open takes over the folder with all nodes that run from it. It ends processes
// that an earlier daemon left half done. Error: [ErrInUse].
func Open(dir string, log *slog.Logger) (*Runtime, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make runtime folder: %w", err)
	}
	dir, err := filepath.Abs(dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("find runtime folder: %w", err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read the machine's boot id: %w", err)
	}
	lock, err := lockFile(filepath.Join(dir, ".lock"))
	if err != nil {
		return nil, err
	}
	r := &Runtime{dir: dir, boot: strings.TrimSpace(string(boot)), log: log, lock: lock, nodes: make(map[string]*node)}
	r.ctx, r.end = context.WithCancel(context.Background())
	if err := r.takeOver(); err != nil {
		r.Close()
		return nil, err
	}
	r.work.Go(r.rotate)
	return r, nil
}

func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for end := time.Now().Add(lockTimeout); ; time.Sleep(20 * time.Millisecond) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if err == unix.EINTR || err == unix.EWOULDBLOCK && time.Now().Before(end) {
			continue
		}
		defer f.Close()
		if err != unix.EWOULDBLOCK {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		holder, _ := io.ReadAll(io.LimitReader(f, 20))
		return nil, fmt.Errorf("%w by process %s: %s; stop that daemon first", ErrInUse, strings.TrimSpace(string(holder)), filepath.Dir(path))
	}
	pid := strconv.Itoa(os.Getpid()) + "\n"
	if err := errors.Join(f.Truncate(0), writeAt(f, pid)); err != nil {
		f.Close()
		return nil, fmt.Errorf("write lock: %w", err)
	}
	return f, nil
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}

// takeOver finds the recorded nodes, adopts what runs of them, and kills every
// other process that carries a marker of this folder.
func (r *Runtime) takeOver() error {
	folders, err := os.ReadDir(r.dir)
	if err != nil {
		return fmt.Errorf("read runtime folder: %w", err)
	}
	found, err := marked(r.dir)
	if err != nil {
		return fmt.Errorf("look for processes of earlier daemons: %w", err)
	}
	for _, e := range folders {
		if !e.IsDir() || checkID(e.Name()) != nil {
			continue
		}
		n := r.newNode(e.Name())
		known, err := n.load()
		if err != nil {
			r.log.Warn("cannot read what an earlier daemon recorded", "node", n.id, "error", err)
		}
		if !known {
			continue
		}
		r.nodes[n.id] = n
		if n.adopt(found[n.rec.marker(n.dir)]) {
			delete(found, n.proc.marker)
			if err := n.save(); err != nil {
				r.log.Warn("cannot record an adopted node", "node", n.id, "error", err)
			}
			n.watch(false)
			r.log.Info("node runs since an earlier daemon", "node", n.id, "pid", n.proc.pid)
		}
	}
	return r.killStrays(r.ctx, found)
}

// killStrays ends processes that no record explains, such as an interrupted
// preparation or what outlived the process that started it.
func (r *Runtime) killStrays(ctx context.Context, found map[string][]stat) error {
	for m, all := range found {
		for _, s := range all {
			r.log.Warn("killing a process that an earlier run left", "pid", s.pid, "run", m)
			p, err := openProc(s.pid)
			if err != nil {
				continue // it ended
			}
			if p.start == s.start {
				p.marker = m
				_, err = p.terminate(ctx, 0)
			}
			p.close()
			if err != nil {
				return fmt.Errorf("kill what an earlier run left: %w", err)
			}
		}
	}
	return nil
}

// Close stops watching and leaves the nodes running: the next daemon adopts them.
func (r *Runtime) Close() error {
	r.end()
	nodes := r.all()
	for _, n := range nodes {
		n.busy <- struct{}{} // a Start or Stop that is under way ends early
		defer n.unlock()
	}
	r.work.Wait()
	for _, n := range nodes {
		if n.proc != nil {
			n.proc.close()
			n.proc = nil
		}
	}
	if err := r.lock.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("release runtime folder: %w", err)
	}
	return nil
}

func (r *Runtime) all() []*node {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Values(r.nodes), func(a, b *node) int { return strings.Compare(a.id, b.id) })
}

func (r *Runtime) find(id string) (*node, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, ok := r.nodes[id]
	return n, ok
}

// Start implements [bsn.Runtime]. A specification is equal to a running one if
// all its fields are; what the binary holds is not looked at, so the path of a
// new version must differ, or something else in the specification.
func (r *Runtime) Start(ctx context.Context, spec bsn.NodeSpec) error {
	if err := checkSpec(spec); err != nil {
		return err
	}
	r.mu.Lock()
	n, ok := r.nodes[spec.ID]
	if !ok {
		n = r.newNode(spec.ID)
		r.nodes[spec.ID] = n
	}
	r.mu.Unlock()
	return r.do(ctx, n, func(ctx context.Context) error { return n.start(ctx, spec) })
}

// Stop implements [bsn.Runtime]. If ctx ends before the node does, the node was
// told to end and is no longer restarted, but may still run: Stop again.
func (r *Runtime) Stop(ctx context.Context, id string) error {
	n, ok := r.find(id)
	if !ok {
		return nil
	}
	return r.do(ctx, n, n.stop)
}

// do works on a node, one caller at a time, until ctx or the runtime ends.
func (r *Runtime) do(ctx context.Context, n *node, work func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	if err := n.lock(ctx); err != nil {
		return err
	}
	defer n.unlock()
	if r.ctx.Err() != nil {
		return fmt.Errorf("node %s: the runtime is closed", n.id)
	}
	return work(ctx)
}

// StopAll stops every node that was ever recorded in the folder. With [Open] it
// is all that is needed to end what a daemon left running, however that ended.
func (r *Runtime) StopAll(ctx context.Context) error {
	nodes := r.all()
	errs := make([]error, len(nodes))
	var stops sync.WaitGroup
	for i, n := range nodes {
		stops.Go(func() { errs[i] = r.Stop(ctx, n.id) })
	}
	stops.Wait()
	return errors.Join(errs...)
}

// List implements [bsn.Runtime].
func (r *Runtime) List() []bsn.NodeStatus {
	nodes := r.all()
	list := make([]bsn.NodeStatus, 0, len(nodes))
	for _, n := range nodes {
		n.mu.Lock()
		list = append(list, n.status)
		n.mu.Unlock()
	}
	return list
}

// Dir implements [bsn.Runtime].
func (r *Runtime) Dir(id string) (string, error) {
	if err := checkID(id); err != nil {
		return "", err
	}
	dir := filepath.Join(r.dir, id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make node folder: %w", err)
	}
	return dir, nil
}

// Logs implements [bsn.Runtime]. Lines reach back into rotated logs, as far as
// those are kept.
func (r *Runtime) Logs(ctx context.Context, id string, lines int, follow bool) (io.ReadCloser, error) {
	n, ok := r.find(id)
	if !ok {
		return nil, fmt.Errorf("logs of %q: %w", id, bsn.ErrNoNode)
	}
	rc, err := n.logs.read(ctx, r.ctx, lines, follow)
	if err != nil {
		return nil, fmt.Errorf("logs of %s: %w", id, err)
	}
	return rc, nil
}

func (r *Runtime) rotate() {
	tick := time.NewTicker(rotateEvery)
	defer tick.Stop()
	for {
		for _, n := range r.all() {
			if err := n.logs.rotate(); err != nil {
				r.log.Warn("cannot rotate a log", "node", n.id, "error", err)
			}
		}
		select {
		case <-r.ctx.Done():
			return
		case <-tick.C:
		}
	}
}
