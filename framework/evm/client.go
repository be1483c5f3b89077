package evm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
)

const (
	maxResponse    = 32 << 20
	requestTimeout = 30 * time.Second
)

// transport is shared, so that many short calls to one node use few connections.
var transport = func() http.RoundTripper {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 32
	return t
}()

// Client speaks JSON-RPC over HTTP with a node or a gateway.
type Client struct {
	url     string
	headers http.Header
	http    http.Client
	id      atomic.Uint64
}

// Dial connects to the JSON-RPC address of a node or a gateway; the headers, such
// as a gateway's x-api-key, go with every request. It asks for the chain's id, so
// that a wrong address or key is known at once.
func Dial(ctx context.Context, address string, headers http.Header) (*Client, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%q is no http or https address", address)
	}
	c := newClient(address, headers)
	if _, err := c.ChainID(ctx); err != nil {
		return nil, fmt.Errorf("reach chain at %s: %w", u.Host, err)
	}
	return c, nil
}

func newClient(address string, headers http.Header) *Client {
	return &Client{url: address, headers: headers.Clone(), http: http.Client{Transport: transport, Timeout: requestTimeout}}
}

// ChainID asks for the id that transactions are signed for.
func (c *Client) ChainID(ctx context.Context) (uint64, error) {
	var id hexutil.Uint64
	err := c.call(ctx, &id, "eth_chainId")
	return uint64(id), err
}

// rpcError is what a node or gateway answered instead of a result.
type rpcError struct {
	Code    int             `json:"code"`
	Message string          `json:"message"`
	Data    json.RawMessage `json:"data"`
}

func (e *rpcError) Error() string { return e.Message }

// reverted returns the data of a revert, if that is what the error is.
func (e *rpcError) reverted() ([]byte, bool) {
	var data hexutil.Bytes
	if json.Unmarshal(e.Data, &data) == nil {
		return data, true
	}
	return nil, strings.Contains(e.Message, "revert")
}

// call invokes a method. The result must be a pointer.
func (c *Client) call(ctx context.Context, result any, method string, params ...any) error {
	if params == nil {
		params = []any{}
	}
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": c.id.Add(1), "method": method, "params": params})
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s: %w", method, withoutURL(err))
	}
	for name, values := range c.headers {
		req.Header[name] = values
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", method, withoutURL(err))
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxResponse+1))
	if err != nil {
		return fmt.Errorf("%s: read answer: %w", method, err)
	}
	if len(text) > maxResponse {
		return fmt.Errorf("%s: the answer is larger than %d MiB", method, maxResponse>>20)
	}
	var answer struct {
		Result json.RawMessage `json:"result"`
		Error  *rpcError       `json:"error"`
	}
	if err := json.Unmarshal(text, &answer); err != nil || answer.Error == nil && answer.Result == nil {
		return fmt.Errorf("%s: HTTP status %s: %s", method, res.Status, clip(bytes.TrimSpace(text)))
	}
	if answer.Error != nil {
		return fmt.Errorf("%s: %w", method, answer.Error)
	}
	if err := json.Unmarshal(answer.Result, result); err != nil {
		return fmt.Errorf("%s: read answer: %w", method, err)
	}
	return nil
}

// withoutURL keeps keys that are part of an address out of errors.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func (c *Client) code(ctx context.Context, address common.Address) ([]byte, error) {
	var code hexutil.Bytes
	err := c.call(ctx, &code, "eth_getCode", address, "latest")
	return code, err
}

// nonce is the number of transactions of an account as of a block tag.
func (c *Client) nonce(ctx context.Context, account common.Address, tag string) (uint64, error) {
	var n hexutil.Uint64
	err := c.call(ctx, &n, "eth_getTransactionCount", account, tag)
	return uint64(n), err
}

// message is what eth_call and eth_estimateGas take. Without To it is a creation.
type message struct {
	From *common.Address `json:"from,omitempty"`
	To   *common.Address `json:"to,omitempty"`
	Gas  hexutil.Uint64  `json:"gas,omitempty"`
	Data hexutil.Bytes   `json:"data"`
}

func (c *Client) simulate(ctx context.Context, m message, block string) ([]byte, error) {
	var result hexutil.Bytes
	err := c.call(ctx, &result, "eth_call", m, block)
	return result, err
}

// receipt is the part of a transaction's receipt that is used.
type receipt struct {
	Hash     common.Hash     `json:"transactionHash"`
	Block    hexutil.Uint64  `json:"blockNumber"`
	Status   hexutil.Uint64  `json:"status"`
	GasUsed  hexutil.Uint64  `json:"gasUsed"`
	Contract *common.Address `json:"contractAddress"`
	Logs     []log           `json:"logs"`
}

type log struct {
	Address common.Address `json:"address"`
	Topics  []common.Hash  `json:"topics"`
	Data    hexutil.Bytes  `json:"data"`
}

// receipt returns nil as long as the transaction is in no block.
func (c *Client) receipt(ctx context.Context, hash common.Hash) (*receipt, error) {
	var r *receipt
	err := c.call(ctx, &r, "eth_getTransactionReceipt", hash)
	return r, err
}

// gasPrice is what a legacy transaction has to offer now: nothing where gas is
// free, and else a quarter above what the node suggests, since a base fee may
// rise while the transaction waits.
func (c *Client) gasPrice(ctx context.Context) (*big.Int, error) {
	var price hexutil.Big
	if err := c.call(ctx, &price, "eth_gasPrice"); err != nil {
		return nil, err
	}
	p := price.ToInt()
	return p.Add(p, new(big.Int).Rsh(p, 2)), nil
}
