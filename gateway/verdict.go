package gateway

import (
	"bytes"
	"strconv"
	"time"
)

// verdict is what becomes of an error that a node answered.
type verdict byte

const (
	// verdictAnswer: any node would say the same, such as a revert or wrong params.
	verdictAnswer verdict = iota
	// verdictMissing: this node has not what was asked for; another may.
	verdictMissing
	// verdictLimited: this node does not want to be asked so much.
	verdictLimited
	// verdictFault: something is wrong with this node.
	verdictFault
)

// Codes of JSON-RPC errors that nodes answer with (JSON-RPC 2.0, EIP-1474).
const (
	nodeInternal    = -32603
	nodeMethod      = -32601
	nodeUnavailable = -32002
	nodeMissing     = -32001
	nodeLimit       = -32005
	nodeServer      = -32000 // anything, told apart by its words only
	nodeTooMany     = 429    // providers put the HTTP status there
	nodeReverted    = 3
)

// Words in nodes' errors, in lower case. There is no standard for them: these are
// those of go-ethereum and its forks, of Nethermind, Besu, Erigon and Reth.
var (
	revertWords = words("revert", "out of gas", "invalid opcode", "stack underflow")
	limitWords  = words("rate limit", "ratelimit", "too many requests", "request limit", "capacity", "quota")
	missWords   = words("header not found", "missing trie node", "block not found", "unknown block", "not available", "pruned",
		"state histories", "no state", "not synced", "is syncing", "could not find block", "requested block", "cannot find",
		"historical state", "unfinalized", "does not exist on", "header for hash not found")
	// tooLargeWords: the question is too large for any node.
	tooLargeWords = words("more than", "block range", "response size", "too large")
	faultWords    = words("timeout", "timed out", "context deadline exceeded", "internal", "overloaded", "try again", "service unavailable")
)

func words(list ...string) [][]byte {
	out := make([][]byte, len(list))
	for i, w := range list {
		out[i] = []byte(w)
	}
	return out
}

// judge reads a JSON-RPC error that a node answered a read with.
func judge(failure []byte) verdict {
	code := 0
	var message []byte
	if len(failure) > 0 && failure[0] == '{' {
		// The answer has been scanned before, so that this walk cannot fail.
		_, _ = scanObject(failure, 0, maxAnswerDepth, func(name, value []byte) error {
			switch string(name) {
			case `"code"`:
				code, _ = strconv.Atoi(string(value))
			case `"message"`:
				message = value
			}
			return nil
		})
	}
	if len(message) > 512 {
		message = message[:512]
	}
	message = bytes.ToLower(message)
	has := func(list [][]byte) bool {
		for _, w := range list {
			if bytes.Contains(message, w) {
				return true
			}
		}
		return false
	}
	switch {
	case code == nodeReverted || has(revertWords):
		return verdictAnswer
	case code == nodeTooMany || has(limitWords):
		return verdictLimited
	case has(tooLargeWords):
		return verdictAnswer
	case code == nodeLimit:
		return verdictLimited
	case code == nodeMethod || code == nodeMissing:
		return verdictMissing
	case code == nodeInternal || code == nodeUnavailable:
		return verdictFault
	case code == nodeServer && has(missWords):
		return verdictMissing
	case code == nodeServer && has(faultWords):
		return verdictFault
	}
	return verdictAnswer
}

const (
	// restFirst and restMax bound for how long a node is left alone that limits us or
	// fails, without saying for how long itself; each further time doubles it.
	restFirst = 2 * time.Second
	restMax   = 30 * time.Second
	// restAsked bounds the time that a node may ask for with Retry-After.
	restAsked = 5 * time.Minute
	// faultsOpen is how many faults in a row open the breaker.
	faultsOpen = 5
)

// rest says for how long a node is left alone the nth time in a row, from 1.
func rest(n int32) time.Duration {
	if n > 6 {
		return restMax
	}
	return min(restFirst<<(max(n, 1)-1), restMax)
}

// readRetryAfter reads a Retry-After header in seconds; its other form, a date, counts
// as none, since it would take the node's clock for ours.
func readRetryAfter(value []byte) time.Duration {
	n, err := strconv.ParseUint(string(value), 10, 32)
	if err != nil {
		return 0
	}
	return min(time.Duration(n)*time.Second, restAsked)
}
