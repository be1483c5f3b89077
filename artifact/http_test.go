package artifact

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHandler(t *testing.T) {
	s := open(t, 10)
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	x, large := Hash([]byte("x")), strings.Repeat("y", 11)
	for _, c := range []struct {
		method, path, body string
		status             int
		answer             string
	}{
		{"GET", "/artifacts/" + x, "", 404, "no such artifact"},
		{"HEAD", "/artifacts/" + x, "", 404, ""},
		{"PUT", "/artifacts/" + x, "z", 422, "does not match"},
		{"PUT", "/artifacts/" + Hash([]byte(large)), large, 413, "at most 10"},
		{"PUT", "/artifacts/abc", "x", 400, "64 lower-case"},
		{"PUT", "/artifacts/..%2F..%2Fx", "x", 400, "64 lower-case"},
		{"GET", "/artifacts/..%2F..%2Fx", "", 400, "64 lower-case"},
		{"DELETE", "/artifacts/" + x, "", 405, ""},
		{"GET", "/artifacts/", "", 404, ""},
		{"PUT", "/artifacts/" + x, "x", 201, ""},
		{"PUT", "/artifacts/" + x, "x", 201, ""},
		{"GET", "/artifacts/" + x, "", 200, "x"},
		{"HEAD", "/artifacts/" + x, "", 200, ""},
	} {
		for _, counted := range []bool{true, false} {
			var body io.Reader
			if c.method == "PUT" {
				body = strings.NewReader(c.body)
				if !counted { // in chunks: nobody announces the length
					body = io.MultiReader(body)
				}
			}
			req, err := http.NewRequest(c.method, server.URL+c.path, body)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := server.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != c.status || !strings.Contains(string(answer), c.answer) {
				t.Errorf("%s %s: %d %q, %v; want %d %q", c.method, c.path, resp.StatusCode, answer, err, c.status, c.answer)
			}
		}
	}
}

func TestFetch(t *testing.T) {
	content := []byte("genesis of chongqing")
	hash := Hash(content)
	serve := func(h http.HandlerFunc) string {
		server := httptest.NewServer(h)
		t.Cleanup(server.Close)
		return server.URL
	}
	good := open(t, 100)
	if _, err := good.Put(bytes.NewReader(content), ""); err != nil {
		t.Fatal(err)
	}
	has := serve(good.Handler().ServeHTTP)
	lacks := serve(open(t, 100).Handler().ServeHTTP)
	lies := serve(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "genesis of another") })
	fails := serve(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "out of order", 500) })
	floods := serve(func(w http.ResponseWriter, _ *http.Request) {
		for b := make([]byte, 1<<10); ; {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	})
	boasts := serve(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "1000000000") })
	cuts := serve(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "20")
		w.Write(content[:5])
	})
	const dead = "http://127.0.0.1:1"

	for name, cities := range map[string][]string{
		"first has it":         {has, dead},
		"last has it":          {dead, lacks, lies, fails, floods, boasts, cuts, has},
		"address with a slash": {has + "/"},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, 100)
			err := s.Fetch(t.Context(), http.DefaultClient, cities, hash)
			got, getErr := s.Get(hash)
			if err != nil || getErr != nil || !bytes.Equal(got, content) {
				t.Errorf("fetch: %v; get: %q, %v", err, got, getErr)
			}
			if err := s.Fetch(t.Context(), http.DefaultClient, nil, hash); err != nil {
				t.Errorf("fetch of what is there: %v", err)
			}
		})
	}
	for name, c := range map[string]struct {
		cities []string
		err    error
		says   string
	}{
		"nobody asked":        {nil, ErrNotFound, "0 cities"},
		"nobody has it":       {[]string{lacks, lacks}, ErrNotFound, "2 cities"},
		"wrong content":       {[]string{lacks, lies}, ErrMismatch, "it does not have it"},
		"endless content":     {[]string{floods}, ErrTooLarge, floods},
		"announced too large": {[]string{boasts}, ErrTooLarge, boasts},
		"cut off":             {[]string{cuts}, io.ErrUnexpectedEOF, cuts},
		"broken":              {[]string{fails}, nil, "out of order"},
		"no address":          {[]string{"://"}, nil, "missing protocol scheme"},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, 100)
			err := s.Fetch(t.Context(), http.DefaultClient, c.cities, hash)
			if err == nil || c.err != nil && !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v; want %v with %q", err, c.err, c.says)
			}
			if errors.Is(err, ErrNotFound) != (c.err == ErrNotFound) {
				t.Errorf("error %v confuses a lack with a failure", err)
			}
			if list, _ := s.List(); len(list) != 0 {
				t.Errorf("stored %v", list)
			}
		})
	}
	s := open(t, 100)
	if err := s.Fetch(t.Context(), http.DefaultClient, []string{has}, "../x"); !errors.Is(err, ErrHash) {
		t.Errorf("malformed hash: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Fetch(ctx, http.DefaultClient, []string{has}, hash); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}
