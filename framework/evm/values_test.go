package evm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"reflect"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"
	"pgregory.net/rapid"
)

// arguments makes parameters of a function as the ABI library reads them.
func arguments(t interface{ Fatal(...any) }, ps ...parameter) abi.Arguments {
	text, err := json.Marshal([]map[string]any{{"type": "function", "name": "f", "inputs": raw(ps), "outputs": []any{}}})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := parseABI(text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Methods["f"].Inputs
}

func raw(ps []parameter) []map[string]any {
	list := make([]map[string]any, 0, len(ps))
	for _, p := range ps {
		list = append(list, map[string]any{"name": p.Name, "type": p.Type, "components": raw(p.Components)})
	}
	return list
}

func param(kind string, components ...parameter) parameter {
	return parameter{Name: "v", Type: kind, Components: components}
}

func TestArguments(t *testing.T) {
	point := []parameter{{Name: "x", Type: "int8"}, {Name: "name", Type: "string"}}
	for _, c := range []struct {
		kind       parameter
		word, want string // want is the JSON that comes back, or the error
	}{
		{param("uint8"), "255", "255"},
		{param("uint8"), "0xff", "255"},
		{param("uint8"), "256", "argument 1 v (uint8): 256 does not fit"},
		{param("uint8"), "-1", "does not fit"},
		{param("uint8"), "1e3", "no whole number"},
		{param("uint8"), "", "no whole number"},
		{param("int8"), "-128", "-128"},
		{param("int8"), "-129", "does not fit"},
		{param("int8"), "128", "does not fit"},
		{param("uint48"), "281474976710655", "281474976710655"},
		{param("uint56"), "1", `"1"`},
		{param("uint256"), "115792089237316195423570985008687907853269984665640564039457584007913129639935", `"115792089237316195423570985008687907853269984665640564039457584007913129639935"`},
		{param("uint256"), "115792089237316195423570985008687907853269984665640564039457584007913129639936", "does not fit"},
		{param("int256"), "-0x8000000000000000000000000000000000000000000000000000000000000000", `"-57896044618658097711785492504343953926634992332820282019728792003956564819968"`},
		{param("bool"), "true", "true"},
		{param("bool"), "1", "neither true nor false"},
		{param("string"), "first prize", `"first prize"`},
		{param("string"), `"a" <b> ☂`, `"\"a\" <b> ☂"`},
		{param("string"), "", `""`},
		{param("string"), strings.Repeat("x", 33), `"` + strings.Repeat("x", 33) + `"`},
		{param("address"), "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed", `"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"`},
		{param("address"), "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", `"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"`},
		{param("address"), "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD", "checksum"},
		{param("address"), "0x5aaeb6", "3 bytes, an address has 20"},
		{param("address"), "5aaeb6053f3e94c9b9a09f33669435e7ef1beaed", "0x"},
		{param("bytes"), "0x", `"0x"`},
		{param("bytes"), "0x0102", `"0x0102"`},
		{param("bytes"), "0x012", "two digits a byte"},
		{param("bytes4"), "0x01020304", `"0x01020304"`},
		{param("bytes4"), "0x0102", "2 bytes, not 4"},
		{param("function"), "0x" + strings.Repeat("ab", 24), `"0x` + strings.Repeat("ab", 24) + `"`},
		{param("uint8[]"), "[]", "[]"},
		{param("uint8[]"), `[1, "0x2"]`, "[1,2]"},
		{param("uint8[]"), `[1,256]`, "element 1: 256 does not fit"},
		{param("uint8[]"), "1", "no JSON array"},
		{param("uint8[]"), "null", "no JSON array"},
		{param("uint8[2]"), "[1]", "1 elements given, 2 wanted"},
		{param("uint8[2][]"), "[[1,2],[3,4]]", "[[1,2],[3,4]]"},
		{param("string[2]"), `["a","b"]`, `["a","b"]`},
		{param("string[][2]"), `[["a"],[]]`, `[["a"],[]]`},
		{param("tuple", point...), `{"name":"p","x":-1}`, `{"x":-1,"name":"p"}`},
		{param("tuple", point...), `[-1,"p"]`, `{"x":-1,"name":"p"}`},
		{param("tuple", point...), `{"x":1}`, "field name is missing"},
		{param("tuple", point...), `{"x":1,"name":"p","y":2}`, `field "y" is unknown`},
		{param("tuple", point...), `{"x":300,"name":"p"}`, "field x: 300 does not fit"},
		{param("tuple", point...), `[1]`, "1 fields given"},
		{param("tuple[]", point...), `[{"x":1,"name":"a"},[2,"b"]]`, `[{"x":1,"name":"a"},{"x":2,"name":"b"}]`},
	} {
		t.Run(c.kind.Type+" "+clip([]byte(c.word)), func(t *testing.T) {
			params := arguments(t, c.kind)
			data, err := encodeArguments(params, Text([]string{c.word}))
			if err != nil {
				if !strings.Contains(err.Error(), c.want) {
					t.Errorf("error %v, want %q", err, c.want)
				}
				return
			}
			got, err := formatResult(params, data)
			if err != nil || string(got) != c.want {
				t.Errorf("got %s, %v, want %s", got, err, c.want)
			}
		})
	}
	if _, err := encodeArguments(arguments(t, param("uint8"), param("bool")), nil); err == nil || !strings.Contains(err.Error(), "0 arguments given, 2 wanted: (uint8 v, bool v)") {
		t.Errorf("no arguments: %v", err)
	}
}

func TestFormatResultShapes(t *testing.T) {
	one := number(1)
	two := append(number(1), number(2)...)
	unnamed := parameter{Type: "uint8"}
	for _, c := range []struct {
		params []parameter
		data   []byte
		want   string
	}{
		{nil, nil, "null"},
		{[]parameter{unnamed}, one, "1"},
		{[]parameter{unnamed, unnamed}, two, "[1,2]"},
		{[]parameter{{Name: "b", Type: "uint8"}, {Name: "a", Type: "uint64"}}, two, `{"b":1,"a":"2"}`},
		{[]parameter{{Name: "b", Type: "uint8"}, unnamed}, two, `[1,2]`},
	} {
		got, err := formatResult(arguments(t, c.params...), c.data)
		if err != nil || string(got) != c.want {
			t.Errorf("%v: %s, %v, want %s", c.params, got, err, c.want)
		}
	}
}

// TestFormatBomb: data in which every array points at the same next one stands
// for far more than it holds, and must be refused rather than written out.
func TestFormatBomb(t *testing.T) {
	const width, depth = 64, 8
	var data []byte
	data = append(data, number(word)...)
	for range depth {
		data = append(data, number(width)...)
		for range width {
			data = append(data, number(width*word)...)
		}
	}
	data = append(data, number(0)...)
	params := arguments(t, param("uint8"+strings.Repeat("[]", depth+1)))
	if _, err := formatResult(params, data); err != errLarge {
		t.Errorf("got %v, want %v", err, errLarge)
	}
	huge := append(number(word), bytes.Repeat([]byte{0xff}, word)...)
	for _, kind := range []string{"uint8[]", "string", "bytes", "tuple[]"} {
		if _, err := formatResult(arguments(t, param(kind)), huge); err != errShort {
			t.Errorf("%s: got %v, want %v", kind, err, errShort)
		}
	}
}

// drawType draws a type with at most the given depth of nesting.
func drawType(t *rapid.T, depth int) parameter {
	p := parameter{Name: "n" + fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "name"))}
	kinds := []string{"uint", "int", "bool", "string", "address", "bytes", "bytesN"}
	if depth > 0 {
		kinds = append(kinds, "tuple", "tuple")
	}
	switch kind := rapid.SampledFrom(kinds).Draw(t, "kind"); kind {
	case "uint", "int":
		p.Type = fmt.Sprint(kind, 8*rapid.IntRange(1, 32).Draw(t, "bytes"))
	case "bytesN":
		p.Type = fmt.Sprint("bytes", rapid.IntRange(1, 32).Draw(t, "bytes"))
	case "tuple":
		p.Type = kind
		for i := range rapid.IntRange(1, 3).Draw(t, "fields") {
			field := drawType(t, depth-1)
			field.Name = fmt.Sprint("f", i)
			p.Components = append(p.Components, field)
		}
	default:
		p.Type = kind
	}
	for range rapid.IntRange(0, 2).Draw(t, "brackets") {
		p.Type += rapid.SampledFrom([]string{"[]", "[1]", "[3]"}).Draw(t, "bracket")
	}
	return p
}

