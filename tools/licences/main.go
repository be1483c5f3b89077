// Licences checks the licences of everything that a module's packages and tests
// import against a policy, and that they import nothing forbidden:
//
//	licences -policy policy.yaml MODULE-FOLDER
//
// It looks at the packages that are really imported, not at all that go.mod
// names: in each one's folder and those above it, up to its module's.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"
	"go.yaml.in/yaml/v3"
)

// policy is the file of the -policy flag.
type policy struct {
	// Permissive licences pass for every module. SPDX names.
	Permissive []string `yaml:"permissive"`
	// Exceptions are modules that may be under other licences, with the reason.
	Exceptions []exception `yaml:"exceptions"`
	// Forbidden import paths, with all below them, and the reason.
	Forbidden []struct {
		Path   string `yaml:"path"`
		Reason string `yaml:"reason"`
	} `yaml:"forbidden"`
}

type exception struct {
	Module   string   `yaml:"module"`
	Licences []string `yaml:"licences"`
	Reason   string   `yaml:"reason"`
}

// listed is a package as `go list -json` shows it.
type listed struct {
	ImportPath string
	Dir        string
	Standard   bool
	Module     *module
}

type module struct {
	Path string
	Main bool
	Dir  string
}

func main() {
	path := flag.String("policy", "licences.yaml", "file with the policy")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: licences -policy FILE MODULE-FOLDER")
		os.Exit(2)
	}
	if err := run(os.Stdout, *path, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(out io.Writer, path, dir string) error {
	p, err := readPolicy(path)
	if err != nil {
		return err
	}
	packages, err := list(dir)
	if err != nil {
		return err
	}
	found, err := licences(packages)
	if err != nil {
		return err
	}
	count := make(map[string]int)
	for _, ids := range found {
		for id := range ids {
			count[id]++
		}
	}
	fmt.Fprintf(out, "%d packages of %d modules:", len(packages), len(found))
	for _, id := range slices.Sorted(maps.Keys(count)) {
		fmt.Fprintf(out, " %s %d", id, count[id])
	}
	fmt.Fprintln(out)
	return errors.Join(p.imports(packages), p.check(found))
}

func readPolicy(path string) (policy, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return policy{}, fmt.Errorf("read policy: %w", err)
	}
	var p policy
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&p); err != nil {
		return policy{}, fmt.Errorf("read policy %s: %w", path, err)
	}
	return p, nil
}

// list returns all packages outside the standard library and the main module
// that the module's packages and tests import, directly or not.
func list(dir string) ([]listed, error) {
	cmd := exec.Command("go", "list", "-deps", "-test", "-json=ImportPath,Dir,Standard,Module", "./...")
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	b, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	var all []listed
	for d := json.NewDecoder(bytes.NewReader(b)); d.More(); {
		var p listed
		if err := d.Decode(&p); err != nil {
			return nil, fmt.Errorf("list packages: %w", err)
		}
		if !p.Standard && p.Module != nil && !p.Module.Main {
			all = append(all, p)
		}
	}
	return all, nil
}

// imports tells which packages may not be imported.
func (p policy) imports(packages []listed) error {
	var errs []error
	for _, pkg := range packages {
		for _, f := range p.Forbidden {
			if pkg.ImportPath == f.Path || strings.HasPrefix(pkg.ImportPath, f.Path+"/") {
				errs = append(errs, fmt.Errorf("%s is imported: %s", pkg.ImportPath, f.Reason))
			}
		}
	}
	return errors.Join(errs...)
}

// check tells which licences do not pass. found has licences by module.
func (p policy) check(found map[string]map[string]string) error {
	var errs []error
	for _, mod := range slices.Sorted(maps.Keys(found)) {
		allowed := p.Permissive
		for _, e := range p.Exceptions {
			if e.Module == mod {
				allowed = append(slices.Clone(allowed), e.Licences...)
			}
		}
		for _, id := range slices.Sorted(maps.Keys(found[mod])) {
			if !slices.Contains(allowed, id) {
				errs = append(errs, fmt.Errorf("%s: %s (%s) does not pass the policy", mod, id, found[mod][id]))
			}
		}
	}
	return errors.Join(errs...)
}

var licenceFile = regexp.MustCompile(`(?i)^(un)?(licen[sc]e|copying)`)

// licences returns what covers the packages: by module, the licences, each with
// a file that holds it.
func licences(packages []listed) (map[string]map[string]string, error) {
	found := make(map[string]map[string]string)
	seen := make(map[string]bool)
	for _, pkg := range packages {
		ids := found[pkg.Module.Path]
		if ids == nil {
			ids = make(map[string]string)
			found[pkg.Module.Path] = ids
		}
		for dir := pkg.Dir; !seen[dir]; dir = filepath.Dir(dir) {
			seen[dir] = true
			if err := scan(dir, ids); err != nil {
				return nil, err
			}
			if dir == pkg.Module.Dir {
				break
			}
		}
	}
	for mod, ids := range found {
		if len(ids) == 0 {
			ids["no licence"] = mod
		}
	}
	return found, nil
}

// scan adds the licences of the files in a folder to ids.
func scan(dir string, ids map[string]string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look for licences: %w", err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !licenceFile.MatchString(e.Name()) || strings.HasSuffix(e.Name(), ".go") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read licence: %w", err)
		}
		for _, id := range classify(b) {
			ids[id] = path
		}
	}
	return nil
}

// leastKnown is the part of a file, in percent, that must be the text of known
// licences; the rest is names and dates.
const leastKnown = 60

func classify(text []byte) []string {
	c := licensecheck.Scan(text)
	if c.Percent < leastKnown || len(c.Match) == 0 {
		return []string{"unknown licence"}
	}
	var ids []string
	for _, m := range c.Match {
		if !m.IsURL && !slices.Contains(ids, m.ID) {
			ids = append(ids, m.ID)
		}
	}
	return ids
}
