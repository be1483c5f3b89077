package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// Codes of JSON-RPC errors that the gateway itself answers. Those above -32100
// are JSON-RPC 2.0's and EIP-1474's; codeKey is the gateway's own.
const (
	codeParse       = -32700
	codeRequest     = -32600
	codeMethod      = -32601
	codeParams      = -32602
	codeInternal    = -32603
	codeLimit       = -32005 // too many requests a second, or subscriptions on a connection
	codePolicy      = -32003 // a transaction that the chain's policy refuses
	codeUnavailable = -32002 // no node can answer now
	codeChain       = -32001 // no such chain
	codeKey         = -32010 // the key is missing or not good here
	codeAlone       = -32011 // the ledger has not been heard of for too long
	// Each kind of limit has its own code, and so has each kind of restriction of keys.
	codeUnits        = -32020 // too many compute units a second
	codeDaily        = -32021 // the day's quota is used up
	codeMonthly      = -32022 // the month's is
	codeSize         = -32023 // what is asked for is too large
	codeMemory       = -32024 // the gateway has no memory for one more call now
	codeMethodDenied = -32030 // the key is not for this method
	codeContract     = -32031 // nor for this contract
	codeIP           = -32032 // nor to be used from this address
	codeOrigin       = -32033 // nor by this web page
)

// message is one JSON-RPC request. The slices point into the text it came in.
type message struct {
	id     []byte // as the client wrote it; nil for a notification
	method string
	params []byte // an array or object as the client wrote it; nil for none
}

// answer is what a message is answered with: a result or an error, each in
// JSON as a node wrote it, or an error of the gateway's own.
type answer struct {
	result  []byte
	failure []byte // a JSON-RPC error object
	// status is the HTTP status if the message came alone; 0 is 200.
	status     int
	retryAfter time.Duration
	outcome    outcome
	limit      string // the kind of limit or restriction that was met, if one was
	spent      spent
	held       answerHeld // what it counts for among what calls hold
}

// large is the part of it that may be large.
func (a *answer) large() []byte {
	if a.failure != nil {
		return a.failure
	}
	return a.result
}

func refuse(o outcome, code int, format string, args ...any) answer {
	return answer{failure: appendError(nil, code, fmt.Sprintf(format, args...)), outcome: o}
}

func (a answer) with(status int) answer {
	a.status = status
	return a
}

func appendError(b []byte, code int, text string) []byte {
	b = append(b, `{"code":`...)
	b = strconv.AppendInt(b, int64(code), 10)
	b = append(b, `,"message":`...)
	b = append(b, quote(text)...)
	return append(b, '}')
}

// appendReply appends the JSON-RPC response to the request with this id.
func appendReply(b, id []byte, a answer) []byte {
	if id == nil {
		id = []byte("null")
	}
	b = append(b, `{"jsonrpc":"2.0","id":`...)
	b = append(b, id...)
	if a.failure != nil {
		b = append(append(b, `,"error":`...), a.failure...)
	} else {
		b = append(append(b, `,"result":`...), a.result...)
	}
	return append(b, '}')
}

// appendRequest appends the request as nodes get it. It is built from its
// checked parts and not passed on as it came, so that no node can read another
// method out of doubled, oddly cased or escaped member names than the one that
// the policy was asked about. The client's id never leaves the gateway, so it
// comes back byte for byte whatever the node's number format.
func appendRequest(b []byte, id uint64, method string, params []byte) []byte {
	b = append(b, `{"jsonrpc":"2.0","id":`...)
	b = strconv.AppendUint(b, id, 10)
	b = append(b, `,"method":"`...)
	b = append(b, method...) // from the method table: no byte of it needs escaping
	b = append(b, `","params":`...)
	if params == nil {
		b = append(b, "[]"...)
	} else {
		b = append(b, params...)
	}
	return append(b, '}')
}

var errMember = errors.New("member given twice")

