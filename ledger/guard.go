package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cometbft/cometbft/crypto"
	"github.com/cometbft/cometbft/privval"
	cmtproto "github.com/cometbft/cometbft/proto/tendermint/types"
	cmttypes "github.com/cometbft/cometbft/types"
	"github.com/google/renameio/v2"
)

const (
	// quietBlocks is the number of blocks in a row without a signature of its own
	// after which a restored node takes it that nobody else signs with its key.
	quietBlocks = 10
	// goneWait is how long a restored node listens for votes of its own, where the
	// operator says that the city that it was is gone.
	goneWait = 10 * time.Second
)

// restoredFile marks a node that was restored and has not signed since.
const restoredFile = "restored.json"

// restored is what is known of the node's former self.
type restored struct {
	// Gone: the operator says that the former self has ended for good.
	Gone bool `json:"gone"`
}

// MarkRestored makes the node in home, from its next start on, sign nothing before
// it has seen that nobody else signs with its key. With gone the operator vouches
// for that: it then only takes up what it signed before from its peers' memory.
func MarkRestored(home string, gone bool) error {
	b, err := json.Marshal(restored{Gone: gone})
	if err != nil {
		return fmt.Errorf("mark as restored: %w", err)
	}
	if err := renameio.WriteFile(filepath.Join(home, restoredFile), b, 0o600, renameio.WithTempDir(home)); err != nil {
		return fmt.Errorf("mark as restored: %w", err)
	}
	return nil
}

var errGuarded = errors.New("this node was restored and does not sign yet")

// guard is the signer of a node. One that was restored does not know what its
// former self signed since the backup, or whether that still runs: two signatures at
// one height would cost the operator its power.
type guard struct {
	*privval.FilePV
	file string
	log  *slog.Logger
	born time.Time // the guard was made then

	mu    sync.Mutex
	held  bool // it signs nothing
	gone  bool
	quiet int
	told  bool
}

func newGuard(home string, pv *privval.FilePV, log *slog.Logger) (*guard, error) {
	g := &guard{FilePV: pv, file: filepath.Join(home, restoredFile), log: log, born: time.Now()}
	b, err := os.ReadFile(g.file)
	if errors.Is(err, fs.ErrNotExist) {
		return g, nil
	}
	var r restored
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", restoredFile, err)
	}
	g.held, g.gone = true, r.Gone
	return g, nil
}

// SignVote implements cmttypes.PrivValidator.
func (g *guard) SignVote(network string, v *cmtproto.Vote) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held {
		return errGuarded
	}
	return g.FilePV.SignVote(network, v)
}

// SignProposal implements cmttypes.PrivValidator.
func (g *guard) SignProposal(network string, p *cmtproto.Proposal) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held {
		return errGuarded
	}
	return g.FilePV.SignProposal(network, p)
}

// GetPubKey implements cmttypes.PrivValidator.
func (g *guard) GetPubKey() (crypto.PubKey, error) { return g.FilePV.GetPubKey() }

// watching tells whether blocks are of use to the guard.
func (g *guard) watching() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.held
}

// vouch tells whether the operator vouches for the former self's end.
func (g *guard) vouch() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.held && g.gone
}

// block takes in a block that came while the node was level with the ledger. What was
// made before the node was started says nothing of now, however it came.
func (g *guard) block(b *cmttypes.Block) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.held || b.LastCommit == nil || b.Time.Before(g.born) {
		return
	}
	own := g.FilePV.GetAddress()
	for _, s := range b.LastCommit.Signatures {
		if s.BlockIDFlag == cmttypes.BlockIDFlagAbsent || !bytes.Equal(s.ValidatorAddress, own) {
			continue
		}
		g.quiet = 0
		if !g.told {
			g.told = true
			g.log.Error("another city signs with the key of this one, which was restored from a backup: stop the other; this one does not sign until then", "height", b.Height-1)
		}
		return
	}
	if g.quiet++; g.quiet == quietBlocks {
		g.release(b.Height, 0, stepPrecommit)
	}
}

// Steps of a round as FilePV counts them.
const (
	stepPrevote   = 2
	stepPrecommit = 3
)

// vouched goes on from what the former self signed last at the height that is being
// decided, as its peers tell.
func (g *guard) vouched(height int64, round int32, step int8) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held {
		g.release(height, round, step)
	}
}

// votes returns the newest vote with the node's own key that it has heard of at the
// height that is being decided; without one the end of the height before.
func (n *Node) votes(ctx context.Context) (height int64, round int32, step int8, err error) {
	dump, err := n.local.DumpConsensusState(ctx)
	if err != nil {
		return 0, 0, 0, fmt.Errorf("read round: %w", err)
	}
	var rs struct {
		Height     int64 `json:"height,string"`
		Validators struct {
			Validators []struct {
				Address string `json:"address"`
			} `json:"validators"`
		} `json:"validators"`
		Votes []struct {
			Round      int32    `json:"round"`
			Prevotes   []string `json:"prevotes"`
			Precommits []string `json:"precommits"`
		} `json:"votes"`
	}
	if err := json.Unmarshal(dump.RoundState, &rs); err != nil {
		return 0, 0, 0, fmt.Errorf("read round: %w", err)
	}
	own := n.guard.FilePV.GetAddress().String()
	height, round, step = rs.Height-1, 0, stepPrecommit
	for i, v := range rs.Validators.Validators {
		if v.Address != own {
			continue
		}
		for _, r := range rs.Votes { // in order of round
			if i < len(r.Prevotes) && r.Prevotes[i] != noVote {
				height, round, step = rs.Height, r.Round, stepPrevote
			}
			if i < len(r.Precommits) && r.Precommits[i] != noVote {
				height, round, step = rs.Height, r.Round, stepPrecommit
			}
		}
	}
	return height, round, step, nil
}

// noVote is how CometBFT writes a vote that it does not have.
const noVote = "nil-Vote"

// attend hands the guard what may release it: blocks that come while the node is
// level with the ledger, or what peers know where the operator vouches.
func (n *Node) attend(b *cmttypes.Block) {
	if n.comet.ConsensusReactor().WaitSync() {
		return // old blocks say nothing of now
	}
	n.guard.block(b)
}

// release lets the node sign what comes after this, with mu held.
func (g *guard) release(height int64, round int32, step int8) {
	s := &g.FilePV.LastSignState
	if height > s.Height || height == s.Height && (round > s.Round || round == s.Round && step > s.Step) {
		s.Height, s.Round, s.Step, s.Signature, s.SignBytes = height, round, step, nil, nil
	}
	s.Save() // before the mark goes: what is signed next is remembered then
	if err := os.Remove(g.file); err != nil {
		g.log.Error("a restored node cannot be marked as safe, and does not sign", "error", err)
		return
	}
	g.held = false
	g.log.Info("nobody else signs with the key of this restored node: it takes its part again", "height", height)
}
