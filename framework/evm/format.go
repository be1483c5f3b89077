package evm

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"
)

// Bounds of one decoded result. Within ABI data many offsets may lead to the
// same place, so that a contract can make a few kilobytes stand for petabytes.
const (
	maxValues = 1 << 18
	maxBytes  = 16 << 20 // of strings and bytes
)

// numberBits is the widest integer type whose values are JSON numbers: those
// that every JSON reader holds exactly. viem draws the line at the same place.
const numberBits = 48

var (
	errShort = errors.New("the data ends too early: is this the right contract?")
	errLarge = errors.New("the data stands for more than can be returned")
)

// formatter writes ABI data as JSON:
//
//   - integers of up to 48 bits as numbers, wider ones as decimal strings. The
//     type decides, never the value, so that a caller knows what comes.
//   - addresses as 0x hex with the checksum of EIP-55, bytes as 0x hex
//   - strings as they are; bytes that are no UTF-8 become U+FFFD
//   - arrays as arrays, tuples as objects with their fields in order
type formatter struct {
	out    bytes.Buffer
	values int
	bytes  int
}

// formatResult writes what a function returned: null for nothing, one value as
// it is, several as an object if all have names, and else as an array.
func formatResult(outputs abi.Arguments, data []byte) (json.RawMessage, error) {
	var f formatter
	switch named := allNamed(outputs); {
	case len(outputs) == 0:
		return json.RawMessage("null"), nil
	case len(outputs) == 1:
		body, err := body(data, 0, outputs[0].Type)
		if err != nil {
			return nil, err
		}
		if err := f.value(outputs[0].Type, body); err != nil {
			return nil, err
		}
	case named:
		if err := f.arguments(outputs, data); err != nil {
			return nil, err
		}
	default:
		types := make([]*abi.Type, len(outputs))
		for i := range outputs {
			types[i] = &outputs[i].Type
		}
		if err := f.list(types, nil, data); err != nil {
			return nil, err
		}
	}
	return f.out.Bytes(), nil
}

// formatArguments writes values as an object by their names, or by position
// ("0", "1" …) where they have none.
func formatArguments(args abi.Arguments, data []byte) (json.RawMessage, error) {
	var f formatter
	if err := f.arguments(args, data); err != nil {
		return nil, err
	}
	return f.out.Bytes(), nil
}

func (f *formatter) arguments(args abi.Arguments, data []byte) error {
	types, names := make([]*abi.Type, len(args)), make([]string, len(args))
	for i := range args {
		types[i], names[i] = &args[i].Type, label(args[i], i)
	}
	return f.list(types, names, data)
}

func label(a abi.Argument, i int) string {
	if a.Name == "" {
		return fmt.Sprint(i)
	}
	return a.Name
}

func allNamed(args abi.Arguments) bool {
	seen := make(map[string]bool)
	for _, a := range args {
		if a.Name == "" || seen[a.Name] {
			return false
		}
		seen[a.Name] = true
	}
	return true
}

// list writes values that lie side by side, as an object if there are names.
func (f *formatter) list(types []*abi.Type, names []string, data []byte) error {
	opening, closing := byte('['), byte(']')
	if names != nil {
		opening, closing = '{', '}'
	}
	f.out.WriteByte(opening)
	at := 0
	for i, t := range types {
		if i > 0 {
			f.out.WriteByte(',')
		}
		if names != nil {
			f.text(names[i])
			f.out.WriteByte(':')
		}
		body, err := body(data, at, *t)
		if err != nil {
			return err
		}
		if err := f.value(*t, body); err != nil {
			return err
		}
		at += headSize(*t)
	}
	f.out.WriteByte(closing)
	return nil
}

// repeat writes n values of one type as an array.
func (f *formatter) repeat(t abi.Type, n int, data []byte) error {
	f.out.WriteByte('[')
	size := headSize(t)
	for i := range n {
		if i > 0 {
			f.out.WriteByte(',')
		}
		body, err := body(data, i*size, t)
		if err != nil {
			return err
		}
		if err := f.value(t, body); err != nil {
			return err
		}
	}
	f.out.WriteByte(']')
	return nil
}

