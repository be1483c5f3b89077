package ledger

import (
	"context"
	"fmt"
	"sync"
	"time"

	clienttx "github.com/cosmos/cosmos-sdk/client/tx"
	sdk "github.com/cosmos/cosmos-sdk/types"
	"github.com/cosmos/cosmos-sdk/types/tx/signing"
	authsigning "github.com/cosmos/cosmos-sdk/x/auth/signing"

	"github.com/openbsn/bsn/ledger/key"
)

// txLife is how long a transaction waits for its block before it is void.
const txLife = time.Minute

// Conn carries transactions to the ledger: the node in this process, or a city's API.
type Conn interface {
	// Writer returns the network's name and the number of a registered address.
	Writer(ctx context.Context, address string) (network string, number uint64, err error)
	Submit(ctx context.Context, tx []byte) (Result, error)
}

// Client writes to the ledger with one key. It is safe for concurrent use:
// transactions carry a time-out in place of a sequence number, and the ledger
// remembers them until then.
type Client struct {
	conn  Conn
	key   key.Key
	coder coder
	now   func() time.Time

	mu      sync.Mutex
	network string // empty until asked
	number  uint64
	last    time.Time // the latest time-out used: each is distinct
}

var sharedCoder = sync.OnceValues(newCoder)

// NewClient writes through conn.
func NewClient(conn Conn, k key.Key) (*Client, error) {
	c, err := sharedCoder()
	if err != nil {
		return nil, err
	}
	return &Client{conn: conn, key: k, coder: c, now: time.Now}, nil
}

// Address is the address that the client writes as.
func (c *Client) Address() string { return c.key.Address() }

// Write puts messages on the ledger in one transaction, all or none, and returns
// when a block holds them. Error: ErrRefused.
func (c *Client) Write(ctx context.Context, messages ...Message) (Result, error) {
	tx, err := c.Sign(ctx, messages...)
	if err != nil {
		return Result{}, err
	}
	return c.conn.Submit(ctx, tx)
}

// Sign makes the transaction that Write submits.
func (c *Client) Sign(ctx context.Context, messages ...Message) ([]byte, error) {
	network, number, expires, err := c.prepare(ctx)
	if err != nil {
		return nil, err
	}
	address := c.key.Address()
	msgs := make([]sdk.Msg, 0, len(messages))
	for _, m := range messages {
		msg, err := m.build(address)
		if err != nil {
			return nil, err
		}
		msgs = append(msgs, msg)
	}
	b := c.coder.tx.NewTxBuilder()
	if err := b.SetMsgs(msgs...); err != nil {
		return nil, fmt.Errorf("build transaction: %w", err)
	}
	b.SetUnordered(true)
	b.SetTimeoutTimestamp(expires)
	const mode = signing.SignMode_SIGN_MODE_DIRECT
	priv := c.key.Secp256k1()
	empty := signing.SignatureV2{PubKey: priv.PubKey(), Data: &signing.SingleSignatureData{SignMode: mode}}
	if err := b.SetSignatures(empty); err != nil {
		return nil, fmt.Errorf("build transaction: %w", err)
	}
	data := authsigning.SignerData{ChainID: network, AccountNumber: number, PubKey: priv.PubKey(), Address: address}
	sig, err := clienttx.SignWithPrivKey(ctx, mode, data, b, priv, c.coder.tx, 0)
	if err != nil {
		return nil, fmt.Errorf("sign transaction: %w", err)
	}
	if err := b.SetSignatures(sig); err != nil {
		return nil, fmt.Errorf("sign transaction: %w", err)
	}
	return c.coder.tx.TxEncoder()(b.GetTx())
}

func (c *Client) prepare(ctx context.Context) (network string, number uint64, expires time.Time, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.network == "" {
		network, number, err := c.conn.Writer(ctx, c.key.Address())
		if err != nil {
			return "", 0, expires, err
		}
		c.network, c.number = network, number
	}
	expires = c.now().Add(txLife)
	if !expires.After(c.last) {
		expires = c.last.Add(time.Nanosecond)
	}
	c.last = expires
	return c.network, c.number, expires, nil
}
