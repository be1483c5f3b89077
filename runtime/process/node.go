package process

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/openbsn/bsn"
)

// record is state.json: what the latest run of a node is known by. It is written
// with PID 0 before the process is made.
type record struct {
	Run   string `json:"run,omitempty"` // random; empty if the node is stopped
	PID   int    `json:"pid,omitempty"`
	Start uint64 `json:"start,omitempty"` // clock ticks after boot
	Boot  string `json:"boot,omitempty"`
	Spec  string `json:"spec,omitempty"` // SHA-256 of spec.json
	// Prepared is the SHA-256 of the preparation that last succeeded.
	Prepared string    `json:"prepared,omitempty"`
	Started  time.Time `json:"started,omitzero"`
}

func (c record) marker(dir string) string { return dir + "#" + c.Run }

type node struct {
	r    *Runtime
	id   string
	dir  string
	logs *logs

	// busy holds a value while a Start, a Stop or Close works on the node; what
	// follows is its holder's. want is the hash of the specification that the
	// watcher keeps running, if it does; unwatch ends the watcher, if there is one,
	// and waits for its end.
	busy    chan struct{}
	want    string
	unwatch func()

	// Lent to the watcher from watch to unwatch.
	spec    bsn.NodeSpec
	rec     record
	proc    *proc // nil if nothing runs
	backoff backoff

	mu     sync.Mutex
	status bsn.NodeStatus
}

func (r *Runtime) newNode(id string) *node {
	dir := filepath.Join(r.dir, id)
	return &node{
		r: r, id: id, dir: dir,
		logs:    &logs{dir: filepath.Join(dir, logFolder), temp: filepath.Join(dir, tempFolder), size: logSize},
		busy:    make(chan struct{}, 1),
		unwatch: func() {},
		status:  bsn.NodeStatus{ID: id, State: bsn.NodeStopped},
	}
}

func (n *node) lock(ctx context.Context) error {
	select {
	case n.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for node %s: %w", n.id, ctx.Err())
	}
}

func (n *node) unlock() { <-n.busy }

func (n *node) set(change func(*bsn.NodeStatus)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(&n.status)
}

// load reads what an earlier daemon recorded, and removes what it was about to.
func (n *node) load() (known bool, err error) {
	if err := os.RemoveAll(filepath.Join(n.dir, tempFolder)); err != nil {
		return false, err
	}
	if err := readJSON(filepath.Join(n.dir, stateFile), &n.rec); errors.Is(err, os.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return true, err
	}
	return true, readJSON(filepath.Join(n.dir, specFile), &n.spec)
}

func readJSON(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := json.NewDecoder(io.LimitReader(f, maxJSON)).Decode(v); err != nil {
		return fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	return nil
}

func (n *node) save() error {
	b, err := json.Marshal(n.rec)
	if err == nil {
		err = write(n.dir, stateFile, b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("record state: %w", err)
	}
	return nil
}

// adopt takes over the recorded process if one of those with its marker is it.
func (n *node) adopt(marked []stat) bool {
	if n.rec.Run == "" || n.rec.Boot != n.r.boot {
		return false
	}
	slices.SortFunc(marked, func(a, b stat) int { return cmp.Compare(a.start, b.start) })
	i := slices.IndexFunc(marked, func(s stat) bool {
		if n.rec.PID == 0 { // the daemon was killed before it could record more
			return s.pid == s.session
		}
		return s.pid == n.rec.PID && s.start == n.rec.Start
	})
	if i < 0 {
		return false
	}
	p, err := openProc(marked[i].pid)
	if err != nil {
		return false
	}
	if p.start != marked[i].start || !p.alive() {
		p.close()
		return false
	}
	p.marker = n.rec.marker(n.dir)
	n.proc = p
	n.rec.PID, n.rec.Start = p.pid, p.start
	n.set(func(s *bsn.NodeStatus) {
		s.State, s.PID, s.Adopted, s.Started = bsn.NodeRunning, p.pid, true, n.rec.Started
	})
	return true
}

func (n *node) start(ctx context.Context, spec bsn.NodeSpec) error {
	hash, encoded, err := hashJSON(spec)
	if err != nil {
		return err
	}
	if n.want == hash {
		return nil
	}
	n.unwatch()
	n.want = ""
	if n.rec.Spec == hash && n.proc != nil && !n.proc.ended() {
		n.want = hash
		n.watch(true)
		return nil
	}
	if spec.Handover && n.spec.Handover && n.proc != nil && !n.proc.ended() {
		return n.replace(ctx, spec, encoded, hash)
	}
	if err := n.halt(ctx); err != nil {
		n.watch(false)
		return fmt.Errorf("start %s anew: %w", n.id, err)
	}
	n.backoff = 0
	n.spec = spec
	err = n.place(encoded)
	if err == nil {
		err = n.prepare(ctx)
	}
	if err == nil {
		err = n.launch(hash)
	}
	if err != nil {
		n.set(func(s *bsn.NodeStatus) { s.State, s.Error = bsn.NodeStopped, err.Error() })
		return fmt.Errorf("start %s: %w", n.id, err)
	}
	n.set(func(s *bsn.NodeStatus) { s.Restarts, s.Error = 0, "" })
	n.want = hash
	n.watch(true)
	return nil
}

func (n *node) place(encoded []byte) error {
	if err := write(n.dir, specFile, encoded, 0o600); err != nil {
		return fmt.Errorf("record specification: %w", err)
	}
	return writeFiles(n.dir, n.spec.Files)
}

// prepare runs the preparation if it is not the one that succeeded last.
func (n *node) prepare(ctx context.Context) error {
	if n.spec.Prepare == nil {
		return nil
	}
	hash, _, err := hashJSON(preparation{n.spec.Binary, n.spec.Prepare, n.spec.Files})
	if err != nil || hash == n.rec.Prepared {
		return err
	}
	p, err := n.run(n.spec.Prepare, n.dir+"#"+rand.Text())
	if err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	defer p.close()
	waited := p.wait(ctx)
	how, err := p.terminate(context.WithoutCancel(ctx), 0)
	if err := errors.Join(waited, err); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	if how != succeeded {
		return fmt.Errorf("prepare: %s", n.lastWords(how))
	}
	n.rec.Prepared = hash
	return n.save()
}

// launch makes the node's process. The record is there before it.
func (n *node) launch(spec string) error {
	n.rec = record{Run: rand.Text(), Boot: n.r.boot, Spec: spec, Prepared: n.rec.Prepared, Started: time.Now()}
	if err := n.save(); err != nil {
		return err
	}
	p, err := n.run(n.spec.Args, n.rec.marker(n.dir))
	if err != nil {
		return err
	}
	n.rec.PID, n.rec.Start = p.pid, p.start
	if err := n.save(); err != nil {
		_, killErr := p.terminate(context.Background(), 0)
		p.close()
		return errors.Join(err, killErr)
	}
	n.proc = p
	n.set(func(s *bsn.NodeStatus) {
		s.State, s.PID, s.Adopted, s.Started = bsn.NodeRunning, p.pid, false, n.rec.Started
	})
	n.r.log.Info("node started", "node", n.id, "pid", p.pid)
	return nil
}

// run makes one process in a session of its own.
func (n *node) run(args []string, marker string) (*proc, error) {
	out, err := n.logs.open()
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(n.spec.Binary, args...)
	cmd.Dir = n.dir
	cmd.Env = environment(n.spec, n.dir, marker)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("run %s: %w", n.spec.Binary, err)
	}
	// It cannot vanish before reap: it is a child that nobody else waits for.
	p, err := openProc(cmd.Process.Pid)
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return nil, err
	}
	cmd.Process.Release()
	p.marker = marker
	return p, nil
}

