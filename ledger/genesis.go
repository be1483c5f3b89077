package ledger

import (
	"encoding/json"
	"fmt"
	"time"

	cmtjson "github.com/cometbft/cometbft/libs/json"
	cmttypes "github.com/cometbft/cometbft/types"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger/account"
	"github.com/openbsn/bsn/ledger/app"
	"github.com/openbsn/bsn/ledger/chain"
	"github.com/openbsn/bsn/ledger/govern"
	"github.com/openbsn/bsn/ledger/identity"
	"github.com/openbsn/bsn/ledger/operator"
	"github.com/openbsn/bsn/ledger/parameter"
	"github.com/openbsn/bsn/ledger/record"
	"github.com/openbsn/bsn/ledger/upgrade"
	"github.com/openbsn/bsn/ledger/writer"
)

// Admission is what a city brings with it when it joins.
type Admission = operator.Admission

const (
	maxBlockBytes = 1 << 20
	maxTxBytes    = 256 << 10
	// Evidence of two votes for one height counts for a week. In that time there are
	// at least so many heartbeats, so that time alone decides.
	evidenceAge    = 7 * 24 * time.Hour
	evidenceBlocks = int64(evidenceAge / heartbeat)
)

// NewGenesis founds a network with one operator and its first city. What is zero
// in the parameters takes the default.
func NewGenesis(network string, net bsn.Net, founder Admission, parameters bsn.Parameters) ([]byte, error) {
	if err := bsn.CheckName("network", network); err != nil {
		return nil, err
	}
	operators, err := json.Marshal(operator.State{Net: net, Founder: &founder})
	if err != nil {
		return nil, fmt.Errorf("encode founder: %w", err)
	}
	figures, err := parameter.Genesis(parameters)
	if err != nil {
		return nil, err
	}
	empty := json.RawMessage("{}")
	state, err := json.Marshal(map[string]json.RawMessage{
		"auth":             json.RawMessage(`{"params":{"max_memo_characters":"0","tx_sig_limit":"1","tx_size_cost_per_byte":"10","sig_verify_cost_ed25519":"590","sig_verify_cost_secp256k1":"1000"},"accounts":[]}`),
		parameter.StoreKey: figures,
		writer.StoreKey:    empty,
		operator.StoreKey:  operators,
		govern.StoreKey:    empty,
		chain.StoreKey:     empty,
		account.StoreKey:   empty,
		app.StoreKey:       empty,
		identity.StoreKey:  empty,
		upgrade.StoreKey:   upgrade.Genesis(Protocols()),
	})
	if err != nil {
		return nil, fmt.Errorf("encode state: %w", err)
	}
	params := cmttypes.DefaultConsensusParams()
	params.Block.MaxBytes = maxBlockBytes
	params.Block.MaxGas = -1
	params.Evidence.MaxBytes = maxBlockBytes / 4
	params.Evidence.MaxAgeDuration, params.Evidence.MaxAgeNumBlocks = evidenceAge, evidenceBlocks
	doc := cmttypes.GenesisDoc{
		GenesisTime: time.Now().UTC(), ChainID: network, InitialHeight: 1,
		ConsensusParams: params, AppState: state,
	}
	if err := doc.ValidateAndComplete(); err != nil {
		return nil, fmt.Errorf("check genesis: %w", err)
	}
	b, err := cmtjson.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode genesis: %w", err)
	}
	return b, nil
}

// GenesisNet reads the network's name and its Net from a genesis.
func GenesisNet(genesis []byte) (network string, net bsn.Net, err error) {
	network, o, err := genesisOperators(genesis)
	return network, o.Net, err
}

// GenesisCities reads the network's name and the cities that it begins with, in
// order of name.
func GenesisCities(genesis []byte) (network string, cities []bsn.City, err error) {
	network, o, err := genesisOperators(genesis)
	for _, name := range record.SortedKeys(o.Cities) {
		cities = append(cities, o.Cities[name])
	}
	return network, cities, err
}

func genesisOperators(genesis []byte) (network string, o operator.State, err error) {
	doc, err := cmttypes.GenesisDocFromJSON(genesis)
	if err != nil {
		return "", o, fmt.Errorf("decode genesis: %w", err)
	}
	var state map[string]json.RawMessage
	if err := json.Unmarshal(doc.AppState, &state); err != nil {
		return "", o, fmt.Errorf("decode genesis: %w", err)
	}
	if err := json.Unmarshal(state[operator.StoreKey], &o); err != nil {
		return "", o, fmt.Errorf("decode genesis: %w", err)
	}
	return doc.ChainID, o, nil
}
