package gateway

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// hash of a block or topic.
type hash [32]byte

func (h hash) String() string { return "0x" + hex.EncodeToString(h[:]) }

// parseHash reads a JSON string of 32 bytes in hex.
func parseHash(text []byte) (h hash, err error) {
	if len(text) != 68 || string(text[:3]) != `"0x` {
		return h, fmt.Errorf("%s is no hash", clip(text))
	}
	if _, err := hex.Decode(h[:], text[3:67]); err != nil {
		return h, fmt.Errorf("%s is no hash", clip(text))
	}
	return h, nil
}

// block is one block of a chain, as subscribers hear of it. Its logs are there
// once they have been asked for; nothing else ever changes.
type block struct {
	number  int64
	hash    hash
	parent  hash
	head    []byte // JSON, as a notification of newHeads carries it
	bloom   bool   // the head has a bloom filter, and
	noLogs  bool   // it says that there are no logs
	entries []entry
	loaded  bool // entries are known
}

// entry is one log of a block.
type entry struct {
	text    []byte // JSON, as the node sent it
	index   int    // in the block
	address [20]byte
	topics  []hash
}

// bodies are the members that a block has beside those of its header.
var bodies = []string{`"transactions"`, `"uncles"`, `"withdrawals"`}

// parseBlock reads a header or a block. Of a block only the header is kept.
func parseBlock(text []byte) (*block, error) {
	b := &block{}
	var number, own, parent, bloom []byte
	head := make([]byte, 0, min(len(text), 4<<10))
	start := skipSpace(text, 0)
	if start >= len(text) || text[start] != '{' {
		return nil, fmt.Errorf("%s is no block", clip(text))
	}
	_, err := scanObject(text, start, maxAnswerDepth, func(name, value []byte) error {
		switch string(name) {
		case `"number"`:
			number = value
		case `"hash"`:
			own = value
		case `"parentHash"`:
			parent = value
		case `"logsBloom"`:
			bloom = value
		}
		if slices.Contains(bodies, string(name)) {
			return nil
		}
		sep := byte(',')
		if len(head) == 0 {
			sep = '{'
		}
		head = append(append(append(append(head, sep), name...), ':'), value...)
		return nil
	})
	if err == nil {
		b.number, err = parseQuantity(number)
	}
	if err == nil {
		b.hash, err = parseHash(own)
	}
	if err == nil {
		b.parent, err = parseHash(parent)
	}
	if err != nil {
		return nil, fmt.Errorf("read block: %w", err)
	}
	b.head = append(head, '}')
	b.bloom = bloom != nil
	b.noLogs = len(bloom) > 4 && len(bytes.Trim(bloom[3:len(bloom)-1], "0")) == 0
	return b, nil
}

// parseLogs reads the logs of a block in the order in which they were written.
func parseLogs(text []byte, of hash) ([]entry, error) {
	var list []entry
	start := skipSpace(text, 0)
	if start >= len(text) || text[start] != '[' {
		return nil, fmt.Errorf("%s is no list of logs", clip(text))
	}
	_, err := scanArray(text, start, maxAnswerDepth, func(value []byte) error {
		e, in, err := parseLog(value)
		if err == nil && in != of {
			err = fmt.Errorf("log is of block %v", in)
		}
		list = append(list, e)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read logs of block %v: %w", of, err)
	}
	slices.SortStableFunc(list, func(a, b entry) int { return a.index - b.index })
	return list, nil
}

func parseLog(text []byte) (e entry, in hash, err error) {
	if text[0] != '{' {
		return e, in, errSyntax
	}
	e.text = bytes.Clone(text)
	seen := 0
	_, err = scanObject(text, 0, maxAnswerDepth, func(name, value []byte) error {
		var err error
		switch string(name) {
		case `"address"`:
			seen++
			if len(value) != 44 {
				return fmt.Errorf("%s is no address", clip(value))
			}
			_, err = hex.Decode(e.address[:], value[3:43])
		case `"topics"`:
			seen++
			if value[0] != '[' {
				return errSyntax
			}
			_, err = scanArray(value, 0, 1, func(topic []byte) error {
				h, err := parseHash(topic)
				e.topics = append(e.topics, h)
				return err
			})
		case `"logIndex"`:
			seen++
			var i int64
			i, err = parseQuantity(value)
			e.index = int(i)
		case `"blockHash"`:
			seen++
			in, err = parseHash(value)
		}
		return err
	})
	if err == nil && seen != 4 {
		err = errors.New("log lacks address, topics, logIndex or blockHash")
	}
	return e, in, err
}

// removed is the log's JSON as it is sent when its block is abandoned.
func (e entry) removed() []byte {
	const member = `"removed"`
	out := make([]byte, 0, len(e.text)+16)
	_, _ = scanObject(e.text, 0, maxAnswerDepth, func(name, value []byte) error { // it has been scanned before
		if string(name) == member {
			return nil
		}
		sep := byte(',')
		if len(out) == 0 {
			sep = '{'
		}
		out = append(append(append(append(out, sep), name...), ':'), value...)
		return nil
	})
	return append(out, `,"removed":true}`...)
}

// whole is the number of logs that stands for all of a block, its head included.
const whole = -1

// position is how far a subscriber has come: it has heard of all blocks up to
// this one, and of this one's first logs, or of all of it. Within a block the logs
// come first and then the head.
type position struct {
	number int64
	hash   hash
	logs   int // how many, counted by their index in the block; or whole
}

// cursor is a position as clients keep it. It names a place in the chain and
// nothing of this gateway, so that every city's gateway knows what it means.
func (p position) cursor() string {
	b := make([]byte, 0, 96)
	b = strconv.AppendInt(b, p.number, 16)
	b = append(b, '-')
	b = hex.AppendEncode(b, p.hash[:])
	if p.logs != whole {
		b = strconv.AppendInt(append(b, '-'), int64(p.logs), 10)
	}
	return string(b)
}

func parseCursor(s string) (position, error) {
	bad := errors.New(`cursor is none that this network's gateways gave: take "cursor" from the params of a notification`)
	if len(s) > 128 {
		return position{}, bad
	}
	parts := strings.Split(s, "-")
	if len(parts) < 2 || len(parts) > 3 || len(parts[1]) != 64 {
		return position{}, bad
	}
	number, err := strconv.ParseUint(parts[0], 16, 63)
	if err != nil {
		return position{}, bad
	}
	p := position{number: int64(number), logs: whole}
	if _, err := hex.Decode(p.hash[:], []byte(parts[1])); err != nil {
		return position{}, bad
	}
	if len(parts) == 3 {
		n, err := strconv.ParseUint(parts[2], 10, 31)
		if err != nil {
			return position{}, bad
		}
		p.logs = int(n)
	}
	return p, nil
}

// before is the position in front of a block.
func (b *block) before() position { return position{b.number - 1, b.parent, whole} }

// after is the position behind it.
func (b *block) after() position { return position{b.number, b.hash, whole} }
