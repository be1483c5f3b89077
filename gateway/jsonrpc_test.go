package gateway

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/openbsn/bsn"
	"pgregory.net/rapid"
)

func TestParseMessage(t *testing.T) {
	deep := strings.Repeat("[", 70) + strings.Repeat("]", 70)
	for _, c := range []struct {
		name, text string
		id         string // "" for none
		method     string
		params     string
		code       int // 0: good
	}{
		{"plain", `{"jsonrpc":"2.0","id":1,"method":"eth_call","params":[1]}`, `1`, "eth_call", `[1]`, 0},
		{"spaced", " {\n\"params\" : [ ] ,\"method\":\"a\",\"jsonrpc\":\"2.0\",\"id\":\"x\" }\n", `"x"`, "a", `[ ]`, 0},
		{"escaped names", `{"jsonrpc":"2.0","\u0069d":7,"meth\u006fd":"eth\u005fcall"}`, `7`, "eth_call", "", 0},
		{"large id", `{"jsonrpc":"2.0","id":123456789012345678901234567890.50e1,"method":"a"}`, `123456789012345678901234567890.50e1`, "a", "", 0},
		{"null id", `{"jsonrpc":"2.0","id":null,"method":"a","params":null}`, `null`, "a", "", 0},
		{"notification", `{"jsonrpc":"2.0","method":"a"}`, "", "a", "", 0},
		{"params by name", `{"jsonrpc":"2.0","id":1,"method":"a","params":{"b":1}}`, `1`, "a", `{"b":1}`, 0},
		{"members that mean nothing", `{"jsonrpc":"2.0","id":1,"method":"a","Method":"b","extra":{}}`, `1`, "a", "", 0},
		{"method twice", `{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}`, "", "", "", codeRequest},
		{"method twice, escaped", `{"jsonrpc":"2.0","id":1,"method":"a","m\u0065thod":"b"}`, "", "", "", codeRequest},
		{"only an oddly cased method", `{"jsonrpc":"2.0","id":1,"METHOD":"a"}`, `1`, "", "", codeRequest},
		{"object id", `{"jsonrpc":"2.0","id":{},"method":"a"}`, `null`, "", "", codeRequest},
		{"true id", `{"jsonrpc":"2.0","id":true,"method":"a"}`, `null`, "", "", codeRequest},
		{"version 1", `{"jsonrpc":"1.0","id":3,"method":"a"}`, `3`, "", "", codeRequest},
		{"no version", `{"id":3,"method":"a"}`, `3`, "", "", codeRequest},
		{"method is a number", `{"jsonrpc":"2.0","id":3,"method":1}`, `3`, "", "", codeRequest},
		{"params is text", `{"jsonrpc":"2.0","id":3,"method":"a","params":"b"}`, `3`, "", "", codeRequest},
		{"too deep", `{"jsonrpc":"2.0","id":3,"method":"a","params":` + deep + `}`, `3`, "", "", codeRequest},
		{"no object", `"eth_call"`, "", "", "", codeRequest},
		{"cut off", `{"jsonrpc":"2.0","id":3,"method":"a"`, "", "", "", codeParse},
		{"breaks out of params", `{"jsonrpc":"2.0","id":3,"method":"a","params":[]],"x":1}`, "", "", "", codeParse},
		{"two requests", `{"jsonrpc":"2.0","id":3,"method":"a"}{}`, "", "", "", codeParse},
		{"nothing", ``, "", "", "", codeParse},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, bad, ok := parseMessage([]byte(c.text))
			if ok != (c.code == 0) {
				t.Fatalf("ok is %v: %s", ok, bad.failure)
			}
			if !ok {
				var e struct{ Code int }
				if err := json.Unmarshal(bad.failure, &e); err != nil || e.Code != c.code {
					t.Errorf("refused with %s (%v), want code %d", bad.failure, err, c.code)
				}
			} else if m.method != c.method || string(m.params) != c.params {
				t.Errorf("method %q params %q, want %q %q", m.method, m.params, c.method, c.params)
			}
			if string(m.id) != c.id {
				t.Errorf("id %q, want %q", m.id, c.id)
			}
		})
	}
}

