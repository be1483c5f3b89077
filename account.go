package bsn

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Portal is where people sign up. Many portals serve one network.
type Portal struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	URL     string `json:"url,omitempty"`
}

// Account is a person or organisation at a portal. It owns projects and apps.
type Account struct {
	Name   string `json:"name"`
	Portal string `json:"portal"`
	Identity
	// Guard says who may give the account new keys; without it nobody can.
	Guard *Guard `json:"guard,omitempty"`
	// Recoveries are what guardians named, until one takes effect or is cancelled.
	Recoveries []Recovery `json:"recoveries,omitempty"`
}

// Project is access to chains and apps: keys, limits, usage.
type Project struct {
	Account string `json:"account"`
	Name    string `json:"name"`
	Limits  Limits `json:"limits"`
	// Deployers are EVM addresses (0x, lower case), beside the account's keys',
	// whose contract creations pass under this project's keys.
	Deployers []string `json:"deployers,omitempty"`
	Keys      []Key    `json:"keys"`
	Revoked   bool     `json:"revoked,omitempty"`
}

// ID is the project's "account/name".
func (p Project) ID() string { return ID(p.Account, p.Name) }

// Limits bound what a key or an app may use at one gateway. Zero means that the
// gateway's own default holds.
type Limits struct {
	// RequestsPerSecond is an average over ten seconds.
	RequestsPerSecond int `json:"requestsPerSecond,omitempty"`
}

// Key is an API key of a project, valid in one city. The ledger never sees the
// key itself.
type Key struct {
	// ID is the first 12 hex digits of Hash: a name that may be shown.
	ID   string `json:"id"`
	City string `json:"city"`
	// Hash is the SHA-256 of the key's text in hex. Keys carry 256 random bits,
	// so that a slow hash would add nothing.
	Hash    string `json:"hash"`
	Revoked bool   `json:"revoked,omitempty"`
}

const keyPrefix = "bsn_"

// NewKey makes a key for a city and returns its secret text, shown once, with
// the record to publish.
func NewKey(city string) (secret string, key Key) {
	var b [32]byte
	rand.Read(b[:]) // never fails: crypto/rand aborts the program instead
	secret = keyPrefix + hex.EncodeToString(b[:])
	hash := HashKey(secret)
	return secret, Key{ID: hash[:12], City: city, Hash: hash}
}

// HashKey is the form of a key's text that is stored and compared.
func HashKey(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// CheckKey tells whether a text has the form of a key.
func CheckKey(secret string) error {
	rest, ok := strings.CutPrefix(secret, keyPrefix)
	if b, err := hex.DecodeString(rest); !ok || err != nil || len(b) != 32 {
		return fmt.Errorf("malformed key: a key is %s and 64 hex digits", keyPrefix)
	}
	return nil
}
