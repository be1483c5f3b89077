// Package key holds the secp256k1 keys of operators, cities, portals and
// accounts. The same key signs ledger transactions and requests to a city, and,
// on EVM chains, transactions of the Ethereum address that belongs to it.
package key

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cosmos/cosmos-sdk/crypto/keys/secp256k1"
	"github.com/cosmos/cosmos-sdk/types/bech32"
	"github.com/ethereum/go-ethereum/crypto"

	"github.com/openbsn/bsn"
)

// Prefix begins every ledger address.
const Prefix = "bsn"

// Key is a private key.
type Key struct{ priv secp256k1.PrivKey }

// New makes a key.
func New() Key { return Key{*secp256k1.GenPrivKey()} }

// Parse reads the 64 hex digits of a private key.
func Parse(s string) (Key, error) {
	b, err := hex.DecodeString(strings.TrimSpace(s))
	if err != nil || len(b) != secp256k1.PrivKeySize {
		return Key{}, errors.New("private key must be 64 hex digits")
	}
	if _, err := crypto.ToECDSA(b); err != nil {
		return Key{}, fmt.Errorf("private key: %w", err)
	}
	return Key{secp256k1.PrivKey{Key: b}}, nil
}

// Load reads a key file.
func Load(path string) (Key, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Key{}, fmt.Errorf("read key: %w", err)
	}
	k, err := Parse(string(b))
	if err != nil {
		return Key{}, fmt.Errorf("read %s: %w", path, err)
	}
	return k, nil
}

// LoadOrNew reads a key file, and makes it, mode 0600, if there is none.
func LoadOrNew(path string) (Key, error) {
	k, err := Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	k = New()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return Key{}, fmt.Errorf("make folder of key: %w", err)
	}
	if err := k.create(path); errors.Is(err, fs.ErrExist) {
		return Load(path) // another process made it just now
	} else if err != nil {
		return Key{}, fmt.Errorf("write key: %w", err)
	}
	return k, nil
}

// create writes a key file, whole and once: an existing one is never replaced.
func (k Key) create(path string) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.WriteString(hex.EncodeToString(k.priv.Key) + "\n"); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync() // a key that signed must survive a power cut
}

// Public is the compressed public key, 33 bytes.
func (k Key) Public() []byte { return k.priv.PubKey().Bytes() }

// Address is the key's ledger address.
func (k Key) Address() string {
	a, err := Address(k.Public())
	if err != nil {
		panic(err) // a key's own public key is always well formed
	}
	return a
}

// ECDSA is the key in the form that Ethereum libraries take.
func (k Key) ECDSA() *ecdsa.PrivateKey {
	p, err := crypto.ToECDSA(k.priv.Key)
	if err != nil {
		panic(err) // checked when the key was made or read
	}
	return p
}

// Sign signs the SHA-256 of a message: 64 bytes, r and low s.
func (k Key) Sign(message []byte) []byte {
	sig, err := k.priv.Sign(message)
	if err != nil {
		panic(err) // the library's signature has an error that it never returns
	}
	return sig
}

// Secp256k1 is the key in the form that the Cosmos SDK takes.
func (k Key) Secp256k1() *secp256k1.PrivKey { return &k.priv }

// Verify tells whether sig is a signature of message by the public key.
func Verify(public, message, sig []byte) bool {
	if len(public) != secp256k1.PubKeySize || len(sig) != 64 {
		return false
	}
	pub := secp256k1.PubKey{Key: public}
	return pub.VerifySignature(message, sig)
}

// proof is what a key signs to become one of an account, operator or portal: on no
// other network, for nobody else, and never anything that means something else.
func proof(public []byte, network string, kind bsn.Kind, name string) []byte {
	return []byte(strings.Join([]string{"bsn-key/1", network, string(kind), name, hex.EncodeToString(public)}, "\n"))
}

// Prove signs that the key is to be one of an account, operator or portal.
func (k Key) Prove(network string, kind bsn.Kind, name string) []byte {
	return k.Sign(proof(k.Public(), network, kind, name))
}

// Proves tells whether sig is what [Key.Prove] returned for the public key.
func Proves(public, sig []byte, network string, kind bsn.Kind, name string) bool {
	return Verify(public, proof(public, network, kind, name), sig)
}

// Address is the ledger address of a compressed public key: bech32 of its
// RIPEMD-160(SHA-256), as in the Cosmos SDK (ADR-028).
func Address(public []byte) (string, error) {
	if len(public) != secp256k1.PubKeySize {
		return "", fmt.Errorf("public key has %d bytes, not %d", len(public), secp256k1.PubKeySize)
	}
	pub := secp256k1.PubKey{Key: public}
	return bech32.ConvertAndEncode(Prefix, pub.Address())
}

// Fingerprint is a short name for a public key that people can compare.
func Fingerprint(public []byte) string {
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:6])
}
