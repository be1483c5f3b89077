package evm

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"
)

const word = 32 // bytes: everything in the contract ABI is a multiple of it

var (
	integerForm  = regexp.MustCompile(`^-?([0-9]{1,78}|0[xX][0-9a-fA-F]{1,64})$`)
	mixedLetters = regexp.MustCompile(`[a-f].*[A-F]|[A-F].*[a-f]`)
)

// Text makes arguments of the words of a command line. What is meant by a word
// depends on the parameter that it is for: the text itself for a string, a
// number, an address or bytes in hex, true or false, and JSON for arrays and
// tuples.
func Text(words []string) []json.RawMessage {
	args := make([]json.RawMessage, len(words))
	for i, w := range words {
		args[i], _ = json.Marshal(w) // a string always has a JSON form
	}
	return args
}

// Encode makes the call data of a function, as a wallet takes it. The contract
// may be empty if only one of the package has the function; a function that
// exists in several forms is named by its signature, "f(uint256)".
//
// Arguments are JSON. Integers are JSON numbers or strings, decimal or 0x hex;
// addresses and bytes are 0x hex, and an address in mixed case must have the
// checksum of EIP-55; tuples are objects by field name, or arrays. A JSON string
// may also hold the JSON text of any value, see [Text].
func Encode(pkg []byte, contract, function string, args []json.RawMessage) ([]byte, error) {
	_, _, m, err := find(pkg, contract, function)
	if err != nil {
		return nil, err
	}
	return encodeCall(m, args)
}

func encodeCall(m abi.Method, args []json.RawMessage) ([]byte, error) {
	data, err := encodeArguments(m.Inputs, args)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Sig, err)
	}
	return append(bytes.Clone(m.ID), data...), nil
}

// encodeArguments is the ABI's encoding of a list of values. Errors name the
// argument by its position, from 1, and its name.
func encodeArguments(params abi.Arguments, args []json.RawMessage) ([]byte, error) {
	if len(args) != len(params) {
		var want []string
		for _, p := range params {
			want = append(want, strings.TrimSpace(p.Type.String()+" "+p.Name))
		}
		return nil, fmt.Errorf("%d arguments given, %d wanted: (%s)", len(args), len(params), strings.Join(want, ", "))
	}
	var s sequence
	for i, p := range params {
		data, err := encodeValue(p.Type, args[i])
		if err != nil {
			return nil, fmt.Errorf("argument %s (%s): %w", strings.TrimSpace(fmt.Sprintf("%d %s", i+1, p.Name)), p.Type.String(), err)
		}
		s.add(p.Type, data)
	}
	return s.bytes(), nil
}

// sequence puts values side by side: those of fixed size in place, the others
// behind, with their offset in place.
type sequence struct {
	parts   [][]byte
	dynamic []bool
}

func (s *sequence) add(t abi.Type, data []byte) {
	s.parts, s.dynamic = append(s.parts, data), append(s.dynamic, isDynamic(t))
}

func (s *sequence) bytes() []byte {
	head := 0
	for i, p := range s.parts {
		if s.dynamic[i] {
			head += word
		} else {
			head += len(p)
		}
	}
	out, tail := make([]byte, 0, head), []byte{}
	for i, p := range s.parts {
		if s.dynamic[i] {
			out = append(out, number(head+len(tail))...)
			tail = append(tail, p...)
		} else {
			out = append(out, p...)
		}
	}
	return append(out, tail...)
}

func number(n int) []byte {
	var w [word]byte
	binary.BigEndian.PutUint64(w[word-8:], uint64(n))
	return w[:]
}

func padded(b []byte) []byte {
	return append(b, make([]byte, (word-len(b)%word)%word)...)
}

func isDynamic(t abi.Type) bool {
	switch t.T {
	case abi.StringTy, abi.BytesTy, abi.SliceTy:
		return true
	case abi.ArrayTy:
		return isDynamic(*t.Elem)
	case abi.TupleTy:
		for _, e := range t.TupleElems {
			if isDynamic(*e) {
				return true
			}
		}
	}
	return false
}

func encodeValue(t abi.Type, raw json.RawMessage) ([]byte, error) {
	switch t.T {
	case abi.SliceTy, abi.ArrayTy, abi.TupleTy:
		return encodeComposite(t, raw)
	case abi.IntTy, abi.UintTy:
		return encodeInteger(t, raw)
	case abi.BoolTy:
		text := strings.Trim(string(bytes.TrimSpace(raw)), `"`)
		if text != "true" && text != "false" {
			return nil, fmt.Errorf("%s is neither true nor false", clip(raw))
		}
		if text == "true" {
			return number(1), nil
		}
		return number(0), nil
	case abi.StringTy:
		text, err := unquote(raw)
		if err != nil {
			return nil, err
		}
		return append(number(len(text)), padded([]byte(text))...), nil
	case abi.AddressTy:
		return encodeAddress(raw)
	case abi.BytesTy:
		b, err := decodeHex(raw)
		if err != nil {
			return nil, err
		}
		return append(number(len(b)), padded(b)...), nil
	case abi.FixedBytesTy, abi.FunctionTy:
		b, err := decodeHex(raw)
		if err != nil {
			return nil, err
		}
		if len(b) != t.Size {
			return nil, fmt.Errorf("%s has %d bytes, not %d", clip(raw), len(b), t.Size)
		}
		return padded(b), nil
	default:
		return nil, errors.New("this type cannot be passed")
	}
}

