package evm

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/rlp"

	"github.com/openbsn/bsn"
)

// MaxTransaction is the largest raw transaction in bytes, which is what nodes of
// the family accept. (A blob transaction with its blobs is larger.)
const MaxTransaction = 128 << 10

// Type bytes of Kaia's own transactions (docs.kaia.io, "Transactions").
const (
	kaiaEthereum = 0x78 // envelope around a typed Ethereum transaction
	kaiaDeploy   = 0x28 // and 0x29, 0x2a with a fee payer
)

// kaiaKinds are Kaia's own types without the lowest bits, which say who pays:
// value transfer, with memo, account update, deploy, execution, cancel, anchoring.
var kaiaKinds = map[byte]bool{0x08: true, 0x10: true, 0x20: true, kaiaDeploy: true, 0x30: true, 0x38: true, 0x48: true}

// kaiaSends are those of them that are sent to somebody, whose address stands at
// kaiaReceiver of the list: nonce, gas price, gas, to, value, from ….
var kaiaSends = map[byte]bool{0x08: true, 0x10: true, 0x30: true}

const kaiaReceiver = 3

// Inspect decodes the transaction that eth_sendRawTransaction, or Kaia's
// klay_sendRawTransaction and kaia_sendRawTransaction, hands in. It takes no
// other encoding than the one that the specification gives a transaction: a
// node's decoder may be more lenient, and a creation must not look like a call.
//
// Of Kaia's own types From is empty: who may sign for an account is state of
// that chain.
func Inspect(method string, params json.RawMessage) (bsn.Transaction, error) {
	namespace, name, _ := strings.Cut(method, "_")
	kaia := namespace == "klay" || namespace == "kaia"
	if name != "sendRawTransaction" || !kaia && namespace != "eth" {
		return bsn.Transaction{}, fmt.Errorf("%s hands in no transaction", clip([]byte(method)))
	}
	if len(params) > 2*MaxTransaction+64 {
		return bsn.Transaction{}, errTooLarge
	}
	var list []string
	if err := json.Unmarshal(params, &list); err != nil || len(list) != 1 {
		return bsn.Transaction{}, errors.New("params must be one raw transaction in 0x hex")
	}
	raw, err := hexutil.Decode(list[0])
	if err != nil {
		return bsn.Transaction{}, fmt.Errorf("raw transaction: %w", err)
	}
	if len(raw) > MaxTransaction {
		return bsn.Transaction{}, errTooLarge
	}
	if len(raw) == 0 {
		return bsn.Transaction{}, errors.New("raw transaction: it is empty")
	}
	t := bsn.Transaction{Raw: raw}
	switch own := kaia && raw[0] < 0xc0; {
	case own && raw[0] == kaiaEthereum:
		err = inspectEthereum(&t, raw[1:], true)
	case own:
		err = inspectKaia(&t, raw)
	default:
		err = inspectEthereum(&t, raw, false)
	}
	if err != nil {
		return bsn.Transaction{}, fmt.Errorf("raw transaction: %w", err)
	}
	return t, nil
}

var errTooLarge = fmt.Errorf("the raw transaction is larger than %d KiB", MaxTransaction>>10)

// inspectEthereum reads a legacy or, if typed is set, only an EIP-2718 transaction.
func inspectEthereum(t *bsn.Transaction, raw []byte, typed bool) error {
	if len(raw) == 0 || typed && raw[0] > 0x7f {
		return errors.New("no typed transaction in the envelope")
	}
	var tx types.Transaction
	if err := tx.UnmarshalBinary(raw); err != nil {
		return err
	}
	// Read back, so that nothing passes that has a second reading.
	again, err := tx.MarshalBinary()
	if err != nil {
		return err
	}
	if !bytes.Equal(again, raw) {
		return errors.New("not in its canonical encoding")
	}
	from, err := sender(&tx)
	if err != nil {
		return fmt.Errorf("signature: %w", err)
	}
	t.Hash = tx.Hash().Hex()
	t.From = strings.ToLower(from.Hex())
	if t.Creates = tx.To() == nil; !t.Creates {
		t.To = strings.ToLower(tx.To().Hex())
	}
	return nil
}

// sender recovers who signed.
func sender(tx *types.Transaction) (common.Address, error) {
	switch {
	case tx.Type() == types.LegacyTxType && !tx.Protected():
		return types.Sender(types.HomesteadSigner{}, tx)
	case tx.ChainId().Sign() <= 0: // the library panics on such
		return common.Address{}, errors.New("made for chain id 0")
	default:
		return types.Sender(types.LatestSignerForChainID(tx.ChainId()), tx)
	}
}

// inspectKaia reads the outer form of one of Kaia's own types: the type byte and
// one list.
func inspectKaia(t *bsn.Transaction, raw []byte) error {
	if raw[0]&7 > 2 || !kaiaKinds[raw[0]&^7] {
		return fmt.Errorf("type 0x%x is unknown", raw[0])
	}
	content, rest, err := rlp.SplitList(raw[1:])
	if err != nil {
		return err
	}
	if len(rest) != 0 {
		return errors.New("more follows after its end")
	}
	for position := 0; len(content) > 0; position++ {
		var kind rlp.Kind
		var item []byte
		if kind, item, content, err = rlp.Split(content); err != nil {
			return err
		}
		if position == kaiaReceiver && kaiaSends[raw[0]&^7] {
			if kind != rlp.String || len(item) != common.AddressLength {
				return errors.New("its receiver is no address")
			}
			t.To = "0x" + hex.EncodeToString(item)
		}
	}
	t.Hash = crypto.Keccak256Hash(raw).Hex()
	t.Creates = raw[0]&^7 == kaiaDeploy
	return nil
}
