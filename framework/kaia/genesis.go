package kaia

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/rlp"

	"github.com/openbsn/bsn"
)

// maxGenesis bounds a proposed genesis, in bytes; the largest that is built here
// has about 5000.
const maxGenesis = 64 << 10

const (
	// committeeSize is how many validators take part in a block. A chain can never
	// have more validators than this, since the proposer is drawn from them all.
	committeeSize = 22
	// epoch is the number of blocks after which Kaia forgets all votes cast on
	// validators, so with a block a second it is how long a vote may take: a week.
	// Nothing about validators waits for its end. Other parameters do, but nobody
	// votes on those.
	epoch = 604800
)

// genesisFile is the form of a genesis that Kaia's init command reads
// (blockchain.Genesis and params.ChainConfig of Kaia v1.0.3).
type genesisFile struct {
	Config     chainConfig         `json:"config"`
	Timestamp  hexutil.Uint64      `json:"timestamp"`
	ExtraData  hexutil.Bytes       `json:"extraData"`
	Governance *struct{}           `json:"governanceData"` // null: made by init
	BlockScore hexutil.Uint64      `json:"blockScore"`
	Alloc      map[string]struct{} `json:"alloc"` // nobody holds coins
	Number     hexutil.Uint64      `json:"number"`
	GasUsed    hexutil.Uint64      `json:"gasUsed"`
	ParentHash common.Hash         `json:"parentHash"`
}

// chainConfig has every fork up to Cancun from block 0. The forks after it are
// left out: with Randao a node could propose only once its BLS key stands in a
// contract of the genesis, so that validators could not come and go.
type chainConfig struct {
	ChainID       uint64           `json:"chainId"`
	Istanbul      uint64           `json:"istanbulCompatibleBlock"`
	London        uint64           `json:"londonCompatibleBlock"`
	EthTxType     uint64           `json:"ethTxTypeCompatibleBlock"`
	Magma         uint64           `json:"magmaCompatibleBlock"`
	Kore          uint64           `json:"koreCompatibleBlock"`
	Shanghai      uint64           `json:"shanghaiCompatibleBlock"`
	Cancun        uint64           `json:"cancunCompatibleBlock"`
	Consensus     istanbulConfig   `json:"istanbul"`
	UnitPrice     uint64           `json:"unitPrice"`
	DeriveShaImpl int              `json:"deriveShaImpl"`
	Governance    governanceConfig `json:"governance"`
}

type istanbulConfig struct {
	Epoch  uint64 `json:"epoch"`
	Policy uint64 `json:"policy"` // 0: proposers take turns
	Sub    uint64 `json:"sub"`
}

type governanceConfig struct {
	// GoverningNode has a meaning in mode "single" only, but must be given.
	GoverningNode    string       `json:"governingNode"`
	GovernanceMode   string       `json:"governanceMode"`
	GovParamContract string       `json:"govParamContract"`
	Reward           rewardConfig `json:"reward"`
	KIP71            feeConfig    `json:"kip71"`
}

// rewardConfig mints nothing. The intervals must not be zero.
type rewardConfig struct {
	MintingAmount          uint64 `json:"mintingAmount"`
	Ratio                  string `json:"ratio"`
	Kip82Ratio             string `json:"kip82ratio"`
	UseGiniCoeff           bool   `json:"useGiniCoeff"`
	DeferredTxFee          bool   `json:"deferredTxFee"`
	StakingUpdateInterval  uint64 `json:"stakingUpdateInterval"`
	ProposerUpdateInterval uint64 `json:"proposerUpdateInterval"`
	MinimumStake           uint64 `json:"minimumStake"`
}

// feeConfig keeps the base fee at zero.
type feeConfig struct {
	LowerBoundBaseFee         uint64 `json:"lowerboundbasefee"`
	UpperBoundBaseFee         uint64 `json:"upperboundbasefee"`
	GasTarget                 uint64 `json:"gastarget"`
	MaxBlockGasUsedForBaseFee uint64 `json:"maxblockgasusedforbasefee"`
	BaseFeeDenominator        uint64 `json:"basefeedenominator"`
}

// Genesis builds the chain's genesis. It depends on the chain's network id, its
// genesis time and the addresses of its nodes only, and equal records give equal
// bytes.
func (*Kaia) Genesis(chain bsn.Chain) ([]byte, error) {
	validators, err := validatorsOf(chain)
	if err != nil {
		return nil, fmt.Errorf("build genesis of %s: %w", chain.Name, err)
	}
	if chain.NetworkID == 0 {
		return nil, fmt.Errorf("build genesis of %s: the chain has no network id", chain.Name)
	}
	if chain.GenesisTime <= 0 {
		return nil, fmt.Errorf("build genesis of %s: the chain has no genesis time yet", chain.Name)
	}
	extra, err := extraData(validators)
	if err != nil {
		return nil, fmt.Errorf("build genesis of %s: %w", chain.Name, err)
	}
	g := genesisFile{
		Config: chainConfig{
			ChainID:   chain.NetworkID,
			Consensus: istanbulConfig{Epoch: epoch, Sub: committeeSize},
			Governance: governanceConfig{
				GoverningNode:    lower(validators[0]),
				GovernanceMode:   "ballot",
				GovParamContract: lower(common.Address{}),
				Reward: rewardConfig{
					Ratio:                  "100/0/0",
					Kip82Ratio:             "20/80",
					StakingUpdateInterval:  86400,
					ProposerUpdateInterval: 3600,
					MinimumStake:           2000000,
				},
				KIP71: feeConfig{GasTarget: 30000000, MaxBlockGasUsedForBaseFee: 60000000, BaseFeeDenominator: 20},
			},
		},
		Timestamp:  hexutil.Uint64(chain.GenesisTime),
		ExtraData:  extra,
		BlockScore: 1,
		Alloc:      map[string]struct{}{},
	}
	text, err := json.MarshalIndent(g, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("build genesis of %s: %w", chain.Name, err)
	}
	return append(text, '\n'), nil
}

