package http1

import (
	"errors"
	"io"
)

// Room bounds the memory that requests and answers take while they are read and sent.
type Room interface {
	// Take tells whether there is room for so many bytes more, and takes it.
	Take(n int64) bool
	// Hold takes it in any case, for what is there already.
	Hold(n int64)
	// Give gives it back.
	Give(n int64)
}

// ErrNoRoom says that there is no memory for a request or an answer now.
var ErrNoRoom = errors.New("there is no memory for it now")

// roomy is up to which size something is read whether there is room or not.
const roomy = 16 << 10

// ReadBody reads an answer of a length that is known, or of at most limit bytes if it is
// -1, into memory of its own. Taken is the room that it has then, which is the caller's
// to give back, and 0 after an error. Room may be nil.
func ReadBody(r io.Reader, length, limit int64, room Room) (text []byte, taken int64, err error) {
	switch {
	case length > limit:
		return nil, 0, ErrAnswerTooLarge
	case length < 0:
		text, taken, err = readAll(r, limit, room)
	default:
		if length > roomy && room != nil {
			if !room.Take(length) {
				return nil, 0, ErrNoRoom
			}
			taken = length
		}
		text = make([]byte, length)
		_, err = io.ReadFull(r, text)
	}
	if err != nil && taken > 0 {
		room.Give(taken)
		taken = 0
	}
	return text, taken, err
}

func readAll(r io.Reader, limit int64, room Room) (text []byte, taken int64, err error) {
	text = make([]byte, 0, 4<<10)
	for {
		if len(text) == cap(text) {
			more := 2 * int64(cap(text))
			counted := room != nil && more > roomy
			if counted && !room.Take(more) {
				return nil, taken, ErrNoRoom
			}
			text = append(make([]byte, 0, more), text...)
			if counted {
				room.Give(taken)
				taken = more
			}
		}
		n, err := r.Read(text[len(text):cap(text)])
		text = text[:len(text)+n]
		switch {
		case int64(len(text)) > limit:
			return nil, taken, ErrAnswerTooLarge
		case errors.Is(err, io.EOF):
			return text, taken, nil
		case err != nil:
			return nil, taken, err
		}
	}
}
