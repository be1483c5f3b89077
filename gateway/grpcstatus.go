package gateway

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// grpcError is how a call of gRPC ends, if not as a node says.
type grpcError struct {
	code   codes.Code
	text   string
	answer *answer // that it stands for, if it is the gateway's refusal
}

// Error implements error.
func (e *grpcError) Error() string { return e.text }

// refusalOf is an answer that is an error, as gRPC says it.
func refusalOf(a answer) *grpcError {
	e := &grpcError{code: codes.Unavailable, text: errorText(a.failure), answer: &a}
	switch {
	case a.limit == kindSize.name:
		e.code = codes.ResourceExhausted
	case a.status == http.StatusUnauthorized:
		e.code = codes.Unauthenticated
	case a.status == http.StatusForbidden:
		e.code = codes.PermissionDenied
	case a.status == http.StatusNotFound:
		e.code = codes.NotFound
	case a.status == http.StatusTooManyRequests:
		e.code = codes.ResourceExhausted
	case a.status == http.StatusGatewayTimeout:
		e.code = codes.DeadlineExceeded
	}
	return e
}

// refuse ends the call with what the gateway refuses it with.
func (call *grpcCall) refuse(a answer) { call.end(refusalOf(a)) }

// fail ends the call with a status of the gateway's own.
func (call *grpcCall) fail(code codes.Code, text string) {
	call.end(&grpcError{code: code, text: text})
}

// finish ends a call that was let pass, and counts it if its answer has not begun.
func (call *grpcCall) finish(o outcome, code codes.Code, text string) {
	call.conclude(o, &grpcError{code: code, text: text})
}

// finishWith is finish for an error.
func (call *grpcCall) finishWith(err error) {
	var e *grpcError
	switch {
	case errors.As(err, &e):
	case errors.Is(err, context.DeadlineExceeded):
		e = &grpcError{code: codes.DeadlineExceeded, text: "no node of chain " + call.pool.chain.Name + " answered in time"}
	case errors.Is(err, context.Canceled):
		e = &grpcError{code: codes.Canceled, text: "call was given up"}
	default:
		e = &grpcError{code: codes.Unavailable, text: "call was cut off"}
	}
	o := outcomeUnavailable
	switch {
	case e.answer != nil:
		o = e.answer.outcome
	case e.code == codes.InvalidArgument || e.code == codes.Internal || e.code == codes.Canceled:
		o = outcomeMalformed
	case e.code == codes.Unauthenticated:
		o = outcomeRefused
	}
	call.conclude(o, e)
}

func (call *grpcCall) conclude(o outcome, e *grpcError) {
	if !call.answered {
		_ = call.count(call.method.Class, 0, o) // what is not served is not counted for anyone
		call.w.Header()[unitsHeader] = []string{"0"}
	}
	call.end(e)
}

// end says how the call ended: in the header, or after the messages that went out.
func (call *grpcCall) end(e *grpcError) {
	h, prefix := call.w.Header(), ""
	if call.answered {
		prefix = http.TrailerPrefix
	} else {
		h.Set("Content-Type", "application/grpc")
	}
	h.Set(prefix+"Grpc-Status", strconv.Itoa(int(e.code)))
	h.Set(prefix+"Grpc-Message", grpcText(e.text))
	if details := e.details(); details != "" {
		h.Set(prefix+"Grpc-Status-Details-Bin", details)
	}
	if e.answer != nil && e.answer.retryAfter > 0 {
		h.Set(prefix+"Retry-After", strconv.Itoa(retrySeconds(e.answer.retryAfter)))
	}
	if !call.answered {
		call.answered = true
		call.w.WriteHeader(http.StatusOK)
	}
}

// errorDomain is who gives the reasons of errors.
const errorDomain = "bsn"

// details are what programs read of a limit: its kind, in upper case, as the reason, and
// when to try again (google.rpc.Status with ErrorInfo and RetryInfo); empty if there is
// nothing to tell.
func (e *grpcError) details() string {
	if e.answer == nil || e.answer.limit == "" {
		return ""
	}
	s := &status.Status{Code: int32(e.code), Message: e.text}
	add := func(m proto.Message) {
		if one, err := anypb.New(m); err == nil { // these always encode
			s.Details = append(s.Details, one)
		}
	}
	add(&errdetails.ErrorInfo{Reason: strings.ToUpper(strings.ReplaceAll(e.answer.limit, "-", "_")), Domain: errorDomain})
	if wait := e.answer.retryAfter; wait > 0 {
		add(&errdetails.RetryInfo{RetryDelay: durationpb.New(wait)})
	}
	text, err := proto.Marshal(s)
	if err != nil {
		return ""
	}
	return base64.RawStdEncoding.EncodeToString(text)
}

// grpcText writes a message as gRPC has it in headers: percent-encoded where a byte is
// not printable ASCII.
func grpcText(text string) string {
	var b strings.Builder
	for _, c := range []byte(text) {
		if c < ' ' || c > '~' || c == '%' {
			const hex = "0123456789ABCDEF"
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// timeoutUnits are those of the header grpc-timeout, the smallest first.
var timeoutUnits = []struct {
	letter byte
	unit   time.Duration
}{{'n', time.Nanosecond}, {'u', time.Microsecond}, {'m', time.Millisecond}, {'S', time.Second}, {'M', time.Minute}, {'H', time.Hour}}

// readTimeout reads a value of grpc-timeout: at most eight digits and a unit. What is
// longer than anyone waits for counts as a year.
func readTimeout(text string) (time.Duration, bool) {
	if len(text) < 2 || len(text) > 9 {
		return 0, false
	}
	n, err := strconv.ParseUint(text[:len(text)-1], 10, 32)
	if err != nil {
		return 0, false
	}
	const longest = 365 * 24 * time.Hour
	for _, u := range timeoutUnits {
		if u.letter == text[len(text)-1] {
			if n > uint64(longest/u.unit) {
				return longest, true
			}
			return time.Duration(n) * u.unit, true
		}
	}
	return 0, false
}

// writeTimeout writes one, rounded up.
func writeTimeout(d time.Duration) string {
	d = max(d, 1)
	for _, u := range timeoutUnits {
		if n := (d + u.unit - 1) / u.unit; n < 1e8 {
			return strconv.FormatInt(int64(n), 10) + string(u.letter)
		}
	}
	return "99999999H"
}
