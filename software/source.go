package software

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// treeModule is the module at the root of the source tree.
const treeModule = "github.com/openbsn/bsn"

// maxSource bounds each file of a program's module.
const maxSource = 4 << 20

// find returns the folder of the program's module, which must be the very one
// that this bsn was made with: another would be kept under a wrong version.
func find(p Program, root string) (string, error) {
	if root == "" {
		var err error
		if root, err = findTree(); err != nil {
			return "", err
		}
	}
	dir := filepath.Join(root, filepath.FromSlash(p.Folder))
	sum, err := fingerprint(dir)
	if err != nil {
		return "", fmt.Errorf("read its source: %w", err)
	}
	if sum != p.Sum {
		return "", fmt.Errorf("the source in %s is not of the version that this bsn was made from; "+
			"rebuild bsn there, or name the right source tree or your own binary in the configuration", dir)
	}
	return dir, nil
}

// findTree looks for the source tree upwards from the working directory and
// from the running program.
func findTree() (string, error) {
	var starts []string
	if wd, err := os.Getwd(); err == nil {
		starts = append(starts, wd)
	}
	if exe, err := os.Executable(); err == nil {
		if exe, err = filepath.EvalSymlinks(exe); err == nil {
			starts = append(starts, filepath.Dir(exe))
		}
	}
	for _, start := range starts {
		for dir := start; ; dir = filepath.Dir(dir) {
			if moduleOf(dir) == treeModule {
				return dir, nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", fmt.Errorf("no source tree of module %s at or above %s; "+
		"name its folder, or your own binary, in the configuration", treeModule, strings.Join(starts, " or "))
}

// moduleOf returns the path of the module whose root the folder is, if it is one.
func moduleOf(dir string) string {
	text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return ""
	}
	for _, fields := range modLines(text) {
		if len(fields) == 2 && fields[0] == "module" {
			return fields[1]
		}
	}
	return ""
}

// modLines splits a go.mod file into lines of words, without comments.
func modLines(text []byte) [][]string {
	var lines [][]string
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		line, _, _ := strings.Cut(s.Text(), "//")
		if fields := strings.Fields(line); len(fields) > 0 {
			lines = append(lines, fields)
		}
	}
	return lines
}

// Pin reads a program's module and returns the version at which it pins its
// upstream module, and the fingerprint in hex of all that decides how the
// program turns out: go.mod, go.sum and the Go files.
func Pin(dir, upstream string) (version, sum string, err error) {
	text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return "", "", fmt.Errorf("read module: %w", err)
	}
	for _, fields := range modLines(text) {
		if fields[0] == "require" {
			fields = fields[1:]
		}
		if len(fields) == 2 && fields[0] == upstream {
			version = fields[1]
		}
	}
	if version == "" {
		return "", "", fmt.Errorf("read module: %s does not require %s", filepath.Join(dir, "go.mod"), upstream)
	}
	sum, err = fingerprint(dir)
	return version, sum, err
}

// fingerprint is the SHA-256 over names, lengths and contents of the files that
// make the program, in order of name.
func fingerprint(dir string) (string, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return "", err
	}
	names = slices.DeleteFunc(names, func(n string) bool { return strings.HasSuffix(n, "_test.go") })
	names = append(names, filepath.Join(dir, "go.mod"), filepath.Join(dir, "go.sum"))
	slices.Sort(names)
	h := sha256.New()
	for _, name := range names {
		if info, err := os.Stat(name); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return "", fmt.Errorf("%s is missing", name)
			}
			return "", err
		} else if info.Size() > maxSource {
			return "", fmt.Errorf("%s has more than %d bytes", name, maxSource)
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%q %d\n", filepath.Base(name), len(content))
		h.Write(content)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
