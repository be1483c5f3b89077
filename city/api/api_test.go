package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/artifact"
	"github.com/openbsn/bsn/gen/city/cityv1"
	"github.com/openbsn/bsn/gen/city/cityv1/cityv1connect"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/ledger/key"
	"github.com/openbsn/bsn/runtime/process"
)

const (
	network = "test-net"
	secret  = "the gateway's secret"
	largest = 1 << 10
)

// world is a network of one city that all tests share, at a real port.
type world struct {
	url    string
	server *httptest.Server
	node   *ledger.Node
	keys   map[string]key.Key // operator, city, portal, alice, bob, other-operator
}

var w world

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "api")
	if err == nil {
		err = w.start(dir)
	}
	code := 1
	if err == nil {
		code = m.Run()
	} else {
		fmt.Println(err)
	}
	w.server.CloseClientConnections()
	w.server.Close()
	w.node.Stop()
	os.RemoveAll(dir)
	os.Exit(code)
}

func (w *world) start(dir string) error {
	ctx := context.Background()
	w.keys = map[string]key.Key{}
	for _, name := range []string{"operator", "city", "portal", "alice", "bob", "stranger", "rival", "rival-city"} {
		w.keys[name] = key.New()
	}
	id, err := ledger.InitNode(dir)
	if err != nil {
		return err
	}
	genesis, err := ledger.NewGenesis(network, 77, ledger.Admission{
		Operator: "op", OperatorKey: w.keys["operator"].Public(), City: "paris", CityKey: w.keys["city"].Public(),
		ConsensusKey: id.ConsensusKey, NodeKey: id.NodeKey,
	}, bsn.Parameters{})
	if err != nil {
		return err
	}
	if err := ledger.WriteGenesis(dir, genesis); err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	if w.node, err = ledger.Start(ledger.NodeConfig{Home: dir, Listen: "127.0.0.1:0", Log: log}); err != nil {
		return err
	}
	if err := w.node.Ready(ctx); err != nil {
		return err
	}
	store, err := artifact.Open(dir+"/artifacts", largest, 1<<30)
	if err != nil {
		return err
	}
	run, err := process.Open(dir+"/nodes", log)
	if err != nil {
		return err
	}
	if err := run.Start(ctx, bsn.NodeSpec{ID: "kaia-a", Binary: "/bin/sh", Args: []string{"-c", "echo hello; exec sleep 600"}}); err != nil {
		return err
	}
	w.server = httptest.NewUnstartedServer(Handler(City{
		Network: network, Name: "paris", Operator: "op", GatewaySecret: secret, Ledger: w.node, Artifacts: store.Handler(), MaxUpload: 1 << 20, Runtime: run,
		Fetch: func(_ context.Context, hash string) error {
			if !store.Has(hash) {
				return artifact.ErrNotFound
			}
			return nil
		},
		Status: func(context.Context) (*cityv1.StatusResponse, error) {
			return &cityv1.StatusResponse{City: "paris"}, nil
		},
		Apply: func(_ context.Context, r *cityv1.ApplyRequest) (*cityv1.ApplyResponse, error) {
			return nil, fmt.Errorf("%w: %s", ErrApplication, r.City)
		},
	}))
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	w.server.Config.Protocols = protocols
	w.server.Start()
	w.url = w.server.URL
	return w.populate(ctx)
}

// populate registers who calls.
func (w *world) populate(ctx context.Context) error {
	write := func(by string, messages ...ledger.Message) (ledger.Result, error) {
		c, err := ledger.NewClient(w.client(by), w.keys[by])
		if err != nil {
			return ledger.Result{}, err
		}
		return c.Write(ctx, messages...)
	}
	res, err := write("operator", ledger.Propose("", ledger.RegisterPortal("demo", ledger.NewOffer(w.keys["portal"], network, bsn.KindPortal, "demo"), "")))
	if err != nil {
		return err
	}
	rival, err := write("city", ledger.Propose("", ledger.AdmitCity(ledger.Admission{
		Operator: "rival", OperatorKey: w.keys["rival"].Public(), City: "rival-city", CityKey: w.keys["rival-city"].Public(),
		ConsensusKey: bytes.Repeat([]byte{1}, 32), NodeKey: bytes.Repeat([]byte{1}, 32),
	})))
	if err != nil {
		return err
	}
	if _, err := write("operator", ledger.Vote(res.Proposal(), true), ledger.Vote(rival.Proposal(), true)); err != nil {
		return err
	}
	_, err = write("portal", ledger.RegisterAccount("alice", ledger.NewOffer(w.keys["alice"], network, bsn.KindAccount, "alice")), ledger.RegisterAccount("bob", ledger.NewOffer(w.keys["bob"], network, bsn.KindAccount, "bob")))
	return err
}

