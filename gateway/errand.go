package gateway

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openbsn/bsn/gateway/http1"
)

// errand is the context of a read that is on its way to the nodes. It ends at its time,
// or when who asked has gone and nobody else waits for the answer.
type errand struct {
	bounded // over what does not end
	client  *http1.Presence
	flights *flights
	hash    uint64
	left    atomic.Bool

	mu     sync.Mutex
	flight *flight       // nil once the read is over
	wait   http1.Waiting // who waits for a node
}

// idleErrands are those that nothing was derived from, to be used again.
var idleErrands = sync.Pool{New: func() any { return new(errand) }}

// errandTime bounds one whose caller sets no time.
const errandTime = time.Minute

// newErrand makes the context for the first who asks, whose own is ctx. It names the
// project if the call is forwarded to another city. To be called in the end: finish.
// Without a client of its own the caller is to see to it that it is interrupted.
func (s *chainState) newErrand(ctx context.Context, project string, forwards bool, hash uint64, f *flight) *errand {
	e := idleErrands.Get().(*errand)
	var ok bool
	if e.at, ok = ctx.Deadline(); !ok {
		e.at = time.Now().Add(errandTime)
	}
	e.flights, e.hash, e.flight = &s.flights, hash, f
	e.client, ok = beneath(ctx).(*http1.Presence)
	if e.Context = context.Background(); !ok { // a presence has nothing to say but that it ends
		e.Context = context.WithoutCancel(ctx)
	}
	if forwards {
		e.Context = context.WithValue(e.Context, projectKey{}, project)
	}
	if e.client != nil {
		e.client.Enter(e)
	}
	return e
}

// finish ends it, before its flight lands.
func (e *errand) finish() {
	if e.client != nil {
		e.client.Leave(e)
	}
	e.end()
	e.mu.Lock()
	e.flight = nil
	e.mu.Unlock()
	if e.client != nil && e.timed.Load() == nil && !e.left.Load() {
		// Nobody has it any more: it was told to the client alone, and no context was
		// made of it.
		e.Context, e.client, e.flights = nil, nil, nil
		idleErrands.Put(e)
	}
}

// beneath is what may end a context before its time.
func beneath(ctx context.Context) context.Context {
	if b, ok := ctx.(*bounded); ok {
		return b.Context
	}
	return ctx
}

// Interrupt implements http1.Waiting: who asked has gone.
func (e *errand) Interrupt() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.flight == nil || !e.flights.abandon(e.hash, e.flight) {
		return
	}
	e.left.Store(true)
	if t := e.timed.Load(); t != nil {
		t.cancel()
	}
	if e.wait != nil {
		e.wait.Interrupt()
	}
}

// Done implements context.Context.
func (e *errand) Done() <-chan struct{} {
	done := e.bounded.Done()
	if e.left.Load() { // perhaps before it was made
		e.timed.Load().cancel()
	}
	return done
}

// Err implements context.Context.
func (e *errand) Err() error {
	if e.left.Load() {
		return context.Canceled
	}
	return e.bounded.Err()
}

// AfterFunc is how contexts that are made of this one wait for its end.
func (e *errand) AfterFunc(f func()) (stop func() bool) {
	e.Done()
	return e.bounded.AfterFunc(f)
}

// Enter implements http1.Bound.
func (e *errand) Enter(w http1.Waiting) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.wait = w; e.left.Load() {
		w.Interrupt()
	}
}

// Leave implements http1.Bound.
func (e *errand) Leave() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wait = nil
}

// without is the answer when the caller's time is over, or the caller has gone: then
// nobody hears it.
func without(ctx context.Context, p *pool) answer {
	a := unavailable(ctx, p.chain, nil)
	if errors.Is(ctx.Err(), context.Canceled) {
		a = refuse(outcomeLeft, codeUnavailable, "the caller has gone").with(http.StatusServiceUnavailable)
	}
	return a
}
