package ledger

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	cmtdb "github.com/cometbft/cometbft-db"
	"github.com/cometbft/cometbft/light"
	"github.com/cometbft/cometbft/light/provider"
	lightdb "github.com/cometbft/cometbft/light/store/db"
	cmttypes "github.com/cometbft/cometbft/types"
)

const (
	// trustPeriod is how old a trusted block may be. Evidence of a fault counts for as
	// long, so that who signs two histories within it is found out.
	trustPeriod = evidenceAge
	// maxSnapshotChunks and maxChunk bound what a source may send; the SDK cuts chunks of 10 MB.
	maxSnapshotChunks = 4096
	maxChunk          = 16 << 20
	// askTimeout bounds one question to a source, and chunkTimeout one chunk.
	askTimeout = 10 * time.Second
	// maxDrift is how far a block's time may be ahead of this machine's.
	maxDrift     = time.Minute
	chunkTimeout = time.Minute
)

// Trust is a block of the ledger that a new node takes for granted: everything else
// follows from it.
type Trust struct {
	Height int64  `json:"height"`
	Hash   string `json:"hash"` // of the block's header, hex
}

func trust(b *cmttypes.LightBlock) Trust {
	return Trust{Height: b.Height, Hash: hex.EncodeToString(b.Hash())}
}

// Errors of Sync.
var (
	// ErrReplay: no city has a snapshot that can be proven, but one still has the first
	// block: the node catches up block by block, and checks each.
	ErrReplay = errors.New("no city offers a snapshot")
	// ErrNoSource: none of the cities could be asked, or none that agrees with what is trusted.
	ErrNoSource = errors.New("no city to take the ledger's state from")
	// ErrForked: there are two histories, each with the signatures of more than two
	// thirds of the operators. Only people can tell which is the right one.
	ErrForked = errors.New("more than two thirds of the operators signed two histories")
)

// SyncConfig says where to get the ledger's state, and what to believe.
type SyncConfig struct {
	Home    string
	Trust   Trust
	Sources map[string]Source // by city; best of different operators
	Log     *slog.Logger
	// Report is told how far it is, in words for people.
	Report func(string)
}

// Sync gives the node in Home, which must not run, the newest state of the ledger
// that several cities offer and that the light client proves from Trust, in place
// of what it had. What it signed is kept. Cities that say what is not so are left
// out. It may be cut off anywhere and called again. Errors: ErrReplay, ErrNoSource, ErrForked.
func Sync(ctx context.Context, c SyncConfig) (height int64, err error) {
	if err := install(c.Home); err != nil {
		return 0, err
	}
	doc, err := cmttypes.GenesisDocFromFile(cometConfig(NodeConfig{Home: c.Home}).GenesisFile())
	if err != nil {
		return 0, fmt.Errorf("read genesis: %w", err)
	}
	s := &syncer{SyncConfig: c, network: doc.ChainID, initial: doc.InitialHeight, sources: maps.Clone(c.Sources)}
	offers, oldest, err := s.offers(ctx)
	if err != nil {
		return 0, err
	}
	replay := oldest <= max(1, doc.InitialHeight)
	if len(offers) == 0 && replay {
		return 0, ErrReplay
	}
	if err := s.agree(ctx); err != nil {
		if replay && ctx.Err() == nil {
			return 0, fmt.Errorf("%w that can be proven: %w", ErrReplay, err)
		}
		return 0, err
	}
	causes := []error{fmt.Errorf("%w: none of their %d snapshots holds", ErrNoSource, len(offers))}
	for _, o := range offers {
		err := s.take(ctx, o)
		if err == nil {
			return o.Height, install(c.Home)
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if errors.Is(err, ErrForked) {
			return 0, err
		}
		c.Log.Warn("a snapshot of the ledger was not taken", "height", o.Height, "offered by", o.by, "error", err)
		causes = append(causes, fmt.Errorf("at %d, offered by %v: %w", o.Height, o.by, err))
	}
	if replay {
		return 0, fmt.Errorf("%w that can be proven: %w", ErrReplay, errors.Join(causes...))
	}
	return 0, errors.Join(causes...)
}

type syncer struct {
	SyncConfig
	network string
	initial int64
	sources map[string]Source // those that agree
}

// offer is a snapshot and the cities that offer it.
type offer struct {
	Snapshot
	by []string
}

// answers asks all sources at once.
func answers[T any](ctx context.Context, sources map[string]Source, ask func(context.Context, Source) (T, error)) (map[string]T, map[string]error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	got, failed := map[string]T{}, map[string]error{}
	for name, source := range sources {
		wg.Go(func() {
			v, err := ask(ctx, source)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed[name] = err
			} else {
				got[name] = v
			}
		})
	}
	wg.Wait()
	return got, failed
}