// parseMessage reads one request object. If it is malformed, the answer says
// so, and the message carries the id if that could still be read.
func parseMessage(text []byte) (m message, bad answer, ok bool) {
	invalid := func(format string, args ...any) (message, answer, bool) {
		return message{id: m.id}, refuse(outcomeMalformed, codeRequest, format, args...).with(http.StatusBadRequest), false
	}
	start := skipSpace(text, 0)
	if start < len(text) && text[start] != '{' {
		if err := scanText(text, maxRequestDepth); err == nil {
			return invalid("a request is a JSON object with jsonrpc, id, method and params")
		}
	}
	var version, method []byte
	end, err := start, errSyntax
	if start < len(text) && text[start] == '{' {
		end, err = scanObject(text, start, maxRequestDepth, func(name, value []byte) error {
			var field *[]byte
			if bytes.IndexByte(name, '\\') >= 0 {
				name = quote(unquote(name))
			}
			switch string(name) {
			case `"jsonrpc"`:
				field = &version
			case `"id"`:
				field = &m.id
			case `"method"`:
				field = &method
			case `"params"`:
				field = &m.params
			default:
				return nil // no part of JSON-RPC; not passed on
			}
			if *field != nil {
				return errMember
			}
			*field = value
			return nil
		})
	}
	if err == nil && skipSpace(text, end) != len(text) {
		err = errSyntax
	}
	if m.id != nil && (m.id[0] == '{' || m.id[0] == '[' || m.id[0] == 't' || m.id[0] == 'f') {
		m.id = []byte("null")
		return invalid("id must be a string, a number or null")
	}
	switch {
	case errors.Is(err, errMember):
		m.id = nil
		return invalid("jsonrpc, id, method and params may each be given once only")
	case errors.Is(err, errDepth):
		return invalid("request is nested more than %d levels deep", maxRequestDepth)
	case err != nil:
		return message{}, refuse(outcomeMalformed, codeParse, "request is not valid JSON (at byte %d)", end).with(http.StatusBadRequest), false
	case version == nil || string(version) != `"2.0"` && unquoteOr(version) != "2.0":
		return invalid(`jsonrpc must be "2.0"`)
	case method == nil || method[0] != '"':
		return invalid("method must be a string")
	}
	if m.params != nil && m.params[0] != '[' && m.params[0] != '{' {
		if string(m.params) != "null" {
			return invalid("params must be an array or an object")
		}
		m.params = nil
	}
	m.method = unquote(method)
	return m, answer{}, true
}

func unquoteOr(token []byte) string {
	if token[0] != '"' {
		return ""
	}
	return unquote(token)
}

// splitBatch returns the entries of a batch, which begins with a bracket.
func splitBatch(text []byte, limit int) (entries [][]byte, bad answer, ok bool) {
	errMany := errors.New("too many entries")
	start := skipSpace(text, 0)
	end, err := scanArray(text, start, maxRequestDepth+1, func(value []byte) error {
		if len(entries) == limit {
			return errMany
		}
		entries = append(entries, value)
		return nil
	})
	if err == nil && skipSpace(text, end) != len(text) {
		err = errSyntax
	}
	switch {
	case errors.Is(err, errMany):
		bad = refuse(outcomeMalformed, codeRequest, "batch has more than %d requests: split it", limit)
	case errors.Is(err, errDepth):
		bad = refuse(outcomeMalformed, codeRequest, "request is nested more than %d levels deep", maxRequestDepth)
	case err != nil:
		bad = refuse(outcomeMalformed, codeParse, "request is not valid JSON (at byte %d)", end)
	case len(entries) == 0:
		bad = refuse(outcomeMalformed, codeRequest, "batch is empty")
	default:
		return entries, answer{}, true
	}
	return nil, bad.with(http.StatusBadRequest), false
}

// parseAnswer reads a node's response. An error means that it is none; a
// JSON-RPC error is an answer like any other.
func parseAnswer(text []byte) (answer, error) {
	r, err := parseResponse(text)
	if err != nil {
		return answer{}, err
	}
	return r.answer()
}

// response holds the members of what a node sent: a response, or on a
// WebSocket also a notification.
type response struct {
	id, method, params, result, failure []byte
}

func parseResponse(text []byte) (r response, err error) {
	start := skipSpace(text, 0)
	if start >= len(text) || text[start] != '{' {
		return r, errSyntax
	}
	end, err := scanObject(text, start, maxAnswerDepth, func(name, value []byte) error {
		switch string(name) {
		case `"id"`:
			r.id = value
		case `"method"`:
			r.method = value
		case `"params"`:
			r.params = value
		case `"result"`:
			r.result = value
		case `"error"`:
			r.failure = value
		}
		return nil
	})
	if err == nil && skipSpace(text, end) != len(text) {
		err = errSyntax
	}
	return r, err
}

func (r response) answer() (answer, error) {
	switch {
	case r.failure != nil && string(r.failure) != "null":
		return answer{failure: r.failure, outcome: outcomeError}, nil
	case r.result != nil:
		return answer{result: r.result, outcome: outcomeOK}, nil
	}
	return answer{}, errors.New("response has neither result nor error")
}
