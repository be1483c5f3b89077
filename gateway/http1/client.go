package http1

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"os"
	"strconv"
	"sync"
	"time"
)

const (
	dialTimeout = 2 * time.Second
	// idleKept and idleFor bound the connections that are kept while unused.
	idleKept = 512
	idleFor  = 90 * time.Second
	// maxAnswerHead bounds the header of an answer.
	maxAnswerHead = 64 << 10
	// drained is how much of an answer that nobody wants is read so that its
	// connection can be used again.
	drained = 4 << 10
)

// ErrAnswerTooLarge says that an answer has more bytes than were asked for.
var ErrAnswerTooLarge = errors.New("answer is too large")

// Client posts to one address in plain HTTP/1.1, over connections that it keeps. It
// follows no redirect. The zero value is not usable; make one with NewClient.
type Client struct {
	// Room is where answers are read into; nil for no bound. It is set before the first
	// request.
	Room Room

	address string
	head    []byte // up to the number of Content-Length

	mu   sync.Mutex
	idle []*link // the newest last
	busy *link   // the first of a list
	dead bool    // mortal requests are not sent
	gone bool
}

// NewClient makes a client of a host:port, which posts to the target (a path and
// query) with the given header lines, each with its CRLF.
func NewClient(address, host, target, lines string) *Client {
	head := "POST " + target + " HTTP/1.1\r\nHost: " + host + "\r\n" + lines + "Content-Length: "
	return &Client{address: address, head: []byte(head)}
}

// Answer is what came back.
type Answer struct {
	Status     int
	RetryAfter string // the header field, if the status is not 200
	// Body is the caller's to keep. It is read if the status is 200.
	Body []byte
	// Taken is the room that it has, which the caller is to give back.
	Taken int64
}

// Bound is a context that tells the one who waits for it, if it ends before its
// deadline, at less cost than a goroutine or a channel.
type Bound interface {
	context.Context
	// Enter has Interrupt called if the context is cancelled before Leave, at once if it
	// has been.
	Enter(Waiting)
	// Leave takes that back. Interrupt has returned by then, or is not called.
	Leave()
}

// Post sends a body and returns the answer of at most limit bytes. A request that
// found its connection closed by the other side before it said anything is sent once
// more on a fresh one: what is posted here may arrive twice. Mortal requests end when
// [Client.Abort] is called, and fail until [Client.Revive] is.
func (c *Client) Post(ctx context.Context, body []byte, limit int64, mortal bool) (Answer, error) {
	for fresh := false; ; fresh = true {
		l, err := c.get(ctx, fresh, mortal)
		if err != nil {
			return Answer{}, err
		}
		a, reusable, err := l.exchange(ctx, c, body, limit)
		c.put(l, reusable && err == nil)
		if err == nil {
			return a, nil
		}
		if ctx.Err() != nil {
			return a, ctx.Err()
		}
		if !l.used || l.heard || l.aborted || errors.Is(err, ErrNoRoom) || errors.Is(err, os.ErrDeadlineExceeded) {
			return a, err
		}
	}
}

// Revive lets mortal requests pass again.
func (c *Client) Revive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = false
}

// Abort ends the mortal requests that wait for an answer.
func (c *Client) Abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = true
	for l := c.busy; l != nil; l = l.next {
		switch {
		case !l.mortal:
			continue
		case l.nc == nil:
			l.cancel()
		default:
			_ = l.nc.SetDeadline(past)
		}
		l.aborted = true
	}
}

// Close closes what is idle now, and each other connection after its request.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	for _, l := range c.idle {
		l.nc.Close()
	}
	c.idle = nil
}

// link is a connection to the node.
type link struct {
	nc     net.Conn           // set under the client's mutex; nil while it is made
	cancel context.CancelFunc // of making it
	reader *bufio.Reader
	out    []byte
	by     time.Time // the deadline that is set
	since  time.Time // when the last request was sent
	used   bool      // before the present request
	heard  bool      // something of the present answer has come
	cut    bool      // its deadline was cut by who asked

	// Under the client's mutex.
	next, prev *link
	mortal     bool
	aborted    bool
}