// client signs as one of the keys; the gateway and nobody do not sign.
func (w *world) client(name string) *Client {
	switch name {
	case "gateway":
		return DialGateway(w.url, secret)
	case "nobody":
		return DialUnsigned(w.url, nil)
	}
	return Dial(w.url, network, "paris", w.keys[name])
}

func code(err error) connect.Code {
	var r remote
	if errors.As(err, &r) && errors.Is(err, ledger.ErrRefused) {
		return connect.CodeFailedPrecondition
	}
	return connect.CodeOf(err)
}

// TestWhoMayDoWhat is the whole table of permissions.
func TestWhoMayDoWhat(t *testing.T) {
	ctx := t.Context()
	const ok = connect.Code(0)
	callers := []string{"nobody", "stranger", "gateway", "alice", "portal", "rival", "rival-city", "city", "operator"}
	hash := func(s string) string { return artifact.Hash([]byte(s)) }
	if _, err := w.client("alice").PutArtifact(ctx, []byte("here")); err != nil {
		t.Fatal(err)
	}
	no, never, denied := connect.CodeUnauthenticated, connect.CodePermissionDenied, connect.CodeFailedPrecondition
	for name, c := range map[string]struct {
		call func(c *Client) error
		want []connect.Code // by caller
	}{
		"status": {
			func(c *Client) error { _, err := c.Status(ctx); return err },
			[]connect.Code{no, no, never, ok, ok, ok, ok, ok, ok},
		},
		"get": {
			func(c *Client) error { _, err := c.Get(ctx, bsn.KindCity, "paris"); return err },
			[]connect.Code{no, no, ok, ok, ok, ok, ok, ok, ok},
		},
		"list": {
			func(c *Client) error { _, _, err := c.List(ctx, bsn.KindAccount, "", 0); return err },
			[]connect.Code{no, no, ok, ok, ok, ok, ok, ok, ok},
		},
		"follow": {func(c *Client) error {
			for _, err := range c.Follow(ctx, 1) {
				return err
			}
			return nil
		}, []connect.Code{no, no, ok, ok, ok, ok, ok, ok, ok}},
		"logs": {
			func(c *Client) error { return c.Logs(ctx, io.Discard, "kaia-a", 10, false) },
			[]connect.Code{no, no, never, never, never, never, never, ok, ok},
		},
		"writer": {func(c *Client) error {
			_, err := c.Writer(ctx, w.keys["alice"].Address())
			if err != nil && strings.Contains(err.Error(), "belongs to network") {
				return nil // an answer, which only a client that signs for the network can use
			}
			return err
		}, []connect.Code{no, no, never, ok, ok, ok, ok, ok, ok}},
		"submit": {
			func(c *Client) error { _, err := c.Submit(ctx, []byte("junk")); return err },
			[]connect.Code{no, no, never, denied, denied, denied, denied, denied, denied},
		},
		"apply": {
			func(c *Client) error { _, err := c.Apply(ctx, &cityv1.ApplyRequest{City: "x"}); return err },
			[]connect.Code{denied, no, denied, denied, denied, denied, denied, denied, denied},
		},
		"put artifact": {
			func(c *Client) error { _, err := c.PutArtifact(ctx, []byte("there")); return status(err) },
			[]connect.Code{no, no, never, ok, ok, ok, ok, ok, ok},
		},
		"get artifact": {
			func(c *Client) error { _, err := c.Artifact(ctx, hash("here")); return status(err) },
			[]connect.Code{no, no, ok, ok, ok, ok, ok, ok, ok},
		},
	} {
		for i, caller := range callers {
			err := c.call(w.client(caller))
			got := ok
			if err != nil {
				got = code(err)
				var r remote
				if errors.As(err, &r) && errors.Is(err, ErrApplication) {
					got = denied
				}
			}
			if got != c.want[i] {
				t.Errorf("%s by %s: %v (%v), want %v", name, caller, got, err, c.want[i])
			}
		}
	}
}