// offers collects snapshots, those that several cities offer first, then the newest.
func (s *syncer) offers(ctx context.Context) (out []offer, oldest int64, err error) {
	type list struct {
		offered []Snapshot
		oldest  int64
	}
	got, failed := answers(ctx, s.sources, func(ctx context.Context, source Source) (l list, err error) {
		l.offered, l.oldest, err = source.Snapshots(ctx)
		return l, err
	})
	if len(got) == 0 {
		return nil, 0, fmt.Errorf("%w: %w", ErrNoSource, joined(failed))
	}
	all := map[string]*offer{}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		l := got[name]
		if oldest == 0 || l.oldest < oldest {
			oldest = l.oldest
		}
		for _, o := range l.offered {
			if o.Height <= s.Trust.Height-maxBehind || len(o.Chunks) < 1 || len(o.Chunks) > maxSnapshotChunks {
				continue
			}
			id := fmt.Sprintf("%d/%d/%d/%x/%x", o.Height, o.Format, o.Version, o.Hash, o.Chunks)
			if all[id] == nil {
				all[id] = &offer{Snapshot: o}
			}
			all[id].by = append(all[id].by, name)
		}
	}
	for _, o := range all {
		out = append(out, *o)
	}
	slices.SortFunc(out, func(a, b offer) int {
		return cmp.Or(cmp.Compare(min(2, len(b.by)), min(2, len(a.by))), cmp.Compare(b.Height, a.Height),
			cmp.Compare(len(b.by), len(a.by)), bytes.Compare(a.Hash, b.Hash))
	})
	return out, oldest, nil
}

// maxBehind is how many blocks before the trusted one a snapshot may be: the light
// client goes back block by block.
const maxBehind = 1000

// agree leaves out the sources that have another block at the trusted height.
func (s *syncer) agree(ctx context.Context) error {
	if s.Trust.Height < 1 {
		return fmt.Errorf("%w: no block is known that can be trusted: name one with `bsn city resync CITY --trust HEIGHT:HASH`", ErrNoSource)
	}
	got, failed := answers(ctx, s.sources, func(ctx context.Context, source Source) (string, error) {
		b, err := witness{source, s.network}.LightBlock(ctx, s.Trust.Height)
		if err != nil {
			return "", err
		}
		return trust(b).Hash, nil
	})
	for name, hash := range got {
		if hash != s.Trust.Hash {
			failed[name] = fmt.Errorf("it has another block at %d than the one that is trusted", s.Trust.Height)
		}
	}
	for name, err := range failed {
		delete(s.sources, name)
		s.Log.Warn("a city is not asked for the ledger's state", "from", name, "error", err)
	}
	if len(s.sources) == 0 {
		return fmt.Errorf("%w: %w", ErrNoSource, joined(failed))
	}
	return nil
}

func joined(failed map[string]error) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(failed)) {
		errs = append(errs, fmt.Errorf("city %s: %w", name, failed[name]))
	}
	return errors.Join(errs...)
}

// block returns a block that every city proves by itself, from the trusted one on,
// as far as it has it. Cities that prove nothing are not heard on it.
func (s *syncer) block(ctx context.Context, height int64) (*cmttypes.LightBlock, error) {
	got, failed := answers(ctx, s.sources, func(ctx context.Context, source Source) (*cmttypes.LightBlock, error) {
		return s.prove(ctx, source, height)
	})
	if len(got) == 0 {
		return nil, fmt.Errorf("prove block %d: %w", height, joined(failed))
	}
	names := slices.Sorted(maps.Keys(got))
	// Header and commit say nothing of whose turn it is to propose, so that the answer
	// of most cities is taken.
	votes := map[string]int{}
	best, most := got[names[0]], ""
	for _, name := range names {
		if !bytes.Equal(got[name].Hash(), best.Hash()) {
			return nil, fmt.Errorf("%w: cities %s and %s each prove another block %d; tell all operators", ErrForked, names[0], name, height)
		}
		p, err := got[name].ValidatorSet.ToProto()
		if err != nil {
			return nil, fmt.Errorf("encode validators: %w", err)
		}
		b, err := p.Marshal()
		if err != nil {
			return nil, fmt.Errorf("encode validators: %w", err)
		}
		if votes[string(b)]++; votes[string(b)] > votes[most] {
			best, most = got[name], string(b)
		}
	}
	return best, nil
}