// drawValue draws a value of a Go type that the ABI library uses for t.
func drawValue(t *rapid.T, typ abi.Type) reflect.Value {
	v := reflect.New(typ.GetType()).Elem()
	switch typ.T {
	case abi.IntTy, abi.UintTy:
		n := new(big.Int).SetBytes(rapid.SliceOfN(rapid.Byte(), 0, typ.Size/8).Draw(t, "int"))
		if typ.T == abi.IntTy {
			n.Rsh(n, 1)
			if rapid.Bool().Draw(t, "negative") {
				n.Not(n)
			}
		}
		switch {
		case v.Kind() == reflect.Pointer:
			v.Set(reflect.ValueOf(n))
		case v.CanInt():
			v.SetInt(n.Int64())
		default:
			v.SetUint(n.Uint64())
		}
	case abi.BoolTy:
		v.SetBool(rapid.Bool().Draw(t, "bool"))
	case abi.StringTy:
		v.SetString(rapid.String().Draw(t, "string"))
	case abi.BytesTy:
		v.SetBytes(rapid.SliceOfN(rapid.Byte(), 0, 70).Draw(t, "bytes"))
	case abi.AddressTy, abi.FixedBytesTy:
		for i := range v.Len() {
			v.Index(i).SetUint(uint64(rapid.Byte().Draw(t, "byte")))
		}
	case abi.SliceTy, abi.ArrayTy:
		n := typ.Size
		if typ.T == abi.SliceTy {
			n = rapid.IntRange(0, 3).Draw(t, "length")
			v.Set(reflect.MakeSlice(typ.GetType(), n, n))
		}
		for i := range n {
			v.Index(i).Set(drawValue(t, *typ.Elem))
		}
	case abi.TupleTy:
		for i, e := range typ.TupleElems {
			v.Field(i).Set(drawValue(t, *e))
		}
	}
	return v
}

