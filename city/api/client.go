package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gen/city/cityv1"
	"github.com/openbsn/bsn/gen/city/cityv1/cityv1connect"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/ledger/key"
	"github.com/openbsn/bsn/receipt"
)

// Client calls one city. It is a bsn.Ledger and a ledger.Conn.
type Client struct {
	URL string
	// network is empty for those that sign no transactions.
	network string
	service cityv1connect.CityServiceClient
	http    *http.Client
}

// Dial makes a client that signs as k; city is the name of the city at url. It
// does not connect yet.
func Dial(url, network, city string, k key.Key) *Client {
	c := newClient(url, signer{network, city, k, transport()})
	c.network = network
	return c
}

// DialGateway makes the client of a city's own gateway.
func DialGateway(url, secret string) *Client { return newClient(url, bearer{secret, transport()}) }

// DialUnsigned makes a client for those that the network does not know yet.
// With dial, if it is not nil, it connects another way than over TCP.
func DialUnsigned(url string, dial func(ctx context.Context, network, address string) (net.Conn, error)) *Client {
	t := transport()
	if dial != nil {
		t.DialContext = dial
	}
	return newClient(url, t)
}

func newClient(url string, t http.RoundTripper) *Client {
	h := &http.Client{Transport: t}
	return &Client{URL: url, service: cityv1connect.NewCityServiceClient(h, url, connect.WithReadMaxBytes(64<<20)), http: h}
}

func transport() *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 8,
		IdleConnTimeout:     time.Minute,
	}
}

// Answers tells whether a city's API can be reached at all.
func Answers(url string) bool {
	h := http.Client{Transport: transport(), Timeout: 3 * time.Second}
	res, err := h.Get(url)
	if err != nil {
		return false
	}
	res.Body.Close()
	return true
}

// Status asks how the city is.
func (c *Client) Status(ctx context.Context) (*cityv1.StatusResponse, error) {
	return call(ctx, c.service.Status, &cityv1.StatusRequest{})
}

// Apply applies to join, or asks how an application stands.
func (c *Client) Apply(ctx context.Context, r *cityv1.ApplyRequest) (*cityv1.ApplyResponse, error) {
	return call(ctx, c.service.Apply, r)
}

// Logs copies a node's log to w.
func (c *Client) Logs(ctx context.Context, w io.Writer, node string, lines int, follow bool) error {
	s, err := c.service.Logs(ctx, connect.NewRequest(&cityv1.LogsRequest{Node: node, Lines: int32(lines), Follow: follow}))
	if err != nil {
		return local(err)
	}
	defer s.Close()
	for s.Receive() {
		if _, err := w.Write(s.Msg().Data); err != nil {
			return err
		}
	}
	return local(s.Err())
}

// Writer implements ledger.Conn.
func (c *Client) Writer(ctx context.Context, address string) (ledger.Signer, error) {
	r, err := call(ctx, c.service.Writer, &cityv1.WriterRequest{Address: address})
	if err != nil {
		return ledger.Signer{}, err
	}
	if r.Network != c.network {
		// A signature for another network would be good there.
		return ledger.Signer{}, fmt.Errorf("the city says that it belongs to network %q, not %q", r.Network, c.network)
	}
	return ledger.Signer{Network: r.Network, Number: r.Number, Identity: r.Identity}, nil
}

// Submit implements ledger.Conn.
func (c *Client) Submit(ctx context.Context, tx []byte) (ledger.Result, error) {
	r, err := call(ctx, c.service.Submit, &cityv1.SubmitRequest{Tx: tx})
	if err != nil {
		return ledger.Result{}, err
	}
	return ledger.Result{Height: r.Height, Hash: r.Hash, Data: r.Data}, nil
}

// Get implements bsn.Ledger.
func (c *Client) Get(ctx context.Context, kind bsn.Kind, id string) (json.RawMessage, error) {
	r, err := call(ctx, c.service.Get, &cityv1.GetRequest{Kind: string(kind), Id: id})
	if err != nil {
		return nil, err
	}
	return r.Record, nil
}

// List implements bsn.Ledger.
func (c *Client) List(ctx context.Context, kind bsn.Kind, after string, limit int) ([]bsn.Change, int64, error) {
	r, err := call(ctx, c.service.List, &cityv1.ListRequest{Kind: string(kind), After: after, Limit: int32(limit)})
	if err != nil {
		return nil, 0, err
	}
	return fromWire(r.Records), r.Height, nil
}

