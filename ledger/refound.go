package ledger

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/config"
	cmtjson "github.com/cometbft/cometbft/libs/json"
	"github.com/cometbft/cometbft/privval"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	sm "github.com/cometbft/cometbft/state"
	cmttypes "github.com/cometbft/cometbft/types"
	dbm "github.com/cosmos/cosmos-db"
	"github.com/google/renameio/v2"

	"github.com/openbsn/bsn"
)

// Export is all that a ledger holds after a block.
type Export struct {
	Network string    `json:"network"`
	Height  int64     `json:"height"`
	Time    time.Time `json:"time"` // of the block
	// AppHash names the state, in hex: nodes of one network that export at one height
	// have the same.
	AppHash   string                    `json:"appHash"`
	Consensus *cmttypes.ConsensusParams `json:"consensus"`
	State     json.RawMessage           `json:"state"`
}

// maxExport bounds the text of an export that is read.
const maxExport = 4 << 30

// ExportState reads the state of the node in home, which must not run.
func ExportState(home string) (e Export, err error) {
	if err := install(home); err != nil {
		return e, err
	}
	cfg := cometConfig(NodeConfig{Home: home})
	doc, err := cmttypes.GenesisDocFromFile(cfg.GenesisFile())
	if err != nil {
		return e, fmt.Errorf("read genesis: %w", err)
	}
	last, err := lastState(cfg)
	if err != nil {
		return e, err
	}
	db, err := dbm.NewGoLevelDB("application", filepath.Join(home, "data"), nil)
	if err != nil {
		return e, fmt.Errorf("open state: %w", err)
	}
	app, err := readApplication(db, doc)
	if err != nil {
		return e, errors.Join(err, db.Close())
	}
	defer func() { err = errors.Join(err, app.Close()) }()
	id := app.LastCommitID()
	if id.Version != last.LastBlockHeight || !bytes.Equal(id.Hash, last.AppHash) {
		return e, fmt.Errorf("the ledger node was cut off between state %d and block %d: start the city and stop it once more", id.Version, last.LastBlockHeight)
	}
	return app.export(doc.ChainID, last.LastBlockTime)
}

var errNoBlock = errors.New("the ledger node has no block yet")

// lastState reads what CometBFT keeps of the newest block.
func lastState(cfg *config.Config) (s sm.State, err error) {
	db, err := config.DefaultDBProvider(&config.DBContext{ID: "state", Config: cfg})
	if err != nil {
		return s, fmt.Errorf("open ledger node's state: %w", err)
	}
	states := sm.NewStore(db, sm.StoreOptions{})
	defer func() { err = errors.Join(err, states.Close()) }()
	if s, err = states.Load(); err != nil {
		return s, fmt.Errorf("read ledger node's state: %w", err)
	}
	if s.LastBlockHeight < 1 {
		return s, errNoBlock
	}
	return s, nil
}

// export reads the newest committed state.
func (a *application) export(network string, at time.Time) (e Export, err error) {
	ctx, err := a.committed()
	if err != nil {
		return e, fmt.Errorf("read state: %w", err)
	}
	// Modules panic on what they cannot read.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("export state: %v", r)
		}
	}()
	state, err := a.manager.ExportGenesis(ctx, a.codec)
	if err != nil {
		return e, fmt.Errorf("export state: %w", err)
	}
	id := a.LastCommitID()
	e = Export{Network: network, Height: id.Version, Time: at.UTC(), AppHash: hex.EncodeToString(id.Hash)}
	if e.Consensus, err = consensusParams(a.GetConsensusParams(ctx)); err != nil {
		return e, err
	}
	e.State, err = json.Marshal(state)
	return e, err
}

func consensusParams(p cmtproto.ConsensusParams) (*cmttypes.ConsensusParams, error) {
	if p.Block == nil || p.Evidence == nil || p.Validator == nil {
		return nil, errors.New("the state has no consensus parameters")
	}
	if p.Version == nil {
		p.Version = new(cmtproto.VersionParams)
	}
	c := cmttypes.ConsensusParamsFromProto(p)
	return &c, nil
}

// ParseExport reads what Export.Encode wrote.
func ParseExport(b []byte) (e Export, err error) {
	if len(b) > maxExport {
		return e, fmt.Errorf("read export: %d bytes, the most is %d", len(b), maxExport)
	}
	if err := cmtjson.Unmarshal(b, &e); err != nil {
		return e, fmt.Errorf("read export: %w", err)
	}
	if e.Network == "" || e.Height < 1 || e.Consensus == nil || len(e.State) == 0 {
		return e, errors.New("read export: this is not the export of a ledger, or not all of it")
	}
	return e, nil
}

// Encode writes an export; the same state always gives the same bytes.
func (e Export) Encode() ([]byte, error) {
	b, err := cmtjson.MarshalIndent(e, "", " ")
	if err != nil {
		return nil, fmt.Errorf("encode export: %w", err)
	}
	return append(b, '\n'), nil
}

// heightGap is how far above the old ledger's newest block the new one begins, so
// that no follower takes the first new block for the next old one: it is told that
// the height between is gone, and reads everything afresh.
const heightGap = 100

