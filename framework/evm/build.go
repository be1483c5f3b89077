package evm

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/openbsn/bsn/manifest"
)

const maxArtifact = 16 << 20 // bytes of an artifact file: Foundry's hold syntax trees too

// Build makes the package of an app from its folder and manifest. The same files
// give the same bytes on every machine. Sources are compiled with solc, which is
// installed on first use; what takes time, and the compiler's warnings, are told
// to log.
func Build(ctx context.Context, dir string, m manifest.Manifest, log io.Writer) ([]byte, error) {
	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open app folder: %w", err)
	}
	defer root.Close()
	var sources []string
	for _, c := range m.Contracts {
		if file, _ := manifest.SplitSource(c.Source); file != "" && !slices.Contains(sources, file) {
			if _, err := root.Stat(filepath.FromSlash(file)); err != nil {
				return nil, fmt.Errorf("contract %s: open source: %w", c.Name, err)
			}
			sources = append(sources, file)
		}
	}
	var all compilation
	if len(sources) > 0 {
		slices.Sort(sources)
		if all, err = compile(ctx, dir, sources, log); err != nil {
			return nil, err
		}
	}
	contracts := make([]Contract, 0, len(m.Contracts))
	for _, c := range m.Contracts {
		contract, err := build(root, c, all)
		if err != nil {
			return nil, fmt.Errorf("contract %s: %w", c.Name, err)
		}
		contracts = append(contracts, contract)
	}
	return encode(m, contracts)
}

// build makes one contract ready to deploy.
func build(root *os.Root, c manifest.Contract, all compilation) (Contract, error) {
	var (
		out      compiled
		compiler string
		err      error
	)
	if c.Source != "" {
		compiler = all.compiler()
		out, err = pick(c, all)
	} else {
		out, compiler, err = readArtifact(root, c.Artifact)
	}
	if err != nil {
		return Contract{}, err
	}
	var text bytes.Buffer
	if err := json.Compact(&text, out.ABI); err != nil {
		return Contract{}, fmt.Errorf("read ABI: %w", err)
	}
	parsed, err := parseABI(text.Bytes())
	if err != nil {
		return Contract{}, err
	}
	creation, err := out.Bytecode.decode()
	if err != nil {
		return Contract{}, err
	}
	if len(creation) == 0 {
		return Contract{}, errors.New("it has no bytecode: an interface or an abstract contract cannot be deployed")
	}
	args, err := encodeArguments(parsed.Constructor.Inputs, c.Args)
	if err != nil {
		return Contract{}, fmt.Errorf("constructor: %w", err)
	}
	runtime, err := out.Runtime.decode()
	if err != nil {
		return Contract{}, err
	}
	return Contract{Name: c.Name, ABI: text.Bytes(), Bytecode: append(creation, args...), Runtime: runtime, Compiler: compiler}, nil
}

// pick finds the contract that a source means: the one named after the colon, the
// only one of the file that can be deployed, or the one called like the app's.
func pick(c manifest.Contract, all compilation) (compiled, error) {
	file, name := manifest.SplitSource(c.Source)
	found := all.Contracts[file]
	if name != "" {
		if out, ok := found[name]; ok {
			return out, nil
		}
		return compiled{}, fmt.Errorf("%s has no contract %s", file, name)
	}
	var names []string
	for n, out := range found {
		if out.Bytecode.Object != "" {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	switch {
	case len(names) == 1:
		return found[names[0]], nil
	case slices.Contains(names, c.Name):
		return found[c.Name], nil
	case len(names) == 0:
		return compiled{}, fmt.Errorf("%s has no contract that can be deployed", file)
	default:
		return compiled{}, fmt.Errorf("%s has the contracts %s: write source: %s:%s", file, strings.Join(names, ", "), file, names[0])
	}
}

// artifact is what Hardhat and Foundry write. Their bytecode differs: a string
// with the link references beside it, and an object with them inside.
type artifact struct {
	ABI      json.RawMessage                       `json:"abi"`
	Bytecode json.RawMessage                       `json:"bytecode"`
	Runtime  json.RawMessage                       `json:"deployedBytecode"`
	Links    map[string]map[string]json.RawMessage `json:"linkReferences"`
	Format   string                                `json:"_format"`  // Hardhat's
	Metadata json.RawMessage                       `json:"metadata"` // Foundry's: an object
}

func readArtifact(root *os.Root, path string) (compiled, string, error) {
	f, err := root.Open(filepath.FromSlash(path))
	if err != nil {
		return compiled{}, "", fmt.Errorf("open artifact: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxArtifact+1))
	if err != nil {
		return compiled{}, "", fmt.Errorf("read artifact: %w", err)
	}
	if len(text) > maxArtifact {
		return compiled{}, "", fmt.Errorf("artifact %s is larger than %d MiB", path, maxArtifact>>20)
	}
	return parseArtifact(path, text)
}

func parseArtifact(path string, text []byte) (compiled, string, error) {
	var a artifact
	if err := json.Unmarshal(text, &a); err != nil {
		return compiled{}, "", fmt.Errorf("artifact %s: %w", path, err)
	}
	if len(a.ABI) == 0 || len(a.Bytecode) == 0 {
		return compiled{}, "", fmt.Errorf("artifact %s has no abi or no bytecode: name the JSON that Hardhat or Foundry wrote for the contract itself", path)
	}
	out := compiled{ABI: a.ABI}
	for _, part := range []struct {
		raw json.RawMessage
		to  *code
	}{{a.Bytecode, &out.Bytecode}, {a.Runtime, &out.Runtime}} {
		if len(part.raw) == 0 {
			continue
		}
		if json.Unmarshal(part.raw, &part.to.Object) == nil {
			part.to.Links = a.Links
			continue
		}
		if err := json.Unmarshal(part.raw, part.to); err != nil {
			return compiled{}, "", fmt.Errorf("artifact %s: bytecode: %w", path, err)
		}
	}
	return out, compilerOf(a), nil
}

// compilerOf is what an artifact says of its compiler.
func compilerOf(a artifact) string {
	var metadata struct {
		Compiler struct {
			Version string `json:"version"`
		} `json:"compiler"`
	}
	switch {
	case json.Unmarshal(a.Metadata, &metadata) == nil && metadata.Compiler.Version != "":
		return "foundry, solc " + metadata.Compiler.Version
	case strings.HasPrefix(a.Format, "hh"):
		return "hardhat (" + a.Format + ")"
	default:
		return ""
	}
}

// decode reads bytecode. Placeholders of libraries are refused: which library is
// meant, and where it is, only the compiler can be told.
func (c code) decode() ([]byte, error) {
	digits := strings.TrimPrefix(c.Object, "0x")
	b, err := hex.DecodeString(digits)
	if err == nil {
		return b, nil
	}
	var libraries []string
	for file, names := range c.Links {
		for name := range names {
			libraries = append(libraries, file+":"+name)
		}
	}
	slices.Sort(libraries)
	if len(libraries) > 0 || strings.Contains(digits, "__") {
		return nil, fmt.Errorf("its bytecode is not linked, it lacks the address of a library (%s): "+
			"make the library's functions internal, or link it with your build tool and name the artifact", strings.Join(libraries, ", "))
	}
	return nil, fmt.Errorf("its bytecode is no hex: %w", err)
}