var errAborted = errors.New("node was given up")

// get takes an idle connection, or makes one.
func (c *Client) get(ctx context.Context, fresh, mortal bool) (*link, error) {
	var l *link
	c.mu.Lock()
	if mortal && c.dead {
		c.mu.Unlock()
		return nil, errAborted
	}
	if n := len(c.idle); n > 0 && !fresh {
		l = c.idle[n-1]
		c.idle[n-1] = nil
		c.idle = c.idle[:n-1]
		l.used = true
		c.enlist(l, mortal)
	}
	c.mu.Unlock()
	if l != nil {
		return l, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l = &link{cancel: cancel}
	c.mu.Lock()
	c.enlist(l, mortal)
	if l.aborted = mortal && c.dead; l.aborted {
		cancel()
	}
	c.mu.Unlock()
	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}
	nc, err := dialer.DialContext(ctx, "tcp", c.address)
	c.mu.Lock()
	if l.aborted {
		if err == nil {
			nc.Close()
		}
		err = errAborted
	}
	if err != nil {
		c.delist(l)
	} else {
		l.nc, l.reader = nc, bufio.NewReaderSize(nc, 4<<10)
	}
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return l, nil
}

// enlist needs mu.
func (c *Client) enlist(l *link, mortal bool) {
	l.mortal, l.aborted, l.heard = mortal, false, false
	if l.next = c.busy; l.next != nil {
		l.next.prev = l
	}
	c.busy = l
}

// delist needs mu.
func (c *Client) delist(l *link) {
	if l.prev != nil {
		l.prev.next = l.next
	} else {
		c.busy = l.next
	}
	if l.next != nil {
		l.next.prev = l.prev
	}
	l.next, l.prev = nil, nil
}

// put takes a connection back.
func (c *Client) put(l *link, reusable bool) {
	now := l.since
	c.mu.Lock()
	c.delist(l)
	keep := reusable && !l.aborted && !c.gone && len(c.idle) < idleKept
	if keep {
		c.idle = append(c.idle, l)
	}
	var old *link // one at a time is enough: nodes are polled
	if len(c.idle) > 0 && now.Sub(c.idle[0].since) > idleFor {
		old = c.idle[0]
		c.idle = append(c.idle[:0], c.idle[1:]...)
	}
	c.mu.Unlock()
	if !keep {
		l.nc.Close()
	}
	if old != nil {
		old.nc.Close()
	}
}

// exchange sends one request and reads its answer.
func (l *link) exchange(ctx context.Context, c *Client, body []byte, limit int64) (a Answer, reusable bool, err error) {
	l.since = time.Now()
	if by, ok := ctx.Deadline(); ok {
		// Setting it costs much: it may be up to an eighth later.
		if slack := by.Sub(l.since) / 8; l.by.Before(by) || l.by.After(by.Add(slack)) {
			l.by = by.Add(slack)
			_ = l.nc.SetDeadline(l.by)
		}
	} else if !l.by.IsZero() {
		l.by = time.Time{}
		_ = l.nc.SetDeadline(l.by)
	}
	if b, ok := ctx.(Bound); ok {
		l.cut = false
		b.Enter(l)
		defer func() {
			b.Leave()
			reusable = reusable && !l.cut
		}()
	} else if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() { _ = l.nc.SetDeadline(past) })
		defer func() {
			if !stop() {
				reusable = false // its deadline may be cut at any moment
			}
		}()
	}
	l.out = strconv.AppendInt(append(l.out[:0], c.head...), int64(len(body)), 10)
	l.out = append(l.out, "\r\n\r\n"...)
	whole := len(body) <= joined
	if whole {
		l.out = append(l.out, body...)
	}
	if _, err := l.nc.Write(l.out); err != nil {
		return a, false, l.explain(err)
	}
	if !whole {
		if _, err := l.nc.Write(body); err != nil {
			return a, false, l.explain(err)
		}
	}
	if a, reusable, err = l.read(limit, c.Room); err != nil {
		return a, false, l.explain(err)
	}
	// What nobody asked for must not become the answer to the next request.
	return a, reusable && l.reader.Buffered() == 0, nil
}