// status gives an artifact's HTTP error the code that the services use.
func status(err error) error {
	for text, c := range map[string]connect.Code{"401": connect.CodeUnauthenticated, "403": connect.CodePermissionDenied} {
		if err != nil && strings.Contains(err.Error(), text) {
			return connect.NewError(c, err)
		}
	}
	return err
}

// request is a signed one that can be spoiled before it goes out.
func request(t *testing.T, by key.Key, network, city, path string, body []byte) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	var out *http.Request
	(signer{network, city, by, catch(func(r *http.Request) { out = r })}).RoundTrip(r)
	return out
}

type catch func(*http.Request)

func (c catch) RoundTrip(r *http.Request) (*http.Response, error) {
	c(r)
	return nil, errors.New("caught")
}

func send(t *testing.T, r *http.Request) (int, string) {
	t.Helper()
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func TestSpoiledRequestsAreRefused(t *testing.T) {
	alice := w.keys["alice"]
	get, body := cityv1connect.CityServiceGetProcedure, []byte(`{"kind":"city","id":"paris"}`)
	at := func(d time.Duration) string { return fmt.Sprint(time.Now().Add(d).UnixMilli()) }
	resign := func(r *http.Request, by key.Key) {
		h := r.Header
		h.Set(headerSignature, hex.EncodeToString(by.Sign(signed(network, "paris", r.Method, r.URL.RequestURI(), h.Get(headerBody), h.Get(headerTime), h.Get(headerNonce)))))
	}
	for name, c := range map[string]struct {
		network, city string
		spoil         func(r *http.Request)
		want          string
	}{
		"as it should be":       {},
		"for another city":      {city: "rival-city", want: "does not match"},
		"for another network":   {network: "other", want: "does not match"},
		"another method called": {spoil: func(r *http.Request) { r.URL.Path = cityv1connect.CityServiceListProcedure }, want: "does not match"},
		"with a query":          {spoil: func(r *http.Request) { r.URL.RawQuery = "x=1" }, want: "does not match"},
		"another verb":          {spoil: func(r *http.Request) { r.Method = http.MethodGet }, want: "does not match"},
		"another body": {spoil: func(r *http.Request) {
			r.Body = io.NopCloser(strings.NewReader(`{"kind":"city","id":"other"}`))
			r.ContentLength = -1
		}, want: "not the one that was signed"},
		"another's hash": {spoil: func(r *http.Request) { r.Header.Set(headerBody, strings.Repeat("0", 64)) }, want: "does not match"},
		"another time":   {spoil: func(r *http.Request) { r.Header.Set(headerTime, at(time.Second)) }, want: "does not match"},
		"another nonce":  {spoil: func(r *http.Request) { r.Header.Set(headerNonce, strings.Repeat("0", 32)) }, want: "does not match"},
		"another's key":  {spoil: func(r *http.Request) { r.Header.Set(headerKey, hex.EncodeToString(w.keys["bob"].Public())) }, want: "does not match"},
		"an old one":     {spoil: func(r *http.Request) { r.Header.Set(headerTime, at(-3*time.Minute)); resign(r, alice) }, want: "set your clock"},
		"an early one":   {spoil: func(r *http.Request) { r.Header.Set(headerTime, at(3*time.Minute)); resign(r, alice) }, want: "set your clock"},
		"no time":        {spoil: func(r *http.Request) { r.Header.Set(headerTime, "soon"); resign(r, alice) }, want: "malformed"},
		"a short nonce":  {spoil: func(r *http.Request) { r.Header.Set(headerNonce, "0"); resign(r, alice) }, want: "malformed"},
		"no hex":         {spoil: func(r *http.Request) { r.Header.Set(headerSignature, "zz") }, want: "malformed"},
		"no signature":   {spoil: func(r *http.Request) { r.Header.Del(headerSignature) }, want: "not signed"},
		"a stranger's": {spoil: func(r *http.Request) {
			r.Header.Set(headerKey, hex.EncodeToString(w.keys["stranger"].Public()))
			resign(r, w.keys["stranger"])
		}, want: "not registered"},
		"a guessed secret": {spoil: func(r *http.Request) { r.Header.Set("Authorization", "Bearer guess") }, want: "unknown bearer"},
	} {
		t.Run(name, func(t *testing.T) {
			n, city := network, "paris"
			if c.network != "" {
				n = c.network
			}
			if c.city != "" {
				city = c.city
			}
			r := request(t, alice, n, city, get, body)
			if c.spoil != nil {
				c.spoil(r)
			}
			code, text := send(t, r)
			if c.want == "" && code != http.StatusOK || c.want != "" && (code != http.StatusUnauthorized || !strings.Contains(text, c.want)) {
				t.Errorf("%d %s, want %q", code, text, c.want)
			}
			if strings.Contains(text, secret) {
				t.Error("the answer tells the secret")
			}
		})
	}
	r := request(t, alice, network, "paris", get, body)
	again := r.Clone(t.Context())
	again.Body = io.NopCloser(bytes.NewReader(body))
	if code, text := send(t, r); code != http.StatusOK {
		t.Fatalf("%d %s", code, text)
	}
	if code, text := send(t, again); code != http.StatusUnauthorized || !strings.Contains(text, "seen before") {
		t.Errorf("again: %d %s", code, text)
	}
	if code, text := send(t, request(t, alice, network, "paris", get, make([]byte, maxBody-1))); code != http.StatusBadRequest {
		t.Errorf("a large body that is no JSON: %d %.200s", code, text)
	}
	r = request(t, alice, network, "paris", get, []byte("{}"))
	r.Body, r.ContentLength = io.NopCloser(io.LimitReader(zeros{}, maxBody+1)), maxBody+1
	if code, text := send(t, r); code != http.StatusUnauthorized || !strings.Contains(text, "too large") {
		t.Errorf("a body that is too large: %d %.200s", code, text)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// TestProtocols: curl-like JSON, and gRPC, answer the same.
func TestProtocols(t *testing.T) {
	code, text := send(t, request(t, w.keys["alice"], network, "paris", cityv1connect.CityServiceGetProcedure, []byte(`{"kind":"city","id":"paris"}`)))
	var answer struct{ Record string }
	if err := json.Unmarshal([]byte(text), &answer); code != http.StatusOK || err != nil {
		t.Fatalf("%d %s", code, text)
	}
	viaJSON, err := base64.StdEncoding.DecodeString(answer.Record)
	if err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	h := &http.Client{Transport: signer{network, "paris", w.keys["alice"], &http.Transport{Protocols: protocols}}}
	grpc := cityv1connect.NewCityServiceClient(h, w.url, connect.WithGRPC())
	r, err := grpc.Get(t.Context(), connect.NewRequest(&cityv1.GetRequest{Kind: "city", Id: "paris"}))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(r.Msg.Record, viaJSON) || len(viaJSON) == 0 {
		t.Errorf("JSON answers %s, gRPC %s", viaJSON, r.Msg.Record)
	}
	s, err := grpc.Follow(t.Context(), connect.NewRequest(&cityv1.FollowRequest{From: 1}))
	if err != nil || !s.Receive() || s.Msg().Height != 1 {
		t.Errorf("stream over gRPC: %v %v", err, s.Err())
	}
	s.Close()
	unsigned := cityv1connect.NewCityServiceClient(&http.Client{Transport: &http.Transport{Protocols: protocols}}, w.url, connect.WithGRPC())
	if _, err := unsigned.Get(t.Context(), connect.NewRequest(&cityv1.GetRequest{})); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("unsigned over gRPC: %v", err)
	}
}

func TestArtifacts(t *testing.T) {
	put := func(name, signedHash string, content []byte) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, w.url+artifactPath+name, bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set(headerBody, signedHash)
		res, err := w.client("alice").http.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(b)
	}
	content := []byte("package")
	hash := artifact.Hash(content)
	other := artifact.Hash([]byte("other"))
	for name, c := range map[string]struct {
		name, signed string
		content      []byte
		want         int
	}{
		"right":             {hash, hash, content, http.StatusCreated},
		"again":             {hash, hash, content, http.StatusCreated},
		"wrong content":     {other, other, content, http.StatusUnprocessableEntity},
		"signed other":      {other, hash, content, http.StatusUnauthorized},
		"no hash":           {"passwd", "passwd", content, http.StatusBadRequest},
		"too large":         {artifact.Hash(make([]byte, largest+1)), artifact.Hash(make([]byte, largest+1)), make([]byte, largest+1), http.StatusRequestEntityTooLarge},
		"largest that goes": {artifact.Hash(make([]byte, largest)), artifact.Hash(make([]byte, largest)), make([]byte, largest), http.StatusCreated},
	} {
		if code, text := put(c.name, c.signed, c.content); code != c.want {
			t.Errorf("%s: %d %s, want %d", name, code, text, c.want)
		}
	}
	if b, err := w.client("bob").Artifact(t.Context(), hash); err != nil || !bytes.Equal(b, content) {
		t.Errorf("%q %v", b, err)
	}
	for _, bad := range []string{other, "", "../city.key", "..%2fcity.key"} {
		if b, err := w.client("bob").Artifact(t.Context(), bad); err == nil {
			t.Errorf("artifact %q: %q", bad, b)
		}
	}
	// A city that sends something else is found out.
	liar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("lie")) }))
	defer liar.Close()
	if _, err := DialUnsigned(liar.URL, nil).Artifact(t.Context(), hash); err == nil || !strings.Contains(err.Error(), "something else") {
		t.Errorf("a lie: %v", err)
	}
}

