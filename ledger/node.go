package ledger

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cometbft/cometbft/config"
	cmtlog "github.com/cometbft/cometbft/libs/log"
	"github.com/cometbft/cometbft/node"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/privval"
	"github.com/cometbft/cometbft/proxy"
	"github.com/cometbft/cometbft/rpc/client/local"
	cmttypes "github.com/cometbft/cometbft/types"
	dbm "github.com/cosmos/cosmos-db"
	"github.com/cosmos/cosmos-sdk/baseapp"
	"github.com/google/renameio/v2"

	"github.com/openbsn/bsn"
)

const (
	// commitPause is CometBFT's timeout_commit: with the 50 ms that consensus takes
	// it gives half-second blocks.
	commitPause = 450 * time.Millisecond
	// heartbeat is the time between blocks while nothing happens.
	heartbeat = 10 * time.Second
	// maxRedial is the longest pause between two tries to reach a city's node.
	maxRedial = 5 * time.Second
	// haltedAfter is how old the newest block must be for the ledger to count as halted.
	haltedAfter = bsn.HaltedAfter
)

// NodeConfig places one city's ledger node.
type NodeConfig struct {
	Home   string // its folder
	Listen string // host:port for other cities' nodes
	Peers  []string
	Log    *slog.Logger
	// History is what the node keeps for others.
	History History
	// Prepare, if set, runs before the first start of a Holder's node, and again until
	// it succeeds; it tells how far it is in words for people.
	Prepare func(ctx context.Context, tell func(string)) error
	// pause is commitPause where it is not set.
	pause time.Duration
	// protocols are those of the package where they are not set.
	protocols []protocol
}

// Node is a city's full copy of the ledger. It is a bsn.Ledger and a Conn.
type Node struct {
	app     *application
	db      dbm.DB
	comet   *node.Node // nil where needs is set
	local   *local.Local
	network string
	waiting waiting
	guard   *guard
	// end stops watch, which closes ended.
	end   context.CancelFunc
	ended chan struct{}
	// needs is set where this binary does not know the rules of the next block: then
	// the node stands still, and can be read from.
	needs *VersionError
	// due closes before a block that another application must execute, and leaving
	// when the node is about to stop.
	due, leaving   chan struct{}
	dueOnce, leave func()

	// parting: a city was put out whose node is still to be dropped; of watch alone.
	parting bool

	mu    sync.Mutex
	peers []string // all that were dialled
}

// Identity is the public side of a node's own keys.
type Identity struct {
	ConsensusKey []byte // Ed25519
	NodeKey      []byte // Ed25519
}

func cometConfig(c NodeConfig) *config.Config {
	cfg := config.DefaultConfig()
	cfg.SetRoot(c.Home)
	cfg.DBBackend = "goleveldb"
	cfg.RPC.ListenAddress = "" // the city API is the only way in
	cfg.P2P.ListenAddress = "tcp://" + c.Listen
	cfg.P2P.PersistentPeers = strings.Join(c.Peers, ",")
	cfg.P2P.PexReactor = false // peers are the cities that the ledger knows
	cfg.P2P.AddrBookStrict = false
	// Else a city that was cut off for long would be tried again after hours only.
	cfg.P2P.PersistentPeersMaxDialPeriod = maxRedial
	cfg.P2P.AllowDuplicateIP = true
	cfg.FilterPeers = true // see Node.takes
	cfg.P2P.FlushThrottleTimeout = 5 * time.Millisecond
	cfg.P2P.MaxNumInboundPeers, cfg.P2P.MaxNumOutboundPeers = bsn.MaxCities, bsn.MaxCities
	cfg.P2P.SendRate, cfg.P2P.RecvRate = 20<<20, 20<<20
	cfg.Mempool.MaxTxBytes = maxTxBytes
	cfg.Consensus.TimeoutCommit = commitPause
	if c.pause > 0 {
		cfg.Consensus.TimeoutCommit = c.pause
	}
	cfg.Consensus.TimeoutPropose = time.Second
	cfg.Consensus.TimeoutProposeDelta = 250 * time.Millisecond
	cfg.Consensus.TimeoutPrevote, cfg.Consensus.TimeoutPrecommit = 500*time.Millisecond, 500*time.Millisecond
	cfg.Consensus.PeerGossipSleepDuration = 20 * time.Millisecond
	cfg.Consensus.CreateEmptyBlocks = false
	cfg.Consensus.CreateEmptyBlocksInterval = heartbeat
	cfg.TxIndex.Indexer = "null"
	cfg.Instrumentation.Prometheus = false
	return cfg
}

