package process

import (
	"context"
	"fmt"
	"time"

	"github.com/openbsn/bsn"
)

// handoverTimeout is how long a process may take to take over from another, and that
// one to end.
const handoverTimeout = time.Minute

// replace starts a process beside the one that runs, and returns when that has ended
// because the new one took over. If that does not come about, the old one stays.
func (n *node) replace(ctx context.Context, spec bsn.NodeSpec, encoded []byte, hash string) error {
	old, record, before := n.proc, n.rec, n.spec
	n.spec = spec
	n.proc = nil
	err := n.place(encoded)
	if err == nil {
		err = n.prepare(ctx)
	}
	if err == nil {
		err = n.launch(hash)
	}
	if err == nil {
		err = n.succeed(ctx, old)
	}
	if err == nil {
		n.backoff = 0
		n.set(func(s *bsn.NodeStatus) { s.Restarts, s.Error = 0, "" })
		n.want = hash
		n.watch(true)
		return nil
	}
	err = fmt.Errorf("replace %s: %w", n.id, err)
	if n.proc != nil {
		if _, killed := n.proc.terminate(context.WithoutCancel(ctx), 0); killed != nil {
			n.r.log.Error("cannot end a node that did not take over", "node", n.id, "error", killed)
		}
		n.proc.close()
	}
	// The old one goes on as it was specified.
	n.proc, n.rec, n.spec = old, record, before
	if oldHash, text, failed := hashJSON(before); failed == nil && oldHash == record.Spec {
		if failed := n.place(text); failed != nil {
			n.r.log.Error("cannot record a node again", "node", n.id, "error", failed)
		}
	}
	if failed := n.save(); failed != nil {
		n.r.log.Error("cannot record a node again", "node", n.id, "error", failed)
	}
	n.set(func(s *bsn.NodeStatus) { s.State, s.PID, s.Error = bsn.NodeRunning, old.pid, err.Error() })
	n.watch(true)
	return err
}

// succeed waits until the old process has ended by itself.
func (n *node) succeed(ctx context.Context, old *proc) error {
	ctx, cancel := context.WithTimeout(ctx, handoverTimeout)
	defer cancel()
	first, failed := make(chan error, 1), make(chan error, 1)
	go func() { first <- old.wait(ctx) }()
	go func() { failed <- n.proc.wait(ctx) }()
	var err error
	select {
	case err = <-first:
		cancel()
		<-failed
	case err = <-failed:
		cancel()
		<-first
		if err == nil {
			how, ended := n.proc.terminate(context.WithoutCancel(ctx), 0)
			if ended != nil {
				return ended
			}
			return fmt.Errorf("the new one ended: %s", n.lastWords(how))
		}
	}
	if err != nil {
		return fmt.Errorf("wait until the new one has taken over: %w", err)
	}
	how, err := old.terminate(context.WithoutCancel(ctx), 0) // what it may have left
	if err != nil {
		return err
	}
	old.close()
	n.r.log.Info("node was replaced", "node", n.id, "pid", n.proc.pid, "old", how)
	return nil
}
