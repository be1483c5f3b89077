package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
)

// The functions of this file walk JSON text strictly as RFC 8259 has it and
// hand out the bytes of its parts as they stand. A gateway that forwards parts
// of a request must know exactly where they end: what it takes for one value
// must never be read as something else by the node behind it.

var (
	errSyntax = errors.New("not valid JSON")
	errDepth  = errors.New("nested too deeply")
)

// maxAnswerDepth is the nesting that an answer may have; call traces nest deeply.
const maxAnswerDepth = 10_000

// maxRequestDepth is the nesting that a request may have.
const maxRequestDepth = 64

// skipSpace returns the index of the first byte from i on that is not white space.
func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// scanText checks that b is one JSON value and nothing else but white space.
func scanText(b []byte, depth int) error {
	end, err := scanValue(b, skipSpace(b, 0), depth)
	if err == nil && skipSpace(b, end) != len(b) {
		err = errSyntax
	}
	return err
}

// scanValue returns the index after the value that begins at i. Depth is how
// many arrays and objects may still be opened.
func scanValue(b []byte, i, depth int) (int, error) {
	if i >= len(b) {
		return i, errSyntax
	}
	switch c := b[i]; {
	case c == '"':
		return scanString(b, i)
	case c == '{':
		return scanObject(b, i, depth, nil)
	case c == '[':
		return scanArray(b, i, depth, nil)
	case c == '-' || c >= '0' && c <= '9':
		return scanNumber(b, i)
	case c == 't':
		return scanWord(b, i, "true")
	case c == 'f':
		return scanWord(b, i, "false")
	case c == 'n':
		return scanWord(b, i, "null")
	}
	return i, errSyntax
}

// scanObject walks the object that begins at i and calls member, if there is
// one, with each name (quotes included) and value, in order.
func scanObject(b []byte, i, depth int, member func(name, value []byte) error) (int, error) {
	if depth == 0 {
		return i, errDepth
	}
	i = skipSpace(b, i+1)
	if i < len(b) && b[i] == '}' {
		return i + 1, nil
	}
	for {
		if i >= len(b) || b[i] != '"' {
			return i, errSyntax
		}
		nameEnd, err := scanString(b, i)
		if err != nil {
			return nameEnd, err
		}
		colon := skipSpace(b, nameEnd)
		if colon >= len(b) || b[colon] != ':' {
			return colon, errSyntax
		}
		start := skipSpace(b, colon+1)
		end, err := scanValue(b, start, depth-1)
		if err != nil {
			return end, err
		}
		if member != nil {
			if err := member(b[i:nameEnd], b[start:end]); err != nil {
				return end, err
			}
		}
		var done bool
		if i, done, err = scanNext(b, end, '}'); done || err != nil {
			return i, err
		}
	}
}

// scanArray walks the array that begins at i and calls element, if there is
// one, with each element, in order.
func scanArray(b []byte, i, depth int, element func(value []byte) error) (int, error) {
	if depth == 0 {
		return i, errDepth
	}
	i = skipSpace(b, i+1)
	if i < len(b) && b[i] == ']' {
		return i + 1, nil
	}
	for {
		end, err := scanValue(b, i, depth-1)
		if err != nil {
			return end, err
		}
		if element != nil {
			if err := element(b[i:end]); err != nil {
				return end, err
			}
		}
		var done bool
		if i, done, err = scanNext(b, end, ']'); done || err != nil {
			return i, err
		}
	}
}

// scanNext steps over what follows a value in an array or object: a comma, or
// the closing bracket, which ends it.
func scanNext(b []byte, i int, closing byte) (next int, done bool, err error) {
	i = skipSpace(b, i)
	switch {
	case i >= len(b):
		return i, false, errSyntax
	case b[i] == closing:
		return i + 1, true, nil
	case b[i] == ',':
		return skipSpace(b, i+1), false, nil
	}
	return i, false, errSyntax
}

func scanString(b []byte, i int) (int, error) {
	for i++; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return i + 1, nil
		case c < ' ':
			return i, errSyntax
		case c == '\\':
			i++
			if i >= len(b) {
				return i, errSyntax
			}
			switch b[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				for range 4 {
					if i++; i >= len(b) || !hexDigit(b[i]) {
						return i, errSyntax
					}
				}
			default:
				return i, errSyntax
			}
		}
	}
	return i, errSyntax
}

func hexDigit(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func scanNumber(b []byte, i int) (int, error) {
	if b[i] == '-' {
		i++
	}
	var err error
	if i < len(b) && b[i] == '0' {
		i++
	} else if i, err = scanDigits(b, i); err != nil {
		return i, err
	}
	if i < len(b) && b[i] == '.' {
		if i, err = scanDigits(b, i+1); err != nil {
			return i, err
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		return scanDigits(b, i)
	}
	return i, nil
}

func scanDigits(b []byte, i int) (int, error) {
	start := i
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	if i == start {
		return i, errSyntax
	}
	return i, nil
}

func scanWord(b []byte, i int, word string) (int, error) {
	if !bytes.HasPrefix(b[i:], []byte(word)) {
		return i, errSyntax
	}
	return i + len(word), nil
}

// unquote decodes a JSON string token that has been scanned.
func unquote(token []byte) string {
	if bytes.IndexByte(token, '\\') < 0 {
		return string(token[1 : len(token)-1])
	}
	var s string
	if json.Unmarshal(token, &s) != nil {
		return ""
	}
	return s
}
