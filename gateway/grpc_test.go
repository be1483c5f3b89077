package gateway

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthserver "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/openbsn/bsn"
)

// speakers are nodes that speak gRPC: real servers of google.golang.org/grpc with its
// health and reflection services, and the test service of its interoperability tests.
type speakers struct {
	lab
	urls []string // by the index of the city, from 1
}

func (s *speakers) Methods() bsn.Methods { return s.methods }

func (s *speakers) Endpoint(_ bsn.Net, _ bsn.Chain, city int) bsn.Endpoint {
	return bsn.Endpoint{GRPC: s.urls[city-1]}
}

// speaker is one of them.
type speaker struct {
	testpb.UnimplementedTestServiceServer
	name    string
	server  *grpc.Server
	health  *healthserver.Server
	address string

	mu    sync.Mutex
	heard metadata.MD // of the newest call
	left  atomic.Int64
	ended atomic.Int64 // calls whose end the node has noticed
}

func (s *speaker) note(ctx context.Context) {
	md, _ := metadata.FromIncomingContext(ctx)
	s.mu.Lock()
	s.heard = md
	s.mu.Unlock()
	if at, ok := ctx.Deadline(); ok {
		s.left.Store(int64(time.Until(at)))
	} else {
		s.left.Store(0)
	}
}

// UnaryCall answers with the status that is asked for, or with so many bytes.
func (s *speaker) UnaryCall(ctx context.Context, q *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	s.note(ctx)
	_ = grpc.SetHeader(ctx, metadata.Pairs("x-from", s.name))
	_ = grpc.SetTrailer(ctx, metadata.Pairs("x-after-bin", "\x00\xff"))
	if e := q.GetResponseStatus(); e != nil {
		with, _ := status.New(codes.Code(e.Code), e.Message).WithDetails(&testpb.EchoStatus{Code: 7})
		return nil, with.Err()
	}
	return &testpb.SimpleResponse{Payload: &testpb.Payload{Body: make([]byte, q.ResponseSize)}, Username: s.name}, nil
}

// StreamingOutputCall sends messages of the sizes that are asked for, and waits for the
// end of the call if the last is 0.
func (s *speaker) StreamingOutputCall(q *testpb.StreamingOutputCallRequest, out grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
	s.note(out.Context())
	defer s.ended.Add(1)
	for _, p := range q.ResponseParameters {
		if p.Size == 0 {
			<-out.Context().Done()
			return out.Context().Err()
		}
		if err := out.Send(&testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: make([]byte, p.Size)}}); err != nil {
			return err
		}
	}
	return nil
}

// StreamingInputCall sums up.
func (s *speaker) StreamingInputCall(in grpc.ClientStreamingServer[testpb.StreamingInputCallRequest, testpb.StreamingInputCallResponse]) error {
	size := 0
	for {
		m, err := in.Recv()
		if errors.Is(err, io.EOF) {
			return in.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: int32(size)})
		}
		if err != nil {
			return err
		}
		size += len(m.Payload.Body)
	}
}

// FullDuplexCall answers each message by itself.
func (s *speaker) FullDuplexCall(both grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	defer s.ended.Add(1)
	for {
		m, err := both.Recv()
		if errors.Is(err, io.EOF) {
			return status.Error(codes.Aborted, "enough")
		}
		if err != nil {
			return err
		}
		if err := both.Send(&testpb.StreamingOutputCallResponse{Payload: m.Payload}); err != nil {
			return err
		}
	}
}

func startSpeaker(t testing.TB, name string) *speaker {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &speaker{name: name, server: grpc.NewServer(grpc.MaxRecvMsgSize(64 << 20)), health: healthserver.NewServer(), address: l.Addr().String()}
	healthpb.RegisterHealthServer(s.server, s.health)
	testpb.RegisterTestServiceServer(s.server, s)
	reflection.Register(s.server)
	go s.server.Serve(l)
	t.Cleanup(s.server.Stop)
	return s
}

