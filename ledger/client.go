package ledger

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	clienttx "github.com/cosmos/cosmos-sdk/client/tx"
	sdk "github.com/cosmos/cosmos-sdk/types"
	txtypes "github.com/cosmos/cosmos-sdk/types/tx"
	"github.com/cosmos/cosmos-sdk/types/tx/signing"
	authsigning "github.com/cosmos/cosmos-sdk/x/auth/signing"

	"github.com/openbsn/bsn/gen/ledger/identitypb"
	"github.com/openbsn/bsn/ledger/key"
)

// txLife is how long a transaction waits for its block before it is void.
const txLife = time.Minute

// Conn carries transactions to the ledger: the node in this process, or a city's API.
type Conn interface {
	// Writer returns what the key of a registered address has to know to sign.
	Writer(ctx context.Context, address string) (Signer, error)
	Submit(ctx context.Context, tx []byte) (Result, error)
}

// Signer is what a key has to know of the ledger to write there.
type Signer struct {
	Network string
	// Number is the ledger's own for the key.
	Number uint64
	// Identity is the address that stands for all keys of the account or operator,
	// if several have to agree: then what this key writes is an act.
	Identity string
}

// Client writes to the ledger with one key. It is safe for concurrent use:
// transactions carry a time-out in place of a sequence number, and the ledger
// remembers them until then.
type Client struct {
	conn  Conn
	key   key.Key
	coder coder
	now   func() time.Time

	mu     sync.Mutex
	signer Signer    // zero until asked
	last   time.Time // the latest time-out used: each is distinct
}

var sharedCoder = sync.OnceValues(func() (coder, error) { return newCoder(Protocols()) })

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
// when a block holds them. Where several keys have to agree it proposes an act, or
// approves the open one with the same messages. Error: ErrRefused; or a
// *[WaitingError] while further keys have to agree.
func (c *Client) Write(ctx context.Context, messages ...Message) (Result, error) {
	tx, err := c.Sign(ctx, messages...)
	if err != nil {
		return Result{}, err
	}
	res, err := c.conn.Submit(ctx, tx)
	if err != nil {
		return res, err
	}
	return res, res.waiting()
}

// Sign makes the transaction that Write submits.
func (c *Client) Sign(ctx context.Context, messages ...Message) ([]byte, error) {
	signer, expires, err := c.prepare(ctx)
	if err != nil {
		return nil, err
	}
	address := c.key.Address()
	msgs, err := build(messages, address, signer.Identity)
	if err != nil {
		return nil, err
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
	data := authsigning.SignerData{ChainID: signer.Network, AccountNumber: signer.Number, PubKey: priv.PubKey(), Address: address}
	sig, err := clienttx.SignWithPrivKey(ctx, mode, data, b, priv, c.coder.tx, 0)
	if err != nil {
		return nil, fmt.Errorf("sign transaction: %w", err)
	}
	if err := b.SetSignatures(sig); err != nil {
		return nil, fmt.Errorf("sign transaction: %w", err)
	}
	return c.coder.tx.TxEncoder()(b.GetTx())
}

// build makes the messages of a transaction signed by one key, and wraps them into
// an act where that key needs others: then they are the identity's.
func build(messages []Message, address, identity string) ([]sdk.Msg, error) {
	act := identity != "" && !slices.ContainsFunc(messages, func(m Message) bool { return m.single })
	by := address
	if act {
		by = identity
	}
	msgs := make([]sdk.Msg, 0, len(messages))
	for _, m := range messages {
		msg, err := m.build(by)
		if err != nil {
			return nil, err
		}
		msgs = append(msgs, msg)
	}
	if !act {
		return msgs, nil
	}
	packed, err := txtypes.SetMsgs(msgs)
	if err != nil {
		return nil, fmt.Errorf("build act: %w", err)
	}
	return []sdk.Msg{&identitypb.MsgAct{Key: address, Messages: packed}}, nil
}

func (c *Client) prepare(ctx context.Context) (s Signer, expires time.Time, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.signer.Network == "" {
		if c.signer, err = c.conn.Writer(ctx, c.key.Address()); err != nil {
			return s, expires, err
		}
	}
	expires = c.now().Add(txLife)
	if !expires.After(c.last) {
		expires = c.last.Add(time.Nanosecond)
	}
	c.last = expires
	return c.signer, expires, nil
}