func encodeComposite(t abi.Type, raw json.RawMessage) ([]byte, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) > 0 && raw[0] == '"' {
		text, err := unquote(raw)
		if err != nil {
			return nil, err
		}
		if raw = bytes.TrimSpace([]byte(text)); len(raw) == 0 || raw[0] == '"' {
			return nil, fmt.Errorf("%s is no JSON array or object", clip(raw))
		}
	}
	var s sequence
	if t.T == abi.TupleTy {
		fields, err := tupleFields(t, raw)
		if err != nil {
			return nil, err
		}
		for i, e := range t.TupleElems {
			data, err := encodeValue(*e, fields[i])
			if err != nil {
				return nil, fmt.Errorf("field %s: %w", t.TupleRawNames[i], err)
			}
			s.add(*e, data)
		}
		return s.bytes(), nil
	}
	var items []json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil || items == nil {
		return nil, fmt.Errorf("%s is no JSON array", clip(raw))
	}
	if t.T == abi.ArrayTy && len(items) != t.Size {
		return nil, fmt.Errorf("%d elements given, %d wanted", len(items), t.Size)
	}
	for i, item := range items {
		data, err := encodeValue(*t.Elem, item)
		if err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
		s.add(*t.Elem, data)
	}
	if t.T == abi.SliceTy {
		return append(number(len(items)), s.bytes()...), nil
	}
	return s.bytes(), nil
}

// tupleFields takes an object or an array apart, in the order of the type.
func tupleFields(t abi.Type, raw json.RawMessage) ([]json.RawMessage, error) {
	var list []json.RawMessage
	if len(raw) > 0 && raw[0] == '[' {
		if err := json.Unmarshal(raw, &list); err != nil {
			return nil, fmt.Errorf("%s is no JSON array", clip(raw))
		}
		if len(list) != len(t.TupleElems) {
			return nil, fmt.Errorf("%d fields given, wanted: %s", len(list), strings.Join(t.TupleRawNames, ", "))
		}
		return list, nil
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil || object == nil {
		return nil, fmt.Errorf("%s is no JSON object with %s", clip(raw), strings.Join(t.TupleRawNames, ", "))
	}
	for _, name := range t.TupleRawNames {
		field, ok := object[name]
		if !ok {
			return nil, fmt.Errorf("field %s is missing", name)
		}
		list = append(list, field)
		delete(object, name)
	}
	for name := range object {
		return nil, fmt.Errorf("field %q is unknown, there are %s", name, strings.Join(t.TupleRawNames, ", "))
	}
	return list, nil
}

func encodeInteger(t abi.Type, raw json.RawMessage) ([]byte, error) {
	text := strings.TrimSpace(string(raw))
	if strings.HasPrefix(text, `"`) {
		var err error
		if text, err = unquote(raw); err != nil {
			return nil, err
		}
	}
	if !integerForm.MatchString(text) {
		return nil, fmt.Errorf("%s is no whole number, decimal or 0x hex", clip([]byte(text)))
	}
	base, digits := 10, strings.TrimPrefix(text, "-")
	if len(digits) > 2 && (digits[1] == 'x' || digits[1] == 'X') {
		base, digits = 16, digits[2:]
	}
	n, _ := new(big.Int).SetString(digits, base) // integerForm admits nothing else
	if text[0] == '-' {
		n.Neg(n)
	}
	low, high := new(big.Int), new(big.Int).Lsh(big.NewInt(1), uint(t.Size))
	if t.T == abi.IntTy {
		high.Rsh(high, 1)
		low.Neg(high)
	}
	if n.Cmp(low) < 0 || n.Cmp(high) >= 0 {
		return nil, fmt.Errorf("%s does not fit", clip([]byte(text)))
	}
	if n.Sign() < 0 {
		n.Add(n, new(big.Int).Lsh(big.NewInt(1), 8*word))
	}
	return n.FillBytes(make([]byte, word)), nil
}

func encodeAddress(raw json.RawMessage) ([]byte, error) {
	b, err := decodeHex(raw)
	if err != nil {
		return nil, err
	}
	if len(b) != common.AddressLength {
		return nil, fmt.Errorf("%s has %d bytes, an address has %d", clip(raw), len(b), common.AddressLength)
	}
	text, err := unquote(raw)
	if err != nil {
		return nil, err
	}
	if right := common.BytesToAddress(b).Hex(); mixedLetters.MatchString(text[2:]) && text[2:] != right[2:] {
		return nil, fmt.Errorf("%s has a wrong checksum (EIP-55), look for a typing error; in lower case it is not checked", text)
	}
	return append(make([]byte, word-len(b)), b...), nil
}

func decodeHex(raw json.RawMessage) ([]byte, error) {
	text, err := unquote(raw)
	if err != nil {
		return nil, err
	}
	digits, ok := strings.CutPrefix(text, "0x")
	if !ok {
		return nil, fmt.Errorf("%s does not begin with 0x", clip([]byte(text)))
	}
	b, err := hex.DecodeString(digits)
	if err != nil {
		return nil, fmt.Errorf("%s is no hex: two digits a byte", clip([]byte(text)))
	}
	return b, nil
}

// unquote reads a JSON string.
func unquote(raw json.RawMessage) (string, error) {
	var text *string
	dec := json.NewDecoder(bytes.NewReader(raw))
	if err := dec.Decode(&text); err != nil || text == nil {
		return "", fmt.Errorf("%s is no text: put it in quotes", clip(raw))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("%s is no text", clip(raw))
	}
	return *text, nil
}

// clip shortens what a person handed in for an error's text.
func clip(raw []byte) string {
	const most = 80
	if len(raw) <= most {
		return string(raw)
	}
	end := most
	for end > 0 && !utf8.RuneStart(raw[end]) {
		end--
	}
	return string(raw[:end]) + "…"
}
