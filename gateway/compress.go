package gateway

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
)

var errInflated = errors.New("too large when inflated")

// inflate returns what a gzip text holds, at most limit bytes.
func inflate(text []byte, limit int64) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	out, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(out)) > limit {
		err = errInflated
	}
	return out, err
}

var deflaters = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // a level that there is
	return w
}}

// deflate returns the parts together in gzip.
func deflate(parts ...[]byte) []byte {
	w := deflaters.Get().(*gzip.Writer)
	defer deflaters.Put(w)
	var out bytes.Buffer
	w.Reset(&out)
	for _, p := range parts {
		_, _ = w.Write(p) // to memory
	}
	_ = w.Close()
	return out.Bytes()
}

// takesGzip tells whether a value of Accept-Encoding allows gzip.
func takesGzip(accept []byte) bool {
	if len(accept) == 0 {
		return false
	}
	any := false
	for coding := range strings.SplitSeq(string(accept), ",") {
		name, weight, weighted := strings.Cut(coding, ";")
		allowed := true
		if weighted {
			_, q, _ := strings.Cut(weight, "=")
			n, err := strconv.ParseFloat(strings.TrimSpace(q), 64)
			allowed = err == nil && n > 0
		}
		switch name = strings.TrimSpace(name); {
		case strings.EqualFold(name, "gzip"):
			return allowed
		case name == "*":
			any = allowed
		}
	}
	return any
}