// spoken is the table of the speakers' methods.
var spoken = map[string]bsn.Method{
	"grpc.health.v1.Health/*":                     {Class: bsn.MethodRead, Units: 2},
	"grpc.health.v1.Health/Watch":                 {Class: bsn.MethodSubscribe, Units: 10, Notify: 3},
	"grpc.reflection.v1.*":                        {Class: bsn.MethodSubscribe, Units: 5, Notify: 1},
	"grpc.testing.TestService/UnaryCall":          {Class: bsn.MethodRead, Units: 7},
	"grpc.testing.TestService/*":                  {Class: bsn.MethodSubscribe, Units: 10, Notify: 3},
	"grpc.testing.TestService/HalfDuplexCall":     {Class: bsn.MethodRefused, Units: 1},
	"grpc.testing.TestService/UnimplementedCall":  {Class: bsn.MethodSend, Units: 1},
	"grpc.testing.TestService/CacheableUnaryCall": {Class: bsn.MethodRead, Units: 1, Restricted: true},
}

// talk is a gateway in front of two speakers.
type talk struct {
	*twoCities
	nodes map[string]*speaker
	conn  *grpc.ClientConn
	tests testpb.TestServiceClient
}

func startTalk(t testing.TB, cfg Config) *talk {
	n := &talk{twoCities: newTwoCities(t), nodes: map[string]*speaker{"paris": startSpeaker(t, "paris"), "chongqing": startSpeaker(t, "chongqing")}}
	f := &speakers{urls: []string{"http://" + n.nodes["paris"].address, "http://" + n.nodes["chongqing"].address}}
	f.methods = bsn.Methods{Final: true, GRPC: spoken}
	cfg.City = "paris"
	g, err := New(cfg, n.ledger, map[string]bsn.Framework{"lab": f}, n.shelf, quiet())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	wait, err := g.background(ctx)
	if err != nil {
		t.Fatal(err)
	}
	server := newServer(g)
	t.Cleanup(func() { cancel(); g.drain(); server.Close(); wait() })
	n.gateway, n.url = g, server.URL
	n.follow()
	n.conn = n.dial("lab", n.secret)
	n.tests = testpb.NewTestServiceClient(n.conn)
	return n
}

// dial connects as applications do: key and chain are put to every call by the channel.
func (n *talk) dial(chain, key string) *grpc.ClientConn {
	n.Helper()
	with := func(ctx context.Context) context.Context {
		return metadata.AppendToOutgoingContext(ctx, "x-api-key", key, "x-bsn-chain", chain)
	}
	conn, err := grpc.NewClient(strings.TrimPrefix(n.url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, q, a any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
			return invoke(with(ctx), method, q, a, cc, o...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, d *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, o ...grpc.CallOption) (grpc.ClientStream, error) {
			return open(with(ctx), d, cc, method, o...)
		}), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { conn.Close() })
	return conn
}

// counted is what the gateway's journal says of the project, by class.
func (n *talk) counted() (calls, units map[bsn.MethodClass]uint64) {
	n.Helper()
	rows, err := n.gateway.meter.journal.Rows()
	if err != nil {
		n.Fatal(err)
	}
	calls, units = map[bsn.MethodClass]uint64{}, map[bsn.MethodClass]uint64{}
	for _, r := range rows {
		calls[r.Class] += r.Calls
		units[r.Class] += r.Units
	}
	return calls, units
}

