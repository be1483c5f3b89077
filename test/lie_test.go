package test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	cmtcrypto "github.com/cometbft/cometbft/proto/tendermint/crypto"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gen/city/cityv1"
	"github.com/openbsn/bsn/gen/city/cityv1/cityv1connect"
	"github.com/openbsn/bsn/receipt"
)

// liar is the API of a city that lies: its ledger is far ahead of all others, its
// nodes are well, every artifact is something else, a receipt of its own, which the
// ledger does not have, charges a project, and whatever else it is asked it hands on,
// signature and all, to another city as if it were the caller's.
type liar struct {
	cityv1connect.UnimplementedCityServiceHandler
	city string
	on   http.Handler // another city

	mu    sync.Mutex
	asked map[string]int
}

func (l *liar) count(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked[what]++
}

// Status lies about the city and the ledger.
func (l *liar) Status(context.Context, *connect.Request[cityv1.StatusRequest]) (*connect.Response[cityv1.StatusResponse], error) {
	l.count("status")
	return connect.NewResponse(&cityv1.StatusResponse{
		City: l.city, Version: "true",
		Ledger:  &cityv1.LedgerStatus{Height: math.MaxInt64, Time: time.Now().Add(1000 * time.Hour).UnixMilli(), Halted: true, Validators: 1000, Reachable: 1},
		Nodes:   []*cityv1.NodeStatus{{Id: "kaia-chongqing", Chain: "chongqing", State: "running", Healthy: true, Height: 1}},
		Gateway: &cityv1.GatewayStatus{Healthy: true},
	}), nil
}

// forged is the receipt that there is not, with rows that fit it.
func (l *liar) forged() (bsn.Receipt, []receipt.Proven, error) {
	row := bsn.UsageRow{Project: "demo-account/default", Chain: "chongqing", Class: bsn.MethodRead, Calls: 1000, Units: 20_000}
	uses, err := receipt.Projects([]bsn.UsageRow{row})
	if err != nil {
		return bsn.Receipt{}, nil, err
	}
	rows, err := receipt.Prove([]bsn.UsageRow{row})
	return bsn.Receipt{City: l.city, Until: 1, Part: 1, Parts: 1, Charges: bsn.ChargesOf(uses), Projects: uses}, rows, err
}

// List lists that receipt, and ProveReceipt proves it with what is no proof.
func (l *liar) List(_ context.Context, r *connect.Request[cityv1.ListRequest]) (*connect.Response[cityv1.ListResponse], error) {
	l.count("receipts")
	if r.Msg.After != "" {
		return connect.NewResponse(&cityv1.ListResponse{}), nil
	}
	forged, _, err := l.forged()
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(forged)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&cityv1.ListResponse{Height: 1000, Records: []*cityv1.Change{{Kind: string(bsn.KindReceipt), Id: forged.ID(), Record: b}}}), nil
}

// ProveReceipt is described with List.
func (l *liar) ProveReceipt(context.Context, *connect.Request[cityv1.ProveReceiptRequest]) (*connect.Response[cityv1.ProveReceiptResponse], error) {
	l.count("proof")
	forged, _, err := l.forged()
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(forged)
	if err != nil {
		return nil, err
	}
	op := cmtcrypto.ProofOp{Type: "ics23:iavl", Key: []byte("receipt"), Data: []byte("believe me")}
	path, err := (&cmtcrypto.ProofOps{Ops: []cmtcrypto.ProofOp{op, op}}).Marshal()
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&cityv1.ProveReceiptResponse{Height: 10, Record: b, Path: path}), nil
}

// Usage gives the rows.
func (l *liar) Usage(context.Context, *connect.Request[cityv1.UsageRequest]) (*connect.Response[cityv1.UsageResponse], error) {
	l.count("rows")
	_, rows, err := l.forged()
	out := &cityv1.UsageResponse{}
	for _, r := range rows {
		out.Rows = append(out.Rows, &cityv1.UsageRow{Key: r.Key, Chain: r.Chain, Class: string(r.Class), Calls: r.Calls, Units: r.Units})
	}
	return connect.NewResponse(out), err
}

// ofReceipts serves what is about receipts, and hands on the rest.
func (l *liar) ofReceipts(service http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(b))
		if bytes.Contains(b, []byte(bsn.KindReceipt)) {
			service.ServeHTTP(w, r)
			return
		}
		l.count("replayed")
		l.on.ServeHTTP(w, r)
	}
}

// liars are those of the scripts that run, by API address.
var liars sync.Map

func lie(ts *testscript.TestScript, args []string) (output, error) {
	if len(args) != 2 {
		return output{}, errors.New("usage: lie CITY CITY2")
	}
	address, err := apiOf(ts, args[0])
	if err != nil {
		return output{}, err
	}
	victim, err := apiOf(ts, args[1])
	if err != nil {
		return output{}, err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return output{}, err
	}
	l := &liar{city: args[0], asked: map[string]int{}}
	mux := http.NewServeMux()
	_, service := cityv1connect.NewCityServiceHandler(l)
	mux.Handle(cityv1connect.CityServiceStatusProcedure, service)
	mux.HandleFunc("GET /artifacts/{hash}", func(w http.ResponseWriter, _ *http.Request) {
		l.count("artifact")
		fmt.Fprint(w, "this is it, believe me")
	})
	l.on = httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: victim})
	mux.HandleFunc(cityv1connect.CityServiceListProcedure, l.ofReceipts(service))
	mux.Handle(cityv1connect.CityServiceProveReceiptProcedure, service)
	mux.Handle(cityv1connect.CityServiceUsageProcedure, service)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		l.count("replayed")
		l.on.ServeHTTP(w, r)
	})
	s := &http.Server{Handler: mux}
	go s.Serve(listener)
	ts.Value(testKey{}).(*testing.T).Cleanup(func() { s.Close() })
	liars.Store(address, l)
	return output{}, nil
}

func apiOf(ts *testscript.TestScript, city string) (address string, err error) {
	_, api, err := contextOf(ts, city)
	return strings.TrimPrefix(api, "http://"), err
}

func lied(ts *testscript.TestScript, args []string) (o output, err error) {
	if len(args) != 1 {
		return o, errors.New("usage: lied CITY")
	}
	address, err := apiOf(ts, args[0])
	if err != nil {
		return o, err
	}
	v, ok := liars.Load(address)
	if !ok {
		return o, fmt.Errorf("city %s does not lie", args[0])
	}
	l := v.(*liar)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, what := range slices.Sorted(maps.Keys(l.asked)) {
		o.stdout += fmt.Sprintln(what, l.asked[what])
	}
	return o, nil
}
