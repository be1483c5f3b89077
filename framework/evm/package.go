package evm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common/hexutil"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/manifest"
)

// Format is the value of a package's "format" field.
const Format = "bsn.evm/1"

// MaxPackage is the largest package in bytes.
const MaxPackage = 4 << 20

// maxCreation bounds the bytecode of one creation, so that its transaction stays
// below the 128 KiB that nodes accept. EIP-3860 allows less; a chain says so itself.
const maxCreation = 120 << 10

// Contract is one contract of a package, compiled and ready to deploy.
type Contract struct {
	Name string `json:"name"`
	// ABI as the compiler wrote it, without white space.
	ABI json.RawMessage `json:"abi"`
	// Bytecode creates the contract: the compiler's creation code followed by the
	// ABI-encoded arguments of the constructor.
	Bytecode hexutil.Bytes `json:"bytecode"`
	// Runtime is the code that the compiler expects on the chain, with zeros where
	// the creation fills in immutable values. Empty if the artifact does not say.
	Runtime hexutil.Bytes `json:"runtime,omitempty"`
	// Compiler says what compiled it and how, as far as is known.
	Compiler string `json:"compiler,omitempty"`
}

// document is the JSON form of a package.
type document struct {
	Format    string            `json:"format"`
	Manifest  manifest.Manifest `json:"manifest"`
	Contracts []Contract        `json:"contracts"`
}

// encode writes a package; the same contracts always give the same bytes.
func encode(m manifest.Manifest, contracts []Contract) ([]byte, error) {
	// Where and for whom an app is served is for the ledger to say: the same
	// contracts in another city are the same package.
	m.Chain, m.Cities, m.Roles, m.Limits = "", nil, nil, bsn.Limits{}
	pkg, err := json.Marshal(document{Format: Format, Manifest: m, Contracts: contracts})
	if err != nil {
		return nil, fmt.Errorf("encode package: %w", err)
	}
	if _, err := decode(pkg); err != nil {
		return nil, err
	}
	return pkg, nil
}

// decode reads a package and checks all of it.
func decode(pkg []byte) (document, error) {
	if len(pkg) > MaxPackage {
		return document{}, fmt.Errorf("the package has %d bytes, more than %d MiB: publish fewer contracts at once", len(pkg), MaxPackage>>20)
	}
	var d document
	dec := json.NewDecoder(bytes.NewReader(pkg))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return document{}, fmt.Errorf("decode package: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return document{}, errors.New("decode package: more follows after its end")
	}
	if d.Format != Format {
		return document{}, fmt.Errorf("decode package: format %q is not %s", d.Format, Format)
	}
	if err := d.Manifest.Check(); err != nil {
		return document{}, fmt.Errorf("decode package: manifest: %w", err)
	}
	if len(d.Contracts) != len(d.Manifest.Contracts) {
		return document{}, fmt.Errorf("decode package: %d contracts, the manifest names %d", len(d.Contracts), len(d.Manifest.Contracts))
	}
	for i, c := range d.Contracts {
		if want := d.Manifest.Contracts[i].Name; c.Name != want {
			return document{}, fmt.Errorf("decode package: contract %q stands where the manifest has %s", c.Name, want)
		}
		if len(c.Bytecode) == 0 || len(c.Bytecode) > maxCreation {
			return document{}, fmt.Errorf("contract %s: %d bytes of bytecode: between 1 and %d can be deployed", c.Name, len(c.Bytecode), maxCreation)
		}
		if _, err := parseABI(c.ABI); err != nil {
			return document{}, fmt.Errorf("contract %s: %w", c.Name, err)
		}
	}
	return d, nil
}

// Contracts returns the contracts of a package in the order of deployment.
func Contracts(pkg []byte) ([]Contract, error) {
	d, err := decode(pkg)
	return d.Contracts, err
}

