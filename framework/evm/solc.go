package evm

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The compiler and its settings are fixed, so that the same sources always give
// the same package. Kaia v1.0.3 runs the Cancun instructions from its
// cancunCompatibleBlock on, and the other chains of the family know them too.
const (
	solcVersion   = "0.8.30"
	evmVersion    = "cancun"
	optimizerRuns = 200
)

const maxCompiled = 64 << 20 // bytes of the compiler's answer

var (
	//go:embed solc/package.json
	solcPackage []byte
	//go:embed solc/package-lock.json
	solcLock []byte
	//go:embed solc/compile.cjs
	compileScript string
)

// compiled is the compiler's answer for one contract, which is also the common
// part of a Foundry artifact.
type compiled struct {
	ABI      json.RawMessage `json:"abi"`
	Bytecode code            `json:"bytecode"`
	Runtime  code            `json:"deployedBytecode"`
}

// code is bytecode as compilers write it: hex, with placeholders where the
// address of a library belongs.
type code struct {
	Object string                                `json:"object"`
	Links  map[string]map[string]json.RawMessage `json:"linkReferences"`
}

// compilation holds the contracts of each source file, by name.
type compilation struct {
	Version string `json:"version"`
	Errors  []struct {
		Severity string `json:"severity"`
		Text     string `json:"text"`
	} `json:"errors"`
	Contracts map[string]map[string]compiled `json:"contracts"`
}

// compiler says what compiled, for people.
func (c compilation) compiler() string {
	return fmt.Sprintf("solc %s, %s, optimizer %d runs", strings.TrimSuffix(c.Version, ".Emscripten.clang"), evmVersion, optimizerRuns)
}

// compile compiles Solidity files of an app's folder, given as paths within it.
// The compiler's warnings go to out; its errors are the error, as it prints them.
func compile(ctx context.Context, dir string, sources []string, out io.Writer) (compilation, error) {
	node, err := exec.LookPath("node")
	if err != nil {
		return compilation{}, errors.New("node is not installed: Solidity sources are compiled by npm's solc, which needs Node.js, version 18 or newer; " +
			"or name a compiled artifact of Hardhat or Foundry instead of a source in bsn.yaml")
	}
	cache, err := cacheDir()
	if err != nil {
		return compilation{}, err
	}
	solc := filepath.Join(cache, "solc", solcVersion)
	files := map[string][]byte{"package.json": solcPackage, "package-lock.json": solcLock}
	if err := installed(ctx, solc, files, out); err != nil {
		return compilation{}, fmt.Errorf("install solc %s: %w", solcVersion, err)
	}
	if err := installDependencies(ctx, dir, out); err != nil {
		return compilation{}, err
	}
	root, err := filepath.Abs(dir)
	if err != nil {
		return compilation{}, fmt.Errorf("find app folder: %w", err)
	}
	input, err := json.Marshal(map[string]any{
		"root": root, "sources": sources,
		"settings": map[string]any{
			"evmVersion": evmVersion,
			"optimizer":  map[string]any{"enabled": true, "runs": optimizerRuns},
			"outputSelection": map[string]any{"*": map[string]any{"*": []string{
				"abi", "evm.bytecode.object", "evm.bytecode.linkReferences", "evm.deployedBytecode.object", "evm.deployedBytecode.linkReferences",
			}}},
		},
	})
	if err != nil {
		return compilation{}, fmt.Errorf("prepare compilation: %w", err)
	}
	// The script is handed over; solc itself is found from the working directory.
	cmd := command(ctx, node, "-e", compileScript)
	cmd.Dir = solc
	cmd.Stdin = bytes.NewReader(input)
	answer, said := &bounded{limit: maxCompiled}, &bounded{limit: 64 << 10}
	cmd.Stdout, cmd.Stderr = answer, said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return compilation{}, fmt.Errorf("compile: %w", ctx.Err())
		}
		return compilation{}, fmt.Errorf("run solc: %w: %s", err, strings.TrimSpace(said.String()))
	}
	if answer.over {
		return compilation{}, fmt.Errorf("solc's answer is larger than %d MiB: compile fewer contracts at once", maxCompiled>>20)
	}
	var c compilation
	if err := json.Unmarshal([]byte(answer.String()), &c); err != nil {
		return compilation{}, fmt.Errorf("read solc's answer: %w", err)
	}
	var wrong []string
	for _, e := range c.Errors {
		if e.Severity == "error" {
			wrong = append(wrong, strings.TrimSpace(e.Text))
		} else {
			fmt.Fprintln(out, strings.TrimSpace(e.Text))
		}
	}
	if len(wrong) > 0 {
		return compilation{}, fmt.Errorf("compile: %s", strings.Join(wrong, "\n\n"))
	}
	return c, nil
}

// installDependencies installs an app's npm packages if it has a lock file for
// them and they are not there yet.
func installDependencies(ctx context.Context, dir string, out io.Writer) error {
	modules := filepath.Join(dir, "node_modules")
	if _, err := os.Stat(filepath.Join(dir, "package-lock.json")); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("look for package-lock.json: %w", err)
	}
	if _, err := os.Lstat(modules); err == nil {
		return nil
	}
	fmt.Fprintln(out, "installing the app's npm packages: npm ci --ignore-scripts")
	if err := npmCI(ctx, dir); err != nil {
		// What a failed run leaves would pass for the whole next time.
		return errors.Join(fmt.Errorf("install the app's npm packages: %w", err), os.RemoveAll(modules))
	}
	return nil
}