// Interrupt implements Waiting.
func (l *link) Interrupt() {
	l.cut = true
	_ = l.nc.SetDeadline(past)
}

// explain tells a cut deadline from one that was reached.
func (l *link) explain(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if time.Now().Before(l.by) || l.by.IsZero() {
			return errAborted
		}
		return context.DeadlineExceeded
	}
	return err
}

func (l *link) read(limit int64, room Room) (a Answer, reusable bool, err error) {
	for {
		var h answerHead
		if err = l.readHead(&h); err != nil {
			return a, false, err
		}
		if h.status >= 100 && h.status < 200 && h.status != 101 {
			continue // only told
		}
		a.Status = h.status
		if h.status != 200 {
			a.RetryAfter = h.retryAfter
			if h.status == 101 || h.chunked || h.length < 0 || h.length > drained {
				return a, h.status == 204 || h.status == 304, nil
			}
			_, err = l.reader.Discard(int(h.length))
			return a, !h.close, err
		}
		if !h.chunked { // without a length up to the end of the connection
			a.Body, a.Taken, err = ReadBody(l.reader, h.length, limit, room)
			return a, !h.close && h.length >= 0, err
		}
		if a.Body, a.Taken, err = ReadBody(httputil.NewChunkedReader(l.reader), -1, limit, room); err != nil {
			return a, false, err
		}
		// Fields after the body are not read, and neither is what follows them.
		line, err := l.line()
		if err != nil && a.Taken > 0 {
			room.Give(a.Taken)
		}
		return a, !h.close && len(line) == 0, err
	}
}

type answerHead struct {
	status     int
	length     int64 // -1: not given
	chunked    bool
	close      bool
	retryAfter string
}

var errMalformed = errors.New("node's answer is not HTTP")

func (l *link) readHead(h *answerHead) error {
	*h = answerHead{length: -1}
	line, err := l.line()
	if err != nil {
		return err
	}
	// HTTP/1.1 200 OK
	version, rest, _ := bytes.Cut(line, []byte{' '})
	old := string(version) == "HTTP/1.0"
	if !old && string(version) != "HTTP/1.1" || len(rest) < 3 || len(rest) > 3 && rest[3] != ' ' {
		return errMalformed
	}
	for _, c := range rest[:3] {
		if c < '0' || c > '9' {
			return errMalformed
		}
		h.status = 10*h.status + int(c-'0')
	}
	if h.status < 100 {
		return errMalformed
	}
	h.close = old
	for size := 0; ; {
		if line, err = l.line(); err != nil {
			return err
		}
		if len(line) == 0 {
			break
		}
		if size += len(line) + 2; size > maxAnswerHead {
			return fmt.Errorf("header of the node's answer has more than %d bytes", maxAnswerHead)
		}
		name, value, ok := bytes.Cut(line, []byte{':'})
		if !ok {
			return errMalformed
		}
		value = trim(value)
		switch {
		case equalFold(name, "content-length"):
			n, why := readLength(value)
			if why != nil || h.length >= 0 && h.length != n {
				return errMalformed
			}
			h.length = n
		case equalFold(name, "transfer-encoding"):
			if h.chunked || !equalFold(value, "chunked") {
				return errMalformed
			}
			h.chunked = true
		case equalFold(name, "connection"):
			var c head
			c.readConnection(value)
			h.close = h.close || c.close
		case equalFold(name, "retry-after"):
			h.retryAfter = string(value)
		}
	}
	if h.chunked && h.length >= 0 {
		return errMalformed
	}
	return nil
}

// line reads a line without its end.
func (l *link) line() ([]byte, error) {
	line, err := l.reader.ReadSlice('\n')
	if len(line) > 0 {
		l.heard = true
	}
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, fmt.Errorf("a line of the node's header has more than %d bytes", l.reader.Size())
	case errors.Is(err, io.EOF) && len(line) > 0:
		return nil, io.ErrUnexpectedEOF
	case err != nil:
		return nil, err
	}
	line, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok {
		return nil, errMalformed
	}
	return line, nil
}