// prove runs CometBFT's light client on what one city says.
func (s *syncer) prove(ctx context.Context, source Source, height int64) (*cmttypes.LightBlock, error) {
	hash, err := hex.DecodeString(s.Trust.Hash)
	if err != nil {
		return nil, fmt.Errorf("trusted block: %w", err)
	}
	w := witness{source, s.network}
	o := light.TrustOptions{Period: trustPeriod, Height: s.Trust.Height, Hash: hash}
	// The others are its witnesses, but each on its own: one that lies cannot make the
	// client give up the rest.
	c, err := light.NewClient(ctx, s.network, o, w, []provider.Provider{w}, lightdb.New(cmtdb.NewMemDB(), ""),
		light.Logger(logger{log: s.Log}), light.MaxRetryAttempts(1), light.MaxBlockLag(0), light.MaxClockDrift(maxDrift))
	if err != nil {
		return nil, fmt.Errorf("begin with the trusted block %d: %w", s.Trust.Height, err)
	}
	return c.VerifyLightBlockAtHeight(ctx, height, time.Now())
}

// take fetches a snapshot, proves it and gets it ready to be installed.
func (s *syncer) take(ctx context.Context, o offer) error {
	from := slices.DeleteFunc(slices.Clone(o.by), func(name string) bool { return s.sources[name] == nil })
	if len(from) == 0 {
		return errors.New("none of the cities that offer it is trusted any more")
	}
	dir := filepath.Join(s.Home, "sync")
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("clear %s: %w", dir, err)
	}
	defer os.RemoveAll(dir) // not there any more if all went well
	// The block after the state names its hash, and the one after that the validators.
	var blocks [3]*cmttypes.LightBlock
	for i := range blocks {
		var err error
		if blocks[i], err = s.block(ctx, o.Height+int64(i)); err != nil {
			return err
		}
	}
	r, err := newRestore(dir, s.network, o.Snapshot)
	if err != nil {
		return err
	}
	defer r.close()
	for i := range o.Chunks {
		s.Report(fmt.Sprintf("syncing: snapshot at %d, chunk %d of %d", o.Height, i+1, len(o.Chunks)))
		if err := s.chunk(ctx, r, o, from, uint32(i)); err != nil {
			return err
		}
	}
	if err := r.finish(blocks, s.initial); err != nil {
		for _, name := range from { // it was not what the network has: so they lied
			delete(s.sources, name)
		}
		return err
	}
	s.Report(fmt.Sprintf("syncing: snapshot at %d is proven; blocks follow", o.Height))
	return os.Rename(dir, filepath.Join(s.Home, installed))
}

// chunk fetches a chunk from one of the cities that offer it.
func (s *syncer) chunk(ctx context.Context, r *restore, o offer, from []string, index uint32) error {
	failed := map[string]error{}
	for i := range from {
		name := from[(int(index)+i)%len(from)] // each city its share
		ask, cancel := context.WithTimeout(ctx, chunkTimeout)
		b, err := s.sources[name].SnapshotChunk(ask, o.Height, o.Format, index)
		cancel()
		if err == nil && len(b) > maxChunk {
			err = fmt.Errorf("chunk of %d bytes: the most is %d", len(b), maxChunk)
		}
		if err == nil {
			err = r.chunk(b)
		}
		if err == nil {
			return nil
		}
		failed[name] = err
		if errors.Is(err, errBroken) || ctx.Err() != nil {
			break
		}
	}
	return fmt.Errorf("chunk %d: %w", index, joined(failed))
}

// Empty tells whether the node in home, which must not run, has no state of the
// ledger yet.
func Empty(home string) (bool, error) {
	if err := install(home); err != nil {
		return false, err
	}
	cfg := cometConfig(NodeConfig{Home: home})
	if _, err := os.Stat(filepath.Join(cfg.DBDir(), "state.db")); errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	_, err := lastState(cfg)
	if errors.Is(err, errNoBlock) {
		return true, nil
	}
	return false, err
}

// installed is the folder of a state that is complete and proven.
const installed = "synced"

// install puts a synced state in place of the one that is there. It may be cut off
// anywhere and done again.
func install(home string) error {
	from, to := filepath.Join(home, installed), filepath.Join(home, "data")
	if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return fmt.Errorf("install synced state: %w", err)
	}
	for _, name := range []string{"cs.wal", "evidence.db", "tx_index.db"} { // of the state before
		if err := os.RemoveAll(filepath.Join(to, name)); err != nil {
			return fmt.Errorf("install synced state: %w", err)
		}
	}
	for _, name := range syncedStores {
		if _, err := os.Stat(filepath.Join(from, name)); errors.Is(err, fs.ErrNotExist) {
			continue // it is in place
		}
		if err := os.RemoveAll(filepath.Join(to, name)); err != nil {
			return fmt.Errorf("install synced state: %w", err)
		}
		if err := os.Rename(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			return fmt.Errorf("install synced state: %w", err)
		}
	}
	if err := os.RemoveAll(from); err != nil {
		return fmt.Errorf("install synced state: %w", err)
	}
	return nil
}