func TestGRPCUnary(t *testing.T) {
	n := startTalk(t, Config{MaxRequestBytes: 100_000, MaxResponseBytes: 3 << 20})
	var header, trailer metadata.MD
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "x-own-bin", "\x00\x01", "traceparent", "00-1", "authorization", "Bearer x"), 20*time.Second)
	defer cancel()
	a, err := n.tests.UnaryCall(ctx, &testpb.SimpleRequest{ResponseSize: 2 << 20}, grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil || len(a.Payload.Body) != 2<<20 || a.Username != "paris" {
		t.Fatalf("%v", err)
	}
	if header.Get("x-from")[0] != "paris" || trailer.Get("x-after-bin")[0] != "\x00\xff" || header.Get("bsn-units")[0] != "7" {
		t.Errorf("header %v, trailer %v", header, trailer)
	}
	node := n.nodes["paris"]
	node.mu.Lock()
	heard := node.heard
	node.mu.Unlock()
	if heard.Get("x-own-bin")[0] != "\x00\x01" {
		t.Errorf("metadata of the client: %v", heard)
	}
	for _, name := range []string{"x-api-key", "x-bsn-chain", "authorization", "traceparent"} {
		if len(heard.Get(name)) > 0 {
			t.Errorf("%s reached the node", name)
		}
	}
	if left := time.Duration(node.left.Load()); left <= 0 || left > 20*time.Second {
		t.Errorf("deadline at the node: in %v", left)
	}
	// What a node answers with an error is passed on as it is, details too, and charged.
	_, err = n.tests.UnaryCall(ctx, &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Code: int32(codes.FailedPrecondition), Message: "nicht jetzt: ü %"}}, grpc.Header(&header))
	if s := status.Convert(err); s.Code() != codes.FailedPrecondition || s.Message() != "nicht jetzt: ü %" || len(s.Details()) != 1 {
		t.Errorf("%v", err)
	}
	calls, units := n.counted()
	if calls[bsn.MethodRead] != 2 || units[bsn.MethodRead] != 14 {
		t.Errorf("counted %v %v", calls, units)
	}
	// What is too large is refused, either way, and not charged for a request.
	_, err = n.tests.UnaryCall(ctx, &testpb.SimpleRequest{Payload: &testpb.Payload{Body: make([]byte, 100_000)}})
	if reason(err) != "SIZE" || status.Code(err) != codes.ResourceExhausted {
		t.Errorf("large request: %v", err)
	}
	_, err = n.tests.UnaryCall(ctx, &testpb.SimpleRequest{ResponseSize: 4 << 20})
	if reason(err) != "SIZE" || status.Code(err) != codes.ResourceExhausted {
		t.Errorf("large answer: %v", err)
	}
	if calls, _ := n.counted(); calls[bsn.MethodRead] != 3 {
		t.Errorf("counted %v", calls)
	}
	// A node that cannot now is passed over, as is one that is gone.
	node.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	if h, err := healthpb.NewHealthClient(n.conn).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil || h.Status != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("%v %v", h, err)
	}
	node.server.Stop()
	for range 3 {
		if a, err := n.tests.UnaryCall(ctx, &testpb.SimpleRequest{}); err != nil || a.Username != "chongqing" {
			t.Fatalf("%v %v", a, err)
		}
	}
	n.nodes["chongqing"].server.Stop()
	if _, err := n.tests.UnaryCall(ctx, &testpb.SimpleRequest{}); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "speaks gRPC") {
		t.Errorf("no node: %v", err)
	}
}

// reason is what a program reads of an error.
func reason(err error) string {
	for _, d := range status.Convert(err).Details() {
		if i, ok := d.(*errdetails.ErrorInfo); ok && i.Domain == "bsn" {
			return i.Reason
		}
	}
	return ""
}

