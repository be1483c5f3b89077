package evm

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"regexp"

	"go.yaml.in/yaml/v3"

	"github.com/openbsn/bsn"
)

// Methods is the table of the standard methods, in YAML, for [LoadMethods].
//
//go:embed methods.yaml
var Methods []byte

var (
	methodForm = regexp.MustCompile(`^[a-z0-9]+_[A-Za-z0-9]+$`)
	// nodesOwn are methods that use a node's keys or change its settings. No table
	// may let them pass.
	nodesOwn = regexp.MustCompile(`^((admin|personal|debug|miner)_.*|[a-z0-9]+_(accounts|sign|signTransaction|sendTransaction))$`)
)

// LoadMethods reads method tables in YAML, the form of [bsn.Methods], and merges
// them. A method may have one row in all of them together. Every block is final
// if one of the tables says so.
func LoadMethods(tables ...[]byte) (bsn.Methods, error) {
	all := bsn.Methods{Methods: make(map[string]bsn.Method)}
	for i, text := range tables {
		var table bsn.Methods
		dec := yaml.NewDecoder(bytes.NewReader(text))
		dec.KnownFields(true)
		if err := dec.Decode(&table); err != nil && !errors.Is(err, io.EOF) {
			return bsn.Methods{}, fmt.Errorf("read method table %d: %w", i+1, err)
		}
		all.Final = all.Final || table.Final
		for name, m := range table.Methods {
			if _, twice := all.Methods[name]; twice {
				return bsn.Methods{}, fmt.Errorf("method table %d: %s has a row already", i+1, name)
			}
			if err := checkMethod(name, m); err != nil {
				return bsn.Methods{}, fmt.Errorf("method table %d: %s: %w", i+1, name, err)
			}
			all.Methods[name] = m
		}
	}
	return all, nil
}

func checkMethod(name string, m bsn.Method) error {
	switch {
	case !methodForm.MatchString(name):
		return errors.New("a method is called namespace_name")
	case nodesOwn.MatchString(name):
		return errors.New("it is the node's own and may not pass")
	case m.Class != bsn.MethodRead && m.Class != bsn.MethodSend && m.Class != bsn.MethodSubscribe && m.Class != bsn.MethodLocal:
		return fmt.Errorf("class %q is none of read, send, subscribe, local", m.Class)
	case m.Block < 0 || m.Filter < 0 || m.Block > 8 || m.Filter > 8:
		return errors.New("block and filter are positions of parameters, from 1")
	case m.Contract < 0 || m.Contract > 8 || m.Contract > 0 && m.Class == bsn.MethodSend:
		return errors.New("contract is the position of a parameter, from 1; whom a transaction is sent to is read from it")
	case m.Units < 1:
		return errors.New("units: a call costs at least 1")
	case m.Notify < 0 || m.Notify > 0 && m.Class != bsn.MethodSubscribe:
		return errors.New("notify: what a notification of a subscription costs")
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
