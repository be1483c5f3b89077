package gateway

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/openbsn/bsn"
)

// http sends any request.
func (s *scenario) http(args []string) said {
	usage := fails("usage: http [-X METHOD] [-H 'NAME: VALUE']… [-k KEY|none] [-d TEXT] PATH, after chain")
	if s.world == nil {
		return usage
	}
	method, key, header, body := "", "one", http.Header{}, []byte(nil)
	for len(args) > 1 {
		flag, value := args[0], args[1]
		args = args[2:]
		switch flag {
		case "-X":
			method = value
		case "-k":
			key = value
		case "-d":
			body = []byte(value)
		case "-H":
			name, text, _ := strings.Cut(value, ": ")
			header.Add(name, text)
		default:
			return usage
		}
	}
	if len(args) != 1 {
		return usage
	}
	if method == "" {
		method = map[bool]string{true: http.MethodGet, false: http.MethodPost}[body == nil]
	}
	if header.Get("Content-Encoding") == "gzip" {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(body)
		_ = z.Close()
		body = b.Bytes()
	}
	r, err := http.NewRequest(method, s.world.url+args[0], bytes.NewReader(body))
	if err != nil {
		return said{err: err}
	}
	r.Header = header
	if key != "none" {
		r.Header.Set("x-api-key", s.world.keys[key])
	}
	client := http.Client{
		Timeout: time.Minute, Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	a, err := client.Do(r)
	if err != nil {
		return said{err: err}
	}
	defer a.Body.Close()
	reader := io.Reader(a.Body)
	if a.Header.Get("Content-Encoding") == "gzip" {
		if reader, err = gzip.NewReader(a.Body); err != nil {
			return said{err: err}
		}
	}
	text, err := io.ReadAll(reader)
	return printed(a.StatusCode, a.Header, text, err)
}

// printed is an answer of HTTP as a command prints it.
func printed(status int, header http.Header, text []byte, err error) said {
	r := said{stdout: string(text), stderr: fmt.Sprintf("status %d\n", status), err: err}
	if len(text) > 0 {
		r.stdout += "\n"
	}
	for _, name := range sortedHeaders(header) {
		r.stderr += name + ": " + strings.Join(header[name], ", ") + "\n"
	}
	if err == nil && status >= 400 {
		r.err = fmt.Errorf("status %d: %s", status, text)
	}
	return r
}

// raw sends the bytes of a file, with line ends as HTTP has them, and prints all that
// comes until the gateway ends the connection.
func (s *scenario) raw(args []string) said {
	if len(args) != 1 || s.world == nil {
		return fails("usage: raw FILE, after chain")
	}
	text, err := os.ReadFile(args[0])
	if err != nil {
		return said{err: err}
	}
	request := strings.ReplaceAll(string(text), "\n", "\r\n")
	request = strings.NewReplacer("KEY", s.world.keys["one"], `\n`, "\n", `\r`, "\r", `\t`, "\t").Replace(request)
	c, err := net.Dial("tcp", strings.TrimPrefix(s.world.url, "http://"))
	if err != nil {
		return said{err: err}
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		return said{err: err}
	}
	answer, err := io.ReadAll(c)
	return said{stdout: strings.ReplaceAll(string(answer), "\r", "") + "\n", err: err}
}

// key changes a key's record.
func (s *scenario) key(args []string) said {
	i := -1
	if len(args) > 1 && s.world != nil {
		for at, k := range s.world.project.Keys {
			if bsn.HashKey(s.world.keys[args[0]]) == k.Hash {
				i = at
			}
		}
	}
	if i < 0 {
		return fails("usage: key KEY revoke | expires DURATION | rps N | cups N | methods|denied|contracts|ips|origins ENTRY…, after chain")
	}
	k, what, values := s.world.project.Keys[i], args[1], args[2:]
	var err error
	number := func() (n int) {
		if len(values) == 1 {
			n, err = strconv.Atoi(values[0])
		} else {
			err = errors.New("a number is missing")
		}
		return n
	}
	switch what {
	case "revoke":
		k.Revoked = true
	case "expires":
		var d time.Duration
		if d, err = time.ParseDuration(strings.Join(values, " ")); err == nil {
			k.Expires = time.Now().Add(d).Unix()
		}
	case "rps":
		k.Limits.RequestsPerSecond = number()
	case "cups":
		k.Limits.UnitsPerSecond = number()
	case "methods":
		k.Restrictions.Methods = values
	case "denied":
		k.Restrictions.DeniedMethods = values
	case "contracts":
		k.Restrictions.Contracts = values
	case "ips":
		k.Restrictions.IPs = values
	case "origins":
		k.Restrictions.Origins = values
	default:
		err = fmt.Errorf("no property %s of a key", what)
	}
	if err == nil {
		k.Restrictions, err = k.Restrictions.Normal()
	}
	if err != nil {
		return said{err: err}
	}
	// The record that the gateway has is not to be written to.
	s.world.project.Keys = append(append([]bsn.Key(nil), s.world.project.Keys[:i]...), append([]bsn.Key{k}, s.world.project.Keys[i+1:]...)...)
	return said{err: s.world.record()}
}

// project changes the project's record.
func (s *scenario) project(args []string) said {
	if s.world == nil || len(args) == 0 || len(args) != 2 && args[0] != "revoke" {
		return fails("usage: project revoke | rps|cups|daily|monthly N, after chain")
	}
	n, err := 0, error(nil)
	if len(args) == 2 {
		n, err = strconv.Atoi(args[1])
	}
	p := &s.world.project
	switch args[0] {
	case "revoke":
		p.Revoked = true
	case "rps":
		p.Limits.RequestsPerSecond = n
	case "cups":
		p.Limits.UnitsPerSecond = n
	case "daily":
		p.Quota.Daily = int64(n)
	case "monthly":
		p.Quota.Monthly = int64(n)
	default:
		err = fmt.Errorf("no property %s of a project", args[0])
	}
	if err != nil {
		return said{err: err}
	}
	return said{err: s.world.record()}
}

// ledger makes the newest block of the ledger that the gateway knows so old.
func (s *scenario) ledger(args []string) said {
	if s.world == nil || len(args) != 2 || args[0] != "old" {
		return fails("usage: ledger old DURATION, after chain")
	}
	d, err := time.ParseDuration(args[1])
	if err != nil {
		return said{err: err}
	}
	w := s.world
	w.stop() // a gateway that starts with this state finds it as old as it is
	records := w.ledger
	w.ledger = newMemoryLedger()
	w.ledger.at = time.Now().Add(-d)
	for _, b := range records.blocks {
		for _, c := range b.Changes {
			w.ledger.put(c)
		}
	}
	return said{err: w.start(s.cfg, w.framework)}
}

// provider adds one outside of the network, which is asked for as outside/NAME.
func (s *scenario) provider(args []string) said {
	if s.world == nil || len(args) != 1 {
		return fails("usage: provider NAME, after chain")
	}
	w, n := s.world, newScripted()
	name := providerPrefix + args[0]
	w.nodes[name] = n
	s.outside.Providers = map[string][]Provider{"lab": append(s.outside.Providers["lab"], Provider{Name: args[0], URL: n.server.URL, Headers: map[string]string{"x-secret": "s3cret"}})}
	w.gateway.upstreams.reach(w.gateway.draining, s.outside)
	return said{err: w.know(name)}
}

// told prints what came with the newest request that a node got.
func (s *scenario) told(args []string) (r said) {
	if len(args) != 1 || s.find(args[0]) == nil {
		return fails("usage: told CITY")
	}
	n := s.find(args[0])
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, name := range sortedHeaders(n.headers) {
		r.stdout += strings.ToLower(name) + ": " + strings.Join(n.headers[name], ", ") + "\n"
	}
	return r
}

// usage prints what is counted: the key's name, class, calls and units.
func (s *scenario) usage([]string) (r said) {
	if s.world == nil {
		return fails("usage: usage, after chain")
	}
	rows, err := s.world.gateway.meter.journal.Rows()
	if err != nil {
		return said{err: err}
	}
	for _, row := range rows {
		for name, secret := range s.world.keys {
			if bsn.HashKey(secret)[:12] == row.Key {
				r.stdout += fmt.Sprintf("%s %s %d %d\n", name, row.Class, row.Calls, row.Units)
			}
		}
	}
	return r
}

// metrics prints what the gateway's operator reads.
func (s *scenario) metrics([]string) said {
	if s.world == nil {
		return fails("usage: metrics, after chain")
	}
	w := httptest.NewRecorder()
	s.world.gateway.private().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return said{stdout: w.Body.String()}
}
