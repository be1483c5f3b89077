package kaia

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/openbsn/bsn"
)

// maxAnswer bounds what is read of a node's answer, in bytes.
const maxAnswer = 4 << 20

// maxSocketPath is the longest path of a unix socket that every system takes.
const maxSocketPath = 100

// caller calls a method of the node by JSON-RPC 2.0.
type caller func(ctx context.Context, result any, method string, params ...any) error

func request(method string, params []any) ([]byte, error) {
	if params == nil {
		params = []any{}
	}
	return json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
}

// answer reads one response into result.
func answer(r io.Reader, method string, result any) error {
	var a struct {
		Result json.RawMessage
		Error  *struct {
			Code    int
			Message string
		}
	}
	if err := json.NewDecoder(io.LimitReader(r, maxAnswer)).Decode(&a); err != nil {
		return fmt.Errorf("%s: read the node's answer: %w", method, err)
	}
	if a.Error != nil {
		return fmt.Errorf("%s: the node refused: %s (%d)", method, a.Error.Message, a.Error.Code)
	}
	if err := json.Unmarshal(a.Result, result); err != nil {
		return fmt.Errorf("%s: read the node's answer: %w", method, err)
	}
	return nil
}

// clientSide calls the node as its clients do.
func clientSide(url string) caller {
	return func(ctx context.Context, result any, method string, params ...any) error {
		body, err := request(method, params)
		if err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
		if err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		r.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: the node answered %s", method, response.Status)
		}
		return answer(response.Body, method, result)
	}
}

// ownerSide connects to the node's socket, where it serves what only its owner
// may use. The calls must be made one after the other; ctx ends them all.
func ownerSide(ctx context.Context, site bsn.Site) (call caller, hangUp func(), err error) {
	name := filepath.Join(site.Dir, socketName)
	if len(name) > maxSocketPath {
		// The kernel also knows the folder by the number under which it is open
		// here, whatever its path.
		dir, err := os.Open(site.Dir)
		if err != nil {
			return nil, nil, fmt.Errorf("open the node's folder: %w", err)
		}
		defer dir.Close()
		name = fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), socketName)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", name)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to the node's own socket %s: %w", filepath.Join(site.Dir, socketName), cause(err))
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	call = func(_ context.Context, result any, method string, params ...any) error {
		body, err := request(method, params)
		if err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		if _, err := conn.Write(body); err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		return answer(conn, method, result)
	}
	return call, func() { stop(); conn.Close() }, nil
}

// cause leaves the short form of the path, which means nothing elsewhere, out of
// an error of the network.
func cause(err error) error {
	if e := new(net.OpError); errors.As(err, &e) {
		return e.Err
	}
	return err
}
