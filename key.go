package bsn

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Limits bound how fast a project, a key or an app may be used at one gateway. Each
// is an average over ten seconds. For a project or an app zero means that the
// gateway's own default holds, for a key that only its project's limits do.
type Limits struct {
	RequestsPerSecond int `json:"requestsPerSecond,omitempty"`
	// UnitsPerSecond is in compute units.
	UnitsPerSecond int `json:"unitsPerSecond,omitempty"`
}

// Greatest values of limits and quotas.
const (
	MaxRequestsPerSecond = 1_000_000
	MaxUnitsPerSecond    = 1_000_000_000
	MaxQuota             = 1_000_000_000_000_000
)

// Check tells whether the limits are within bounds.
func (l Limits) Check() error {
	if l.RequestsPerSecond < 0 || l.RequestsPerSecond > MaxRequestsPerSecond {
		return fmt.Errorf("%d requests per second: the most is %d", l.RequestsPerSecond, MaxRequestsPerSecond)
	}
	if l.UnitsPerSecond < 0 || l.UnitsPerSecond > MaxUnitsPerSecond {
		return fmt.Errorf("%d compute units per second: the most is %d", l.UnitsPerSecond, MaxUnitsPerSecond)
	}
	return nil
}

// Quota is what a project may use, in compute units, in a day and in a month of
// ledger time (UTC). Zero means without bound.
type Quota struct {
	Daily   int64 `json:"daily,omitempty"`
	Monthly int64 `json:"monthly,omitempty"`
}

// Check tells whether the quota is within bounds.
func (q Quota) Check() error {
	if q.Daily < 0 || q.Daily > MaxQuota || q.Monthly < 0 || q.Monthly > MaxQuota {
		return fmt.Errorf("quotas of %d compute units a day and %d a month: the most is %d", q.Daily, q.Monthly, MaxQuota)
	}
	return nil
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
	// Limits are the key's own, beside those of its project.
	Limits       Limits       `json:"limits,omitzero"`
	Restrictions Restrictions `json:"restrictions,omitzero"`
	// Expires is the ledger time, in Unix seconds, from which on the key is good no
	// more; 0 for never.
	Expires int64 `json:"expires,omitempty"`
}

// Restricted tells whether the key is anything but good for all that its project
// may do, for ever.
func (k Key) Restricted() bool {
	return k.Limits != (Limits{}) || !k.Restrictions.IsZero() || k.Expires != 0
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
	var room [len(keyPrefix) + 64]byte // of a key: each call has one hashed
	sum := sha256.Sum256(append(room[:0], secret...))
	var digits [2 * len(sum)]byte
	hex.Encode(digits[:], sum[:])
	return string(digits[:])
}

// CheckKey tells whether a text has the form of a key.
func CheckKey(secret string) error {
	rest, ok := strings.CutPrefix(secret, keyPrefix)
	if !ok || len(rest) != 64 || strings.IndexFunc(rest, notHex) >= 0 {
		return fmt.Errorf("malformed key: a key is %s and 64 hex digits", keyPrefix)
	}
	return nil
}

func notHex(r rune) bool {
	return (r < '0' || r > '9') && (r < 'a' || r > 'f') && (r < 'A' || r > 'F')
}
