// Package api is a city's API, both sides of it: connect-go services and the
// artifact store on one port, speaking gRPC, gRPC-Web and JSON. Callers sign
// each request with the key of an operator, city, portal or account.
package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gen/city/cityv1/cityv1connect"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/ledger/key"
)

// Headers of a signed request.
const (
	headerKey       = "Bsn-Key"       // compressed public key, hex
	headerTime      = "Bsn-Time"      // Unix milliseconds
	headerNonce     = "Bsn-Nonce"     // 16 random bytes, hex
	headerBody      = "Bsn-Body"      // SHA-256 of the body, hex
	headerSignature = "Bsn-Signature" // of all of these, hex
)

const (
	// maxSkew is how far a caller's clock may be off.
	maxSkew = 2 * time.Minute
	// maxBody bounds what is read before a request is known to be whole. Artifacts
	// are streamed and have their own bound.
	maxBody = 4 << 20
	// bodyTimeout is how long a caller may take to send that.
	bodyTimeout = 30 * time.Second
)

// signed is the text that a request's signature covers: whatever would change
// its meaning, and the city, so that no other city can use it.
func signed(network, city, method, target, body, time, nonce string) []byte {
	return []byte(strings.Join([]string{"bsn-request/1", network, city, method, target, body, time, nonce}, "\n"))
}

// signer is an http.RoundTripper that signs requests to one city.
type signer struct {
	network, city string
	key           key.Key
	next          http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (s signer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	hash := r.Header.Get(headerBody) // set where the body is streamed and its hash known
	if hash == "" {
		var body []byte
		if r.Body != nil {
			var err error
			if body, err = io.ReadAll(io.LimitReader(r.Body, maxBody+1)); err != nil {
				return nil, fmt.Errorf("read request: %w", err)
			}
			r.Body.Close()
			if len(body) > maxBody {
				return nil, fmt.Errorf("request of over %d bytes", maxBody)
			}
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		}
		sum := sha256.Sum256(body)
		hash = hex.EncodeToString(sum[:])
		r.Header.Set(headerBody, hash)
	}
	var nonce [16]byte
	rand.Read(nonce[:]) // never fails
	now := strconv.FormatInt(time.Now().UnixMilli(), 10)
	r.Header.Set(headerKey, hex.EncodeToString(s.key.Public()))
	r.Header.Set(headerTime, now)
	r.Header.Set(headerNonce, hex.EncodeToString(nonce[:]))
	text := signed(s.network, s.city, r.Method, r.URL.RequestURI(), hash, now, hex.EncodeToString(nonce[:]))
	r.Header.Set(headerSignature, hex.EncodeToString(s.key.Sign(text)))
	return s.next.RoundTrip(r)
}

// bearer is an http.RoundTripper that shows the gateway's secret.
type bearer struct {
	secret string
	next   http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.secret)
	return b.next.RoundTrip(r)
}

// Caller is who signed a request.
type Caller struct {
	// Kind is operator, city, portal or account; empty for the city's own gateway.
	Kind   bsn.Kind
	Name   string
	Parent string // a city's operator, an account's portal
	// Gateway: the caller is this city's own gateway.
	Gateway bool
	// address is that of the key which signed.
	address string
}

type callerKey struct{}

// caller returns who signed the request that ctx belongs to, if anyone did.
func caller(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	return c, ok
}

// verifier checks signatures on the city's side.
type verifier struct {
	network, city string
	gateway       string // secret
	// who resolves a ledger address.
	who  func(address string) (kind bsn.Kind, name, parent string, err error)
	seen requests
	gate *Gate
	// observe is told of requests that end here, and of artifacts.
	observe func(method, result string)
}

var errUnsigned = errors.New("request is not signed: sign it with the key of an operator, city, portal or account of the network")

// errNotReady means that nobody's signature can be judged yet.
var errNotReady = errors.New("this city has not caught up with the ledger yet: try again")

// middleware lets requests pass with their caller in the context, and, without a
// signature, applications to join. All others end here.
func (v *verifier) middleware(next http.Handler) http.Handler {
	errorWriter := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok, leave, err := v.check(w, r)
		defer leave()
		switch {
		case err != nil:
			code, status := connect.CodeUnauthenticated, http.StatusUnauthorized
			switch {
			case errors.Is(err, errNotReady):
				code, status = connect.CodeUnavailable, http.StatusServiceUnavailable
			case errors.Is(err, errTooMany):
				code, status = connect.CodeResourceExhausted, http.StatusTooManyRequests
			}
			v.observe(method(r), code.String())
			if errorWriter.IsSupported(r) {
				errorWriter.Write(w, r, connect.NewError(code, err)) // nobody to tell if that fails
			} else {
				http.Error(w, err.Error(), status)
			}
			return
		case ok:
			r = r.WithContext(context.WithValue(r.Context(), callerKey{}, c))
		}
		if strings.HasPrefix(r.URL.Path, artifactPath) {
			s := &statusWriter{ResponseWriter: w}
			defer func() { v.observe(method(r), s.result()) }()
			w = s
		}
		next.ServeHTTP(w, r)
	})
}

