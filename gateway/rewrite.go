package gateway

import (
	"bytes"

	"github.com/openbsn/bsn"
)

var latest = []byte(`"latest"`)

// rewriteTags returns params with the block tags finalized and safe replaced by
// latest where the method names a block. If there are none, it returns params
// itself; all other bytes stay as they are.
func rewriteTags(m bsn.Method, params []byte) []byte {
	if m.Block == 0 && m.Filter == 0 || len(params) == 0 || params[0] != '[' || !mayHoldTag(params) {
		return params
	}
	out := splicer{text: params}
	position := 0
	// The params have been scanned before, so that this walk cannot fail.
	_, _ = scanArray(params, 0, maxRequestDepth, func(value []byte) error {
		position++
		if position == m.Block {
			out.tag(value)
			out.tags(value, "blockNumber") // EIP-1898
		}
		if position == m.Filter {
			out.tags(value, "fromBlock", "toBlock")
		}
		return nil
	})
	return out.done()
}

// mayHoldTag is a quick look that spares most calls the walk.
func mayHoldTag(params []byte) bool {
	return bytes.Contains(params, []byte("finalized")) || bytes.Contains(params, []byte("safe")) ||
		bytes.IndexByte(params, '\\') >= 0
}

// splicer copies a text with some of its parts replaced by latest. Parts are
// slices of the text, in order.
type splicer struct {
	text []byte
	out  []byte
	from int // of text, what has been copied or replaced
}

func (s *splicer) tag(value []byte) {
	if value[0] != '"' {
		return
	}
	if t := unquote(value); t != "finalized" && t != "safe" {
		return
	}
	// Value shares the text's array, so that the capacities tell where it begins.
	start := cap(s.text) - cap(value)
	s.out = append(append(s.out, s.text[s.from:start]...), latest...)
	s.from = start + len(value)
}

// tags replaces tags in the named members of an object.
func (s *splicer) tags(value []byte, names ...string) {
	if value[0] != '{' {
		return
	}
	_, _ = scanObject(value, 0, maxRequestDepth, func(name, value []byte) error {
		n := unquote(name)
		for _, want := range names {
			if n == want {
				s.tag(value)
			}
		}
		return nil
	})
}

func (s *splicer) done() []byte {
	if s.out == nil {
		return s.text
	}
	return append(s.out, s.text[s.from:]...)
}
