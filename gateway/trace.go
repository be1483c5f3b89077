package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/openbsn/bsn"
)

// Traces says where a gateway sends its traces.
type Traces struct {
	// Endpoint is the URL of an OTLP receiver over HTTP, such as http://127.0.0.1:4318;
	// empty: what OpenTelemetry's environment variables say, and none without them.
	Endpoint string `yaml:"endpoint"`
	// Ratio is the part of the calls that is traced, from 0 to 1; 0 is all, unless
	// OTEL_TRACES_SAMPLER says otherwise. Calls that come with a trace are traced if their
	// caller does so, at most this part of them.
	Ratio float64 `yaml:"ratio"`
}

// wanted tells whether traces are to be sent anywhere.
func (t Traces) wanted() bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") || strings.EqualFold(os.Getenv("OTEL_TRACES_EXPORTER"), "none") {
		return false
	}
	return t.Endpoint != "" || os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
}

// tracer makes spans. A nil tracer makes none, at no cost.
type tracer struct {
	provider *sdktrace.TracerProvider
	spans    trace.Tracer
}

// traceContext reads and writes traceparent and tracestate (W3C Trace Context).
var traceContext propagation.TraceContext

// newTracer starts the sending of traces, if they are wanted.
func newTracer(cfg Traces, city string, log *slog.Logger) (*tracer, error) {
	if cfg.Ratio < 0 || cfg.Ratio > 1 {
		return nil, fmt.Errorf("gateway configuration: traces.ratio must be from 0 to 1")
	}
	if !cfg.wanted() {
		return nil, nil
	}
	var to []otlptracehttp.Option
	if cfg.Endpoint != "" {
		to = append(to, otlptracehttp.WithEndpointURL(strings.TrimSuffix(cfg.Endpoint, "/")+"/v1/traces"))
	}
	exporter, err := otlptracehttp.New(context.Background(), to...)
	if err != nil {
		return nil, fmt.Errorf("gateway configuration: traces: %w", err)
	}
	about, err := resource.New(context.Background(),
		resource.WithAttributes(attribute.String("service.name", "bsn-gateway"), attribute.String("bsn.city", city)),
		resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("gateway configuration: traces: %w", err)
	}
	options := []sdktrace.TracerProviderOption{sdktrace.WithBatcher(exporter), sdktrace.WithResource(about)}
	if cfg.Ratio > 0 {
		part := sdktrace.TraceIDRatioBased(cfg.Ratio)
		options = append(options, sdktrace.WithSampler(sdktrace.ParentBased(part, sdktrace.WithRemoteParentSampled(part))))
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Debug("traces are not sent", "error", err) }))
	provider := sdktrace.NewTracerProvider(options...)
	return &tracer{provider: provider, spans: provider.Tracer("github.com/openbsn/bsn/gateway")}, nil
}

// close sends what has not been sent yet.
func (t *tracer) close() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), traceGrace)
	defer cancel()
	_ = t.provider.Shutdown(ctx) // the error handler has been told
}

// traceGrace is how long the last traces have to get out when the gateway stops.
const traceGrace = 3 * time.Second

// from returns ctx with the trace that a caller's header names.
func (t *tracer) from(ctx context.Context, h http.Header) context.Context {
	if t == nil {
		return ctx
	}
	return traceContext.Extract(ctx, propagation.HeaderCarrier(h))
}

// fromFast is from for a request that serveFast answers; it names the two fields.
func (t *tracer) fromFast(ctx context.Context, field func(name string) []byte) context.Context {
	if t == nil {
		return ctx
	}
	parent := field("traceparent")
	if len(parent) == 0 {
		return ctx
	}
	return traceContext.Extract(ctx, propagation.MapCarrier{"traceparent": string(parent), "tracestate": string(field("tracestate"))})
}

// hand writes the trace of a context into a header that goes to another city's gateway.
func (t *tracer) hand(ctx context.Context, h http.Header) {
	if t != nil {
		traceContext.Inject(ctx, propagation.HeaderCarrier(h))
	}
}

// span is a part of a trace; a nil one is none.
type span struct{ trace.Span }

// rpcSystem is what a call comes in.
type rpcSystem string

const (
	systemJSON rpcSystem = "jsonrpc"
	systemGRPC rpcSystem = "grpc"
	systemREST rpcSystem = "rest"
)

// call begins the span of a call. Only methods that have a row are told by name.
func (t *tracer) call(ctx context.Context, p *pool, system rpcSystem, method string) (context.Context, *span) {
	if t == nil {
		return ctx, nil
	}
	name := strings.Clone(method) // which may lie in a buffer
	if _, known := p.methods.Methods[method]; !known && system == systemJSON {
		name = "unknown"
	}
	ctx, s := t.spans.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		attribute.String("rpc.system", string(system)), attribute.String("rpc.method", name), attribute.String("bsn.chain", p.chain.Name)))
	return ctx, &span{s}
}

// done ends the span of a call.
func (s *span) done(class bsn.MethodClass, units int, o outcome) {
	if s == nil {
		return
	}
	s.SetAttributes(attribute.String("bsn.class", string(class)), attribute.String("bsn.outcome", string(o)), attribute.Int("bsn.units", units))
	if o == outcomeUnavailable {
		s.SetStatus(otelcodes.Error, "no node answered")
	}
	s.End()
}

// answeredFrom notes on a call's span how a read was answered without asking a node:
// cached, or joined with another that asks the same.
func (t *tracer) answeredFrom(ctx context.Context, how string) {
	if t != nil {
		trace.SpanFromContext(ctx).SetAttributes(attribute.String("bsn.answer", how))
	}
}

// tryReason is why a node is asked, as traces say it.
type tryReason string

const (
	tryFirst tryReason = "first"
	tryHedge tryReason = "hedge" // the answer of another is late
	tryRetry tryReason = "retry" // another did not answer, or only with an error that this one may not have
	tryCopy  tryReason = "copy"  // of a transaction
	tryAsked tryReason = "asked" // for another city's gateway
)

// try begins the span of asking one node.
func (t *tracer) try(ctx context.Context, n *node, why tryReason) (context.Context, *span) {
	if t == nil {
		return ctx, nil
	}
	ctx, s := t.spans.Start(ctx, "ask node", trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.String("bsn.node", n.city), attribute.String("bsn.try", string(why))))
	return ctx, &span{s}
}

// tried ends the span of asking a node, whose errors may hold its address.
func (s *span) tried(err error, refused bool) {
	switch {
	case s == nil:
		return
	case err != nil:
		s.SetStatus(otelcodes.Error, "node did not answer")
	case refused:
		s.SetAttributes(attribute.Bool("bsn.error", true))
	}
	s.End()
}