// Usage returns what a project used in the city: the rows of the receipt for the period
// until then, with their proofs, or with 0 what is in no receipt yet.
func (c *Client) Usage(ctx context.Context, project string, until int64) ([]receipt.Proven, error) {
	r, err := call(ctx, c.service.Usage, &cityv1.UsageRequest{Project: project, Until: until})
	if err != nil {
		return nil, err
	}
	out := make([]receipt.Proven, 0, len(r.Rows))
	for i, row := range r.Rows {
		p := receipt.Proven{Index: i, Proof: []string{}, UsageRow: bsn.UsageRow{
			Project: project, Key: row.Key, Chain: row.Chain, Class: bsn.MethodClass(row.Class), Calls: row.Calls, Units: row.Units,
		}}
		for _, h := range row.Proof {
			p.Proof = append(p.Proof, hex.EncodeToString(h))
		}
		out = append(out, p)
	}
	return out, nil
}

// Cordon takes a node out of the service of the city's gateway, or back; node is the
// name of its city, or of a provider with outside/ before. It tells whether that was
// news. Only the city's operator may.
func (c *Client) Cordon(ctx context.Context, chain, node string, cordoned bool) (changed bool, err error) {
	r, err := call(ctx, c.service.Cordon, &cityv1.CordonRequest{Chain: chain, Node: node, Cordoned: cordoned})
	if err != nil {
		return false, err
	}
	return r.Changed, nil
}

// LightBlock implements ledger.Source, for cities.
func (c *Client) LightBlock(ctx context.Context, height int64) ([]byte, error) {
	r, err := call(ctx, c.service.LightBlock, &cityv1.LightBlockRequest{Height: height})
	if err != nil {
		return nil, err
	}
	return r.Block, nil
}

// ProveReceipt asks for a receipt with its proof, which is to be verified
// ([ledger.VerifyReceipt]).
func (c *Client) ProveReceipt(ctx context.Context, id string) (ledger.Proof, error) {
	r, err := call(ctx, c.service.ProveReceipt, &cityv1.ProveReceiptRequest{Id: id})
	if err != nil {
		return ledger.Proof{}, err
	}
	return ledger.Proof{Height: r.Height, Record: r.Record, Path: r.Path}, nil
}

// Snapshots implements ledger.Source, for cities.
func (c *Client) Snapshots(ctx context.Context) (offered []ledger.Snapshot, oldestBlock int64, err error) {
	r, err := call(ctx, c.service.Snapshots, &cityv1.SnapshotsRequest{})
	if err != nil {
		return nil, 0, err
	}
	for _, s := range r.Snapshots {
		offered = append(offered, ledger.Snapshot{Height: s.Height, Format: s.Format, Version: s.Version, Hash: s.Hash, Chunks: s.Chunks})
	}
	return offered, r.OldestBlock, nil
}

// SnapshotChunk implements ledger.Source, for cities.
func (c *Client) SnapshotChunk(ctx context.Context, height int64, format, index uint32) ([]byte, error) {
	r, err := call(ctx, c.service.SnapshotChunk, &cityv1.SnapshotChunkRequest{Height: height, Format: format, Index: index})
	if err != nil {
		return nil, err
	}
	return r.Chunk, nil
}

// Follow implements bsn.Ledger. A lost connection ends it with an error; the
// caller goes on from the next height.
func (c *Client) Follow(ctx context.Context, from int64) iter.Seq2[bsn.Block, error] {
	return func(yield func(bsn.Block, error) bool) {
		s, err := c.service.Follow(ctx, connect.NewRequest(&cityv1.FollowRequest{From: from}))
		if err != nil {
			yield(bsn.Block{}, local(err))
			return
		}
		defer s.Close()
		for s.Receive() {
			m := s.Msg()
			if !yield(bsn.Block{Height: m.Height, Time: time.Unix(0, m.Time).UTC(), Changes: fromWire(m.Changes)}, nil) {
				return
			}
		}
		if ctx.Err() == nil {
			err := s.Err()
			if err == nil {
				err = errors.New("the city ended the stream")
			}
			yield(bsn.Block{}, local(err))
		}
	}
}

