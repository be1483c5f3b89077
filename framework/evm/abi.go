package evm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/ethereum/go-ethereum/accounts/abi"
)

// Bounds of an ABI. It comes from strangers, and Go types are built from it: a
// uint8[4294967296] costs its writer a few bytes and its reader all memory.
const (
	maxABI      = 1 << 20 // bytes
	maxDepth    = 16      // tuples within tuples, and array brackets of one type
	maxElements = 1 << 14 // values of fixed size in one parameter
)

// typeForm is the grammar of elementary types in the contract ABI specification
// of Solidity, followed by the brackets of arrays.
var typeForm = regexp.MustCompile(`^(u?int[0-9]{1,3}|address|bool|string|function|bytes[0-9]{0,2}|tuple)((?:\[[0-9]{0,6}\])*)$`)

// parameter is what parseABI looks at before it lets the ABI library loose.
type parameter struct {
	Name       string      `json:"name"`
	Type       string      `json:"type"`
	Components []parameter `json:"components"`
}

// parseABI reads a contract's ABI in JSON.
func parseABI(text []byte) (parsed abi.ABI, err error) {
	if len(text) > maxABI {
		return abi.ABI{}, fmt.Errorf("read ABI: larger than %d KiB", maxABI>>10)
	}
	var entries []struct {
		Name    string      `json:"name"`
		Inputs  []parameter `json:"inputs"`
		Outputs []parameter `json:"outputs"`
	}
	if err := json.Unmarshal(text, &entries); err != nil {
		return abi.ABI{}, fmt.Errorf("read ABI: %w", err)
	}
	for _, e := range entries {
		for _, p := range append(e.Inputs, e.Outputs...) {
			if _, err := p.elements(0); err != nil {
				return abi.ABI{}, fmt.Errorf("read ABI: %q: %w", e.Name, err)
			}
		}
	}
	// The library builds Go types by reflection, which panics on what it dislikes.
	defer func() {
		if r := recover(); r != nil {
			parsed, err = abi.ABI{}, fmt.Errorf("read ABI: %v", r)
		}
	}()
	if parsed, err = abi.JSON(bytes.NewReader(text)); err != nil {
		return abi.ABI{}, fmt.Errorf("read ABI: %w", err)
	}
	return parsed, nil
}

// elements counts the values of fixed size in a parameter, within the bounds.
func (p parameter) elements(depth int) (int, error) {
	m := typeForm.FindStringSubmatch(p.Type)
	if m == nil {
		return 0, fmt.Errorf("unknown type %q", p.Type)
	}
	if depth > maxDepth || strings.Count(m[2], "[") > maxDepth {
		return 0, errors.New("types are nested too deep")
	}
	if bits, ok := strings.CutPrefix(strings.TrimPrefix(m[1], "u"), "int"); ok {
		if n, err := strconv.Atoi(bits); err != nil || n == 0 || n > 256 || n%8 != 0 {
			return 0, fmt.Errorf("unknown type %q", p.Type)
		}
	}
	n := 1
	if m[1] == "tuple" {
		for _, c := range p.Components {
			inner, err := c.elements(depth + 1)
			if err != nil {
				return 0, err
			}
			n += inner
		}
	}
	for _, size := range strings.FieldsFunc(m[2], func(r rune) bool { return r == '[' || r == ']' }) {
		times, err := strconv.Atoi(size)
		if err != nil {
			return 0, fmt.Errorf("unknown type %q", p.Type)
		}
		if n *= times; n > maxElements {
			break
		}
	}
	if n > maxElements {
		return 0, fmt.Errorf("%s holds more than %d values", p.Type, maxElements)
	}
	return n, nil
}
