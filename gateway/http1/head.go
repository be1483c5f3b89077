package http1

import (
	"bytes"
	"strconv"
)

// maxFields is the most header fields of one message.
const maxFields = 100

// refusal says why a request is not taken, and with which status.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

func bad(text string) *refusal { return &refusal{400, text} }

var (
	errManyFields  = &refusal{431, "the header has more than " + strconv.Itoa(maxFields) + " fields"}
	errLargeHead   = &refusal{431, "the header is too large"}
	errRequestLine = bad("malformed request line: a method, a path and HTTP/1.1, with one space between them")
)

type field struct{ name, value []byte }

// head is the head of a request. Its slices point into the text that it was read
// from, which is used again for the next one.
type head struct {
	method, target []byte
	minor          byte // of HTTP/1.
	fields         []field
	// length is that of the body in bytes, -1 if it is chunked.
	length   int64
	expects  bool // the client waits for 100 Continue
	close    bool // the connection ends with this request
	upgrades bool
}

// read reads a head that ends in an empty line, as RFC 9112 defines it, and takes
// only what cannot be read in two ways: fields that frame the message are given once,
// lines end in CRLF, none is folded, none holds a control character. What other
// servers let pass here is what requests are smuggled with.
func (h *head) read(text []byte) *refusal {
	*h = head{fields: h.fields[:0]}
	line, rest, why := cutLine(text)
	if why != nil {
		return why
	}
	if why := h.readRequestLine(line); why != nil {
		return why
	}
	var host, length, coding bool
	for {
		if line, rest, why = cutLine(rest); why != nil {
			return why
		}
		if len(line) == 0 {
			break
		}
		colon := 0
		for colon < len(line) && tokenByte[line[colon]] {
			colon++
		}
		if colon == 0 || colon == len(line) || line[colon] != ':' {
			return bad("malformed header field: a name, a colon with no space before it, and a value on the same line")
		}
		value := trim(line[colon+1:])
		for _, c := range value {
			if c < ' ' && c != '\t' || c == 0x7f {
				return bad("control character in a header field")
			}
		}
		if len(h.fields) == maxFields {
			return errManyFields
		}
		name := line[:colon]
		h.fields = append(h.fields, field{name, value})
		switch {
		case equalFold(name, "host"):
			if host || !validHost(value) {
				return bad("Host must be given once, and name a host")
			}
			host = true
		case equalFold(name, "content-length"):
			if length {
				return bad("Content-Length must be given once")
			}
			length = true
			if h.length, why = readLength(value); why != nil {
				return why
			}
		case equalFold(name, "transfer-encoding"):
			switch {
			case coding:
				return bad("Transfer-Encoding must be given once")
			case !equalFold(value, "chunked"):
				return &refusal{501, "no Transfer-Encoding but chunked is known"}
			case h.minor == 0:
				return bad("HTTP/1.0 has no Transfer-Encoding")
			}
			coding = true
		case equalFold(name, "connection"):
			h.readConnection(value)
		case equalFold(name, "expect"):
			if !equalFold(value, "100-continue") {
				return &refusal{417, "no expectation but 100-continue can be met"}
			}
			h.expects = h.minor > 0
		case equalFold(name, "upgrade"):
			h.upgrades = true
		}
	}
	switch {
	case len(rest) > 0:
		return bad("malformed header")
	case !host && h.minor > 0:
		return bad("Host is missing")
	case length && coding:
		return bad("Content-Length and Transfer-Encoding exclude each other")
	case coding:
		h.length = -1
	}
	h.close = h.close || h.minor == 0
	return nil
}

