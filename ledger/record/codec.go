package record

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cosmossdk.io/collections/codec"
)

// JSON is the value codec of a Go type in its JSON form.
func JSON[T any]() codec.ValueCodec[T] { return jsonCodec[T]{} }

type jsonCodec[T any] struct{}

func (jsonCodec[T]) Encode(v T) ([]byte, error) { return json.Marshal(v) }

func (jsonCodec[T]) Decode(b []byte) (v T, err error) { return v, json.Unmarshal(b, &v) }

func (c jsonCodec[T]) EncodeJSON(v T) ([]byte, error) { return c.Encode(v) }

func (c jsonCodec[T]) DecodeJSON(b []byte) (T, error) { return c.Decode(b) }

func (jsonCodec[T]) Stringify(v T) string { return fmt.Sprintf("%+v", v) }

func (jsonCodec[T]) ValueType() string { return "json" }

// Clip shortens a text from outside to max bytes of valid UTF-8, so that it is
// stored as it is compared: JSON would replace a rune that was cut in two.
func Clip(s string, max int) string {
	return strings.ToValidUTF8(s[:min(len(s), max)], "")
}

// SortedKeys returns the keys of a map in order: state must be written in the same
// order everywhere.
func SortedKeys[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

// MessageName turns /bsn.ledger.operator.v1.MsgAdmitCity into admit-city.
func MessageName(typeURL string) string {
	name := typeURL[strings.LastIndexByte(typeURL, '.')+1:]
	var b strings.Builder
	for i, r := range strings.TrimPrefix(name, "Msg") {
		if r >= 'A' && r <= 'Z' {
			if i > 0 {
				b.WriteByte('-')
			}
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}
