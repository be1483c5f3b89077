package evm

import (
	_ "embed"
	"errors"
	"regexp"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/methods"
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
func LoadMethods(tables ...[]byte) (bsn.Methods, error) { return methods.Load(checkName, tables...) }

func checkName(name string) error {
	switch {
	case !methodForm.MatchString(name):
		return errors.New("a method is called namespace_name")
	case nodesOwn.MatchString(name):
		return errors.New("it is the node's own and may not pass")
	}
	return nil
}