func (h *head) readRequestLine(line []byte) *refusal {
	i := bytes.IndexByte(line, ' ')
	if i <= 0 {
		return errRequestLine
	}
	h.method, line = line[:i], line[i+1:]
	for _, c := range h.method {
		if !tokenByte[c] {
			return errRequestLine
		}
	}
	if i = bytes.IndexByte(line, ' '); i <= 0 {
		return errRequestLine
	}
	h.target, line = line[:i], line[i+1:]
	for _, c := range h.target {
		if c <= ' ' || c >= 0x7f {
			return errRequestLine
		}
	}
	switch string(line) {
	case "HTTP/1.1":
		h.minor = 1
	case "HTTP/1.0":
	default:
		if len(line) == len("HTTP/1.1") && bytes.HasPrefix(line, []byte("HTTP/")) {
			return &refusal{505, "HTTP/1.1 is spoken here, and HTTP/2"}
		}
		return errRequestLine
	}
	if h.target[0] != '/' && (string(h.target) != "*" || string(h.method) != "OPTIONS") {
		return bad("the request line must give a path: this is no proxy")
	}
	return nil
}

// readConnection takes in a list of connection options.
func (h *head) readConnection(list []byte) {
	for len(list) > 0 {
		option := list
		if i := bytes.IndexByte(list, ','); i >= 0 {
			option, list = list[:i], list[i+1:]
		} else {
			list = nil
		}
		if equalFold(trim(option), "close") {
			h.close = true
		}
	}
}

// readLength reads a Content-Length: digits and nothing else.
func readLength(value []byte) (int64, *refusal) {
	if len(value) == 0 || len(value) > 18 {
		return 0, bad("malformed Content-Length")
	}
	n := int64(0)
	for _, c := range value {
		if c < '0' || c > '9' {
			return 0, bad("malformed Content-Length")
		}
		n = 10*n + int64(c-'0')
	}
	return n, nil
}

// cutLine returns the text up to the first CRLF, in which neither CR nor LF stands
// alone, and what follows.
func cutLine(text []byte) (line, rest []byte, why *refusal) {
	end := bytes.IndexByte(text, '\n')
	if end <= 0 || text[end-1] != '\r' || bytes.IndexByte(text[:end-1], '\r') >= 0 {
		return nil, nil, bad("a line of the header does not end in CRLF")
	}
	return text[:end-1], text[end+1:], nil
}

// headEnd returns the length of the head at the beginning of text, 0 while its end
// is not there. From is what earlier calls have looked at.
func headEnd(text []byte, from int) int {
	from = max(from-3, 0)
	if i := bytes.Index(text[from:], []byte("\r\n\r\n")); i >= 0 {
		return from + i + 4
	}
	return 0
}

// bareLine tells whether a line ends in LF alone. Who sends that waits for an answer
// without sending the end that is waited for here.
func bareLine(text []byte) bool {
	for i := bytes.IndexByte(text, '\n'); i >= 0; {
		if i == 0 || text[i-1] != '\r' {
			return true
		}
		next := bytes.IndexByte(text[i+1:], '\n')
		if next < 0 {
			return false
		}
		i += 1 + next
	}
	return false
}

// field returns the value of the first field of a name in lower case, nil if there is none.
func (h *head) field(name string) []byte {
	for i := range h.fields {
		if equalFold(h.fields[i].name, name) {
			return h.fields[i].value
		}
	}
	return nil
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// equalFold compares with a word in lower case, in ASCII.
func equalFold(b []byte, word string) bool {
	if len(b) != len(word) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != word[i] {
			return false
		}
	}
	return true
}

func validHost(b []byte) bool {
	for _, c := range b {
		if !hostByte[c] {
			return false
		}
	}
	return true
}

// tokenByte holds the bytes of a token (RFC 9110, 5.6.2), hostByte those of a host
// and port (RFC 3986, 3.2.2).
var tokenByte, hostByte = func() (token, host [256]bool) {
	for c := range 256 {
		b := byte(c)
		alnum := 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9'
		token[c] = alnum || bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), b) >= 0
		host[c] = alnum || bytes.IndexByte([]byte("!$%&'()*+,-.:;=[]_~"), b) >= 0
	}
	return token, host
}()
