package api

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gen/city/cityv1"
	"github.com/openbsn/bsn/gen/city/cityv1/cityv1connect"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/receipt"
)

const artifactPath = "/artifacts/"

// submitTimeout is how long a caller's transaction may take into a block.
const submitTimeout = 45 * time.Second

// Ledger is the city's own ledger node.
type Ledger interface {
	bsn.Ledger
	ledger.Conn
	ledger.Source
	ProveReceipt(ctx context.Context, id string) (ledger.Proof, error)
	// Who tells what kind of writer an address is, by what name and under whom.
	// Error: ledger.ErrStranger.
	Who(address string) (kind bsn.Kind, name, parent string, err error)
}

// artifactTimeout is how long an artifact may take on its way.
const artifactTimeout = 5 * time.Minute

// City is what the API serves.
type City struct {
	Network, Name, Operator string
	// GatewaySecret lets the city's own gateway read the records.
	GatewaySecret string
	Ledger        Ledger
	// Artifacts serves /artifacts/{hash}; a caller may upload MaxUpload bytes a day.
	Artifacts http.Handler
	MaxUpload int64
	// Fetch brings an artifact here from another city, if it is not here yet.
	Fetch   func(ctx context.Context, hash string) error
	Runtime bsn.Runtime
	Status  func(context.Context) (*cityv1.StatusResponse, error)
	// Usage returns a project's rows; see [Client.Usage].
	Usage func(project string, until int64) ([]receipt.Proven, error)
	// Cordon takes a node out of the service of the city's gateway, or back; see
	// [Client.Cordon].
	Cordon func(chain, node string, cordoned bool) (changed bool, err error)
	// Observe, if set, is told of each request and of how it ended: ok, or an error's
	// code.
	Observe func(method, result string)
	// Gate bounds what callers take; the server that serves the handler is to be
	// guarded by it.
	Gate *Gate
	// Apply handles an application to join.
	Apply func(context.Context, *cityv1.ApplyRequest) (*cityv1.ApplyResponse, error)
}

// Handler serves the city's API.
func Handler(c City) http.Handler {
	if c.Gate == nil {
		c.Gate = &Gate{}
	}
	if c.Observe == nil {
		c.Observe = func(string, string) {}
	}
	mux := http.NewServeMux()
	mux.Handle(cityv1connect.NewCityServiceHandler(service{c}, connect.WithReadMaxBytes(maxBody), connect.WithInterceptors(observer{c.Observe})))
	mux.Handle(artifactPath, &artifacts{next: c.Artifacts, fetch: c.Fetch, taken: uploads{most: c.MaxUpload}})
	v := &verifier{network: c.Network, city: c.Name, gateway: c.GatewaySecret, who: c.Ledger.Who, gate: c.Gate, observe: c.Observe}
	return v.middleware(mux)
}

// artifacts lets known callers read, and writers write.
type artifacts struct {
	next  http.Handler
	fetch func(ctx context.Context, hash string) error
	taken uploads
}

// ServeHTTP implements http.Handler.
func (a *artifacts) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, ok := caller(r.Context())
	if !ok {
		http.Error(w, errUnsigned.Error(), http.StatusUnauthorized)
		return
	}
	if c.Gateway && r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "a gateway only reads", http.StatusForbidden)
		return
	}
	if r.Method == http.MethodPut {
		if r.ContentLength < 0 {
			http.Error(w, "say how long the artifact is", http.StatusLengthRequired)
			return
		}
		if err := a.taken.take(c, r.ContentLength, time.Now()); err != nil {
			http.Error(w, err.Error(), http.StatusTooManyRequests)
			return
		}
	}
	// Who sends or reads slowly does not hold the connection for ever.
	deadline, end := http.NewResponseController(w), time.Now().Add(artifactTimeout)
	if err := errors.Join(deadline.SetReadDeadline(end), deadline.SetWriteDeadline(end)); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if hash, _ := strings.CutPrefix(r.URL.Path, artifactPath); r.Method == http.MethodGet && c.Kind != bsn.KindCity {
		// Between cities each answers for itself, or they would ask each other for ever.
		if err := a.fetch(r.Context(), hash); err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
	}
	a.next.ServeHTTP(w, r)
}

type service struct{ c City }

func known(ctx context.Context) error {
	if _, ok := caller(ctx); !ok {
		return connect.NewError(connect.CodeUnauthenticated, errUnsigned)
	}
	return nil
}

// writers excludes the gateway, which faces the internet.
func writers(ctx context.Context) error {
	c, ok := caller(ctx)
	switch {
	case !ok:
		return connect.NewError(connect.CodeUnauthenticated, errUnsigned)
	case c.Gateway:
		return connect.NewError(connect.CodePermissionDenied, errors.New("a gateway only reads"))
	}
	return nil
}