func TestErrorsKeepTheirMeaning(t *testing.T) {
	c := w.client("operator")
	if _, err := c.Get(t.Context(), bsn.KindCity, "atlantis"); !errors.Is(err, bsn.ErrNoRecord) || !strings.Contains(err.Error(), "atlantis") {
		t.Errorf("%v", err)
	}
	if _, err := c.Get(t.Context(), "secret", "x"); !errors.Is(err, bsn.ErrNoRecord) {
		t.Errorf("%v", err)
	}
	if err := c.Logs(t.Context(), io.Discard, "none", 1, false); !errors.Is(err, bsn.ErrNoNode) {
		t.Errorf("%v", err)
	}
	if _, err := c.Writer(t.Context(), w.keys["stranger"].Address()); !errors.Is(err, ledger.ErrStranger) {
		t.Errorf("%v", err)
	}
	if _, err := c.Submit(t.Context(), []byte("junk")); !errors.Is(err, ledger.ErrRefused) {
		t.Errorf("%v", err)
	}
	for _, err := range c.Follow(t.Context(), -1) {
		if !errors.Is(err, bsn.ErrPruned) {
			t.Errorf("%v", err)
		}
	}
	var log bytes.Buffer
	if err := c.Logs(t.Context(), &log, "kaia-a", 1, false); err != nil || log.String() != "hello\n" {
		t.Errorf("%q %v", log.String(), err)
	}
	// A city does not get signatures for another network.
	_, handler := cityv1connect.NewCityServiceHandler(liar{})
	s := httptest.NewServer(handler)
	defer s.Close()
	if _, err := Dial(s.URL, network, "paris", w.keys["alice"]).Writer(t.Context(), w.keys["alice"].Address()); err == nil || !strings.Contains(err.Error(), "other-net") {
		t.Errorf("a city that names another network: %v", err)
	}
	if _, err := Dial("http://127.0.0.1:1", network, "paris", w.keys["alice"]).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("%v", err)
	}
}

