package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"github.com/openbsn/bsn"
)

// scope is what the answer to a read depends on.
type scope byte

const (
	// scopeNode: on the node and the moment.
	scopeNode scope = iota
	// scopeStatic: on the chain alone.
	scopeStatic
	// scopeHead: on the newest block.
	scopeHead
	// scopeNumber: on the chain up to the block of a number.
	scopeNumber
	// scopeHash: on a block or transaction that is named by its hash.
	scopeHash
)

// reference is what a request refers to.
type reference struct {
	scope  scope
	number int64 // with scopeNumber
}

var (
	toNode = reference{scope: scopeNode}
	toHead = reference{scope: scopeHead}
	toHash = reference{scope: scopeHash}
)

// refer tells what a request refers to. Params are valid JSON; where it is not
// certain how a node reads them, the answer counts as depending on the node.
func refer(m bsn.Method, params []byte) reference {
	switch m.Cache {
	case bsn.CacheStatic:
		return reference{scope: scopeStatic}
	case bsn.CacheHead:
		return toHead
	case bsn.CacheHash:
		return toHash
	case bsn.CacheBlock:
		return referBlock(m, params)
	}
	return toNode
}

func referBlock(m bsn.Method, params []byte) reference {
	if params == nil {
		return toHead
	}
	if params[0] != '[' {
		return toNode
	}
	at := m.Block + m.Filter // one of them is 0
	if at == 1 && m.Filter == 0 && len(params) > 2 && params[1] == '"' {
		// The usual case, without a walk.
		if end := bytes.IndexByte(params[2:], '"'); end >= 0 {
			return referTag(params[1 : end+3])
		}
	}
	var value []byte
	position := 0
	// The params have been scanned before, so that this walk cannot fail.
	_, _ = scanArray(params, 0, maxRequestDepth, func(v []byte) error {
		if position++; position == at {
			value = v
		}
		return nil
	})
	switch {
	case value == nil:
		return toHead
	case m.Filter > 0:
		return referFilter(value)
	case value[0] == '"':
		return referTag(value)
	case value[0] == '{':
		return referObject(value)
	}
	return toNode
}

// referTag reads a block as a string token: a tag, a number or a hash.
func referTag(token []byte) reference {
	switch string(token) {
	// What is finalized or safe changes with the newest block only.
	case `"latest"`, `"finalized"`, `"safe"`:
		return toHead
	case `"earliest"`:
		return reference{scope: scopeNumber}
	}
	if isHash(token) {
		return toHash
	}
	if n, ok := readQuantity(token); ok {
		return reference{scope: scopeNumber, number: n}
	}
	return toNode
}

// referObject reads a block as an object (EIP-1898).
func referObject(value []byte) reference {
	out, members := toNode, 0
	_, _ = scanObject(value, 0, maxRequestDepth, func(name, v []byte) error {
		switch string(name) {
		case `"blockNumber"`:
			members++
			out = referTag(v)
		case `"blockHash"`:
			members++
			if out = toNode; isHash(v) {
				out = toHash
			}
		case `"requireCanonical"`:
		default:
			members = 2 // an escaped name, perhaps
		}
		return nil
	})
	if members != 1 {
		return toNode
	}
	return out
}

// referFilter reads a log filter: the later one of its ends counts.
func referFilter(value []byte) reference {
	if value[0] != '{' {
		return toNode
	}
	from, to, hash := toHead, toHead, false
	var seen [3]int
	strange := false
	_, _ = scanObject(value, 0, maxRequestDepth, func(name, v []byte) error {
		switch string(name) {
		case `"fromBlock"`:
			seen[0]++
			from = referEnd(v)
		case `"toBlock"`:
			seen[1]++
			to = referEnd(v)
		case `"blockHash"`:
			seen[2]++
			hash = isHash(v)
			strange = strange || !hash
		case `"address"`, `"topics"`:
		default:
			strange = true
		}
		return nil
	})
	switch {
	case strange || seen[0] > 1 || seen[1] > 1 || seen[2] > 1 || seen[2] == 1 && seen[0]+seen[1] > 0:
		return toNode
	case hash:
		return toHash
	case from.scope == scopeNode || to.scope == scopeNode:
		return toNode
	case from.scope == scopeNumber && to.scope == scopeNumber:
		return reference{scope: scopeNumber, number: max(from.number, to.number)}
	}
	return toHead
}

func referEnd(v []byte) reference {
	if string(v) == "null" {
		return toHead
	}
	r := referTag(v)
	if r.scope == scopeHash {
		return toNode
	}
	return r
}

// isHash tells whether a token is a string of 32 bytes in hex.
func isHash(token []byte) bool {
	if len(token) != 68 || token[0] != '"' || token[1] != '0' || token[2] != 'x' {
		return false
	}
	for _, c := range token[3:67] {
		if !hexDigit(c) {
			return false
		}
	}
	return true
}

// readQuantity reads a token that is a hex quantity of the Ethereum JSON-RPC, of 15
// digits at most.
func readQuantity(token []byte) (int64, bool) {
	if len(token) < 5 || len(token) > 19 || token[0] != '"' || token[1] != '0' || token[2] != 'x' || token[len(token)-1] != '"' {
		return 0, false
	}
	n := int64(0)
	for _, c := range token[3 : len(token)-1] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		n = n<<4 | int64(c)
	}
	return n, true
}

var errFound = errors.New("found")

// parseQuantity is readQuantity with an error that says what there was instead.
func parseQuantity(token []byte) (int64, error) {
	n, ok := readQuantity(token)
	if !ok {
		return 0, fmt.Errorf("%s is no hex quantity", clip(token))
	}
	return n, nil
}

// showsBlock returns the number of the block that a result tells of itself, if it
// does: a transaction that is in no block yet does not.
func showsBlock(where bsn.Shows, result []byte) (int64, bool) {
	if where == "" || len(result) == 0 {
		return 0, false
	}
	if where == bsn.ShowsResult {
		return readQuantity(result)
	}
	if result[0] == '[' {
		first := skipSpace(result, 1)
		result = result[first:]
	}
	if len(result) == 0 || result[0] != '{' {
		return 0, false
	}
	var n int64
	found := false
	// The answer has been scanned before; the walk ends where the member is found.
	_, _ = scanObject(result, 0, maxAnswerDepth, func(name, v []byte) error {
		if len(name) == len(where)+2 && string(name[1:len(name)-1]) == string(where) {
			n, found = readQuantity(v)
			return errFound
		}
		return nil
	})
	return n, found
}

// emptyResult tells whether a result says that there is nothing, which may be so
// because a node has not got that far yet, or no more.
func emptyResult(result []byte) bool {
	switch string(result) {
	case "null", "[]", `""`, "{}":
		return true
	}
	return false
}

// appendQuantity appends a hex quantity, quotes included.
func appendQuantity(b []byte, n uint64) []byte {
	b = append(b, `"0x`...)
	b = strconv.AppendUint(b, n, 16)
	return append(b, '"')
}
