package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/openbsn/bsn"
	"go.yaml.in/yaml/v3"
)

var (
	contractName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,63}$`)
	solidityName = regexp.MustCompile(`^[A-Za-z_$][A-Za-z0-9_$]{0,127}$`)
	functionName = regexp.MustCompile(`^[A-Za-z_$][A-Za-z0-9_$]{0,127}(\([a-z0-9,()\[\]]{0,512}\))?$`)
	// knownFields finds the Go type that the YAML library names beside an unknown field.
	knownFields = regexp.MustCompile(` (not found) in type \S+`)
)

// document is the YAML form of a manifest.
type document struct {
	Name      string              `yaml:"name"`
	Chain     string              `yaml:"chain"`
	Framework string              `yaml:"framework"`
	Contracts []contract          `yaml:"contracts"`
	Cities    []string            `yaml:"cities"`
	Roles     map[string]bsn.Role `yaml:"roles"`
	Limits    struct {
		RequestsPerSecond int `yaml:"requestsPerSecond"`
	} `yaml:"limits"`
}

type contract struct {
	Name     string    `yaml:"name"`
	Source   string    `yaml:"source"`
	Artifact string    `yaml:"artifact"`
	Args     arguments `yaml:"args"`
}

// Load reads and checks the [File] in an app's folder. Errors name the line of
// what YAML or an unknown field got wrong, and the field of what has a wrong value.
func Load(dir string) (Manifest, error) {
	name := filepath.Join(dir, File)
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return Manifest{}, fmt.Errorf("%s holds no %s: name the folder of an app: %w", dir, File, err)
	} else if err != nil {
		return Manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return Manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	m, err := Parse(text)
	if err != nil {
		return Manifest{}, fmt.Errorf("%s: %w", name, err)
	}
	return m, nil
}

// Parse reads and checks the text of a manifest.
func Parse(text []byte) (Manifest, error) {
	if len(text) > MaxSize {
		return Manifest{}, fmt.Errorf("larger than %d KiB", MaxSize>>10)
	}
	var d document
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&d); errors.Is(err, io.EOF) {
		return Manifest{}, errors.New("the file is empty: it needs at least a name and a contract")
	} else if err != nil {
		return Manifest{}, plain(err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return Manifest{}, errors.New("more than one YAML document")
	}
	m := Manifest{
		Name: d.Name, Chain: d.Chain, Framework: d.Framework, Cities: d.Cities, Roles: d.Roles,
		Limits: bsn.Limits{RequestsPerSecond: d.Limits.RequestsPerSecond},
	}
	for _, c := range d.Contracts {
		m.Contracts = append(m.Contracts, Contract{Name: c.Name, Source: c.Source, Artifact: c.Artifact, Args: c.Args})
	}
	return m, m.Check()
}

// plain words the YAML library's errors for people who do not read Go.
func plain(err error) error {
	var wrong *yaml.TypeError
	if !errors.As(err, &wrong) {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	return errors.New(knownFields.ReplaceAllString(strings.Join(wrong.Errors, "; "), " is unknown"))
}

// Check tells whether the manifest keeps the rules that its fields document.
func (m Manifest) Check() error {
	if err := bsn.CheckName("name", m.Name); err != nil {
		return err
	}
	if m.Chain != "" && m.Framework != "" {
		return errors.New("chain and framework: give one of them, a chain has one framework")
	}
	if m.Chain != "" {
		if err := bsn.CheckName("chain", m.Chain); err != nil {
			return err
		}
	}
	if m.Framework != "" {
		if err := bsn.CheckName("framework", m.Framework); err != nil {
			return err
		}
	}
	if err := m.checkContracts(); err != nil {
		return err
	}
	if err := names("cities", "city", m.Cities); err != nil {
		return err
	}
	if err := m.checkRoles(); err != nil {
		return err
	}
	if n := m.Limits.RequestsPerSecond; n < 0 || n > maxRate {
		return fmt.Errorf("limits.requestsPerSecond: %d is not between 0 and %d", n, maxRate)
	}
	return nil
}

func (m Manifest) checkContracts() error {
	if len(m.Contracts) == 0 {
		return errors.New("contracts: an app has at least one")
	}
	if len(m.Contracts) > MaxContracts {
		return fmt.Errorf("contracts: %d are more than %d", len(m.Contracts), MaxContracts)
	}
	seen := make(map[string]bool)
	for i, c := range m.Contracts {
		at := fmt.Sprintf("contracts[%d]", i)
		switch {
		case !contractName.MatchString(c.Name):
			return fmt.Errorf("%s.name: %q must be a letter, then letters, digits or underscores, at most 64", at, c.Name)
		case seen[c.Name]:
			return fmt.Errorf("%s.name: %s is there twice", at, c.Name)
		case (c.Source == "") == (c.Artifact == ""):
			return fmt.Errorf("%s (%s): give either source, a Solidity file, or artifact, the JSON that Hardhat or Foundry wrote", at, c.Name)
		case len(c.Args) > maxList:
			return fmt.Errorf("%s.args: %d are more than %d", at, len(c.Args), maxList)
		}
		seen[c.Name] = true
		if c.Source != "" {
			if err := CheckSource(c.Source); err != nil {
				return fmt.Errorf("%s.source: %w", at, err)
			}
		} else if err := local(c.Artifact, ".json"); err != nil {
			return fmt.Errorf("%s.artifact: %w", at, err)
		}
	}
	return nil
}

// CheckSource tells whether s has the form of [Contract.Source].
func CheckSource(s string) error {
	file, name := SplitSource(s)
	if strings.Contains(s, ":") && !solidityName.MatchString(name) {
		return fmt.Errorf("%q: after the colon comes the name of a contract in the file", s)
	}
	return local(file, ".sol")
}

// SplitSource takes "File.sol:Name" apart. The name is empty if there is none.
func SplitSource(s string) (file, name string) {
	file, name, _ = strings.Cut(s, ":")
	return file, name
}

// local tells whether a path names a file of the kind within the app's folder.
// That links do not lead out of it is for whoever opens the file to see to.
func local(p, kind string) error {
	switch {
	case path.Ext(p) != kind:
		return fmt.Errorf("%q must end in %s", p, kind)
	case strings.ContainsAny(p, "\\\x00") || !filepath.IsLocal(p):
		return fmt.Errorf("%q must be a path within the app's folder, with slashes", p)
	case path.Clean(p) != p:
		return fmt.Errorf("%q: write it as %q", p, path.Clean(p))
	}
	return nil
}

func (m Manifest) checkRoles() error {
	if len(m.Roles) > maxList {
		return fmt.Errorf("roles: %d are more than %d", len(m.Roles), maxList)
	}
	for role, r := range m.Roles {
		at := "roles." + role
		if err := bsn.CheckName("role", role); err != nil {
			return err
		}
		if len(r.Accounts) == 0 || len(r.Functions) == 0 {
			return fmt.Errorf("%s: a role names accounts and functions", at)
		}
		if err := names(at+".accounts", "account", r.Accounts); err != nil {
			return err
		}
		if len(r.Functions) > maxList {
			return fmt.Errorf("%s.functions: %d are more than %d", at, len(r.Functions), maxList)
		}
		for _, f := range r.Functions {
			if f != "*" && !functionName.MatchString(f) {
				return fmt.Errorf("%s.functions: %q is neither a function's name, nor its signature as in transfer(address,uint256), nor *", at, f)
			}
		}
	}
	return nil
}

// names checks a list of names that may not repeat.
func names(at, what string, list []string) error {
	if len(list) > maxList {
		return fmt.Errorf("%s: %d are more than %d", at, len(list), maxList)
	}
	seen := make(map[string]bool)
	for _, s := range list {
		if err := bsn.CheckName(what, s); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		if seen[s] {
			return fmt.Errorf("%s: %s is there twice", at, s)
		}
		seen[s] = true
	}
	return nil
}

// arguments reads a YAML list without YAML's own idea of numbers.
type arguments []json.RawMessage

func (a *arguments) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.SequenceNode {
		return fmt.Errorf("line %d: args must be a list", n.Line)
	}
	for _, item := range n.Content {
		v, err := plainJSON(item)
		if err != nil {
			return err
		}
		text, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("line %d: %w", item.Line, err)
		}
		*a = append(*a, text)
	}
	return nil
}

// plainJSON keeps a scalar's text as it stands in the file.
func plainJSON(n *yaml.Node) (any, error) {
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return nil, fmt.Errorf("line %d: an argument is empty: write \"\" for an empty text", n.Line)
	case n.Kind == yaml.ScalarNode:
		return n.Value, nil
	case n.Kind == yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for _, item := range n.Content {
			v, err := plainJSON(item)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	case n.Kind == yaml.MappingNode:
		object := make(map[string]any, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			if _, twice := object[key.Value]; twice || key.Kind != yaml.ScalarNode {
				return nil, fmt.Errorf("line %d: %q is no key, or is there twice", key.Line, key.Value)
			}
			v, err := plainJSON(n.Content[i+1])
			if err != nil {
				return nil, err
			}
			object[key.Value] = v
		}
		return object, nil
	default:
		return nil, fmt.Errorf("line %d: write the argument out: references are not followed", n.Line)
	}
}
