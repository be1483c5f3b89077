package kaia

import (
	"crypto/ecdsa"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/google/renameio/v2"

	"github.com/openbsn/bsn"
)

// Names of a node's public keys in a chain's record.
const (
	// keyNode is the public key by which peers know the node: 128 hex digits, the
	// user part of a kni:// address.
	keyNode = "node"
	// keyAddress is the address that signs blocks, made from the same key: 0x and
	// 40 lower-case hex digits.
	keyAddress = "address"
)

// nodeKeyFile holds the node's private key as 64 hex digits, the form that Kaia reads.
const nodeKeyFile = "nodekey"

// Keys makes the node's key in the site's folder unless it is there, and returns
// its public side: "node", the key by which peers know it, and "address", which
// signs blocks.
func (*Kaia) Keys(site bsn.Site) (map[string]string, error) {
	if err := os.MkdirAll(site.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the node's folder: %w", err)
	}
	name := filepath.Join(site.Dir, nodeKeyFile)
	key, err := crypto.LoadECDSA(name)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = makeKey(name)
	}
	if err != nil {
		// The key's text never appears in these errors.
		return nil, fmt.Errorf("read the node's key %s: %w", name, err)
	}
	return publicKeys(&key.PublicKey), nil
}

func makeKey(name string) (*ecdsa.PrivateKey, error) {
	key, err := crypto.GenerateKey()
	if err != nil {
		return nil, err
	}
	text := hex.EncodeToString(crypto.FromECDSA(key))
	return key, renameio.WriteFile(name, []byte(text), 0o600, renameio.WithTempDir(filepath.Dir(name)))
}

func publicKeys(key *ecdsa.PublicKey) map[string]string {
	return map[string]string{
		keyNode:    hex.EncodeToString(crypto.FromECDSAPub(key)[1:]), // without the mark "uncompressed"
		keyAddress: lower(crypto.PubkeyToAddress(*key)),
	}
}

// addressOf returns a posted node's address, having checked that both of its
// keys are of the one form and belong together.
func addressOf(n bsn.ChainNode) (common.Address, error) {
	raw, err := hex.DecodeString(n.Keys[keyNode])
	if err != nil || len(raw) != 64 {
		return common.Address{}, fmt.Errorf("city %s: key %q must be a public key of 128 hex digits", n.City, keyNode)
	}
	key, err := crypto.UnmarshalPubkey(append([]byte{4}, raw...))
	if err != nil {
		return common.Address{}, fmt.Errorf("city %s: key %q is not a point of the curve", n.City, keyNode)
	}
	want := publicKeys(key)
	for _, name := range []string{keyNode, keyAddress} {
		if n.Keys[name] != want[name] {
			return common.Address{}, fmt.Errorf("city %s: key %q must be %s, as its public key says", n.City, name, want[name])
		}
	}
	return crypto.PubkeyToAddress(*key), nil
}

func lower(a common.Address) string { return strings.ToLower(a.Hex()) }
