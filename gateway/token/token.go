// Package token is the short JSON Web Token (RFC 7519) that a roaming client shows a
// gateway instead of an API key: signed with a key of the account by ES256K (RFC
// 8812), for one city and a few minutes.
package token

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/golang-jwt/jwt/v5"
)

const (
	// MaxLife is the longest time between iat and exp.
	MaxLife = 15 * time.Minute
	// Tolerance is how far iat and nbf may lie ahead of ledger time, which follows
	// the clocks by up to the time between two blocks.
	Tolerance = time.Minute
	// maxText bounds a token in bytes.
	maxText = 2 << 10
)

// Claims are what a token says.
type Claims struct {
	Account string // iss
	City    string // aud, the only one
	Network string
	Project string // a project's name, of this account
	Issued  time.Time
	Expires time.Time
	// Methods, if there are any, are those that the token is good for, as in
	// [bsn.Restrictions], and the rates, if not 0, what it may use: less than the
	// project may, which bounds it all the same.
	Methods           []string
	RequestsPerSecond int // rps
	UnitsPerSecond    int // cups
}

// wire is the form of the claims in a token.
type wire struct {
	jwt.RegisteredClaims
	Network string   `json:"network"`
	Project string   `json:"project"`
	Methods []string `json:"methods,omitempty"`
	RPS     int      `json:"rps,omitempty"`
	CUPS    int      `json:"cups,omitempty"`
}

// Is tells whether a text means to be a token, unlike an API key.
func Is(text string) bool { return strings.Count(text, ".") == 2 }

// Sign makes a token. The key's ledger address goes into it as kid, so that the
// gateway need not try all keys of the account.
func Sign(key *ecdsa.PrivateKey, address string, c Claims) (string, error) {
	t := jwt.NewWithClaims(method{}, wire{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: c.Account, Audience: jwt.ClaimStrings{c.City},
			IssuedAt: jwt.NewNumericDate(c.Issued), ExpiresAt: jwt.NewNumericDate(c.Expires),
		},
		Network: c.Network, Project: c.Project, Methods: c.Methods, RPS: c.RequestsPerSecond, CUPS: c.UnitsPerSecond,
	})
	t.Header["kid"] = address
	text, err := t.SignedString(key)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return text, nil
}

// Key is a public key that may sign tokens.
type Key struct {
	Address string // on the ledger: its kid
	Public  []byte // compressed, 33 bytes
}

// Where says at which gateway, and when, a token is shown.
type Where struct {
	Network, City string
	// Now is ledger time.
	Now time.Time
}

// parser checks nothing of the claims: what they mean here is up to Verify.
var parser = jwt.NewParser(jwt.WithValidMethods([]string{algorithm}), jwt.WithStrictDecoding(), jwt.WithoutClaimsValidation())

// Verify reads a token and returns what it says and the key that signed it, which is
// one of those that keys returns for the account.
func Verify(text string, at Where, keys func(account string) ([]Key, error)) (Claims, Key, error) {
	if len(text) > maxText {
		return Claims{}, Key{}, fmt.Errorf("token of %d bytes: the most is %d", len(text), maxText)
	}
	var w wire
	var signer Key
	_, err := parser.ParseWithClaims(text, &w, func(t *jwt.Token) (any, error) {
		if _, critical := t.Header["crit"]; critical {
			return nil, errors.New("it has extensions that are not known here (crit)")
		}
		// First what costs nothing.
		if err := w.check(at); err != nil {
			return nil, err
		}
		all, err := keys(w.Issuer)
		if err != nil {
			return nil, err
		}
		return candidates{all, t.Header["kid"], &signer}, nil
	})
	if err != nil {
		return Claims{}, Key{}, fmt.Errorf("token: %w", reason(err))
	}
	return Claims{
		Account: w.Issuer, City: at.City, Network: w.Network, Project: w.Project, Issued: w.IssuedAt.UTC(), Expires: w.ExpiresAt.UTC(),
		Methods: w.Methods, RequestsPerSecond: w.RPS, UnitsPerSecond: w.CUPS,
	}, signer, nil
}

// reason is what the library's error says beside its own words.
func reason(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		if all := joined.Unwrap(); len(all) > 0 && errors.Is(all[0], jwt.ErrTokenUnverifiable) {
			return all[len(all)-1]
		}
	}
	return err
}

// check tells whether the claims hold here and now.
func (w wire) check(at Where) error {
	switch {
	case len(w.Audience) != 1 || w.Audience[0] != at.City:
		return fmt.Errorf("its audience (aud) must be this city alone, %q", at.City)
	case w.Network != at.Network:
		return fmt.Errorf("it must name this network, %q (network)", at.Network)
	case w.IssuedAt == nil || w.ExpiresAt == nil:
		return errors.New("it must say when it was made and when it ends (iat, exp)")
	}
	switch life := w.ExpiresAt.Sub(w.IssuedAt.Time); {
	case life <= 0 || life > MaxLife:
		return fmt.Errorf("it may be good for up to %v, from iat to exp", MaxLife)
	case !at.Now.Before(w.ExpiresAt.Time):
		return fmt.Errorf("it has expired: it is %s of ledger time", at.Now.UTC().Format(time.RFC3339))
	case w.IssuedAt.After(at.Now.Add(Tolerance)) || w.NotBefore != nil && w.NotBefore.After(at.Now.Add(Tolerance)):
		return fmt.Errorf("it is not good yet: it is %s of ledger time, set your clock", at.Now.UTC().Format(time.RFC3339))
	}
	return nil
}

const algorithm = "ES256K"

func init() {
	jwt.RegisterSigningMethod(algorithm, func() jwt.SigningMethod { return method{} })
}

// method is ES256K: ECDSA on secp256k1 with SHA-256, r and s of 32 bytes each.
type method struct{}

// candidates are the keys that may have signed; signer is set to the one that did.
type candidates struct {
	keys   []Key
	kid    any
	signer *Key
}

// Alg implements jwt.SigningMethod.
func (method) Alg() string { return algorithm }

// Sign implements jwt.SigningMethod.
func (method) Sign(text string, key any) ([]byte, error) {
	k, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, jwt.ErrInvalidKeyType
	}
	sum := sha256.Sum256([]byte(text))
	sig, err := crypto.Sign(sum[:], k)
	if err != nil {
		return nil, err
	}
	return sig[:64], nil // without the recovery id
}

// Verify implements jwt.SigningMethod.
func (method) Verify(text string, sig []byte, key any) error {
	c, ok := key.(candidates)
	if !ok {
		return jwt.ErrInvalidKeyType
	}
	if len(sig) != 64 {
		return jwt.ErrSignatureInvalid
	}
	sum := sha256.Sum256([]byte(text))
	low := lower(sig)
	for _, k := range c.keys {
		if (c.kid == nil || c.kid == k.Address) && crypto.VerifySignature(k.Public, sum[:], low) {
			*c.signer = k
			return nil
		}
	}
	return errors.New("it is signed by none of the account's keys that may sign tokens")
}

var half = new(big.Int).Rsh(crypto.S256().Params().N, 1)

// lower returns the equivalent signature with an s of at most half the order:
// Ethereum's library takes no other, RFC 8812 allows both.
func lower(sig []byte) []byte {
	s := new(big.Int).SetBytes(sig[32:])
	if n := crypto.S256().Params().N; s.Cmp(half) > 0 && s.Cmp(n) < 0 {
		out := append([]byte(nil), sig[:32]...)
		return append(out, new(big.Int).Sub(n, s).FillBytes(make([]byte, 32))...)
	}
	return sig
}