// InitNode makes a node's keys in its folder, once, and returns their public side.
func InitNode(home string) (Identity, error) {
	cfg := cometConfig(NodeConfig{Home: home})
	for _, dir := range []string{filepath.Dir(cfg.PrivValidatorKeyFile()), filepath.Dir(cfg.PrivValidatorStateFile())} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return Identity{}, fmt.Errorf("make folder of ledger node: %w", err)
		}
	}
	if _, err := os.Stat(cfg.PrivValidatorKeyFile()); errors.Is(err, fs.ErrNotExist) {
		// The state first: a key without it would be taken for one that has signed.
		v := privval.GenFilePV(cfg.PrivValidatorKeyFile(), cfg.PrivValidatorStateFile())
		v.LastSignState.Save()
		v.Key.Save()
	}
	validator, err := loadValidator(cfg)
	if err != nil {
		return Identity{}, err
	}
	pub, err := validator.GetPubKey()
	if err != nil {
		return Identity{}, fmt.Errorf("read consensus key: %w", err)
	}
	key, err := p2p.LoadOrGenNodeKey(cfg.NodeKeyFile())
	if err != nil {
		return Identity{}, fmt.Errorf("make node key: %w", err)
	}
	return Identity{ConsensusKey: pub.Bytes(), NodeKey: key.PubKey().Bytes()}, nil
}

// NodeKey is the Ed25519 key with which a node shows others who it is.
func NodeKey(home string) (ed25519.PrivateKey, error) {
	k, err := p2p.LoadNodeKey(cometConfig(NodeConfig{Home: home}).NodeKeyFile())
	if err != nil {
		return nil, fmt.Errorf("read node key: %w", err)
	}
	return k.PrivKey.Bytes(), nil
}

// RenewConsensusKey makes another consensus key in the folder of a node that does
// not run, in place of one that is worth nothing any more.
func RenewConsensusKey(home string) (Identity, error) {
	if err := os.Remove(cometConfig(NodeConfig{Home: home}).PrivValidatorKeyFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Identity{}, fmt.Errorf("remove consensus key: %w", err)
	}
	return InitNode(home)
}

// loadValidator reads the consensus key and what it signed last. CometBFT itself
// would end the process without a word to the log.
func loadValidator(cfg *config.Config) (*privval.FilePV, error) {
	for _, file := range []string{cfg.PrivValidatorKeyFile(), cfg.PrivValidatorStateFile()} {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read consensus key and state: %w: restore it from a backup that is not older than the last block signed", err)
		}
		if !json.Valid(b) {
			return nil, fmt.Errorf("read consensus key and state: %s is damaged", file)
		}
	}
	return privval.LoadFilePV(cfg.PrivValidatorKeyFile(), cfg.PrivValidatorStateFile()), nil
}

// WriteGenesis stores the network's genesis in a node's folder.
func WriteGenesis(home string, genesis []byte) error {
	path := cometConfig(NodeConfig{Home: home}).GenesisFile()
	if err := renameio.WriteFile(path, genesis, 0o600, renameio.WithTempDir(filepath.Dir(path))); err != nil {
		return fmt.Errorf("write genesis: %w", err)
	}
	return nil
}

// GenesisFile is where a node keeps the network's genesis.
func GenesisFile(home string) string { return filepath.Join(home, "config", "genesis.json") }

// Start runs a node until Stop.
func Start(c NodeConfig) (*Node, error) {
	cfg := cometConfig(c)
	if err := install(c.Home); err != nil {
		return nil, err
	}
	doc, err := cmttypes.GenesisDocFromFile(cfg.GenesisFile())
	if err != nil {
		return nil, fmt.Errorf("read genesis: %w", err)
	}
	db, err := dbm.NewGoLevelDB("application", filepath.Join(c.Home, "data"), nil)
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	n := &Node{db: db, network: doc.ChainID}
	n.due, n.leaving = make(chan struct{}), make(chan struct{})
	n.dueOnce = sync.OnceFunc(func() { close(n.due) })
	n.leave = sync.OnceFunc(func() { close(n.leaving) })
	if err := n.start(c, cfg, doc); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return n, nil
}