func (s service) Status(ctx context.Context, _ *connect.Request[cityv1.StatusRequest]) (*connect.Response[cityv1.StatusResponse], error) {
	if err := writers(ctx); err != nil {
		return nil, err
	}
	return answer(s.c.Status(ctx))
}

// still tells whether the key that began a stream is one that the ledger knows yet.
func (s service) still(ctx context.Context) error {
	c, _ := caller(ctx)
	if c.Gateway {
		return nil
	}
	_, _, _, err := s.c.Ledger.Who(c.address)
	if errors.Is(err, ledger.ErrStranger) {
		return wire(err)
	}
	return nil // a ledger that cannot be read just now ends no stream
}

func (s service) Logs(ctx context.Context, r *connect.Request[cityv1.LogsRequest], out *connect.ServerStream[cityv1.LogsResponse]) error {
	c, ok := caller(ctx)
	own := c.Kind == bsn.KindOperator && c.Name == s.c.Operator || c.Kind == bsn.KindCity && c.Name == s.c.Name
	if !ok || !own {
		return connect.NewError(connect.CodePermissionDenied, fmt.Errorf("logs of city %q are for its operator %q", s.c.Name, s.c.Operator))
	}
	log, err := s.c.Runtime.Logs(ctx, r.Msg.Node, int(r.Msg.Lines), r.Msg.Follow)
	if err != nil {
		return wire(err)
	}
	defer log.Close()
	buf := make([]byte, 16<<10)
	for {
		n, err := log.Read(buf)
		if n > 0 {
			if err := s.still(ctx); err != nil {
				return err
			}
			if err := out.Send(&cityv1.LogsResponse{Data: buf[:n]}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return wire(err)
		}
	}
}

func (s service) Writer(ctx context.Context, r *connect.Request[cityv1.WriterRequest]) (*connect.Response[cityv1.WriterResponse], error) {
	if err := writers(ctx); err != nil {
		return nil, err
	}
	w, err := s.c.Ledger.Writer(ctx, r.Msg.Address)
	return answer(&cityv1.WriterResponse{Network: w.Network, Number: w.Number, Identity: w.Identity}, err)
}

func (s service) Submit(ctx context.Context, r *connect.Request[cityv1.SubmitRequest]) (*connect.Response[cityv1.SubmitResponse], error) {
	if err := writers(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, submitTimeout)
	defer cancel()
	res, err := s.c.Ledger.Submit(ctx, r.Msg.Tx)
	return answer(&cityv1.SubmitResponse{Height: res.Height, Hash: res.Hash, Data: res.Data}, err)
}

func (s service) Get(ctx context.Context, r *connect.Request[cityv1.GetRequest]) (*connect.Response[cityv1.GetResponse], error) {
	if err := known(ctx); err != nil {
		return nil, err
	}
	b, err := s.c.Ledger.Get(ctx, bsn.Kind(r.Msg.Kind), r.Msg.Id)
	return answer(&cityv1.GetResponse{Record: b}, err)
}

func (s service) List(ctx context.Context, r *connect.Request[cityv1.ListRequest]) (*connect.Response[cityv1.ListResponse], error) {
	if err := known(ctx); err != nil {
		return nil, err
	}
	page, height, err := s.c.Ledger.List(ctx, bsn.Kind(r.Msg.Kind), r.Msg.After, int(r.Msg.Limit))
	return answer(&cityv1.ListResponse{Records: toWire(page), Height: height}, err)
}

func (s service) Follow(ctx context.Context, r *connect.Request[cityv1.FollowRequest], out *connect.ServerStream[cityv1.FollowResponse]) error {
	if err := known(ctx); err != nil {
		return err
	}
	for b, err := range s.c.Ledger.Follow(ctx, r.Msg.From) {
		if err != nil {
			return wire(err)
		}
		if err := s.still(ctx); err != nil {
			return err
		}
		if err := out.Send(&cityv1.FollowResponse{Height: b.Height, Time: b.Time.UnixNano(), Changes: toWire(b.Changes)}); err != nil {
			return err
		}
	}
	return nil
}

// Usage is for the account that owns the project, and for the city's operator.
func (s service) Usage(ctx context.Context, r *connect.Request[cityv1.UsageRequest]) (*connect.Response[cityv1.UsageResponse], error) {
	account, _, err := bsn.SplitID(r.Msg.Project, "")
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	c, ok := caller(ctx)
	if own := c.Kind == bsn.KindOperator && c.Name == s.c.Operator || c.Kind == bsn.KindAccount && c.Name == account; !ok || !own {
		return nil, connect.NewError(connect.CodePermissionDenied, fmt.Errorf("usage of project %s is for account %q, and for operator %q of this city", r.Msg.Project, account, s.c.Operator))
	}
	rows, err := s.c.Usage(r.Msg.Project, r.Msg.Until)
	out := &cityv1.UsageResponse{}
	for _, row := range rows {
		w := &cityv1.UsageRow{Key: row.Key, Chain: row.Chain, Class: string(row.Class), Calls: row.Calls, Units: row.Units}
		for _, text := range row.Proof {
			h, err := hex.DecodeString(text)
			if err != nil {
				return nil, wire(err)
			}
			w.Proof = append(w.Proof, h)
		}
		out.Rows = append(out.Rows, w)
	}
	return answer(out, err)
}

// maxCordon bounds the names of a chain and a node.
const maxCordon = 2 * bsn.MaxName

// Cordon is for the city's operator.
func (s service) Cordon(ctx context.Context, r *connect.Request[cityv1.CordonRequest]) (*connect.Response[cityv1.CordonResponse], error) {
	if c, ok := caller(ctx); !ok || c.Kind != bsn.KindOperator || c.Name != s.c.Operator {
		return nil, connect.NewError(connect.CodePermissionDenied, fmt.Errorf("nodes are cordoned in city %s by its operator %q only", s.c.Name, s.c.Operator))
	}
	if m := r.Msg; m.Chain == "" || m.Node == "" || len(m.Chain) > maxCordon || len(m.Node) > maxCordon {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("cordon names a chain and a node of it"))
	}
	changed, err := s.c.Cordon(r.Msg.Chain, r.Msg.Node, r.Msg.Cordoned)
	return answer(&cityv1.CordonResponse{Changed: changed}, err)
}

