package test

import (
	"context"
	"errors"
	"fmt"
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
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/openbsn/bsn/gen/city/cityv1"
	"github.com/openbsn/bsn/gen/city/cityv1/cityv1connect"
)

// liar is the API of a city that lies: its ledger is far ahead of all others, its
// nodes are well, every artifact is something else, and whatever else it is asked
// it hands on, signature and all, to another city as if it were the caller's.
type liar struct {
	cityv1connect.UnimplementedCityServiceHandler
	city string

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
	on := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: victim})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		l.count("replayed")
		on.ServeHTTP(w, r)
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
