package gateway

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxFilter is the most addresses and topics of a log filter, together.
const maxFilter = 1024

// filter chooses logs, as eth_subscribe has it: by address, and by topics, of
// which each position takes any of its values, or every value if it has none.
type filter struct {
	addresses [][20]byte // sorted; none: all
	topics    [][]hash   // each sorted
	from, to  int64      // block numbers, 0 if not given
}

// parseFilter reads a log filter of the Ethereum JSON-RPC. None stands for all logs.
func parseFilter(text []byte) (*filter, error) {
	var raw struct {
		Address   json.RawMessage   `json:"address"`
		Topics    []json.RawMessage `json:"topics"`
		FromBlock *string           `json:"fromBlock"`
		ToBlock   *string           `json:"toBlock"`
		BlockHash *string           `json:"blockHash"`
	}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &raw); err != nil {
			return nil, errors.New("a log filter is an object with address, topics, fromBlock and toBlock")
		}
	}
	f := &filter{}
	addresses, _, err := oneOrMany(raw.Address)
	if err != nil {
		return nil, fmt.Errorf("address: %w", err)
	}
	count := len(addresses)
	for _, s := range addresses {
		a, err := parseBytes(s, 20)
		if err != nil {
			return nil, fmt.Errorf("address: %w", err)
		}
		f.addresses = append(f.addresses, [20]byte(a))
	}
	slices.SortFunc(f.addresses, func(a, b [20]byte) int { return bytes.Compare(a[:], b[:]) })
	f.addresses = slices.Compact(f.addresses)
	if len(raw.Topics) > 4 {
		return nil, errors.New("topics: a log has four at most")
	}
	for i, t := range raw.Topics {
		values, any, err := oneOrMany(t)
		if err != nil {
			return nil, fmt.Errorf("topics[%d]: %w", i, err)
		}
		var list []hash
		for _, s := range values {
			h, err := parseBytes(s, 32)
			if err != nil {
				return nil, fmt.Errorf("topics[%d]: %w", i, err)
			}
			list = append(list, hash(h))
		}
		if any {
			list = nil
		}
		slices.SortFunc(list, compareHash)
		f.topics = append(f.topics, slices.Compact(list))
		count += len(list)
	}
	if count > maxFilter {
		return nil, fmt.Errorf("filter has more than %d addresses and topics", maxFilter)
	}
	if raw.BlockHash != nil {
		return nil, errors.New("blockHash: a subscription is about blocks to come; use eth_getLogs")
	}
	if f.from, err = parseBound(raw.FromBlock); err != nil {
		return nil, fmt.Errorf("fromBlock: %w", err)
	}
	if f.to, err = parseBound(raw.ToBlock); err != nil {
		return nil, fmt.Errorf("toBlock: %w", err)
	}
	return f, nil
}

func compareHash(a, b hash) int { return bytes.Compare(a[:], b[:]) }

// oneOrMany reads a string or a list of them. A null in the list stands for any.
func oneOrMany(text json.RawMessage) (values []string, any bool, err error) {
	if len(text) == 0 || string(text) == "null" {
		return nil, false, nil
	}
	var one string
	if json.Unmarshal(text, &one) == nil {
		return []string{one}, false, nil
	}
	var many []*string
	if json.Unmarshal(text, &many) != nil {
		return nil, false, errors.New("must be a string or a list of strings")
	}
	for _, s := range many {
		if s == nil {
			any = true
		} else {
			values = append(values, *s)
		}
	}
	return values, any, nil
}

func parseBytes(s string, size int) ([]byte, error) {
	digits, ok := strings.CutPrefix(s, "0x")
	b, err := hex.DecodeString(digits)
	if !ok || err != nil || len(b) != size {
		return nil, fmt.Errorf("%q is not 0x and %d hex digits", clipName(s), 2*size)
	}
	return b, nil
}

func parseBound(s *string) (int64, error) {
	if s == nil {
		return 0, nil
	}
	switch *s {
	case "", "earliest", "latest", "safe", "finalized":
		return 0, nil // all that come
	}
	digits, ok := strings.CutPrefix(*s, "0x")
	n, err := strconv.ParseUint(digits, 16, 63)
	if !ok || err != nil {
		return 0, fmt.Errorf("%q is no block number", clipName(*s))
	}
	return int64(n), nil
}

// key is the same for filters that choose the same.
func (f *filter) key() string {
	var b strings.Builder
	fmt.Fprintf(&b, "logs %d %d %x", f.from, f.to, f.addresses)
	for _, t := range f.topics {
		fmt.Fprintf(&b, " %x", t)
	}
	return b.String()
}

func (f *filter) covers(number int64) bool {
	return number >= f.from && (f.to == 0 || number <= f.to)
}

func (f *filter) match(e *entry) bool {
	if len(f.topics) > len(e.topics) {
		return false
	}
	if len(f.addresses) > 0 {
		_, ok := slices.BinarySearchFunc(f.addresses, e.address, func(a, b [20]byte) int { return bytes.Compare(a[:], b[:]) })
		if !ok {
			return false
		}
	}
	for i, any := range f.topics {
		if len(any) == 0 {
			continue
		}
		if _, ok := slices.BinarySearchFunc(any, e.topics[i], compareHash); !ok {
			return false
		}
	}
	return true
}