// cities only: what a new city takes is much.
func cities(ctx context.Context) error {
	if c, ok := caller(ctx); !ok || c.Kind != bsn.KindCity {
		return connect.NewError(connect.CodePermissionDenied, errors.New("snapshots are handed to cities only"))
	}
	return nil
}

func (s service) LightBlock(ctx context.Context, r *connect.Request[cityv1.LightBlockRequest]) (*connect.Response[cityv1.LightBlockResponse], error) {
	if err := writers(ctx); err != nil {
		return nil, err
	}
	b, err := s.c.Ledger.LightBlock(ctx, r.Msg.Height)
	return answer(&cityv1.LightBlockResponse{Block: b}, err)
}

func (s service) ProveReceipt(ctx context.Context, r *connect.Request[cityv1.ProveReceiptRequest]) (*connect.Response[cityv1.ProveReceiptResponse], error) {
	if err := writers(ctx); err != nil {
		return nil, err
	}
	p, err := s.c.Ledger.ProveReceipt(ctx, r.Msg.Id)
	return answer(&cityv1.ProveReceiptResponse{Height: p.Height, Record: p.Record, Path: p.Path}, err)
}

func (s service) Snapshots(ctx context.Context, _ *connect.Request[cityv1.SnapshotsRequest]) (*connect.Response[cityv1.SnapshotsResponse], error) {
	if err := writers(ctx); err != nil {
		return nil, err
	}
	offered, oldest, err := s.c.Ledger.Snapshots(ctx)
	out := &cityv1.SnapshotsResponse{OldestBlock: oldest}
	for _, o := range offered {
		out.Snapshots = append(out.Snapshots, &cityv1.Snapshot{Height: o.Height, Format: o.Format, Version: o.Version, Hash: o.Hash, Chunks: o.Chunks})
	}
	return answer(out, err)
}

func (s service) SnapshotChunk(ctx context.Context, r *connect.Request[cityv1.SnapshotChunkRequest]) (*connect.Response[cityv1.SnapshotChunkResponse], error) {
	if err := cities(ctx); err != nil {
		return nil, err
	}
	b, err := s.c.Ledger.SnapshotChunk(ctx, r.Msg.Height, r.Msg.Format, r.Msg.Index)
	return answer(&cityv1.SnapshotChunkResponse{Chunk: b}, err)
}

func (s service) Apply(ctx context.Context, r *connect.Request[cityv1.ApplyRequest]) (*connect.Response[cityv1.ApplyResponse], error) {
	return answer(s.c.Apply(ctx, r.Msg))
}

func answer[A any](m *A, err error) (*connect.Response[A], error) {
	if err != nil {
		return nil, wire(err)
	}
	return connect.NewResponse(m), nil
}
