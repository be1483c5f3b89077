package gateway

import (
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	v1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway/http1"
)

// receiver takes traces in OTLP over HTTP, as collectors do.
type receiver struct {
	*httptest.Server
	mu    sync.Mutex
	spans []*v1.Span
	city  string
}

func startReceiver(t testing.TB) *receiver {
	r := &receiver{}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body := io.Reader(q.Body)
	if q.Header.Get("Content-Encoding") == "gzip" {
		body, _ = gzip.NewReader(q.Body)
	}
	text, err := io.ReadAll(body)
	var got collector.ExportTraceServiceRequest
	if err != nil || q.URL.Path != "/v1/traces" || proto.Unmarshal(text, &got) != nil {
		http.Error(w, "no traces", http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, about := range got.ResourceSpans {
		for _, a := range about.Resource.Attributes {
			if a.Key == "bsn.city" {
				r.city = a.Value.GetStringValue()
			}
		}
		for _, s := range about.ScopeSpans {
			r.spans = append(r.spans, s.Spans...)
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// take returns the spans that have come, once there are so many, and forgets them.
func (r *receiver) take(t testing.TB, g *Gateway, count int) (spans []*v1.Span) {
	t.Helper()
	eventually(t, "spans arrive", func() bool {
		_ = g.traces.provider.ForceFlush(context.Background())
		r.mu.Lock()
		defer r.mu.Unlock()
		if spans = r.spans; len(spans) < count {
			return false
		}
		r.spans = nil
		return true
	})
	if len(spans) != count {
		t.Fatalf("%d spans, not %d: %v", len(spans), count, spans)
	}
	slices.SortFunc(spans, func(a, b *v1.Span) int { return int(int64(a.StartTimeUnixNano) - int64(b.StartTimeUnixNano)) })
	return spans
}

func attr(s *v1.Span, name string) string {
	for _, a := range s.Attributes {
		if a.Key == name {
			return a.Value.GetStringValue()
		}
	}
	return ""
}

const (
	callersTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	callersParent = "00-" + callersTrace + "-00f067aa0ba902b7-01"
)

// A call's trace goes on with its caller's, shows which nodes were asked and why, and
// holds nothing of keys and parameters; nodes and providers hear nothing of it.
func TestTraces(t *testing.T) {
	to := startReceiver(t)
	w := mustScripted(t, Config{Traces: Traces{Endpoint: to.URL}}, true, "paris", "lyon")
	w.nodes["paris"].lines["eth_getBalance"], _ = parseLine([]string{"error", "-32000", "missing trie node"})
	w.nodes["lyon"].lines["eth_getBalance"], _ = parseLine([]string{"result", `"0x7"`})
	ask := func(method, params string) {
		t.Helper()
		r, err := http.NewRequest(http.MethodPost, w.url+"/rpc/lab", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"`+method+`","params":`+params+`}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Api-Key", w.keys["one"])
		r.Header.Set("Traceparent", callersParent)
		a, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		a.Body.Close()
	}
	ask("eth_getBalance", `["0xsecretaccount","0x0"]`)
	spans := to.take(t, w.gateway, 3)
	call, first, second := spans[0], spans[1], spans[2]
	if to.city != "paris" || call.Name != "eth_getBalance" || attr(call, "bsn.chain") != "lab" || attr(call, "bsn.outcome") != "ok" || attr(call, "bsn.class") != "read" {
		t.Errorf("%s: %v", to.city, call)
	}
	for _, s := range spans {
		if string(s.TraceId) == "" || strings.ToLower(hexOf(s.TraceId)) != callersTrace {
			t.Errorf("trace %x", s.TraceId)
		}
		if text := s.String(); strings.Contains(text, "secretaccount") || strings.Contains(text, w.keys["one"]) || strings.Contains(text, w.nodes["paris"].server.URL) {
			t.Errorf("it tells too much: %s", text)
		}
	}
	if attr(first, "bsn.node") != "paris" || attr(first, "bsn.try") != "first" || attr(second, "bsn.node") != "lyon" || attr(second, "bsn.try") != "retry" ||
		hexOf(first.ParentSpanId) != hexOf(call.SpanId) {
		t.Errorf("%v\n%v", first, second)
	}
	ask("eth_getBalance", `["0xsecretaccount","0x0"]`)
	if s := to.take(t, w.gateway, 1)[0]; attr(s, "bsn.answer") != "cached" {
		t.Errorf("%v", s)
	}
	ask("admin_nobodyKnows", `[]`)
	if s := to.take(t, w.gateway, 1)[0]; s.Name != "unknown" || attr(s, "bsn.outcome") != "refused" {
		t.Errorf("%v", s)
	}
	for city, n := range w.nodes {
		n.mu.Lock()
		if n.headers.Get("Traceparent") != "" {
			t.Errorf("the node of %s hears of the trace", city)
		}
		n.mu.Unlock()
	}
}

// Another city's gateway is handed the trace, a provider is not.
func TestTracesBetweenCities(t *testing.T) {
	to := startReceiver(t)
	w := mustScripted(t, Config{Traces: Traces{Endpoint: to.URL}}, true, "paris", "lyon")
	p, _ := w.gateway.upstreams.get("lab")
	ctx, call := w.gateway.traces.call(t.Context(), p, systemJSON, "eth_call")
	defer call.done(bsn.MethodRead, 1, outcomeOK)
	n := &node{upstreams: w.gateway.upstreams, city: "lyon", url: p.nodes[1].url, via: p.nodes[1].url}
	if _, h := n.target(ctx); h.Get("Traceparent") != "" {
		t.Errorf("to a node itself: %v", h)
	}
	n.forwards.Store(true)
	if _, h := n.target(ctx); !strings.Contains(h.Get("Traceparent"), call.SpanContext().TraceID().String()) {
		t.Errorf("to another city's gateway: %v", h)
	}
	n.header = http.Header{"X-Secret": {"s3cret"}}
	if _, h := n.target(ctx); h.Get("Traceparent") != "" {
		t.Errorf("to a provider: %v", h)
	}
	ctx = w.gateway.traces.from(t.Context(), http.Header{"Traceparent": {callersParent}})
	_, asked := w.gateway.traces.try(ctx, n, tryAsked)
	if asked.SpanContext().TraceID().String() != callersTrace {
		t.Error("the trace of another city's gateway is not gone on with")
	}
	asked.tried(nil, false)
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, c := range b {
		s.WriteByte(digits[c>>4])
		s.WriteByte(digits[c&15])
	}
	return s.String()
}

// Traces are wanted by configuration, or by OpenTelemetry's environment, and not else.
func TestTracesWanted(t *testing.T) {
	to := startReceiver(t)
	for _, name := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER"} {
		t.Setenv(name, "")
	}
	if got, err := newTracer(Traces{}, "paris", quiet()); got != nil || err != nil {
		t.Errorf("%v %v", got, err)
	}
	if _, err := newTracer(Traces{Ratio: 2}, "paris", quiet()); err == nil {
		t.Error("a ratio of 2 is taken")
	}
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", to.URL)
	t.Setenv("OTEL_TRACES_SAMPLER", "always_off")
	w := mustScripted(t, Config{}, true, "paris")
	if w.gateway.traces == nil {
		t.Fatal("the environment is not heeded")
	}
	if _, err := w.post("one", askChain); err != nil {
		t.Fatal(err)
	}
	_ = w.gateway.traces.provider.ForceFlush(t.Context())
	if to.spans != nil {
		t.Errorf("sampled: %v", to.spans)
	}
	t.Setenv("OTEL_TRACES_EXPORTER", "none")
	if got, _ := newTracer(Traces{}, "paris", quiet()); got != nil {
		t.Error("none is not none")
	}
}

// Without traces there is nothing to pay.
func TestNoTracesCostNothing(t *testing.T) {
	var off *tracer
	p := &pool{}
	n := &node{}
	q := &http1.Request{}
	if allocs := testing.AllocsPerRun(1000, func() {
		ctx := off.fromFast(context.Background(), q.Field)
		ctx, call := off.call(ctx, p, systemJSON, "eth_call")
		asking, try := off.try(ctx, n, tryFirst)
		off.answeredFrom(asking, "cached")
		try.tried(nil, false)
		call.done("read", 1, outcomeOK)
	}); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func BenchmarkNoTraces(b *testing.B) {
	var off *tracer
	p := &pool{}
	b.ReportAllocs()
	for b.Loop() {
		_, call := off.call(context.Background(), p, systemJSON, "eth_call")
		call.done("read", 1, outcomeOK)
	}
}
