package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// FuzzScan holds the scanner against the standard library: both must agree on
// what is JSON, and the parts must be those that the standard library finds.
func FuzzScan(f *testing.F) {
	for _, s := range []string{
		`{}`, `[]`, `[1,-0.5e+7,"a\u00e9\n",true,false,null,{"a":[{}]}]`, ` { "a" : 1 , "a" : 2 } `,
		`01`, `1.`, `-`, `"\x"`, "\"\x01\"", `[1,]`, `{"a":1,}`, `{"a"}`, `nul`, `"\u12"`, `{"a":1}}`, ``,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		err := scanText(text, maxAnswerDepth)
		if errors.Is(err, errDepth) {
			t.Skip()
		}
		if got, want := err == nil, json.Valid(text); got != want {
			t.Fatalf("scan says %v (%v), encoding/json says %v", got, err, want)
		}
		start := skipSpace(text, 0)
		if err != nil || text[start] != '{' {
			return
		}
		last := map[string][]byte{}
		if _, err := scanObject(text, start, maxAnswerDepth, func(name, value []byte) error {
			last[unquote(name)] = value
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		var want map[string]json.RawMessage
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatal(err)
		}
		if len(last) != len(want) {
			t.Fatalf("%d names, encoding/json finds %d", len(last), len(want))
		}
		for name, value := range want {
			if !bytes.Equal(last[name], value) {
				t.Fatalf("%q is %s, encoding/json finds %s", name, last[name], value)
			}
		}
	})
}

func TestScanDepth(t *testing.T) {
	nested := func(n int) []byte { return []byte(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	if err := scanText(nested(maxRequestDepth), maxRequestDepth); err != nil {
		t.Errorf("%d levels: %v", maxRequestDepth, err)
	}
	if err := scanText(nested(maxRequestDepth+1), maxRequestDepth); !errors.Is(err, errDepth) {
		t.Errorf("%d levels: %v", maxRequestDepth+1, err)
	}
	if err := scanText(nested(1<<20), maxRequestDepth); !errors.Is(err, errDepth) {
		t.Errorf("a million levels: %v", err)
	}
}

// jsonValue draws any JSON value as text, with odd spacing.
func jsonValue(depth int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		kinds := 6
		if depth == 0 {
			kinds = 4
		}
		space := rapid.SampledFrom([]string{"", " ", "\n\t"}).Draw(t, "space")
		switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
		case 0:
			return rapid.SampledFrom([]string{"null", "true", "false"}).Draw(t, "word")
		case 1:
			return rapid.StringMatching(`-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,5})?([eE][+-]?[0-9]{1,3})?`).Draw(t, "number")
		case 2:
			return string(quote(rapid.String().Draw(t, "string")))
		case 3:
			return rapid.SampledFrom([]string{`"finalized"`, `"safe"`, `"latest"`, `"s\u0061fe"`, `"pending"`}).Draw(t, "tag")
		case 4:
			parts := rapid.SliceOfN(jsonValue(depth-1), 0, 4).Draw(t, "array")
			return "[" + space + strings.Join(parts, space+","+space) + space + "]"
		}
		parts := rapid.SliceOfN(jsonValue(depth-1), 0, 4).Draw(t, "object")
		names := rapid.SampledFrom([]string{"fromBlock", "toBlock", "blockNumber", "x"})
		for i := range parts {
			parts[i] = string(quote(names.Draw(t, "name"))) + space + ":" + space + parts[i]
		}
		return "{" + space + strings.Join(parts, space+","+space) + space + "}"
	})
}