// liar is a city that says that it belongs to another network.
type liar struct {
	cityv1connect.UnimplementedCityServiceHandler
}

func (liar) Writer(context.Context, *connect.Request[cityv1.WriterRequest]) (*connect.Response[cityv1.WriterResponse], error) {
	return connect.NewResponse(&cityv1.WriterResponse{Network: "other-net"}), nil
}

// TestFollowGoesOnWithoutAGap cuts the connection while writes come in.
func TestFollowGoesOnWithoutAGap(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, height, err := w.client("gateway").List(ctx, bsn.KindProject, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	const writes = 6
	go func() {
		c, err := ledger.NewClient(w.node, w.keys["alice"])
		for i := 0; i < writes && err == nil; i++ {
			_, err = c.Write(ctx, ledger.SetProject(bsn.Project{Name: fmt.Sprintf("web-%d", i)}))
		}
		if err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	}()
	next, seen, cuts := height+1, 0, 0
	for seen < writes {
		cut := time.AfterFunc(700*time.Millisecond, w.server.CloseClientConnections)
		for b, err := range w.client("gateway").Follow(ctx, next) {
			if err != nil {
				cuts++
				break
			}
			if b.Height != next {
				t.Fatalf("block %d after %d", b.Height, next-1)
			}
			next++
			for _, c := range b.Changes {
				if c.Kind == bsn.KindProject && c.ID == fmt.Sprintf("alice/web-%d", seen) {
					seen++
				}
			}
		}
		cut.Stop()
		if ctx.Err() != nil {
			t.Fatalf("saw %d of %d", seen, writes)
		}
	}
	if cuts == 0 {
		t.Error("it was never cut")
	}
}

func TestCallersAreBounded(t *testing.T) {
	var r requests
	now := time.Now()
	for i := range maxRequests {
		if err := r.add("key", fmt.Sprint(i), now); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.add("key", "more", now); !errors.Is(err, errTooMany) {
		t.Errorf("%v", err)
	}
	if err := r.add("other", "1", now); err != nil {
		t.Errorf("one caller's many requests stop another: %v", err)
	}
	// What could pass again by its time is remembered.
	for _, later := range []time.Duration{0, maxSkew, 2 * maxSkew, 2*maxSkew + 1} {
		if err := r.add("key", "1", now.Add(later)); !errors.Is(err, errReplay) {
			t.Errorf("after %s: %v", later, err)
		}
	}
	if err := r.add("key", "more", now.Add(2*maxSkew+1)); err != nil {
		t.Errorf("after its time: %v", err)
	}
	if err := r.add("key", "1", now.Add(5*maxSkew)); err != nil {
		t.Errorf("long after: %v", err)
	}
	const maxUpload = 1 << 30
	u := uploads{most: maxUpload}
	alice, bob := Caller{Name: "alice"}, Caller{Name: "bob"}
	if err := errors.Join(u.take(alice, maxUpload, now), u.take(bob, 1, now)); err != nil {
		t.Error(err)
	}
	if err := u.take(alice, 1, now); err == nil {
		t.Error("an upload beyond the day's")
	}
	if err := u.take(alice, 1, now.Add(25*time.Hour)); err != nil {
		t.Error(err)
	}
}

// TestRemovedKeyEndsItsStreams: what a key began ends with its rights.
func TestRemovedKeyEndsItsStreams(t *testing.T) {
	old, renewed := key.New(), key.New()
	write := func(k key.Key, m ledger.Message) {
		t.Helper()
		c, err := ledger.NewClient(Dial(w.url, network, "paris", k), k)
		if err == nil {
			_, err = c.Write(t.Context(), m)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(w.keys["portal"], ledger.RegisterAccount("carol", ledger.NewOffer(old, network, bsn.KindAccount, "carol")))
	ended := make(chan error, 1)
	began := make(chan struct{}, 1)
	go func() {
		for _, err := range Dial(w.url, network, "paris", old).Follow(t.Context(), 1) {
			if err != nil {
				ended <- err
				return
			}
			select {
			case began <- struct{}{}:
			default:
			}
		}
	}()
	<-began
	write(old, ledger.SetKeys(ledger.KeyChange{
		Set: []ledger.Offer{ledger.NewOffer(renewed, network, bsn.KindAccount, "carol")}, Remove: []string{old.Address()},
	}))
	if err := <-ended; !errors.Is(err, ledger.ErrStranger) {
		t.Errorf("the stream ended with %v", err)
	}
	if _, err := Dial(w.url, network, "paris", old).Get(t.Context(), bsn.KindAccount, "carol"); err == nil || !strings.Contains(err.Error(), "not registered") {
		t.Errorf("a removed key reads: %v", err)
	}
	write(renewed, ledger.SetProject(bsn.Project{Name: "web"}))
}