// TestValuesAgreeWithGoEthereum: what go-ethereum encodes, read to JSON and
// encoded from that JSON again, are the same bytes; for any types and values.
func TestValuesAgreeWithGoEthereum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ps []parameter
		for i := range rapid.IntRange(0, 4).Draw(t, "parameters") {
			p := drawType(t, 2)
			p.Name = fmt.Sprint("p", i)
			ps = append(ps, p)
		}
		params := arguments(t, ps...)
		var values []any
		for _, p := range params {
			values = append(values, drawValue(t, p.Type).Interface())
		}
		want, err := params.Pack(values...)
		if err != nil {
			t.Fatal(err)
		}
		text, err := formatArguments(params, want)
		if err != nil {
			t.Fatalf("format: %v", err)
		}
		var object map[string]json.RawMessage
		if err := json.Unmarshal(text, &object); err != nil {
			t.Fatalf("%s is no JSON: %v", text, err)
		}
		var args []json.RawMessage
		var words []string
		for _, p := range params {
			args = append(args, object[p.Name])
			word := string(object[p.Name])
			if isText := json.Unmarshal(object[p.Name], &word); isText != nil {
				word = string(object[p.Name])
			}
			words = append(words, word)
		}
		got, err := encodeArguments(params, args)
		if err != nil {
			t.Fatalf("encode %s: %v", text, err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%s: got %x, want %x", text, got, want)
		}
		got, err = encodeArguments(params, Text(words))
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("words %q: got %x, %v, want %x", words, got, err, want)
		}
	})
}

func TestRevertText(t *testing.T) {
	parsed, err := parseABI([]byte(`[
		{"type":"error","name":"Plain","inputs":[]},
		{"type":"error","name":"Low","inputs":[{"name":"need","type":"uint256"},{"name":"","type":"bool"}]}]`))
	if err != nil {
		t.Fatal(err)
	}
	plain, low := parsed.Errors["Plain"].ID, parsed.Errors["Low"].ID
	text := common.FromHex("0x08c379a0" + common.Bytes2Hex(number(word)) + common.Bytes2Hex(number(2)) + "6e6f" + strings.Repeat("00", 30))
	for _, c := range []struct {
		data []byte
		want string
	}{
		{nil, ""},
		{text, "no"},
		{append(common.FromHex("0x4e487b71"), number(0x11)...), "arithmetic underflow or overflow"},
		{plain[:4], "Plain"},
		{append(low[:4:4], append(number(7), number(1)...)...), `Low({"need":"7","arg1":true})`},
		{[]byte{1, 2, 3, 4}, "error 0x01020304, which its interface does not name"},
		{low[:4], "error " + fmt.Sprintf("0x%x", low[:4]) + ", which its interface does not name"},
	} {
		if got := revertText(parsed, c.data); got != c.want {
			t.Errorf("%x: %q, want %q", c.data, got, c.want)
		}
	}
}
