package bsn

import (
	"errors"
	"fmt"
	"strings"
)

// MaxName is the longest name of a city, operator, chain, portal, account,
// project or app, in bytes.
const MaxName = 32

// ErrName is wrapped by every error about a malformed name.
var ErrName = errors.New("malformed name")

// CheckName tells whether s can name a record: 2 to [MaxName] lower-case
// letters, digits and inner hyphens, beginning with a letter. What is the name
// of appears in the error.
func CheckName(what, s string) error {
	if len(s) < 2 || len(s) > MaxName {
		return fmt.Errorf("%w: %s %q must have 2 to %d characters", ErrName, what, clip(s), MaxName)
	}
	for i, r := range s {
		letter := r >= 'a' && r <= 'z'
		inner := r >= '0' && r <= '9' || r == '-' && i < len(s)-1
		if !letter && (i == 0 || !inner) {
			return fmt.Errorf("%w: %s %q may hold a-z, 0-9 and inner hyphens, and begins with a letter", ErrName, what, clip(s))
		}
	}
	return nil
}

// ID joins the name of an owning account and the name of what it owns, as in
// "alice/certificates".
func ID(account, name string) string { return account + "/" + name }

// SplitID is the inverse of [ID]. An id without an account belongs to fallback,
// which may be empty if there is no default.
func SplitID(id, fallback string) (account, name string, err error) {
	account, name, found := strings.Cut(id, "/")
	if !found {
		account, name = fallback, id
	}
	if err := CheckName("account", account); err != nil {
		return "", "", err
	}
	return account, name, CheckName("name", name)
}

func clip(s string) string {
	if len(s) > 2*MaxName {
		return s[:2*MaxName] + "…"
	}
	return s
}
