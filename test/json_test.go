package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// lookup finds a value in JSON by a path such as
//
//	.cities[city=paris].nodes[0].pid   members, the first element that has city "paris", elements by number
//	.keys.length                       how many elements or members there are
//	.                                  the whole
func lookup(text, path string) (any, error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("no JSON: %w: %s", err, text)
	}
	for rest := strings.TrimPrefix(path, "."); rest != ""; {
		var step string
		if rest[0] == '[' {
			var ok bool
			if step, rest, ok = strings.Cut(rest[1:], "]"); !ok {
				return nil, fmt.Errorf("path %q: ] is missing", path)
			}
			next, err := element(v, step)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			v = next
		} else {
			end := strings.IndexAny(rest, ".[")
			if end < 0 {
				end = len(rest)
			}
			step, rest = rest[:end], rest[end:]
			next, err := member(v, step)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			v = next
		}
		rest = strings.TrimPrefix(rest, ".")
	}
	return v, nil
}

func element(v any, step string) (any, error) {
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("[%s] of what is no list", step)
	}
	name, value, byName := strings.Cut(step, "=")
	if !byName {
		i, err := strconv.Atoi(step)
		if err != nil || i < 0 || i >= len(list) {
			return nil, fmt.Errorf("no element %s of %d", step, len(list))
		}
		return list[i], nil
	}
	for _, e := range list {
		if m, ok := e.(map[string]any); ok {
			if v, ok := m[name]; ok && plain(v) == value {
				return e, nil
			}
		}
	}
	return nil, fmt.Errorf("no element with %s", step)
}

func member(v any, name string) (any, error) {
	switch v := v.(type) {
	case map[string]any:
		if next, ok := v[name]; ok {
			return next, nil
		}
		if name == "length" {
			return json.Number(strconv.Itoa(len(v))), nil
		}
	case []any:
		if name == "length" {
			return json.Number(strconv.Itoa(len(v))), nil
		}
	}
	return nil, fmt.Errorf("no member %s in %s", name, plain(v))
}

// plain is a value as text: a string as it is, anything else in JSON.
func plain(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil { // it was decoded from JSON
		return err.Error()
	}
	return strings.TrimSpace(b.String())
}

func valueText(text, path string) (string, error) {
	v, err := lookup(text, path)
	return plain(v), err
}

// checkJSON is the check json PATH [OP VALUE]: without an operator the value must
// be there.
func checkJSON(o output, args []string) error {
	if len(args) != 1 && len(args) != 3 {
		return errors.New("usage: json PATH [OP VALUE]")
	}
	v, err := lookup(o.stdout, args[0])
	if err != nil || len(args) == 1 {
		return err
	}
	ok, err := compare(v, args[1], args[2])
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%s is %s, not %s %s", args[0], plain(v), args[1], args[2])
	}
	return nil
}

// compare knows == and != of texts or numbers, > >= < <= of numbers, ~ of
// regular expressions, and is, of types. A text such as "0x1f" is a number too.
func compare(v any, op, want string) (bool, error) {
	a, ok1 := numeric(plain(v))
	b, ok2 := numeric(want)
	numbers := ok1 && ok2
	switch op {
	case "==":
		return plain(v) == want || numbers && a.Cmp(b) == 0, nil
	case "!=":
		return plain(v) != want && !(numbers && a.Cmp(b) == 0), nil
	case "~":
		return regexp.MatchString(want, plain(v))
	case "is":
		return kind(v) == want, nil
	}
	if !numbers {
		return false, fmt.Errorf("%s %s %s: no numbers", plain(v), op, want)
	}
	switch op {
	case ">":
		return a.Cmp(b) > 0, nil
	case ">=":
		return a.Cmp(b) >= 0, nil
	case "<":
		return a.Cmp(b) < 0, nil
	case "<=":
		return a.Cmp(b) <= 0, nil
	}
	return false, fmt.Errorf("no operator %q", op)
}

func kind(v any) string {
	switch v.(type) {
	case string:
		return "string"
	case json.Number:
		return "number"
	case bool:
		return "boolean"
	case []any:
		return "list"
	case map[string]any:
		return "object"
	}
	return "null"
}

func numeric(text string) (*big.Rat, bool) {
	if i, ok := new(big.Int).SetString(text, 0); ok {
		return new(big.Rat).SetInt(i), true
	}
	return new(big.Rat).SetString(text)
}

// A check that always holds would make every scenario worthless.
func TestJSONChecks(t *testing.T) {
	const text = `{"a":[{"n":"x","v":1},{"n":"y","v":"0x1f","b":true}],"o":{},"z":null}`
	for _, c := range []struct {
		args  string
		holds bool
	}{
		{".a[0].v == 1", true},
		{".a[0].v == 2", false},
		{".a[n=y].v > 30", true},
		{".a[n=y].v > 31", false},
		{".a[n=y].v >= 31", true},
		{".a[n=q].v > 0", false},
		{".a[2]", false},
		{".a.length == 2", true},
		{".a[1].b == true", true},
		{".a[1].b is boolean", true},
		{".a is list", true},
		{".o is object", true},
		{".o is list", false},
		{".z is null", true},
		{".a[1].v == 31", true},
		{".a[1].v != 31", false},
		{".a[0].n == 0", false},
		{".a[0].n ~ ^x$", true},
		{".a[0].n ~ ^y$", false},
		{".a[0].n != x", false},
		{".missing", false},
		{".a[0].n > 1", false},
	} {
		if err := checkJSON(output{stdout: text}, strings.Fields(c.args)); (err == nil) != c.holds {
			t.Errorf("json %s: %v", c.args, err)
		}
	}
	if err := checkJSON(output{stdout: "no JSON"}, []string{"."}); err == nil {
		t.Error("what is no JSON passes")
	}
}
