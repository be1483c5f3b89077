// Package chain is the ledger's module of chains: who runs them, the public keys
// of their nodes, and the genesis that the committee agreed on.
package chain

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cosmossdk.io/collections"
	corestore "cosmossdk.io/core/store"
	sdk "github.com/cosmos/cosmos-sdk/types"

	"github.com/openbsn/bsn"
	pb "github.com/openbsn/bsn/gen/ledger/chainpb"
	"github.com/openbsn/bsn/ledger/operator"
	"github.com/openbsn/bsn/ledger/record"
	"github.com/openbsn/bsn/ledger/writer"
)

// StoreKey names the module's store.
const StoreKey = "bsn-chain"

const (
	maxKeys   = 16
	maxKey    = 512
	maxReason = 512
)

// Keeper holds the chains.
type Keeper struct {
	operators *operator.Keeper
	authority string
	Chains    record.Table[bsn.Chain]
	nextIndex collections.Sequence
}

// NewKeeper opens the module's store. Only authority opens chains.
func NewKeeper(store corestore.KVStoreService, operators *operator.Keeper, authority string) *Keeper {
	k := &Keeper{operators: operators, authority: authority}
	operators.BeforeRemoval(k.release)
	record.Schema(store, func(sb *collections.SchemaBuilder) {
		k.Chains = record.NewTable[bsn.Chain](sb, 1, bsn.KindChain)
		k.nextIndex = collections.NewSequence(sb, collections.NewPrefix(2), "index")
	})
	return k
}

func (k *Keeper) ruled(authority string) error {
	if authority != k.authority {
		return fmt.Errorf("%w: chains are opened and changed by the operators' vote", writer.ErrStranger)
	}
	return nil
}