func TestGRPCStreams(t *testing.T) {
	n := startTalk(t, Config{})
	sized := func(sizes ...int32) *testpb.StreamingOutputCallRequest {
		q := &testpb.StreamingOutputCallRequest{}
		for _, s := range sizes {
			q.ResponseParameters = append(q.ResponseParameters, &testpb.ResponseParameters{Size: s})
		}
		return q
	}
	out, err := n.tests.StreamingOutputCall(t.Context(), sized(100, 3<<20, 1))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{100, 3 << 20, 1} {
		if m, err := out.Recv(); err != nil || len(m.Payload.Body) != want {
			t.Fatalf("%v, want %d", err, want)
		}
	}
	if _, err := out.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if left := n.nodes["paris"].left.Load(); left != 0 {
		t.Errorf("deadline that nobody set: %v", left)
	}
	in, err := n.tests.StreamingInputCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if err := in.Send(&testpb.StreamingInputCallRequest{Payload: &testpb.Payload{Body: make([]byte, 50_000)}}); err != nil {
			t.Fatal(err)
		}
	}
	if a, err := in.CloseAndRecv(); err != nil || a.AggregatedPayloadSize != 200_000 {
		t.Errorf("%v %v", a, err)
	}
	both, err := n.tests.FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := both.Send(&testpb.StreamingOutputCallRequest{Payload: &testpb.Payload{Body: make([]byte, i)}}); err != nil {
			t.Fatal(err)
		}
		if m, err := both.Recv(); err != nil || len(m.GetPayload().GetBody()) != i {
			t.Fatalf("%v %v", m, err)
		}
	}
	_ = both.CloseSend()
	if _, err := both.Recv(); status.Code(err) != codes.Aborted || status.Convert(err).Message() != "enough" {
		t.Error(err)
	}
	// Each call, and each further message of either direction: 2, 3, 4 and 4.
	if calls, units := n.counted(); calls[bsn.MethodSubscribe] != 3 || units[bsn.MethodSubscribe] != 30 || calls[classNotify] != 13 || units[classNotify] != 39 {
		t.Errorf("counted %v %v", calls, units)
	}
	services, err := reflectionpb.NewServerReflectionClient(n.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = services.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
	if a, err := services.Recv(); err != nil || len(a.GetListServicesResponse().GetService()) != 4 {
		t.Errorf("%v %v", a, err)
	}
	_ = services.CloseSend()
	watch, err := healthpb.NewHealthClient(n.conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING} {
		if h, err := watch.Recv(); err != nil || h.Status != want {
			t.Fatalf("%v %v, want %v", h, err, want)
		}
		n.nodes["paris"].health.Shutdown()
	}
	// A client that gives up is given up at the node, as is one whose time is over.
	ended := n.nodes["paris"].ended.Load()
	ctx, cancel := context.WithCancel(t.Context())
	if out, err = n.tests.StreamingOutputCall(ctx, sized(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	eventually(t, "node notices", func() bool { return n.nodes["paris"].ended.Load() == ended+1 })
	ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if out, err = n.tests.StreamingOutputCall(ctx, sized(1, 0)); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = out.Recv()
	}
	if status.Code(err) != codes.DeadlineExceeded {
		t.Error(err)
	}
	eventually(t, "node notices", func() bool { return n.nodes["paris"].ended.Load() == ended+2 })
	// A node that is lost ends its streams.
	if out, err = n.tests.StreamingOutputCall(t.Context(), sized(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Recv(); err != nil {
		t.Fatal(err)
	}
	n.nodes["paris"].server.Stop()
	if _, err = out.Recv(); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
	if out, err = n.tests.StreamingOutputCall(t.Context(), sized(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Recv(); err != nil {
		t.Errorf("by the other node: %v", err)
	}
}

func TestGRPCRefusals(t *testing.T) {
	n := startTalk(t, Config{})
	ask := func(key, chain, method string) error {
		return n.dial(chain, key).Invoke(t.Context(), method, &testpb.Empty{}, &testpb.Empty{})
	}
	for _, c := range []struct {
		key, chain, method string
		code               codes.Code
		text               string
	}{
		{"", "lab", "/grpc.health.v1.Health/Check", codes.Unauthenticated, "key is missing"},
		{"bsn_1", "lab", "/grpc.health.v1.Health/Check", codes.Unauthenticated, "malformed key"},
		{n.secret, "", "/grpc.health.v1.Health/Check", codes.InvalidArgument, "x-bsn-chain"},
		{n.secret, "other", "/grpc.health.v1.Health/Check", codes.NotFound, "there is no chain"},
		{n.secret, "lab", "/grpc.testing.TestService/HalfDuplexCall", codes.Unimplemented, "does not offer grpc.testing.TestService/HalfDuplexCall"},
		{n.secret, "lab", "/cosmos.bank.v1beta1.Query/Balance", codes.Unimplemented, "does not offer"},
		{n.secret, "lab", "/grpc.testing.TestService/CacheableUnaryCall", codes.PermissionDenied, "only a key whose methods name it"},
		{n.secret, "lab", "/grpc.testing.TestService/UnimplementedCall", codes.Unimplemented, "method UnimplementedCall not implemented"},
	} {
		if err := ask(c.key, c.chain, c.method); status.Code(err) != c.code || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s at %s: %v", c.method, c.chain, err)
		}
	}
	if calls, _ := n.counted(); calls[bsn.MethodSend] != 1 || len(calls) != 1 {
		t.Errorf("counted %v", calls)
	}
	// The key's restrictions hold, those on contracts for all that could be sent to one.
	narrow := func(r bsn.Restrictions) {
		n.project.Keys = slices.Clone(n.project.Keys)
		n.project.Keys[0].Restrictions = r
		n.ledger.put(n.project)
		n.follow()
	}
	narrow(bsn.Restrictions{Methods: []string{"grpc.health.v1.Health/*"}})
	if err := ask(n.secret, "lab", "/grpc.testing.TestService/UnaryCall"); status.Code(err) != codes.PermissionDenied || reason(err) != "METHOD" {
		t.Error(err)
	}
	if err := ask(n.secret, "lab", "/grpc.health.v1.Health/Check"); err != nil {
		t.Error(err)
	}
	narrow(bsn.Restrictions{Contracts: []string{"osmo1abc"}})
	if err := ask(n.secret, "lab", "/grpc.testing.TestService/UnimplementedCall"); status.Code(err) != codes.PermissionDenied || reason(err) != "CONTRACT" {
		t.Error(err)
	}
	narrow(bsn.Restrictions{IPs: []string{"192.0.2.0/24"}})
	if err := ask(n.secret, "lab", "/grpc.health.v1.Health/Check"); status.Code(err) != codes.PermissionDenied || reason(err) != "IP" {
		t.Error(err)
	}
}

func TestGRPCLimits(t *testing.T) {
	n := startTalk(t, Config{})
	set := func(l bsn.Limits, q bsn.Quota) {
		n.project.Limits, n.project.Quota = l, q
		n.ledger.put(n.project)
		n.follow()
	}
	check := func() error {
		_, err := healthpb.NewHealthClient(n.conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
		return err
	}
	until := func() (err error) {
		for range 100 {
			if err = check(); err != nil {
				return err
			}
		}
		return nil
	}
	set(bsn.Limits{RequestsPerSecond: 1, UnitsPerSecond: 1000}, bsn.Quota{})
	err := until()
	var wait *errdetails.RetryInfo
	for _, d := range status.Convert(err).Details() {
		if r, ok := d.(*errdetails.RetryInfo); ok {
			wait = r
		}
	}
	if status.Code(err) != codes.ResourceExhausted || reason(err) != "REQUESTS_PER_SECOND" || wait.GetRetryDelay().AsDuration() <= 0 {
		t.Errorf("%v %v", err, wait)
	}
	set(bsn.Limits{RequestsPerSecond: 1000, UnitsPerSecond: 1}, bsn.Quota{})
	if err := until(); reason(err) != "UNITS_PER_SECOND" {
		t.Error(err)
	}
	// Messages of a stream count, too.
	set(bsn.Limits{RequestsPerSecond: 1000, UnitsPerSecond: 10}, bsn.Quota{})
	both, err := n.tests.FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	answers := 0
	for range 200 {
		if both.Send(&testpb.StreamingOutputCallRequest{}) != nil {
			break
		}
		if _, err = both.Recv(); err != nil {
			break
		}
		answers++
	}
	if reason(err) != "UNITS_PER_SECOND" || status.Code(err) != codes.ResourceExhausted || answers < 2 {
		t.Errorf("after %d answers: %v", answers, err)
	}
	set(bsn.Limits{RequestsPerSecond: 1000}, bsn.Quota{Daily: 10})
	if err := until(); reason(err) != "DAILY_QUOTA" {
		t.Error(err)
	}
}

// What the ledger takes back ends streams that are open, with the reason.
func TestGRPCRevoked(t *testing.T) {
	n := startTalk(t, Config{})
	out, err := n.tests.StreamingOutputCall(t.Context(), &testpb.StreamingOutputCallRequest{ResponseParameters: []*testpb.ResponseParameters{{Size: 1}, {Size: 0}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Recv(); err != nil {
		t.Fatal(err)
	}
	n.project.Revoked = true
	n.ledger.put(n.project)
	if _, err := out.Recv(); status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "revoked") {
		t.Error(err)
	}
	n.project.Revoked = false
	n.ledger.put(n.project)
	n.follow()
	if out, err = n.tests.StreamingOutputCall(t.Context(), &testpb.StreamingOutputCallRequest{ResponseParameters: []*testpb.ResponseParameters{{Size: 1}, {Size: 0}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Recv(); err != nil {
		t.Fatal(err)
	}
	n.gateway.drain()
	if _, err := out.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "gateway stops") {
		t.Error(err)
	}
}

// A request that is no gRPC, but says so, is answered as such or refused.
func TestGRPCMalformed(t *testing.T) {
	n := startTalk(t, Config{MaxRequestBytes: 1000})
	frame := func(size uint32, body ...byte) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{0}, size), body...)
	}
	for name, c := range map[string]struct {
		body    []byte
		timeout string
		code    codes.Code
	}{
		"cut prefix":      {[]byte{0, 0}, "", codes.Internal},
		"cut message":     {frame(10, 1, 2), "", codes.Internal},
		"two messages":    {append(frame(0), frame(0)...), "", codes.InvalidArgument},
		"large by prefix": {frame(1 << 31), "", codes.ResourceExhausted},
		"bad timeout":     {frame(0), "10x", codes.InvalidArgument},
		"no time":         {frame(0), "0n", codes.DeadlineExceeded},
		"no message":      {nil, "", codes.Unknown}, // the node's own words
	} {
		p := &http.Transport{Protocols: new(http.Protocols)}
		p.Protocols.SetUnencryptedHTTP2(true)
		q := n.request("POST", "/grpc.health.v1.Health/Check", io.MultiReader(bytes.NewReader(c.body)))
		maps.Copy(q.Header, http.Header{"Content-Type": {"application/grpc"}, "X-Api-Key": {n.secret}, "X-Bsn-Chain": {"lab"}, "Te": {"trailers"}})
		if c.timeout != "" {
			q.Header.Set("Grpc-Timeout", c.timeout)
		}
		r := n.deliver(q, p)
		want := map[codes.Code]string{codes.Internal: "13", codes.Unknown: "2", codes.InvalidArgument: "3", codes.ResourceExhausted: "8", codes.DeadlineExceeded: "4"}[c.code]
		if r.status != 200 || r.header.Get("Grpc-Status") != want {
			t.Errorf("%s: %d %v", name, r.status, r.header)
		}
	}
}

func TestNames(t *testing.T) {
	n, err := newNames(map[string]bsn.Method{
		"*": {Units: 1}, "a.B/*": {Units: 2}, "a.*": {Units: 3}, "a.B/C": {Units: 4}, "a.B/No": {Class: bsn.MethodRefused, Units: 5},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, units := range map[string]int{"x.Y/Z": 1, "a.B/D": 2, "a.C/D": 3, "a.B/C": 4, "a.B/Cd": 2} {
		if m, ok := n.find(name); !ok || m.Units != units {
			t.Errorf("%s: %+v", name, m)
		}
	}
	if _, ok := n.find("a.B/No"); ok {
		t.Error("a refused one passes")
	}
	for _, bad := range []string{"", "/a.B/C", "a b", "a.B/C/D", "a*b", "a.B/C*"} {
		if _, err := newNames(map[string]bsn.Method{bad: {}}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestTimeouts(t *testing.T) {
	for _, d := range []time.Duration{1, 999, time.Millisecond, 1500 * time.Millisecond, time.Minute, 99 * time.Hour, 30 * 24 * time.Hour} {
		if got, ok := readTimeout(writeTimeout(d)); !ok || got < d || got > d+d/1000+1 {
			t.Errorf("%v: %s is %v", d, writeTimeout(d), got)
		}
	}
	for _, bad := range []string{"", "S", "1", "123456789S", "-1S", "1s", " 1S", "+1S"} {
		if d, ok := readTimeout(bad); ok {
			t.Errorf("%q is %v", bad, d)
		}
	}
	if d, ok := readTimeout("99999999H"); !ok || d != 365*24*time.Hour {
		t.Error(d)
	}
}

// FuzzMessages: however the bytes are cut, the same messages are seen.
func FuzzMessages(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 2, 1, 2, 0, 0, 0, 0, 0}, byte(3))
	f.Fuzz(func(t *testing.T, text []byte, step byte) {
		type seen struct {
			messages int
			bad      bool
			whole    bool
		}
		follow := func(step int) (s seen) {
			r := messages{limit: 64, begins: func() error { s.messages++; return nil }}
			for rest := text; len(rest) > 0 && !s.bad; {
				n := min(step, len(rest))
				s.bad = r.pass(rest[:n]) != nil
				rest = rest[n:]
			}
			s.whole = r.between()
			return s
		}
		if a, b := follow(len(text)+1), follow(int(step)+1); a != b {
			t.Errorf("%+v in one piece, %+v in pieces of %d", a, b, step)
		}
	})
}
