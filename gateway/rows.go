package gateway

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/openbsn/bsn"
)

// names are the rows of a method table of gRPC, ready to be looked up.
type names struct {
	exact map[string]bsn.Method
	// beginnings stand for all names that begin so, the longest first.
	beginnings []string
	rows       map[string]bsn.Method // of beginnings
}

// grpcMethod is the form of a method's full name, and grpcName that of a row's.
var (
	grpcMethod = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*/[A-Za-z_][A-Za-z0-9_]*$`)
	grpcName   = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_.]*(/[A-Za-z_][A-Za-z0-9_]*|/\*|\*)|\*)$`)
)

func newNames(table map[string]bsn.Method) (*names, error) {
	n := &names{exact: map[string]bsn.Method{}, rows: map[string]bsn.Method{}}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		if !grpcName.MatchString(name) {
			return nil, fmt.Errorf("malformed name %q of a gRPC method: it is package.Service/Method, or a beginning and *", name)
		}
		if beginning, ok := strings.CutSuffix(name, "*"); ok {
			n.beginnings, n.rows[beginning] = append(n.beginnings, beginning), table[name]
		} else {
			n.exact[name] = table[name]
		}
	}
	slices.SortStableFunc(n.beginnings, func(a, b string) int { return len(b) - len(a) })
	return n, nil
}

// find returns the row of a method, if there is one that lets it pass.
func (n *names) find(name string) (bsn.Method, bool) {
	if n == nil {
		return bsn.Method{}, false
	}
	m, ok := n.exact[name]
	if !ok {
		for _, b := range n.beginnings {
			if strings.HasPrefix(name, b) {
				m, ok = n.rows[b], true
				break
			}
		}
	}
	return m, ok && m.Class != bsn.MethodRefused
}

// paths are the rows of a method table of REST, ready to be looked up.
type paths struct {
	mux  *http.ServeMux
	rows map[string]bsn.Method
}

func newPaths(table map[string]bsn.Method) (p *paths, err error) {
	p = &paths{mux: http.NewServeMux(), rows: table}
	defer func() {
		if r := recover(); r != nil { // a malformed pattern, or two that say the same
			err = fmt.Errorf("addresses of REST: %v", r)
		}
	}()
	for _, pattern := range slices.Sorted(maps.Keys(table)) {
		if method, path, ok := strings.Cut(pattern, " "); !ok || method == "" || !strings.HasPrefix(path, "/") {
			return nil, fmt.Errorf("malformed address %q of REST: it is a method and a path, as in GET /blocks/{height}", pattern)
		}
		p.mux.Handle(pattern, http.NotFoundHandler())
	}
	return p, nil
}

// find returns the row of a request, whose path is clean, and its pattern.
func (p *paths) find(r *http.Request) (m bsn.Method, pattern string, ok bool) {
	if p == nil {
		return m, "", false
	}
	_, pattern = p.mux.Handler(r)
	m, ok = p.rows[pattern]
	return m, pattern, ok && m.Class != bsn.MethodRefused
}

// tablesOf makes a framework's tables of gRPC and REST ready.
func tablesOf(m bsn.Methods) (*names, *paths, error) {
	n, err := newNames(m.GRPC)
	if err != nil {
		return nil, nil, err
	}
	p, err := newPaths(m.REST)
	return n, p, err
}

// checkTables tells what is wrong with the tables of frameworks and protocols.
func checkTables(protocols map[string]Protocol, frameworks map[string]bsn.Framework) error {
	check := func(name string, p Protocol) error {
		if _, _, err := tablesOf(p.Methods()); err != nil {
			return fmt.Errorf("method table of %s: %w", name, err)
		}
		return nil
	}
	for name, p := range protocols {
		if err := check(name, p); err != nil {
			return err
		}
	}
	for name, f := range frameworks {
		if err := check(name, f); err != nil {
			return err
		}
	}
	return nil
}
