package evm

import (
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/core/types"
)

// server answers every request with a status and a body.
func server(t *testing.T, status int, body string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestDialErrors(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	for _, c := range []struct{ name, address, want string }{
		{"no address", "chongqing", "no http or https address"},
		{"other scheme", "ws://127.0.0.1:1", "no http or https address"},
		{"nobody there", closed.URL + "/rpc/chongqing/bsn_secret", "connection refused"},
		{"unknown key", server(t, http.StatusUnauthorized, "unknown key\n"), "401 Unauthorized: unknown key"},
		{"error in JSON", server(t, http.StatusTooManyRequests, `{"jsonrpc":"2.0","id":1,"error":{"code":-32005,"message":"limit exceeded"}}`), "eth_chainId: limit exceeded"},
		{"no JSON-RPC", server(t, http.StatusOK, `{}`), "200 OK: {}"},
		{"other result", server(t, http.StatusOK, `{"result":"x"}`), "read answer"},
		{"endless", server(t, http.StatusOK, `{"result":"`+strings.Repeat("0", maxResponse)+`"}`), "larger than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Dial(t.Context(), c.address, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if strings.Contains(err.Error(), "bsn_secret") {
				t.Errorf("the key is in the error: %v", err)
			}
		})
	}
}

func TestHeaders(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Api-Key") != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":1,"result":"0x3e9"}`)
	}))
	defer s.Close()
	c, err := Dial(t.Context(), s.URL, http.Header{"X-Api-Key": {"secret"}})
	if err != nil {
		t.Fatal(err)
	}
	if id, err := c.ChainID(t.Context()); err != nil || id != 1001 {
		t.Errorf("chain id %d, %v", id, err)
	}
}

func TestClassify(t *testing.T) {
	for text, want := range map[string]sendAnswer{
		"already known":                                                     sendKnown,
		"known transaction: 8f3a":                                           sendKnown,
		"transaction already imported":                                      sendKnown,
		"nonce too low":                                                     sendDisplaced,
		"nonce too low: next nonce 2, tx nonce 1":                           sendDisplaced,
		"replacement transaction underpriced":                               sendDisplaced,
		"there is another tx which has the same nonce in the tx pool":       sendDisplaced,
		"insufficient funds for gas * price + value: balance 0, tx cost 10": sendRefused,
		"exceeds block gas limit":                                           sendRefused,
	} {
		if got := classify(&rpcError{Message: text}); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
	if got := classify(io.ErrUnexpectedEOF); got != sendUnanswered {
		t.Errorf("no answer: %d", got)
	}
}

// TestNonceTaken: if the nonce of a new transaction is taken, that is said at once
// and means that the transaction was never accepted.
func TestNonceTaken(t *testing.T) {
	url := node(t)
	ctx, c, key := long(t), dial(t, url), newKey(t)
	id, _ := deploy(ctx, t, c, key, pack(t, constant(t, "One", 1)))
	tx, err := sign(key, id, &types.LegacyTx{Nonce: 0, Gas: 100_000, GasPrice: new(big.Int)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.deliver(ctx, tx, true); !errors.Is(err, errNonceTaken) {
		t.Errorf("got %v", err)
	}
}