// body is where a value lies whose place in a sequence is at the given offset.
func body(data []byte, at int, t abi.Type) ([]byte, error) {
	if at > len(data) {
		return nil, errShort
	}
	if !isDynamic(t) {
		return data[at:], nil
	}
	offset, err := length(data[at:])
	if err != nil {
		return nil, err
	}
	if offset > len(data) {
		return nil, errShort
	}
	return data[offset:], nil
}

// length reads a word that is an offset or a count. No count can be honest that
// is larger than the budget of values, nor an offset larger than the data.
func length(data []byte) (int, error) {
	if len(data) < word {
		return 0, errShort
	}
	n := new(big.Int).SetBytes(data[:word])
	if n.BitLen() > 31 {
		return 0, errShort
	}
	return int(n.Int64()), nil
}

func headSize(t abi.Type) int {
	switch {
	case isDynamic(t):
		return word
	case t.T == abi.ArrayTy:
		return t.Size * headSize(*t.Elem)
	case t.T == abi.TupleTy:
		n := 0
		for _, e := range t.TupleElems {
			n += headSize(*e)
		}
		return n
	default:
		return word
	}
}

func (f *formatter) value(t abi.Type, data []byte) error {
	if f.values++; f.values > maxValues {
		return errLarge
	}
	switch t.T {
	case abi.TupleTy:
		return f.list(t.TupleElems, t.TupleRawNames, data)
	case abi.ArrayTy:
		return f.repeat(*t.Elem, t.Size, data)
	case abi.SliceTy:
		n, err := length(data)
		if err != nil {
			return err
		}
		return f.repeat(*t.Elem, n, data[word:])
	case abi.StringTy, abi.BytesTy:
		n, err := length(data)
		if err != nil {
			return err
		}
		if n > len(data)-word {
			return errShort
		}
		if f.bytes += n; f.bytes > maxBytes {
			return errLarge
		}
		if content := data[word : word+n]; t.T == abi.StringTy {
			f.text(string(content))
		} else {
			f.hex(content)
		}
		return nil
	}
	if len(data) < word {
		return errShort
	}
	return f.elementary(t, data[:word])
}

func (f *formatter) elementary(t abi.Type, w []byte) error {
	switch t.T {
	case abi.IntTy, abi.UintTy:
		n := new(big.Int).SetBytes(w)
		if t.T == abi.IntTy && n.Bit(8*word-1) == 1 {
			n.Sub(n, new(big.Int).Lsh(big.NewInt(1), 8*word))
		}
		bits := n.BitLen()
		if t.T == abi.IntTy {
			bits = new(big.Int).Not(n).BitLen() + 1
			if n.Sign() >= 0 {
				bits = n.BitLen() + 1
			}
		}
		if bits > t.Size {
			return fmt.Errorf("%s does not fit into %s: is this the right contract?", n, t.String())
		}
		if t.Size <= numberBits {
			f.out.WriteString(n.String())
		} else {
			f.text(n.String())
		}
	case abi.BoolTy:
		switch n := new(big.Int).SetBytes(w); {
		case n.Sign() == 0:
			f.out.WriteString("false")
		case n.IsUint64() && n.Uint64() == 1:
			f.out.WriteString("true")
		default:
			return fmt.Errorf("%s is no bool: is this the right contract?", n)
		}
	case abi.AddressTy:
		f.text(common.BytesToAddress(w).Hex())
	case abi.FixedBytesTy, abi.FunctionTy:
		f.hex(w[:t.Size])
	default:
		return fmt.Errorf("%s cannot be read", t.String())
	}
	return nil
}

// text writes a JSON string, without the escapes that only HTML needs.
func (f *formatter) text(s string) {
	enc := json.NewEncoder(&f.out)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s)               // a string always has a JSON form
	f.out.Truncate(f.out.Len() - 1) // the encoder's line end
}

func (f *formatter) hex(b []byte) {
	f.out.WriteString(`"0x`)
	f.out.WriteString(hex.EncodeToString(b))
	f.out.WriteByte('"')
}