func (n *Node) start(c NodeConfig, cfg *config.Config, doc *cmttypes.GenesisDoc) (err error) {
	options, err := c.History.options(c.Home, n.db)
	if err != nil {
		return err
	}
	options = append(options, func(b *baseapp.BaseApp) { b.SetIDPeerFilter(n.filterPeer) })
	known := c.protocols
	if known == nil {
		known = protocols
	}
	state, at, err := stored(n.db, doc)
	if err != nil {
		return err
	}
	version, why, err := choose(state, at, known)
	if err != nil {
		return err
	}
	if n.app, err = newApplication(n.db, n.network, rules{version, state.Version, known}, options...); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.end, n.ended = cancel, make(chan struct{})
	n.waiting.height, n.waiting.block = n.app.LastBlockHeight(), make(chan struct{})
	if n.needs = why; why != nil {
		c.Log.Error("the ledger node stands still", "cause", why)
		n.peers = slices.Clone(c.Peers)
		close(n.ended)
		return nil
	}
	key, err := p2p.LoadNodeKey(cfg.NodeKeyFile())
	if err != nil {
		return fmt.Errorf("read node key: %w", err)
	}
	validator, err := loadValidator(cfg)
	if err != nil {
		return err
	}
	if n.guard, err = newGuard(c.Home, validator, c.Log); err != nil {
		return err
	}
	n.peers = slices.Clone(c.Peers)
	n.comet, err = node.NewNode(cfg, n.guard, key,
		proxy.NewLocalClientCreator(consensusApp{n.app.BaseApp, n.admits}), node.DefaultGenesisDocProviderFunc(cfg),
		openStore, node.DefaultMetricsProvider(cfg.Instrumentation), logger{log: c.Log, due: n.due})
	if err != nil {
		return fmt.Errorf("make ledger node: %w", err)
	}
	if err := n.comet.Start(); err != nil {
		return fmt.Errorf("start ledger node: %w", err)
	}
	n.local = local.New(n.comet)
	// Not that of the newest block kept, which may be about to be executed.
	height := n.app.LastBlockHeight()
	n.waiting.height = height
	n.waiting.heard.started = time.Now()
	go func() {
		defer close(n.ended)
		n.watch(ctx, height)
	}()
	if n.guard.watching() {
		c.Log.Info("restored from a backup: it signs no block before it has seen that nobody else does with its key")
	}
	return nil
}

// admits tells whether a block is this application's to execute. Before one that is
// not, it announces so and waits until the node is stopped; whoever started the node
// then starts one with the right application.
func (n *Node) admits(height int64) error {
	p, err := n.app.protocol()
	if err != nil {
		return err
	}
	version := p.At(height)
	if version == n.app.version {
		return nil
	}
	err = fmt.Errorf("block %d follows protocol version %d", height, version)
	if n.comet == nil {
		return err // it is being started
	}
	n.dueOnce()
	<-n.leaving
	if n.comet.ConsensusReactor().WaitSync() {
		goruntime.Goexit() // CometBFT would panic
	}
	return err
}

// still returns why the node stands still, nil if it does not.
func (n *Node) still() error {
	if n.needs == nil {
		return nil
	}
	return n.needs
}

// Stop ends the node. Whoever follows it must have ended before.
func (n *Node) Stop() error {
	n.leave()
	n.end()
	<-n.ended // it reads from stores that are closed next
	var err error
	if n.comet != nil {
		err = n.comet.Stop()
		n.comet.Wait()
	}
	settleSnapshots(n.app.SnapshotManager())
	return errors.Join(err, n.app.Close()) // which closes the database
}

// Network is the ledger's chain id.
func (n *Node) Network() string { return n.network }

// Connect makes these the peers, "id@host:port", that the node keeps connected to,
// in place of those that it was told before, and lets go of others, given by their
// node ids.
func (n *Node) Connect(peers, others []string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.comet == nil {
		n.peers = slices.Clone(peers)
		return nil
	}
	s := n.comet.Switch()
	if err := s.AddPersistentPeers(peers); err != nil { // which forgets those of before
		return fmt.Errorf("set peers: %w", err)
	}
	fresh := slices.DeleteFunc(slices.Clone(peers), func(p string) bool { return slices.Contains(n.peers, p) })
	n.peers = slices.Clone(peers)
	if err := s.DialPeersAsync(fresh); err != nil {
		return fmt.Errorf("dial peers: %w", err)
	}
	for _, id := range others {
		if p := s.Peers().Get(p2p.ID(id)); p != nil {
			s.StopPeerGracefully(p)
		}
	}
	return nil
}

// dialled lists the peers that the node keeps connected to.
func (n *Node) dialled() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.peers)
}

