package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/city"
	"github.com/openbsn/bsn/city/api"
	"github.com/openbsn/bsn/config"
	"github.com/openbsn/bsn/framework/kaia"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/ledger/key"
	"github.com/openbsn/bsn/software"
)

// session is what one run of the command works with.
type session struct {
	root     string // $BSN_HOME
	cityName string // --via
	keyFile  string // --key
	cfg      config.Config
	ctx      cliContext
	readKey  *key.Key // see anyKey
}

// cliContext is whom and what the command line means when nothing is named. It
// is kept in $BSN_HOME/context.json, 0600, since it holds API keys.
type cliContext struct {
	Network string                       `json:"network,omitempty"`
	City    string                       `json:"city,omitempty"` // whose API is used
	Cities  map[string]cityAddress       `json:"cities,omitempty"`
	Account string                       `json:"account,omitempty"`
	Project string                       `json:"project,omitempty"`
	Keys    map[string]map[string]string `json:"keys,omitempty"` // by project id, by city
}

type cityAddress struct {
	API     string `json:"api"`
	Gateway string `json:"gateway"`
}

func (s *session) contextFile() string { return filepath.Join(s.root, "context.json") }

func (s *session) accountKey(name string) string {
	return filepath.Join(s.root, "accounts", name+".key")
}

func (s *session) portalKey(name string) string {
	return filepath.Join(s.root, "portals", name+".key")
}

// open finds the home folder and reads configuration and context.
func (s *session) open() error {
	if s.root == "" {
		s.root = os.Getenv("BSN_HOME")
	}
	if s.root == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return fmt.Errorf("find home folder: %w: set BSN_HOME", err)
		}
		s.root = filepath.Join(home, ".bsn")
	}
	var err error
	if s.root, err = filepath.Abs(s.root); err != nil {
		return fmt.Errorf("find home folder: %w", err)
	}
	if s.cfg, err = config.Load(filepath.Join(s.root, "bsn.yaml")); err != nil {
		return err
	}
	b, err := os.ReadFile(s.contextFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read context: %w", err)
	}
	if err := json.Unmarshal(b, &s.ctx); err != nil {
		return fmt.Errorf("read %s: %w", s.contextFile(), err)
	}
	return nil
}

func (s *session) saveContext() error {
	b, err := json.MarshalIndent(s.ctx, "", "  ")
	if err != nil {
		return fmt.Errorf("encode context: %w", err)
	}
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return fmt.Errorf("make home folder: %w", err)
	}
	if err := renameio.WriteFile(s.contextFile(), append(b, '\n'), 0o600, renameio.WithTempDir(s.root)); err != nil {
		return fmt.Errorf("write context: %w", err)
	}
	return nil
}

// frameworks are all that this binary knows.
func (s *session) frameworks() (map[string]bsn.Framework, error) {
	k, err := kaia.New(software.Config{Binary: s.cfg.Software.Binaries[kaia.Name], Source: s.cfg.Software.Source})
	if err != nil {
		return nil, err
	}
	return map[string]bsn.Framework{k.Name(): k}, nil
}

// cityConfig is the configuration of one city of this machine.
func (s *session) cityConfig(h city.Home) (config.Config, error) {
	return config.Load(filepath.Join(s.root, "bsn.yaml"), h.Config())
}

// remember puts a city of this machine into the context.
func (s *session) remember(h city.Home) error {
	state, err := h.Load()
	if err != nil {
		return err
	}
	home := state.Net.Addr(state.Index, bsn.ServiceCity)
	if s.ctx.Network != state.Network { // another network's context means nothing here
		s.ctx = cliContext{Network: state.Network, City: h.Name}
	}
	if s.ctx.Cities == nil {
		s.ctx.Cities = map[string]cityAddress{}
	}
	cfg, err := s.cityConfig(h)
	if err != nil {
		return err
	}
	a := cityAddress{API: "http://" + bsn.HostPort(home, bsn.PortAPI), Gateway: "http://" + bsn.HostPort(home, bsn.PortGateway)}
	if cfg.City.API != "" {
		a.API = "http://" + cfg.City.API
	}
	if l := cfg.Gateway.Addresses(); len(l) > 0 {
		a.Gateway = "http://" + l[0]
	}
	s.ctx.Cities[h.Name] = a
	return s.saveContext()
}

// readKeyTimeout is how long a city may take to say whether it knows a key.
const readKeyTimeout = 5 * time.Second

// errNoNetwork says how to get one.
var errNoNetwork = errors.New("no network is known here: start one with `bsn up`, or name a city with `bsn context set --network NAME --city NAME --api URL`")

// dial makes a client of a city that signs as k; an empty name means the one of
// --via, else the context's city or, if that does not answer, another.
func (s *session) dial(name string, k key.Key) (*api.Client, error) {
	if s.ctx.Network == "" {
		return nil, errNoNetwork
	}
	if name == "" {
		if err := s.choose(); err != nil {
			return nil, err
		}
		name = s.cityName
	}
	c, ok := s.ctx.Cities[name]
	if !ok {
		return nil, fmt.Errorf("city %q is not known here: there are %s", name, strings.Join(sortedKeys(s.ctx.Cities), ", "))
	}
	return api.Dial(c.API, s.ctx.Network, name, k), nil
}

