// Package city is one site of an operator: a daemon that embeds the ledger,
// compares what the ledger asks of this city with what runs here, and closes the
// difference. It may end at any moment; its nodes run on and the next daemon
// takes them over.
//
// Begin with daemon.go, which wires everything; then chains.go and apps.go, the
// two journeys that a city has a part in.
package city

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/renameio/v2"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/ledger/key"
)

// Home is a city's folder, below $BSN_HOME.
type Home struct {
	Root string // $BSN_HOME
	Name string
}

// Dir is the city's own folder.
func (h Home) Dir() string { return filepath.Join(h.Root, "cities", h.Name) }

func (h Home) path(names ...string) string {
	return filepath.Join(append([]string{h.Dir()}, names...)...)
}

// Nodes is where the runtime keeps its nodes, LogFile what the daemon writes, and
// Config the city's own configuration file.
func (h Home) Nodes() string   { return h.path("nodes") }
func (h Home) LogFile() string { return h.path("daemon.log") }
func (h Home) Config() string  { return h.path("bsn.yaml") }

func (h Home) ledger() string    { return h.path("ledger") }
func (h Home) artifacts() string { return h.path("artifacts") }
func (h Home) keyFile() string   { return h.path("city.key") }
func (h Home) stateFile() string { return h.path("city.json") }
func (h Home) lockFile() string  { return h.path("daemon.lock") }

// mirrorFile holds what the daemon last knew of the ledger.
func (h Home) mirrorFile() string { return h.path("mirror.json") }

// OperatorKey is the file of an operator's key, made on first use.
func OperatorKey(root, operator string) string {
	return filepath.Join(root, "operators", operator+".key")
}

// State is what a city knows of itself before it knows the ledger.
type State struct {
	Name     string `json:"name"`
	Operator string `json:"operator"`
	// Network is empty until the city is part of one.
	Network string  `json:"network,omitempty"`
	Net     bsn.Net `json:"net,omitempty"`
	// Index of the city in virtual addresses, from its admission.
	Index int `json:"index,omitempty"`
	// Cities are the others, as this one knew them last: where to begin before the
	// ledger can be read.
	Cities []bsn.City `json:"cities,omitempty"`
	// Trust is a block of the ledger from which the city proves the state that it takes
	// over from others, as long as it has none, and with Resync once more.
	Trust  ledger.Trust `json:"trust,omitzero"`
	Resync bool         `json:"resync,omitempty"`
	// Ended says why the city is no part of the network any more: it left, or was
	// evicted.
	Ended string `json:"ended,omitempty"`
}

// ErrNoCity means that no city of this name lies under this $BSN_HOME.
var ErrNoCity = errors.New("no such city here")

// Load reads the city's state. Error: ErrNoCity.
func (h Home) Load() (State, error) {
	var s State
	b, err := os.ReadFile(h.stateFile())
	if errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("city %q: %w: make it with `bsn city init %s`", h.Name, ErrNoCity, h.Name)
	}
	if err != nil {
		return s, fmt.Errorf("read city: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("read %s: %w", h.stateFile(), err)
	}
	return s, nil
}

func (h Home) save(s State) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode city: %w", err)
	}
	if err := renameio.WriteFile(h.stateFile(), append(b, '\n'), 0o600, renameio.WithTempDir(h.Dir())); err != nil {
		return fmt.Errorf("write city: %w", err)
	}
	return nil
}

// updating is held by who changes what is stored of a city: parts of its daemon do.
var updating sync.Mutex

// update changes what is stored of the city, as it is there now.
func (h Home) update(change func(*State)) error {
	updating.Lock()
	defer updating.Unlock()
	s, err := h.Load()
	if err != nil {
		return err
	}
	change(&s)
	return h.save(s)
}

// Local lists the cities whose state lies under root, running or not.
func Local(root string) ([]Home, error) {
	files, err := filepath.Glob(filepath.Join(root, "cities", "*", "city.json"))
	if err != nil {
		return nil, fmt.Errorf("list cities: %w", err)
	}
	var out []Home
	for _, f := range files {
		out = append(out, Home{root, filepath.Base(filepath.Dir(f))})
	}
	return out, nil
}

// Init makes the city's folder and keys and returns what it would bring into a
// network. Done again it changes nothing.
func (h Home) Init(operator string) (ledger.Admission, error) {
	if err := errors.Join(bsn.CheckName("city", h.Name), bsn.CheckName("operator", operator)); err != nil {
		return ledger.Admission{}, err
	}
	s, err := h.Load()
	switch {
	case err == nil && s.Operator != operator:
		return ledger.Admission{}, fmt.Errorf("city %q was made for operator %q", h.Name, s.Operator)
	case err != nil && !errors.Is(err, ErrNoCity):
		return ledger.Admission{}, err
	}
	if err := os.MkdirAll(h.Dir(), 0o700); err != nil {
		return ledger.Admission{}, fmt.Errorf("make city's folder: %w", err)
	}
	operatorKey, err := key.LoadOrNew(OperatorKey(h.Root, operator))
	if err != nil {
		return ledger.Admission{}, err
	}
	cityKey, err := key.LoadOrNew(h.keyFile())
	if err != nil {
		return ledger.Admission{}, err
	}
	id, err := ledger.InitNode(h.ledger())
	if err != nil {
		return ledger.Admission{}, err
	}
	if s.Name == "" {
		if err := h.save(State{Name: h.Name, Operator: operator}); err != nil {
			return ledger.Admission{}, err
		}
	}
	return ledger.Admission{
		Operator: operator, OperatorKey: operatorKey.Public(), City: h.Name, CityKey: cityKey.Public(),
		ConsensusKey: id.ConsensusKey, NodeKey: id.NodeKey,
	}, nil
}

// Found makes a new network with this city as its first.
func (h Home) Found(operator, network string, net bsn.Net, parameters bsn.Parameters) error {
	a, err := h.Init(operator)
	if err != nil {
		return err
	}
	s, err := h.Load()
	if err != nil {
		return err
	}
	if s.Network != "" {
		return fmt.Errorf("city %q is part of network %q already", h.Name, s.Network)
	}
	genesis, err := ledger.NewGenesis(network, net, a, parameters)
	if err != nil {
		return err
	}
	if err := ledger.WriteGenesis(h.ledger(), genesis); err != nil {
		return err
	}
	s.Network, s.Net, s.Index = network, net, 1
	return h.save(s)
}