// What a node gets always means what the policy was asked about, and what the
// client gets carries its id byte for byte.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"method":"eth_call","params":[{"a":"\""},"finalized"]}`))
	f.Add([]byte(`{"jsonrpc":"2.0","id":"\u0031","method":"eth_call","METHOD":"admin_peers","params":{}}`))
	f.Add([]byte(`[{"jsonrpc":"2.0","id":1e3,"method":"eth_call"},7,{}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		texts := [][]byte{text}
		if start := skipSpace(text, 0); start < len(text) && text[start] == '[' {
			entries, _, ok := splitBatch(text, 100)
			if !ok {
				return
			}
			texts = entries
		}
		for _, text := range texts {
			m, bad, ok := parseMessage(text)
			if !ok {
				if reply := appendReply(nil, m.id, bad); !json.Valid(reply) {
					t.Fatalf("malformed refusal %s", reply)
				}
				continue
			}
			if !json.Valid(text) {
				t.Fatalf("took %q", text)
			}
			params := rewriteTags(bsn.Method{Block: 2, Filter: 1}, m.params)
			request := appendRequest(nil, 9, "eth_call", params)
			var got map[string]json.RawMessage
			if err := json.Unmarshal(request, &got); err != nil {
				t.Fatalf("node gets %q: %v", request, err)
			}
			if len(got) != 4 || string(got["method"]) != `"eth_call"` || string(got["id"]) != "9" {
				t.Fatalf("node gets %q", request)
			}
			if m.id != nil {
				reply := appendReply(nil, m.id, answer{result: []byte("0")})
				r, err := parseResponse(reply)
				if err != nil || !bytes.Equal(r.id, m.id) {
					t.Fatalf("reply %q to id %q: %v", reply, m.id, err)
				}
			}
		}
	})
}

func TestSplitBatch(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string
	}{
		{`[{"a":1} , 2,[3]]`, []string{`{"a":1}`, `2`, `[3]`}},
		{` [ ] `, nil},
		{`[1,2,3,4]`, nil}, // one too many
		{`[1,`, nil},
		{`[1] 2`, nil},
	} {
		entries, bad, ok := splitBatch([]byte(c.text), 3)
		if ok != (c.want != nil) || len(entries) != len(c.want) {
			t.Errorf("%s: %q %s", c.text, entries, bad.failure)
			continue
		}
		for i := range entries {
			if string(entries[i]) != c.want[i] {
				t.Errorf("%s: entry %d is %q", c.text, i, entries[i])
			}
		}
	}
}

func TestParseAnswer(t *testing.T) {
	for _, c := range []struct{ text, result, failure string }{
		{`{"jsonrpc":"2.0","id":1,"result":{"a": 1}}`, `{"a": 1}`, ""},
		{`{"id":1,"result":null}`, `null`, ""},
		{`{"result":"0x1","error":null}`, `"0x1"`, ""},
		{`{"result":null,"error":{"code":3,"message":"execution reverted","data":"0x"}}`, "", `{"code":3,"message":"execution reverted","data":"0x"}`},
		{`{"id":1}`, "", ""},
		{`{"result":1},{"result":2}`, "", ""},
		{`<html>`, "", ""},
		{`{"result":`, "", ""},
	} {
		a, err := parseAnswer([]byte(c.text))
		if (err == nil) != (c.result != "" || c.failure != "") {
			t.Errorf("%s: error %v", c.text, err)
		}
		if string(a.result) != c.result || string(a.failure) != c.failure {
			t.Errorf("%s: result %q error %q", c.text, a.result, a.failure)
		}
	}
}

func TestRewriteTags(t *testing.T) {
	for _, c := range []struct {
		name          string
		block, filter int
		in, want      string
	}{
		{"block", 2, 0, `[{"to":"safe"}, "finalized"]`, `[{"to":"safe"}, "latest"]`},
		{"safe", 1, 0, `["safe",false]`, `["latest",false]`},
		{"other positions stay", 2, 0, `["safe","latest","finalized"]`, `["safe","latest","finalized"]`},
		{"pending stays", 1, 0, `["pending"]`, `["pending"]`},
		{"escaped", 1, 0, `["s\u0061fe"]`, `["latest"]`},
		{"longer text stays", 1, 0, `["safest"]`, `["safest"]`},
		{"object", 2, 0, `[0,{"blockNumber": "safe" ,"x":"safe"}]`, `[0,{"blockNumber": "latest" ,"x":"safe"}]`},
		{"filter", 0, 1, `[{"fromBlock":"safe","toBlock":"finalized","address":"safe"}]`, `[{"fromBlock":"latest","toBlock":"latest","address":"safe"}]`},
		{"no such position", 3, 0, `["safe"]`, `["safe"]`},
		{"method without blocks", 0, 0, `["safe"]`, `["safe"]`},
		{"by name", 1, 0, `{"block":"safe"}`, `{"block":"safe"}`},
		{"none", 1, 0, ``, ``},
	} {
		got := rewriteTags(bsn.Method{Block: c.block, Filter: c.filter}, []byte(c.in))
		if string(got) != c.want {
			t.Errorf("%s: %s became %s, want %s", c.name, c.in, got, c.want)
		}
	}
}

// Rewriting changes tags at the method's positions and not one byte besides.
func TestRewriteTagsOnlyThere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(jsonValue(3), 0, 5).Draw(t, "params")
		params := []byte("[" + strings.Join(values, ", ") + "]")
		m := bsn.Method{Block: rapid.IntRange(0, 3).Draw(t, "block"), Filter: rapid.IntRange(0, 3).Draw(t, "filter")}
		got := rewriteTags(m, params)
		var parts []string
		if _, err := scanArray(got, 0, maxRequestDepth, func(v []byte) error { parts = append(parts, string(v)); return nil }); err != nil {
			t.Fatalf("%s became %s: %v", params, got, err)
		}
		if len(parts) != len(values) {
			t.Fatalf("%s became %s", params, got)
		}
		for i := range parts {
			named := i+1 == m.Block || i+1 == m.Filter
			if !named && parts[i] != values[i] {
				t.Fatalf("parameter %d changed from %s to %s", i+1, values[i], parts[i])
			}
			if i+1 == m.Block && (unquoteOr([]byte(parts[i])) == "safe" || unquoteOr([]byte(parts[i])) == "finalized") {
				t.Fatalf("tag stays in %s", got)
			}
		}
		if again := rewriteTags(m, got); !bytes.Equal(again, got) {
			t.Fatalf("rewriting twice gives %s and then %s", got, again)
		}
	})
}
