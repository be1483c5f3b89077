package token

import (
	"encoding/base64"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/golang-jwt/jwt/v5"
)

var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

var here = Where{Network: "net", City: "paris", Now: now}

func claims() Claims {
	return Claims{Account: "alice", City: "paris", Network: "net", Project: "web", Issued: now, Expires: now.Add(5 * time.Minute)}
}

type fixture struct {
	keys []Key
	text string
}

func sign(t *testing.T, change func(*Claims)) fixture {
	t.Helper()
	k, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	other, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	c := claims()
	if change != nil {
		change(&c)
	}
	text, err := Sign(k, "one", c)
	if err != nil {
		t.Fatal(err)
	}
	return fixture{[]Key{{"two", crypto.CompressPubkey(&other.PublicKey)}, {"one", crypto.CompressPubkey(&k.PublicKey)}}, text}
}

func (f fixture) verify(at Where) (Claims, Key, error) {
	return Verify(f.text, at, func(string) ([]Key, error) { return f.keys, nil })
}

func refused(t *testing.T, err error, reason string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), reason) {
		t.Errorf("got %v, want a refusal with %q", err, reason)
	}
}

func TestTokenIsGoodForItsCityAndTime(t *testing.T) {
	f := sign(t, nil)
	c, k, err := f.verify(here)
	if err != nil || !reflect.DeepEqual(c, claims()) || k.Address != "one" {
		t.Fatalf("%+v %+v %v", c, k, err)
	}
	later, elsewhere, stranger := here, here, here
	later.Now = now.Add(5 * time.Minute)
	elsewhere.City = "chongqing"
	stranger.Network = "other-net"
	_, _, err = f.verify(later)
	refused(t, err, "has expired")
	_, _, err = f.verify(elsewhere)
	refused(t, err, "audience")
	_, _, err = f.verify(stranger)
	refused(t, err, "this network")
	f.keys = f.keys[:1]
	_, _, err = f.verify(here)
	refused(t, err, "none of the account's keys")
}

func TestTokensThatSayTooMuch(t *testing.T) {
	for reason, change := range map[string]func(*Claims){
		"good for up to":  func(c *Claims) { c.Expires = now.Add(MaxLife + time.Second) },
		"up to 15m0s":     func(c *Claims) { c.Expires, c.Issued = now, now.Add(time.Second) },
		"not good yet":    func(c *Claims) { c.Issued, c.Expires = now.Add(2*time.Minute), now.Add(3*time.Minute) },
		"has expired":     func(c *Claims) { c.Issued = now.Add(-10 * time.Minute); c.Expires = now },
		"2048":            func(c *Claims) { c.Project = strings.Repeat("x", 3000) },
		"audience (aud)":  func(c *Claims) { c.City = "" },
		"must name this ": func(c *Claims) { c.Network = "" },
	} {
		_, _, err := sign(t, change).verify(here)
		refused(t, err, reason)
	}
	// A client's clock may be ahead a little.
	if _, _, err := sign(t, func(c *Claims) { c.Issued = now.Add(Tolerance) }).verify(here); err != nil {
		t.Error(err)
	}
}

func TestForgedTokens(t *testing.T) {
	k, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	public := crypto.CompressPubkey(&k.PublicKey)
	verify := func(text string) error {
		_, _, err := Verify(text, here, func(string) ([]Key, error) { return []Key{{"one", public}}, nil })
		return err
	}
	forge := func(m jwt.SigningMethod, key any, change func(*jwt.Token, *wire)) string {
		t.Helper()
		w := wire{Network: "net", Project: "web", RegisteredClaims: jwt.RegisteredClaims{
			Issuer: "alice", Audience: jwt.ClaimStrings{"paris"}, IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(time.Minute)),
		}}
		tok := jwt.NewWithClaims(m, w)
		if change != nil {
			change(tok, &w)
			tok.Claims = w
		}
		text, err := tok.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	good := forge(method{}, k, nil) // without a kid all keys are tried
	if err := verify(good); err != nil {
		t.Fatal(err)
	}
	refused(t, verify(forge(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil)), "signing method none is invalid")
	refused(t, verify(forge(jwt.SigningMethodHS256, public, nil)), "signing method HS256 is invalid")
	refused(t, verify(forge(method{}, k, func(tok *jwt.Token, _ *wire) { tok.Header["kid"] = "another" })), "none of the account's keys")
	refused(t, verify(forge(method{}, k, func(tok *jwt.Token, _ *wire) { tok.Header["kid"] = 7 })), "none of the account's keys")
	refused(t, verify(forge(method{}, k, func(tok *jwt.Token, _ *wire) { tok.Header["crit"] = []string{"b64"} })), "crit")
	refused(t, verify(forge(method{}, k, func(_ *jwt.Token, w *wire) { w.Audience = append(w.Audience, "chongqing") })), "alone")
	refused(t, verify(forge(method{}, k, func(_ *jwt.Token, w *wire) { w.ExpiresAt = nil })), "iat, exp")
	refused(t, verify(forge(method{}, k, func(_ *jwt.Token, w *wire) { w.NotBefore = jwt.NewNumericDate(now.Add(time.Hour)) })), "not good yet")
	// An s above half the order is as good to RFC 8812.
	dot := strings.LastIndexByte(good, '.')
	sig, err := base64.RawURLEncoding.DecodeString(good[dot+1:])
	if err != nil {
		t.Fatal(err)
	}
	high := new(big.Int).Sub(crypto.S256().Params().N, new(big.Int).SetBytes(sig[32:]))
	var s [32]byte
	if err := verify(good[:dot+1] + base64.RawURLEncoding.EncodeToString(append(sig[:32:32], high.FillBytes(s[:])...))); err != nil {
		t.Error(err)
	}
	sig[5] ^= 1
	refused(t, verify(good[:dot+1]+base64.RawURLEncoding.EncodeToString(sig)), "none of the account's keys")
	refused(t, verify(good[:dot+1]), "")
	refused(t, verify(good[:dot+1]+base64.RawURLEncoding.EncodeToString(append(sig, 0))), "signature is invalid")
}

func FuzzVerify(f *testing.F) {
	k, err := crypto.ToECDSA([]byte(strings.Repeat("k", 32)))
	if err != nil {
		f.Fatal(err)
	}
	text, err := Sign(k, "one", claims())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add("..")
	f.Add("e30.e30.e30")
	public := crypto.CompressPubkey(&k.PublicKey)
	f.Fuzz(func(t *testing.T, text string) {
		c, _, err := Verify(text, here, func(string) ([]Key, error) { return []Key{{"one", public}}, nil })
		if err == nil && !reflect.DeepEqual(c, claims()) {
			t.Errorf("%q says %+v", text, c)
		}
	})
}