// Describe lists what the contracts of a package offer. An input is written as
// its type and, if it has one, its name: "uint256 id". A function whose name is
// not unique goes by its signature, "transfer(address,uint256)".
func Describe(pkg []byte) ([]bsn.Interface, error) {
	contracts, err := Contracts(pkg)
	if err != nil {
		return nil, err
	}
	interfaces := make([]bsn.Interface, 0, len(contracts))
	for _, c := range contracts {
		parsed, err := parseABI(c.ABI)
		if err != nil {
			return nil, fmt.Errorf("contract %s: %w", c.Name, err)
		}
		times := make(map[string]int)
		for _, m := range parsed.Methods {
			times[m.RawName]++
		}
		functions := make([]bsn.Function, 0, len(parsed.Methods))
		for _, m := range parsed.Methods {
			f := bsn.Function{Name: m.RawName, Reads: m.IsConstant(), Inputs: make([]string, 0, len(m.Inputs))}
			if times[m.RawName] > 1 {
				f.Name = m.Sig
			}
			for _, in := range m.Inputs {
				f.Inputs = append(f.Inputs, strings.TrimSpace(in.Type.String()+" "+in.Name))
			}
			functions = append(functions, f)
		}
		slices.SortFunc(functions, func(a, b bsn.Function) int { return strings.Compare(a.Name, b.Name) })
		interfaces = append(interfaces, bsn.Interface{Contract: c.Name, ABI: c.ABI, Functions: functions})
	}
	return interfaces, nil
}

// find picks a contract of a package and one of its functions. The contract may
// be left out if only one has the function. The function is a name or, where
// several share it, a signature.
func find(pkg []byte, contract, function string) (Contract, abi.ABI, abi.Method, error) {
	fail := func(err error) (Contract, abi.ABI, abi.Method, error) {
		return Contract{}, abi.ABI{}, abi.Method{}, err
	}
	contracts, err := Contracts(pkg)
	if err != nil {
		return fail(err)
	}
	var (
		found  []int
		parsed = make([]abi.ABI, len(contracts))
		method abi.Method
		names  = make([]string, len(contracts))
		missed error
	)
	for i, c := range contracts {
		names[i] = c.Name
		if contract != "" && c.Name != contract {
			continue
		}
		if parsed[i], err = parseABI(c.ABI); err != nil {
			return fail(fmt.Errorf("contract %s: %w", c.Name, err))
		}
		m, err := resolve(parsed[i], function)
		if err != nil {
			missed = fmt.Errorf("contract %s: %w", c.Name, err)
			continue
		}
		found, method = append(found, i), m
	}
	switch {
	case len(found) == 1:
		return contracts[found[0]], parsed[found[0]], method, nil
	case len(found) > 1:
		return fail(fmt.Errorf("more than one contract has a function %s: name one of %s", function, strings.Join(names, ", ")))
	case contract != "" && !slices.Contains(names, contract):
		return fail(fmt.Errorf("the app has no contract %q, but %s", contract, strings.Join(names, ", ")))
	case contract != "" || len(contracts) == 1:
		return fail(missed)
	default:
		return fail(fmt.Errorf("none of the contracts %s has a function %q", strings.Join(names, ", "), function))
	}
}

// resolve finds a function by name or signature.
func resolve(a abi.ABI, function string) (abi.Method, error) {
	wanted := strings.ReplaceAll(function, " ", "")
	var byName []abi.Method
	known := make(map[string]bool)
	for _, m := range a.Methods {
		if m.Sig == wanted {
			return m, nil
		}
		if m.RawName == wanted {
			byName = append(byName, m)
		}
		known[m.Sig] = true
	}
	if len(byName) == 1 {
		return byName[0], nil
	}
	var list []string
	for sig := range known {
		if len(byName) == 0 || strings.HasPrefix(sig, wanted+"(") {
			list = append(list, sig)
		}
	}
	slices.Sort(list)
	if len(byName) > 1 {
		return abi.Method{}, fmt.Errorf("%s has several forms, write out which: %s", function, strings.Join(list, ", "))
	}
	return abi.Method{}, fmt.Errorf("no function %q, but %s", function, strings.Join(list, ", "))
}