// Refound makes the genesis of a network that goes on from an export with the
// operators in stay only: all others are evicted, with their cities. Records of
// portals, accounts, projects, apps and proposals stay as they are. From the same
// export and operators every city makes the same bytes.
func Refound(e Export, network string, stay []string) ([]byte, error) {
	if err := bsn.CheckName("network", network); err != nil {
		return nil, err
	}
	if network == e.Network {
		return nil, fmt.Errorf("the new network needs another name than %q: what was signed for the old one must not count in it", network)
	}
	doc := &cmttypes.GenesisDoc{
		GenesisTime: e.Time.UTC(), ChainID: network, InitialHeight: e.Height + heightGap,
		ConsensusParams: e.Consensus, AppState: e.State,
	}
	state, err := evicted(doc, stay)
	if err != nil {
		return nil, err
	}
	doc.AppState = state
	if err := doc.ValidateAndComplete(); err != nil {
		return nil, fmt.Errorf("check genesis: %w", err)
	}
	if _, err := evicted(doc, stay); err != nil { // as every node will read it
		return nil, fmt.Errorf("check genesis: %w", err)
	}
	b, err := cmtjson.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode genesis: %w", err)
	}
	return b, nil
}

// evicted runs a genesis in memory, has all operators leave it but those who stay,
// and returns the state that is left.
func evicted(doc *cmttypes.GenesisDoc, stay []string) (state json.RawMessage, err error) {
	app, err := readApplication(dbm.NewMemDB(), doc)
	if err != nil {
		return nil, err
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("read state: %v", r)
		}
		err = errors.Join(err, app.Close())
	}()
	params := doc.ConsensusParams.ToProto()
	if _, err := app.InitChain(&abci.RequestInitChain{
		Time: doc.GenesisTime, ChainId: doc.ChainID, ConsensusParams: &params, InitialHeight: doc.InitialHeight, AppStateBytes: doc.AppState,
	}); err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	ctx := app.NewContextLegacy(false, cmtproto.Header{ChainID: doc.ChainID, Height: doc.InitialHeight, Time: doc.GenesisTime})
	all, err := app.operators.Operators.Export(ctx)
	if err != nil {
		return nil, err
	}
	voting := 0
	for _, name := range stay {
		o, known := all[name]
		switch {
		case !known:
			return nil, fmt.Errorf("there is no operator %q in the export", name)
		case o.Evicted > 0:
			return nil, fmt.Errorf("operator %q was evicted before: it cannot stay", name)
		case o.ValidatingCity != "":
			voting++
		}
	}
	if voting == 0 {
		return nil, errors.New("none of the operators that stay has power on the ledger: nobody could go on")
	}
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if !slices.Contains(stay, name) && all[name].Evicted == 0 {
			if err := app.operators.EvictOperator(ctx, name); err != nil {
				return nil, fmt.Errorf("operator %q: %w", name, err)
			}
		}
	}
	modules, err := app.manager.ExportGenesis(ctx, app.codec)
	if err != nil {
		return nil, fmt.Errorf("export state: %w", err)
	}
	return json.Marshal(modules)
}

// Succeed makes the node in home, which must not run, one of the network that a
// genesis founds. What it had stays beside it, in a folder with the old network's
// name. It may be cut off anywhere and done again.
func Succeed(home, old string, genesis []byte) error {
	cfg := cometConfig(NodeConfig{Home: home})
	aside := filepath.Join(home, "data-"+old)
	if _, err := os.Stat(aside); errors.Is(err, fs.ErrNotExist) {
		if err := os.Rename(filepath.Join(home, "data"), aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("put the old ledger aside: %w", err)
		}
	}
	// Signatures name the network: what was signed for the old one cannot be taken for
	// a signature of the new one's blocks, whatever their heights.
	if err := os.MkdirAll(cfg.DBDir(), 0o700); err != nil {
		return fmt.Errorf("make folder of ledger node: %w", err)
	}
	if _, err := os.Stat(cfg.PrivValidatorStateFile()); errors.Is(err, fs.ErrNotExist) {
		if err := writeSigned(cfg.PrivValidatorStateFile(), privval.FilePVLastSignState{}); err != nil {
			return err
		}
	}
	if before, err := os.ReadFile(cfg.GenesisFile()); err == nil && !bytes.Equal(before, genesis) {
		path := strings.TrimSuffix(cfg.GenesisFile(), ".json") + "-" + old + ".json"
		if err := renameio.WriteFile(path, before, 0o600, renameio.WithTempDir(filepath.Dir(path))); err != nil {
			return fmt.Errorf("put the old genesis aside: %w", err)
		}
	}
	for _, name := range []string{"snapshots", "sync", installed} {
		if err := os.RemoveAll(filepath.Join(home, name)); err != nil {
			return fmt.Errorf("remove the old ledger's snapshots: %w", err)
		}
	}
	return WriteGenesis(home, genesis)
}

// writeSigned stores what a consensus key has signed last.
func writeSigned(path string, s privval.FilePVLastSignState) error {
	b, err := cmtjson.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode what was signed last: %w", err)
	}
	if err := renameio.WriteFile(path, b, 0o600, renameio.WithTempDir(filepath.Dir(path))); err != nil {
		return fmt.Errorf("write what was signed last: %w", err)
	}
	return nil
}
