package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cometbft/cometbft/crypto"
	cmtjson "github.com/cometbft/cometbft/libs/json"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/privval"
	sdk "github.com/cosmos/cosmos-sdk/types"
	"github.com/google/renameio/v2"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gen/ledger/operatorpb"
	"github.com/openbsn/bsn/ledger/operator"
)

// A key of a node is rotated in three steps, each of which can be cut off and done
// again: OfferKey makes the new one beside the present one, the ledger takes it into
// the city's record, and TakeKey puts it in the place of the present one.

// RotateKey gives a city another key; signed by the city or its operator.
func RotateKey(city string, purpose bsn.KeyPurpose, o Offer) Message {
	return message(func(s string) sdk.Msg {
		return &operatorpb.MsgRotateKey{Signer: s, City: city, Purpose: string(purpose), PublicKey: o.PublicKey, Proof: o.Proof}
	})
}

// newKey is added to the name of a key's file for the key that is to follow, and
// formerKey for the one before.
const (
	newKey    = ".new"
	formerKey = ".former"
)

func keyFile(home string, purpose bsn.KeyPurpose) string {
	cfg := cometConfig(NodeConfig{Home: home})
	if purpose == bsn.KeyNode {
		return cfg.NodeKeyFile()
	}
	return cfg.PrivValidatorKeyFile()
}

// OfferKey makes the consensus or node key that is to follow the present one of the
// node in home, once, and offers it for a city of a network.
func OfferKey(home string, purpose bsn.KeyPurpose, network, city string) (Offer, error) {
	path := keyFile(home, purpose) + newKey
	private, err := readKey(path, purpose)
	if errors.Is(err, fs.ErrNotExist) {
		if purpose == bsn.KeyNode {
			_, err = p2p.LoadOrGenNodeKey(path)
		} else {
			privval.GenFilePV(path, "").Key.Save() // what was signed is kept by height, whatever the key
			err = nil
		}
		if err == nil {
			private, err = readKey(path, purpose)
		}
	}
	if err != nil {
		return Offer{}, fmt.Errorf("make %s key: %w", purpose, err)
	}
	public := private.PubKey().Bytes()
	proof, err := private.Sign(operator.RotationProof(network, city, purpose, public))
	if err != nil {
		return Offer{}, fmt.Errorf("sign with %s key: %w", purpose, err)
	}
	return Offer{PublicKey: public, Proof: proof}, nil
}

// Keys are the public sides of a node's key for a purpose: the present one, and, or
// nil, the one that is to follow and the one before.
type Keys struct{ Present, New, Former []byte }

// KeysOf reads the public sides of the keys of the node in home.
func KeysOf(home string, purpose bsn.KeyPurpose) (k Keys, err error) {
	for suffix, public := range map[string]*[]byte{"": &k.Present, newKey: &k.New, formerKey: &k.Former} {
		private, err := readKey(keyFile(home, purpose)+suffix, purpose)
		switch {
		case err == nil:
			*public = private.PubKey().Bytes()
		case suffix == "" || !errors.Is(err, fs.ErrNotExist):
			return k, fmt.Errorf("read %s key: %w", purpose, err)
		}
	}
	return k, nil
}

func readKey(path string, purpose bsn.KeyPurpose) (crypto.PrivKey, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if purpose == bsn.KeyNode {
		var k p2p.NodeKey
		if err := cmtjson.Unmarshal(b, &k); err != nil || k.PrivKey == nil {
			return nil, fmt.Errorf("%s is damaged: %w", filepath.Base(path), err)
		}
		return k.PrivKey, nil
	}
	var k privval.FilePVKey
	if err := cmtjson.Unmarshal(b, &k); err != nil || k.PrivKey == nil {
		return nil, fmt.Errorf("%s is damaged: %w", filepath.Base(path), err)
	}
	return k.PrivKey, nil
}

// TakeKey puts the new key of the node in home, which must not run, in the place of
// the present one, which it keeps as the former one.
func TakeKey(home string, purpose bsn.KeyPurpose) error {
	return exchange(keyFile(home, purpose), newKey, formerKey)
}

// TakeBackKey undoes TakeKey.
func TakeBackKey(home string, purpose bsn.KeyPurpose) error {
	return exchange(keyFile(home, purpose), formerKey, newKey)
}

// exchange puts path+from in the place of path, which is kept as path+to.
func exchange(path, from, to string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("take key: %w", err)
	}
	if err := renameio.WriteFile(path+to, b, 0o600, renameio.WithTempDir(filepath.Dir(path))); err != nil {
		return fmt.Errorf("keep key: %w", err)
	}
	if err := os.Rename(path+from, path); err != nil {
		return fmt.Errorf("take key: %w", err)
	}
	return nil
}

// DropFormerKey destroys the key before the present one of the node in home.
func DropFormerKey(home string, purpose bsn.KeyPurpose) error {
	if err := os.Remove(keyFile(home, purpose) + formerKey); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove former key: %w", err)
	}
	return nil
}

// Signs tells whether a consensus key is one that signs the block after the newest.
func (n *Node) Signs(ctx context.Context, public []byte) (bool, error) {
	if err := n.still(); err != nil {
		return false, err
	}
	next := n.comet.BlockStore().Height() + 1
	for page, size := 1, validatorsPage; ; page++ {
		v, err := n.local.Validators(ctx, &next, &page, &size)
		if err != nil {
			return false, fmt.Errorf("read validators of block %d: %w", next, err)
		}
		for _, one := range v.Validators {
			if bytes.Equal(one.PubKey.Bytes(), public) {
				return true, nil
			}
		}
		if page*size >= v.Total {
			return false, nil
		}
	}
}

// Signs is Node's.
func (h *Holder) Signs(ctx context.Context, public []byte) (bool, error) {
	return use(ctx, h, restartWait, func(ctx context.Context, n *Node, _ bool) (bool, error) { return n.Signs(ctx, public) })
}