// Status is what the node knows of itself and the ledger.
type Status struct {
	Network    string
	Height     int64
	Time       time.Time // of the newest block
	Peers      int
	Validators int
	// Reachable are those of the validators that this node is connected to, itself
	// among them.
	Reachable int
	// Waiting transactions have no block yet, WaitingBytes is their size. Done and
	// Refused are those in blocks since this node was started.
	Waiting       int
	WaitingBytes  int64
	Done, Refused uint64
	Syncing       bool
	// Halted: no block for three heartbeats.
	Halted bool
	// Restarting: the node is not there for the moment; Error says why it does not
	// come back. The rest is what was known before.
	Restarting bool
	Error      string
	// Protocol is the version that the ledger follows, and Supported the newest that
	// this binary knows.
	Protocol, Supported uint64
}

// Status asks the node.
func (n *Node) Status(ctx context.Context) (Status, error) {
	p, err := n.app.protocol()
	if err != nil {
		return Status{}, err
	}
	if n.needs != nil {
		return Status{
			Network: n.network, Height: n.app.LastBlockHeight(), Halted: true, Error: n.needs.Error(),
			Protocol: p.Version, Supported: n.needs.Supported,
		}, nil
	}
	s, err := n.local.Status(ctx)
	if err != nil {
		return Status{}, fmt.Errorf("ask ledger node: %w", err)
	}
	info, validators := s.SyncInfo, 0
	if info.LatestBlockHeight > 0 {
		all, err := n.local.Validators(ctx, nil, nil, nil)
		if err != nil {
			return Status{}, fmt.Errorf("ask ledger node: %w", err)
		}
		validators = all.Total
	}
	done, refused := n.waiting.counted()
	reachable := 0
	if n.app.LastBlockHeight() > 0 {
		if reachable, _, err = n.reach(); err != nil {
			return Status{}, err
		}
	}
	return Status{
		Network: n.network, Height: info.LatestBlockHeight, Time: info.LatestBlockTime, Syncing: info.CatchingUp,
		Peers: n.comet.Switch().Peers().Size(), Validators: validators, Reachable: reachable,
		Halted: n.halted(), Protocol: p.Version, Supported: uint64(len(n.app.known)),
		Waiting: n.comet.Mempool().Size(), WaitingBytes: n.comet.Mempool().SizeBytes(), Done: done, Refused: refused,
	}, nil
}

// Ready waits until the node holds a block and has caught up with its peers. One
// that stands still is as far as it can be.
func (n *Node) Ready(ctx context.Context) error {
	if n.needs != nil {
		return nil
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if s, err := n.local.Status(ctx); err == nil && n.app.LastBlockHeight() > 0 && !s.SyncInfo.CatchingUp {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the ledger to catch up: %w", ctx.Err())
		case <-n.comet.Quit():
			return errors.New("wait for the ledger to catch up: the node stopped")
		case <-tick.C:
		}
	}
}

// waiting wakes those who wait for a block or for a transaction to be in one.
type waiting struct {
	mu            sync.Mutex
	height        int64 // newest announced
	heard         heard
	done, refused uint64 // transactions in blocks
	block         chan struct{}
	txs           map[[32]byte][]chan txResult
}

// logger gives CometBFT's messages to slog, a level lower each: its info is what
// happens all the time, its errors are what peers do to it.
type logger struct {
	log *slog.Logger
	// with is put into words only when something is logged: a logger is made for every vote.
	with []any
	// due closes when consensus is about to be stopped in the middle of a block.
	due <-chan struct{}
}

func (l logger) Debug(string, ...any)       {}
func (l logger) Info(msg string, kv ...any) { l.say(slog.LevelDebug, msg, kv) }
func (l logger) Warn(msg string, kv ...any) { l.say(slog.LevelDebug, msg, kv) }

func (l logger) With(kv ...any) cmtlog.Logger {
	l.with = append(slices.Clip(l.with), kv...)
	return l
}

func (l logger) Error(msg string, kv ...any) {
	select {
	case <-l.due: // what it says of that is of no use to anyone
		l.say(slog.LevelDebug, msg, kv)
	default:
		l.say(slog.LevelWarn, msg, kv)
	}
}

func (l logger) say(level slog.Level, msg string, kv []any) {
	if ctx := context.Background(); l.log.Enabled(ctx, level) {
		l.log.Log(ctx, level, msg, append(slices.Clip(l.with), kv...)...)
	}
}
