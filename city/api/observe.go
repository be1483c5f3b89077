package api

import (
	"cmp"
	"context"
	"net/http"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/openbsn/bsn/gen/city/cityv1"
	"github.com/openbsn/bsn/gen/city/cityv1/cityv1connect"
)

// method names a request: one of the service's, an artifact's, or other. Anybody
// may ask for any path, so that no other names are taken from it.
func method(r *http.Request) string {
	if strings.HasPrefix(r.URL.Path, artifactPath) {
		switch r.Method {
		case http.MethodGet, http.MethodHead, http.MethodPut:
			return r.Method + " artifact"
		}
		return "other"
	}
	name, ok := strings.CutPrefix(r.URL.Path, "/"+cityv1connect.CityServiceName+"/")
	if ok && cityv1.File_bsn_city_v1_city_proto.Services().Get(0).Methods().ByName(protoreflect.Name(name)) != nil {
		return name
	}
	return "other"
}

// observer tells of calls of the service.
type observer struct {
	observe func(method, result string)
}

func (o observer) tell(procedure string, err error) {
	result := "ok"
	if err != nil {
		result = connect.CodeOf(err).String()
	}
	o.observe(procedure[strings.LastIndexByte(procedure, '/')+1:], result)
}

// WrapUnary implements connect.Interceptor.
func (o observer) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		res, err := next(ctx, r)
		o.tell(r.Spec().Procedure, err)
		return res, err
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (o observer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor.
func (o observer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, c connect.StreamingHandlerConn) error {
		err := next(ctx, c)
		o.tell(c.Spec().Procedure, err)
		return err
	}
}

// statusWriter notes the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (s *statusWriter) WriteHeader(status int) {
	s.status = cmp.Or(s.status, status)
	s.ResponseWriter.WriteHeader(status)
}

// Unwrap lets deadlines be set.
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s *statusWriter) result() string {
	if status := cmp.Or(s.status, http.StatusOK); status/100 != 2 && status != http.StatusNotModified {
		return strconv.Itoa(status)
	}
	return "ok"
}