// Open makes a chain that its committee then brings up.
func (k *Keeper) Open(ctx context.Context, m *pb.MsgOpenChain) error {
	if err := k.ruled(m.Authority); err != nil {
		return err
	}
	c := bsn.Chain{
		Name: m.Name, Kind: bsn.ChainKind(m.Kind), Framework: m.Framework, NetworkID: m.NetworkId,
		Deploy: bsn.DeployPolicy(m.Deploy), Committee: m.Committee, Nodes: []bsn.ChainNode{}, Status: bsn.ChainKeys,
	}
	if err := errors.Join(bsn.CheckName("chain", c.Name), bsn.CheckName("framework", c.Framework)); err != nil {
		return err
	}
	if c.Kind != bsn.ChainOpen && c.Kind != bsn.ChainDedicated {
		return fmt.Errorf("kind %q: cities run chains of kind %s or %s", m.Kind, bsn.ChainOpen, bsn.ChainDedicated)
	}
	if err := checkDeploy(c.Deploy); err != nil {
		return err
	}
	if c.NetworkID == 0 {
		return errors.New("chain needs a network id above 0")
	}
	if has, err := k.Chains.Has(ctx, c.Name); err != nil || has {
		return errors.Join(err, fmt.Errorf("there is a chain %q already", c.Name))
	}
	err := k.Chains.Each(ctx, "", func(_ string, o bsn.Chain) (bool, error) {
		if o.Framework == c.Framework && o.NetworkID == c.NetworkID {
			return false, fmt.Errorf("chain %q has network id %d already", o.Name, o.NetworkID)
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	if err := k.checkCommittee(ctx, c.Committee); err != nil {
		return err
	}
	n, err := k.nextIndex.Next(ctx)
	if err != nil {
		return fmt.Errorf("number chain: %w", err)
	}
	if c.Index = int(n) + 1; c.Index > bsn.MaxChains {
		return fmt.Errorf("the network has its %d chains", bsn.MaxChains)
	}
	return k.Chains.Set(ctx, c.Name, c)
}

func (k *Keeper) checkCommittee(ctx context.Context, cities []string) error {
	if len(cities) == 0 {
		return errors.New("committee names no city")
	}
	for i, name := range cities {
		if slices.Contains(cities[:i], name) {
			return fmt.Errorf("committee names city %q twice", name)
		}
		if _, err := k.operators.Staying(ctx, name); err != nil {
			return fmt.Errorf("committee: %w", err)
		}
	}
	return nil
}

// SetCommittee changes who runs a chain. The cities' daemons bring the running
// chain's own membership after it.
func (k *Keeper) SetCommittee(ctx context.Context, m *pb.MsgSetCommittee) error {
	if err := k.ruled(m.Authority); err != nil {
		return err
	}
	c, err := k.Chains.Get(ctx, m.Chain)
	if err != nil {
		return err
	}
	if !c.Runs() || c.Genesis == "" {
		return fmt.Errorf("chain %q is at %q: its committee changes once it runs", c.Name, c.Status)
	}
	if err := k.checkCommittee(ctx, m.Committee); err != nil {
		return err
	}
	c.Committee = m.Committee
	return k.Chains.Set(ctx, c.Name, c)
}

// member reads the chain for a city of its committee.
func (k *Keeper) member(ctx context.Context, signer, chain string) (bsn.City, bsn.Chain, error) {
	city, err := k.operators.City(ctx, signer)
	if err != nil {
		return city, bsn.Chain{}, err
	}
	c, err := k.Chains.Get(ctx, chain)
	if err == nil && !c.Member(city.Name) {
		err = fmt.Errorf("%w: city %q is not in the committee of chain %q", writer.ErrStranger, city.Name, chain)
	}
	return city, c, err
}

// PostNode records a node's public keys. With the last one the genesis can be
// built: its time is that of this block.
func (k *Keeper) PostNode(ctx context.Context, m *pb.MsgPostNode) error {
	city, c, err := k.member(ctx, m.City, m.Chain)
	if err != nil {
		return err
	}
	if len(m.Keys) == 0 || len(m.Keys) > maxKeys {
		return fmt.Errorf("node needs 1 to %d public keys", maxKeys)
	}
	n := bsn.ChainNode{City: city.Name, CityIndex: city.Index, Keys: map[string]string{}}
	for _, key := range m.Keys {
		if len(key.Name) == 0 || len(key.Name) > bsn.MaxName || len(key.Value) == 0 || len(key.Value) > maxKey {
			return fmt.Errorf("public key %.32q is too long or empty", key.Name)
		}
		n.Keys[key.Name] = key.Value
	}
	if old, ok := c.Node(city.Name); ok {
		if maps.Equal(old.Keys, n.Keys) {
			return nil
		}
		return fmt.Errorf("city %q posted another node for chain %q already", city.Name, c.Name)
	}
	if c.Status != bsn.ChainKeys && !c.Runs() {
		return fmt.Errorf("chain %q is at %q: nodes are posted before its genesis, or when it runs", c.Name, c.Status)
	}
	c.Nodes = append(c.Nodes, n)
	slices.SortFunc(c.Nodes, func(a, b bsn.ChainNode) int { return strings.Compare(a.City, b.City) })
	if c.Status == bsn.ChainKeys && len(c.Nodes) == len(c.Committee) {
		c.Status = bsn.ChainGenesis
		c.GenesisTime = sdk.UnwrapSDKContext(ctx).BlockTime().Unix()
	}
	return k.Chains.Set(ctx, c.Name, c)
}

// ProposeGenesis names a genesis for the others to compare. It counts as the
// proposer's approval. Another proposal takes its place only once a third of the
// committee has refused it, and then another member's: one bad member cannot keep
// the rest from starting.
func (k *Keeper) ProposeGenesis(ctx context.Context, m *pb.MsgProposeGenesis) error {
	city, c, err := k.member(ctx, m.City, m.Chain)
	if err != nil {
		return err
	}
	if err := checkHash(m.Genesis); err != nil {
		return err
	}
	if c.Genesis == m.Genesis {
		return k.answer(ctx, c, city.Name, true, "")
	}
	if c.Status != bsn.ChainGenesis {
		return fmt.Errorf("chain %q is at %q, not at %q", c.Name, c.Status, bsn.ChainGenesis)
	}
	if c.Genesis != "" && !c.Refused() {
		return fmt.Errorf("a genesis was proposed by %q already: approve or refuse it", c.Proposer)
	}
	if c.Proposer == city.Name {
		return fmt.Errorf("the committee refused a genesis of city %q: the next one is for another city to propose", city.Name)
	}
	c.Genesis, c.Proposer, c.Approvals = m.Genesis, city.Name, nil
	return k.answer(ctx, c, city.Name, true, "")
}

// AnswerGenesis records a member's comparison. More than two thirds of the
// committee start the chain.
func (k *Keeper) AnswerGenesis(ctx context.Context, m *pb.MsgAnswerGenesis) error {
	city, c, err := k.member(ctx, m.City, m.Chain)
	if err != nil {
		return err
	}
	if c.Genesis == "" || c.Genesis != m.Genesis {
		return fmt.Errorf("genesis %.16q is not the proposed one", m.Genesis)
	}
	return k.answer(ctx, c, city.Name, m.Approved, record.Clip(m.Reason, maxReason))
}

func (k *Keeper) answer(ctx context.Context, c bsn.Chain, city string, approved bool, reason string) error {
	if c.Status != bsn.ChainGenesis && slices.ContainsFunc(c.Approvals, func(a bsn.Approval) bool { return a.City == city }) {
		return nil // an answer that decided is not taken back
	}
	c.Approvals = slices.DeleteFunc(c.Approvals, func(a bsn.Approval) bool { return a.City == city })
	c.Approvals = append(c.Approvals, bsn.Approval{City: city, Approved: approved, Reason: reason})
	yes := 0
	for _, a := range c.Approvals {
		if a.Approved {
			yes++
		}
	}
	// A late answer is kept for all to see; it decides nothing any more.
	if c.Status == bsn.ChainGenesis && 3*yes > 2*len(c.Committee) {
		c.Status = bsn.ChainRunning
	}
	return k.Chains.Set(ctx, c.Name, c)
}

func checkHash(s string) error {
	if b, err := hex.DecodeString(s); err != nil || len(b) != 32 || s != strings.ToLower(s) {
		return errors.New("hash must be a SHA-256 in 64 lower-case hex digits")
	}
	return nil
}

// state is the module's genesis.
type state struct {
	Chains map[string]bsn.Chain `json:"chains,omitempty"`
}

func (k *Keeper) init(ctx sdk.Context, s state) error {
	last := 0
	for _, c := range s.Chains {
		last = max(last, c.Index)
	}
	if last > 0 {
		if err := k.nextIndex.Set(ctx, uint64(last)); err != nil {
			return err
		}
	}
	return k.Chains.Import(ctx, s.Chains)
}

func (k *Keeper) export(ctx sdk.Context) (s state, err error) {
	s.Chains, err = k.Chains.Export(ctx)
	return s, err
}