// check finds out who calls, if anyone is named, and lets the request in. Leave is
// to be called when it has been answered.
func (v *verifier) check(w http.ResponseWriter, r *http.Request) (c Caller, ok bool, leave func(), err error) {
	leave = func() {}
	if secret, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); found {
		if v.gateway == "" || subtle.ConstantTimeCompare([]byte(secret), []byte(v.gateway)) != 1 {
			return c, false, leave, errors.New("unknown bearer secret")
		}
		c = Caller{Gateway: true}
		v.gate.known(r.Context(), c)
		return c, true, leave, nil
	}
	if r.Header.Get(headerSignature) == "" {
		if r.URL.Path != cityv1connect.CityServiceApplyProcedure {
			return c, false, leave, errUnsigned
		}
		if leave, err = v.gate.enterUnsigned(); err != nil {
			return c, false, func() {}, err
		}
		_, err := readBody(w, r, maxUnsigned)
		return c, false, leave, err
	}
	public, err1 := hex.DecodeString(r.Header.Get(headerKey))
	sig, err2 := hex.DecodeString(r.Header.Get(headerSignature))
	ms, err3 := strconv.ParseInt(r.Header.Get(headerTime), 10, 64)
	nonce := r.Header.Get(headerNonce)
	if err := errors.Join(err1, err2, err3); err != nil || len(nonce) != 32 {
		return c, false, leave, errors.New("malformed signature headers")
	}
	if skew := time.Since(time.UnixMilli(ms)); skew > maxSkew || skew < -maxSkew {
		return c, false, leave, fmt.Errorf("request was signed %s from this city's time: set your clock", skew.Round(time.Second))
	}
	hash := r.Header.Get(headerBody)
	text := signed(v.network, v.city, r.Method, r.URL.RequestURI(), hash, r.Header.Get(headerTime), nonce)
	if !key.Verify(public, text, sig) {
		return c, false, leave, fmt.Errorf("signature does not match this request to city %q of network %q", v.city, v.network)
	}
	address, err := key.Address(public)
	if err != nil {
		return c, false, leave, err
	}
	// Strangers end here: they take no memory and no time of the city's.
	c.address = address
	c.Kind, c.Name, c.Parent, err = v.who(address)
	if err != nil {
		if !errors.Is(err, ledger.ErrStranger) {
			err = fmt.Errorf("%w (%v)", errNotReady, err)
		}
		return Caller{}, false, leave, err
	}
	v.gate.known(r.Context(), c)
	size := r.ContentLength
	if upload(r) {
		size = 0 // it goes to the disk as it comes
	}
	if leave, err = v.gate.enter(c, size, streams[r.URL.Path]); err != nil {
		return Caller{}, false, func() {}, err
	}
	if err = v.body(w, r, hash); err == nil {
		err = v.seen.add(string(public), nonce, time.Now())
	}
	if err != nil {
		return Caller{}, false, leave, err
	}
	return c, true, leave, nil
}

// streams are the requests that go on until the caller ends them.
var streams = map[string]bool{
	cityv1connect.CityServiceFollowProcedure: true, cityv1connect.CityServiceLogsProcedure: true,
}

// upload tells whether a request brings an artifact.
func upload(r *http.Request) bool {
	return strings.HasPrefix(r.URL.Path, artifactPath) && r.Method == http.MethodPut
}

// body compares the body with the hash that was signed. An artifact is compared
// with its own name, and that with its content by the store.
func (v *verifier) body(w http.ResponseWriter, r *http.Request, hash string) error {
	if upload(r) {
		if strings.TrimPrefix(r.URL.Path, artifactPath) != hash {
			return errors.New("signed body is not the artifact of this name")
		}
		return nil
	}
	body, err := readBody(w, r, maxBody)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != hash {
		return errors.New("body is not the one that was signed")
	}
	return nil
}

// readBody reads a request whole before anything is done with it, and puts it back.
func readBody(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	deadline := http.NewResponseController(w)
	if err := deadline.SetReadDeadline(time.Now().Add(bodyTimeout)); err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return body, deadline.SetReadDeadline(time.Time{}) // what follows may take as long as it takes
}