// lastWords is how a node ended with what it wrote before.
func (n *node) lastWords(how string) string {
	if last := n.logs.last(); last != "" {
		return how + ":\n" + last
	}
	return how + ", and it wrote nothing"
}

// watch follows the node's process until unwatch or Close, and if it is wanted
// starts it again whenever it ends.
func (n *node) watch(wanted bool) {
	ctx, cancel := context.WithCancel(n.r.ctx)
	done := make(chan struct{})
	n.unwatch = func() {
		cancel()
		<-done
	}
	n.r.work.Go(func() {
		defer close(done)
		defer cancel()
		for n.follow(ctx, wanted) {
		}
	})
}

// follow sees one run to its end and the next one to its start; false ends it.
func (n *node) follow(ctx context.Context, wanted bool) bool {
	if n.proc != nil {
		if err := n.proc.wait(ctx); err != nil {
			if ctx.Err() != nil {
				return false
			}
			n.r.log.Error("cannot watch a node", "node", n.id, "error", err)
			time.Sleep(firstDelay)
			return true
		}
		how, err := n.proc.terminate(ctx, 0) // what it leaves would be in the way of the next
		if ctx.Err() != nil {
			return false
		}
		if err != nil {
			n.r.log.Error("cannot end what a node left behind", "node", n.id, "error", err)
			how = n.proc.reap()
		}
		n.proc.close()
		n.proc = nil
		words := n.lastWords(how)
		n.set(func(s *bsn.NodeStatus) { s.State, s.PID, s.Error = bsn.NodeStopped, 0, words })
		first, _, _ := strings.Cut(words, ":\n")
		n.r.log.Warn("node ended by itself", "node", n.id, "how", first)
	}
	if !wanted {
		return false
	}
	delay := n.backoff.next(time.Since(n.rec.Started))
	n.set(func(s *bsn.NodeStatus) { s.State = bsn.NodeBackoff })
	select {
	case <-ctx.Done():
		return false
	case <-time.After(delay):
	}
	err := writeFiles(n.dir, n.spec.Files)
	if err == nil {
		err = n.launch(n.rec.Spec)
	}
	n.set(func(s *bsn.NodeStatus) {
		s.Restarts++
		if err != nil {
			s.Error = err.Error()
		}
	})
	return true
}

// stop ends the node's process and everything that it started.
func (n *node) stop(ctx context.Context) error {
	n.unwatch()
	n.want = ""
	if err := n.halt(ctx); err != nil {
		n.watch(false)
		return fmt.Errorf("stop %s: %w", n.id, err)
	}
	n.set(func(s *bsn.NodeStatus) { s.State = bsn.NodeStopped })
	if n.rec.Run == "" {
		return nil
	}
	n.rec = record{Spec: n.rec.Spec, Prepared: n.rec.Prepared}
	if err := n.save(); err != nil {
		return fmt.Errorf("stop %s: %w", n.id, err)
	}
	return nil
}

// halt ends the process, if there is one. The watcher must have ended before.
func (n *node) halt(ctx context.Context) error {
	if n.proc == nil {
		return nil
	}
	grace := n.spec.StopTimeout
	if grace == 0 {
		grace = stopTimeout
	}
	how, err := n.proc.terminate(ctx, grace)
	if err != nil {
		return err
	}
	n.proc.close()
	n.proc = nil
	n.set(func(s *bsn.NodeStatus) { s.State, s.PID, s.Adopted = bsn.NodeStopped, 0, false })
	n.r.log.Info("node stopped", "node", n.id, "how", how)
	return nil
}