// choose settles which city to talk to.
func (s *session) choose() error {
	if s.cityName != "" {
		return nil
	}
	for _, name := range append([]string{s.ctx.City}, sortedKeys(s.ctx.Cities)...) {
		if c, ok := s.ctx.Cities[name]; ok && api.Answers(c.API) {
			s.cityName = name
			return nil
		}
	}
	if local, err := city.Local(s.root); err == nil && len(local) > 0 {
		return errors.New("no city answers: start this machine's with `bsn up`")
	}
	return fmt.Errorf("none of the cities known here answers: %s", strings.Join(sortedKeys(s.ctx.Cities), ", "))
}

// readKeys are the keys to read with: the one of --key, else the account's, else those of operators,
// portals and accounts here.
func (s *session) readKeys() ([]key.Key, error) {
	if s.keyFile != "" {
		k, err := key.Load(s.keyFile)
		return []key.Key{k}, err
	}
	if s.ctx.Account != "" {
		if k, err := key.Load(s.accountKey(s.ctx.Account)); err == nil {
			return []key.Key{k}, nil
		}
	}
	var out []key.Key
	for _, folder := range []string{"operators", "portals", "accounts"} {
		files, _ := filepath.Glob(filepath.Join(s.root, folder, "*.key")) // the pattern is well formed
		for _, f := range files {
			k, err := key.Load(f)
			if err != nil {
				return nil, err
			}
			out = append(out, k)
		}
	}
	if len(out) == 0 {
		return nil, errNoNetwork
	}
	return out, nil
}

// anyKey is a key to read with that the network knows: an operator that was
// evicted has one that it knows no more.
func (s *session) anyKey() (key.Key, error) {
	if s.readKey != nil {
		return *s.readKey, nil
	}
	all, err := s.readKeys()
	if err != nil {
		return key.Key{}, err
	}
	for _, k := range all[:len(all)-1] {
		c, err := s.dial("", k)
		if err != nil {
			return key.Key{}, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), readKeyTimeout)
		_, err = c.Writer(ctx, k.Address())
		cancel()
		if err == nil {
			s.readKey = &k
			return k, nil
		}
	}
	return all[len(all)-1], nil
}

// reader is a client to read with.
func (s *session) reader() (*api.Client, error) {
	k, err := s.anyKey()
	if err != nil {
		return nil, err
	}
	return s.dial("", k)
}

// account returns the name and key of the account to act as.
func (s *session) account() (string, key.Key, error) {
	h, err := s.holder(bsn.KindAccount, "")
	if err != nil {
		return "", key.Key{}, err
	}
	k, err := h.key()
	return h.name, k, err
}

var errNoAccount = errors.New("no account is chosen: make one with `bsn account create NAME`, or choose with `bsn context set --account NAME`")

// write puts messages on the ledger, signed by k.
func (s *session) write(ctx context.Context, k key.Key, m ...ledger.Message) (ledger.Result, error) {
	conn, err := s.dial("", k)
	if err != nil {
		return ledger.Result{}, err
	}
	c, err := ledger.NewClient(conn, k)
	if err != nil {
		return ledger.Result{}, err
	}
	return c.Write(ctx, m...)
}

// operatorKey returns the key of an operator of this machine; an empty name means
// the only one.
func (s *session) operatorKey(name string) (key.Key, error) {
	h, err := s.holder(bsn.KindOperator, name)
	if err != nil {
		return key.Key{}, err
	}
	return h.key()
}

// operatorName is the only operator of this machine.
func (s *session) operatorName() (string, error) {
	names := s.operators()
	if len(names) != 1 {
		return "", fmt.Errorf("which operator? name one with --operator: %s", strings.Join(names, ", "))
	}
	return names[0], nil
}

// operators lists those whose keys are on this machine.
func (s *session) operators() []string {
	files, _ := filepath.Glob(city.OperatorKey(s.root, "*")) // the pattern is well formed
	var out []string
	for _, f := range files {
		out = append(out, strings.TrimSuffix(filepath.Base(f), ".key"))
	}
	return out
}

// apiKey is the project's key for a city.
func (s *session) apiKey(name string) (string, error) {
	if k := s.ctx.Keys[s.project()][name]; k != "" {
		return k, nil
	}
	return "", fmt.Errorf("project %q has no key for city %q here: make one with `bsn key create --city %s`", s.project(), name, name)
}

// project is the id of the project to use.
func (s *session) project() string {
	if s.ctx.Project == "" || strings.Contains(s.ctx.Project, "/") {
		return s.ctx.Project
	}
	return bsn.ID(s.ctx.Account, s.ctx.Project)
}

// logger writes what a daemon has to say for people.
func logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// read decodes one record.
func read[T any](ctx context.Context, l bsn.Ledger, kind bsn.Kind, id string) (v T, err error) {
	b, err := l.Get(ctx, kind, id)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return v, fmt.Errorf("decode %s %q: %w", kind, id, err)
	}
	return v, nil
}

// list decodes all records of a kind.
func list[T any](ctx context.Context, l bsn.Ledger, kind bsn.Kind) ([]T, error) {
	out := []T{}
	for after := ""; ; {
		page, _, err := l.List(ctx, kind, after, 0)
		if err != nil || len(page) == 0 {
			return out, err
		}
		for _, c := range page {
			var v T
			if err := json.Unmarshal(c.Record, &v); err != nil {
				return nil, fmt.Errorf("decode %s %q: %w", kind, c.ID, err)
			}
			out, after = append(out, v), c.ID
		}
	}
}
