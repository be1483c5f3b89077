package gateway

import (
	"errors"
	"sync"

	"github.com/coder/websocket"
	"github.com/gobwas/ws"
)

const (
	// socketQueue is how many bytes wait for a slow reader, and socketMessages how
	// many messages. Answers beyond that wait with their call; a notification
	// beyond it ends the connection.
	socketQueue    = 8 << 20
	socketMessages = 32 << 10

	// writeChunk is how many bytes are collected for one write.
	writeChunk = 16 << 10
	// itemCost is added to a message's length, so that small ones are bounded too.
	itemCost = 64
)

var (
	errSlow   = errors.New("reader is too slow")
	errMemory = errors.New("there is no memory for what waits")
	errClosed = errors.New("connection has ended")
)

// outgoing is a message on its way to a client.
type outgoing struct {
	op ws.OpCode
	// text is the message. If there is a subscription, it is what follows its id:
	// the bytes are shared by all who are notified of the same.
	text []byte
	sub  *subscription
}

func (o outgoing) len() int {
	if o.sub == nil {
		return len(o.text)
	}
	return len(o.sub.prefix) + len(o.text)
}

// queue holds messages that wait to be written, up to a number of bytes and of
// messages. A message larger than that passes when it is alone. There is no
// writer while nothing waits: whoever is told to start one does.
type queue struct {
	mu       sync.Mutex
	room     sync.Cond
	limit    int
	memory   *memory
	items    []outgoing
	bytes    int
	writing  bool // a writer runs
	finished bool // the last message is in
	closed   bool
}

func (q *queue) init(limit int, m *memory) {
	q.limit, q.memory = limit, m
	q.room.L = &q.mu
}

// push adds a message. If there is no room it waits, or returns errSlow. Start
// says that the caller has to start the writer.
func (q *queue) push(o outgoing, wait bool) (start bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	cost := o.len() + itemCost
	for !q.finished && q.bytes > 0 && (q.bytes+cost > q.limit || len(q.items) >= socketMessages) {
		if !wait {
			return false, errSlow
		}
		q.room.Wait()
	}
	if !wait && q.bytes > 0 && q.memory.full() {
		return false, errMemory // who keeps up does not suffer for those who do not
	}
	if q.finished {
		return false, errClosed
	}
	q.add(o)
	return q.begin(), nil
}

func (q *queue) add(o outgoing) {
	q.items = append(q.items, o)
	q.bytes += o.len() + itemCost
	q.memory.Hold(int64(o.len() + itemCost))
}

// drop forgets what waits.
func (q *queue) drop() {
	q.memory.Give(int64(q.bytes))
	q.items, q.bytes = nil, 0
}

func (q *queue) begin() (start bool) {
	start = !q.writing
	q.writing = true
	return start
}

// finish adds the frame that closes the connection. What waits is dropped, unless there
// is a last message to come after it.
func (q *queue) finish(code websocket.StatusCode, reason string, last []byte) (start bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.finished {
		return false
	}
	q.finished = true
	if last == nil {
		q.drop()
	} else {
		q.add(outgoing{op: ws.OpText, text: last})
	}
	q.add(outgoing{op: ws.OpClose, text: ws.NewCloseFrameBody(ws.StatusCode(code), reason)})
	q.room.Broadcast()
	return q.begin()
}

// take appends to b the frames that go out next, about writeChunk bytes, or else
// the header of one large message whose text is large. Last says that nothing
// comes after. Not ok means that nothing waits and that the writer has to end.
func (q *queue) take(b []byte) (out, large []byte, last, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for ; n < len(q.items) && large == nil && len(b) < writeChunk; n++ {
		o := q.items[n]
		size := o.len()
		if size > writeChunk && len(b) > 0 {
			break
		}
		b = appendFrame(b, o.op, size)
		if o.sub != nil {
			b = append(b, o.sub.prefix...)
		}
		if size > writeChunk {
			large = o.text
		} else {
			b = append(b, o.text...)
		}
		q.bytes -= size + itemCost
		q.memory.Give(int64(size + itemCost))
		last = o.op == ws.OpClose
		q.items[n] = outgoing{}
	}
	if n > 0 {
		q.items = q.items[n:]
		q.room.Broadcast()
		return b, large, last, true
	}
	q.items = nil
	q.writing = false
	q.room.Broadcast()
	return b, nil, false, false
}

// settle waits until all that waits has been written.
func (q *queue) settle() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.closed && (q.writing || len(q.items) > 0) {
		q.room.Wait()
	}
}

// close drops what waits and takes nothing more.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.drop()
	q.finished, q.closed = true, true
	q.room.Broadcast()
}