// validatorsOf returns the addresses of a chain's first nodes in ascending order.
func validatorsOf(chain bsn.Chain) ([]common.Address, error) {
	for _, city := range chain.Committee {
		if _, ok := chain.Node(city); !ok {
			return nil, fmt.Errorf("city %s has not posted its keys", city)
		}
	}
	var validators []common.Address
	for _, n := range chain.Nodes {
		if !chain.Member(n.City) {
			return nil, fmt.Errorf("city %s posted keys but is not of the committee", n.City)
		}
		a, err := addressOf(n)
		if err != nil {
			return nil, err
		}
		if slices.Contains(validators, a) {
			return nil, fmt.Errorf("city %s: another city posted the same keys", n.City)
		}
		validators = append(validators, a)
	}
	if len(validators) == 0 || len(validators) > committeeSize {
		return nil, fmt.Errorf("a chain has 1 to %d validators, not %d", committeeSize, len(validators))
	}
	slices.SortFunc(validators, common.Address.Cmp)
	return validators, nil
}

// extraData is the genesis block's extra field: 32 bytes of vanity and, in RLP,
// the validators, a proposer's seal and the committed seals, both empty (EIP-650).
func extraData(validators []common.Address) ([]byte, error) {
	istanbul, err := rlp.EncodeToBytes([]any{validators, make([]byte, 65), [][]byte{}})
	if err != nil {
		return nil, err
	}
	return append(make([]byte, 32), istanbul...), nil
}

// CheckGenesis rebuilds the genesis and compares it with a proposed one, value
// by value; white space and the order of fields do not count. The error names
// the first difference by its path.
func (k *Kaia) CheckGenesis(chain bsn.Chain, proposed []byte) error {
	if len(proposed) > maxGenesis {
		return fmt.Errorf("proposed genesis has %d bytes, more than %d", len(proposed), maxGenesis)
	}
	own, err := k.Genesis(chain)
	if err != nil {
		return err
	}
	theirs, err := decodeStrict(proposed)
	if err != nil {
		return fmt.Errorf("decode proposed genesis: %w", err)
	}
	ours, err := decodeStrict(own)
	if err != nil {
		return fmt.Errorf("decode own genesis: %w", err)
	}
	return compare("genesis", ours, theirs)
}

// maxDepth bounds the nesting of a genesis; the one built here has four levels.
const maxDepth = 16

// decodeStrict reads exactly one JSON value. Unlike encoding/json it refuses an
// object that has a field twice, of which one reader may take the first and
// another the last, and it takes names of fields as they are written.
func decodeStrict(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, err := decodeValue(d, "genesis", 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something after its end")
	}
	return v, nil
}

func decodeValue(d *json.Decoder, path string, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("%s is nested too deeply", clip(path))
	}
	token, err := d.Token()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", clip(path), err)
	}
	switch token {
	case json.Delim('{'):
		object := map[string]any{}
		for d.More() {
			token, err := d.Token()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", clip(path), err)
			}
			name := token.(string) // the decoder allows nothing else here
			at := path + "." + name
			if _, twice := object[name]; twice {
				return nil, fmt.Errorf("%s is there twice", clip(at))
			}
			if object[name], err = decodeValue(d, at, depth+1); err != nil {
				return nil, err
			}
		}
		_, err := d.Token()
		return object, err
	case json.Delim('['):
		list := []any{}
		for d.More() {
			v, err := decodeValue(d, fmt.Sprintf("%s[%d]", path, len(list)), depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := d.Token()
		return list, err
	default:
		return token, nil
	}
}

// compare returns an error for the first difference in order of path.
func compare(path string, ours, theirs any) error {
	o, ok1 := ours.(map[string]any)
	t, ok2 := theirs.(map[string]any)
	if !ok1 || !ok2 {
		// All lists of a genesis are within its extra data, so that what is left are
		// plain values; a list or object against one of them is told by its text.
		if a, b := show(ours), show(theirs); a != b {
			return fmt.Errorf("%s differs: own %s, proposed %s", path, clip(a), clip(b))
		}
		return nil
	}
	names := make([]string, 0, len(o)+len(t))
	for name := range o {
		names = append(names, name)
	}
	for name := range t {
		if _, known := o[name]; !known {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		at := path + "." + name
		own, known := o[name]
		proposed, given := t[name]
		switch {
		case !known:
			return fmt.Errorf("%s differs: own none, proposed %s", clip(at), clip(show(proposed)))
		case !given:
			return fmt.Errorf("%s differs: own %s, proposed none", at, clip(show(own)))
		}
		if err := compare(at, own, proposed); err != nil {
			return err
		}
	}
	return nil
}

func show(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}

// clip shortens foreign text for an error.
func clip(s string) string {
	const most = 400
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