// PutArtifact uploads a package and returns its SHA-256 in hex.
func (c *Client) PutArtifact(ctx context.Context, content []byte) (string, error) {
	sum := sha256.Sum256(content)
	hash := hex.EncodeToString(sum[:])
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, c.URL+artifactPath+hash, bytes.NewReader(content))
	if err != nil {
		return "", fmt.Errorf("upload artifact: %w", err)
	}
	r.Header.Set(headerBody, hash)
	res, err := c.http.Do(r)
	if err != nil {
		return "", fmt.Errorf("upload artifact: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		return "", fmt.Errorf("upload artifact: %w", problem(res))
	}
	return hash, nil
}

// HTTP is the client's signing HTTP client, for fetching artifacts.
func (c *Client) HTTP() *http.Client { return c.http }

func problem(res *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10)) // what could be read of the reason will do
	return fmt.Errorf("%s: %s", res.Status, bytes.TrimSpace(text))
}

func call[Q, A any](ctx context.Context, f func(context.Context, *connect.Request[Q]) (*connect.Response[A], error), q *Q) (*A, error) {
	r, err := f(ctx, connect.NewRequest(q))
	if err != nil {
		return nil, local(err)
	}
	return r.Msg, nil
}

// ErrApplication is wrapped where a city does not take an application to join.
var ErrApplication = errors.New("application refused")

// sentinels gives errors that callers tell apart their code on the wire.
var sentinels = []struct {
	err  error
	code connect.Code
}{
	{ledger.ErrRefused, connect.CodeFailedPrecondition},
	{ErrApplication, connect.CodeFailedPrecondition},
	{ledger.ErrHalted, connect.CodeUnavailable},
	{ledger.ErrStranger, connect.CodePermissionDenied},
	{bsn.ErrNoRecord, connect.CodeNotFound},
	{bsn.ErrNoNode, connect.CodeNotFound},
	{bsn.ErrPruned, connect.CodeOutOfRange},
}

// wire turns an error into one that crosses the wire.
func wire(err error) error {
	var c *connect.Error
	if err == nil || errors.As(err, &c) {
		return err
	}
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			e := connect.NewError(s.code, err)
			e.Meta().Set("Bsn-Error", s.err.Error())
			return e
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return connect.NewError(connect.CodeDeadlineExceeded, err)
	}
	if errors.Is(err, context.Canceled) {
		return connect.NewError(connect.CodeCanceled, err)
	}
	return connect.NewError(connect.CodeInternal, err)
}

// remote is an error that a city answered with: its text is the city's own.
type remote struct {
	text string
	is   error
}

func (e remote) Error() string { return e.text }
func (e remote) Unwrap() error { return e.is }

// local turns an error from the wire into what it was.
func local(err error) error {
	var c *connect.Error
	if !errors.As(err, &c) {
		return err
	}
	for _, s := range sentinels {
		if c.Meta().Get("Bsn-Error") == s.err.Error() {
			return remote{c.Message(), s.err}
		}
	}
	if c.Code() == connect.CodeUnavailable || c.Code() == connect.CodeCanceled {
		return fmt.Errorf("city does not answer: %w", err)
	}
	return remote{c.Message(), err}
}

func toWire(in []bsn.Change) []*cityv1.Change {
	out := make([]*cityv1.Change, 0, len(in))
	for _, c := range in {
		out = append(out, &cityv1.Change{Kind: string(c.Kind), Id: c.ID, Record: c.Record})
	}
	return out
}

func fromWire(in []*cityv1.Change) []bsn.Change {
	out := make([]bsn.Change, 0, len(in))
	for _, c := range in {
		out = append(out, bsn.Change{Kind: bsn.Kind(c.Kind), ID: c.Id, Record: c.Record})
	}
	return out
}

// maxArtifact bounds an artifact that a city sends.
const maxArtifact = 256 << 20

// Artifact downloads a package and checks it against its SHA-256 in hex.
func (c *Client) Artifact(ctx context.Context, hash string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL+artifactPath+hash, nil)
	if err != nil {
		return nil, fmt.Errorf("fetch artifact: %w", err)
	}
	res, err := c.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("fetch artifact: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetch artifact: %w", problem(res))
	}
	b, err := io.ReadAll(http.MaxBytesReader(nil, res.Body, maxArtifact))
	if err != nil {
		return nil, fmt.Errorf("fetch artifact: %w", err)
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != hash {
		return nil, fmt.Errorf("fetch artifact %s: the city sent something else", hash)
	}
	return b, nil
}
