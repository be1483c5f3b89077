package gateway

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
	"github.com/gobwas/ws"
	"github.com/openbsn/bsn/gateway/http1"
)

const (
	// frameBuffer is what is kept for reading from each client: most wait, so that
	// it is small. Larger messages are read past it.
	frameBuffer = 512
	// frameStep is how much room is made ahead of the bytes of a message, so that
	// a length that is claimed costs nothing before the bytes have come.
	frameStep = 64 << 10
)

// closing is why a connection has to end: the client's doing.
type closing struct {
	code   websocket.StatusCode
	reason string
}

func (c *closing) Error() string { return fmt.Sprintf("connection ends: %d %s", c.code, c.reason) }

// errLeft means that the client has closed the connection.
var errLeft = errors.New("client has closed the connection")

// frames reads what a client sends on a WebSocket (RFC 6455).
type frames struct {
	r     *bufio.Reader
	limit int64        // of a message, in bytes
	room  http1.Room   // for it while it is read
	heard atomic.Int64 // when the client last sent anything, Unix nanoseconds
	head  [ws.MaxHeaderSize]byte
}

// next returns the next message. Control frames that come before it are given to
// control, whose error ends the reading. A closing says what the client did wrong.
func (f *frames) next(control func(op ws.OpCode, payload []byte) error) ([]byte, error) {
	var message []byte
	state := ws.StateServerSide
	text := false
	taken := int64(0)
	defer func() {
		if taken > 0 {
			f.room.Give(taken)
		}
	}()
	for {
		h, err := ws.ReadHeaderBuffer(f.r, f.head[:])
		if err != nil {
			return nil, err
		}
		f.heard.Store(time.Now().UnixNano())
		if err := ws.CheckHeader(h, state); err != nil {
			return nil, &closing{websocket.StatusProtocolError, err.Error()}
		}
		if h.OpCode.IsControl() {
			payload := make([]byte, h.Length)
			if _, err := io.ReadFull(f.r, payload); err != nil {
				return nil, err
			}
			ws.Cipher(payload, h.Mask, 0)
			if err := control(h.OpCode, payload); err != nil {
				return nil, err
			}
			continue
		}
		if h.Length > f.limit-int64(len(message)) {
			return nil, &closing{websocket.StatusMessageTooBig, fmt.Sprintf("message is larger than %d bytes", f.limit)}
		}
		text = text || h.OpCode == ws.OpText
		start := len(message)
		for left := h.Length; left > 0; {
			at := len(message)
			if at > 0 {
				if !f.room.Take(min(left, frameStep)) {
					return nil, &closing{websocket.StatusTryAgainLater, closeMemory}
				}
				taken += min(left, frameStep)
			}
			message = append(message, make([]byte, min(left, frameStep))...)
			if _, err := io.ReadFull(f.r, message[at:]); err != nil {
				return nil, err
			}
			left -= int64(len(message) - at)
		}
		ws.Cipher(message[start:], h.Mask, 0)
		if !h.Fin {
			state = state.Set(ws.StateFragmented)
			continue
		}
		if text && !utf8.Valid(message) {
			return nil, &closing{websocket.StatusInvalidFramePayloadData, "text is not UTF-8"}
		}
		return message, nil
	}
}

// appendFrame appends the header of a frame from the server, whole and not masked.
func appendFrame(b []byte, op ws.OpCode, length int) []byte {
	b = append(b, 0x80|byte(op))
	switch {
	case length < 126:
		return append(b, byte(length))
	case length < 1<<16:
		return append(b, 126, byte(length>>8), byte(length))
	}
	b = append(b, 127)
	for shift := 56; shift >= 0; shift -= 8 {
		b = append(b, byte(uint64(length)>>shift))
	}
	return b
}

// upgrade makes a WebSocket of a request and returns the connection, which is
// nobody else's from then on, and a reader of it that holds what the client has
// sent already. The server's buffers are given up: of ten thousand connections that
// wait, they would be most of the memory. If it fails, it has answered.
func upgrade(w http.ResponseWriter, r *http.Request) (net.Conn, *bufio.Reader, error) {
	conn, rw, _, err := ws.HTTPUpgrader{Timeout: socketWrite, Header: w.Header()}.Upgrade(r, w)
	if err != nil {
		if conn != nil {
			conn.Close()
		}
		return nil, nil, fmt.Errorf("upgrade to WebSocket: %w", err)
	}
	var source io.Reader = conn
	if n := rw.Reader.Buffered(); n > 0 {
		early, err := rw.Reader.Peek(n)
		if err != nil {
			conn.Close()
			return nil, nil, fmt.Errorf("upgrade to WebSocket: %w", err)
		}
		source = io.MultiReader(bytes.NewReader(bytes.Clone(early)), conn)
	}
	return conn, bufio.NewReaderSize(source, frameBuffer), nil
}
