// Package methods reads frameworks' method tables, which are data in YAML: the form of
// [bsn.Methods].
package methods

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"

	"go.yaml.in/yaml/v3"

	"github.com/openbsn/bsn"
)

// Load reads tables and merges them. A method may have one row in all of them
// together. Every block is final if one of the tables says so. Named checks the names of
// methods of JSON-RPC.
func Load(named func(name string) error, tables ...[]byte) (bsn.Methods, error) {
	all := bsn.Methods{Methods: map[string]bsn.Method{}, GRPC: map[string]bsn.Method{}, REST: map[string]bsn.Method{}}
	for i, text := range tables {
		var table bsn.Methods
		dec := yaml.NewDecoder(bytes.NewReader(text))
		dec.KnownFields(true)
		if err := dec.Decode(&table); err != nil && !errors.Is(err, io.EOF) {
			return bsn.Methods{}, fmt.Errorf("read method table %d: %w", i+1, err)
		}
		all.Final = all.Final || table.Final
		if table.Head != (bsn.Head{}) {
			all.Head = table.Head
		}
		if err := errors.Join(
			merge(all.Methods, table.Methods, func(name string, m bsn.Method) error { return errors.Join(named(name), checkRPC(m)) }),
			merge(all.GRPC, table.GRPC, checkOther),
			merge(all.REST, table.REST, checkOther),
		); err != nil {
			return bsn.Methods{}, fmt.Errorf("method table %d: %w", i+1, err)
		}
	}
	if _, known := all.Methods[all.Head.Method]; all.Head.Method != "" && !known {
		return bsn.Methods{}, fmt.Errorf("head: method %s has no row", all.Head.Method)
	}
	return all, nil
}

func merge(all, table map[string]bsn.Method, check func(string, bsn.Method) error) error {
	for name, m := range table {
		if _, twice := all[name]; twice {
			return fmt.Errorf("%s has a row already", name)
		}
		if err := check(name, m); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	maps.Copy(all, table)
	return nil
}

// checkOther checks a row of gRPC or REST, which have fewer columns.
func checkOther(_ string, m bsn.Method) error {
	switch m.Class {
	case bsn.MethodRead, bsn.MethodSend, bsn.MethodSubscribe, bsn.MethodRefused:
	default:
		return fmt.Errorf("class %q is none of read, send, subscribe, refused", m.Class)
	}
	if m.Class == bsn.MethodRefused {
		return nil
	}
	plain := bsn.Method{Class: m.Class, Units: m.Units, Notify: m.Notify, Restricted: m.Restricted, At: m.At}
	switch {
	case m != plain:
		return errors.New("it has class, units, notify, restricted and at, and nothing else")
	case m.At != "" && m.At != bsn.AtRPC:
		return fmt.Errorf("at %q is not known: there is %s", m.At, bsn.AtRPC)
	}
	return checkCost(m)
}

func checkCost(m bsn.Method) error {
	switch {
	case m.Units < 1:
		return errors.New("units: a call costs at least 1")
	case m.Notify < 0 || m.Notify > 0 && m.Class != bsn.MethodSubscribe:
		return errors.New("notify: what a notification of a subscription costs")
	}
	return nil
}

// checkRPC checks a row of JSON-RPC.
func checkRPC(m bsn.Method) error {
	switch {
	case m.Class != bsn.MethodRead && m.Class != bsn.MethodSend && m.Class != bsn.MethodSubscribe && m.Class != bsn.MethodLocal:
		return fmt.Errorf("class %q is none of read, send, subscribe, local", m.Class)
	case m.Block < 0 || m.Filter < 0 || m.Block > 8 || m.Filter > 8:
		return errors.New("block and filter are positions of parameters, from 1")
	case m.Contract < 0 || m.Contract > 8 || m.Contract > 0 && m.Class == bsn.MethodSend:
		return errors.New("contract is the position of a parameter, from 1; whom a transaction is sent to is read from it")
	case m.At != "":
		return errors.New("at is for addresses of REST")
	}
	if err := checkCost(m); err != nil {
		return err
	}
	return checkAnswers(m)
}

// checkAnswers looks at the columns that tell what an answer depends on. A row that
// lets too much be cached would serve wrong answers, so that what does not fit
// together is refused.
func checkAnswers(m bsn.Method) error {
	switch m.Cache {
	case bsn.CacheNone, bsn.CacheStatic, bsn.CacheHead, bsn.CacheBlock, bsn.CacheHash:
	default:
		return fmt.Errorf("cache %q is none of static, head, block, hash; leave it out for answers that are not cached", m.Cache)
	}
	switch m.Shows {
	case "", bsn.ShowsResult, bsn.ShowsNumber, bsn.ShowsBlockNumber:
	default:
		return fmt.Errorf("shows %q is none of result, number, blockNumber", m.Shows)
	}
	named := m.Block > 0 || m.Filter > 0
	switch {
	case m.Cache != bsn.CacheNone && m.Class != bsn.MethodRead && m.Class != bsn.MethodLocal:
		return fmt.Errorf("class %s is not cached", m.Class)
	case m.Block > 0 && m.Filter > 0:
		return errors.New("block and filter: a method names its block in one way only")
	case m.Cache == bsn.CacheBlock && !named:
		return errors.New("cache: block needs the position of the block or the filter")
	case named && (m.Cache == bsn.CacheStatic || m.Cache == bsn.CacheHash || m.Cache == bsn.CacheHead):
		return fmt.Errorf("cache: %s does not fit a method whose params name a block: that is cache: block", m.Cache)
	case m.Shows == bsn.ShowsResult && named:
		return errors.New("shows: result is for the number of the newest block, which no param names")
	case (m.Class == bsn.MethodLocal) != (m.Answer != ""):
		return errors.New("answer belongs to class local, and class local needs it")
	case m.Answer != "" && m.Answer != bsn.AnswerChainID:
		return fmt.Errorf("answer %q is not known: there is %s", m.Answer, bsn.AnswerChainID)
	}
	return nil
}
