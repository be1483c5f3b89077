package test

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
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func gatewayCommand(ts *testscript.TestScript, args []string) (output, error) {
	if len(args) != 1 && (len(args) != 2 || args[1] != "ws") {
		return output{}, errors.New("usage: gateway CITY [ws]")
	}
	o, err := bsnCommand(ts, []string{"context", "--json", "--show-keys"})
	if err != nil {
		return o, err
	}
	var c struct {
		Account, Project string
		Cities           map[string]struct{ Gateway string }
		Keys             map[string]map[string]string
	}
	if err := json.Unmarshal([]byte(o.stdout), &c); err != nil {
		return o, err
	}
	key := c.Keys[c.Account+"/"+c.Project][args[0]]
	if key == "" || c.Cities[args[0]].Gateway == "" {
		return o, fmt.Errorf("the context has no key or gateway of city %q", args[0])
	}
	url := c.Cities[args[0]].Gateway + "/rpc/chongqing/" + key + "\n"
	if len(args) == 2 {
		url = "ws" + strings.TrimPrefix(url, "http")
	}
	return output{stdout: url}, nil
}

func rpc(ts *testscript.TestScript, args []string) (output, error) {
	if len(args) != 2 && len(args) != 3 {
		return output{}, errors.New("usage: rpc WHERE METHOD [PARAMS]")
	}
	url := args[0]
	if !strings.Contains(url, "://") {
		o, err := gatewayCommand(ts, args[:1])
		if err != nil {
			return o, err
		}
		url = strings.TrimSpace(o.stdout)
	}
	o, _, err := post(ts, url, request(args[1:]))
	if err != nil {
		return o, err
	}
	return answer(o)
}

// request is a JSON-RPC request from a method and, if given, parameters in JSON.
func request(args []string) string {
	params := "[]"
	if len(args) == 2 {
		params = args[1]
	}
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":%q,"params":%s}`, args[0], params)
}

// answer fails with the error of a JSON-RPC response.
func answer(o output) (output, error) {
	var a struct {
		Error *struct{ Message string }
	}
	if err := json.Unmarshal([]byte(o.stdout), &a); err != nil {
		return o, fmt.Errorf("no JSON-RPC answer: %w: %s", err, o.stdout)
	}
	if a.Error != nil {
		o.stderr += a.Error.Message + "\n"
		return o, errors.New(a.Error.Message)
	}
	return o, nil
}

func post(ts *testscript.TestScript, url, body string) (output, http.Header, error) {
	return send(ts, http.MethodPost, url, http.Header{"Content-Type": {"application/json"}}, body)
}

func send(ts *testscript.TestScript, method, url string, header http.Header, body string) (output, http.Header, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return output{}, nil, err
	}
	r.Header = header
	res, err := client(ts).Do(r)
	if err != nil {
		return output{}, nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return output{}, nil, err
	}
	var head bytes.Buffer
	fmt.Fprintln(&head, res.Status)
	res.Header.Write(&head)
	return output{string(text), head.String()}, res.Header, nil
}

func httpCommand(ts *testscript.TestScript, args []string) (output, error) {
	method, url, body, header := http.MethodGet, "", "", http.Header{}
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case (a == "-H" || a == "-d") && i+1 < len(args):
			i++
			if a == "-d" {
				body = args[i]
				continue
			}
			name, value, _ := strings.Cut(args[i], ":")
			header.Add(name, strings.TrimSpace(value))
		case strings.Contains(a, "://"):
			url = a
		default:
			method = a
		}
	}
	if url == "" {
		return output{}, errors.New("usage: http [METHOD] URL [-H HEADER] [-d BODY]")
	}
	o, _, err := send(ts, method, url, header, body)
	return o, err
}

func ipc(ts *testscript.TestScript, args []string) (output, error) {
	if len(args) != 3 && len(args) != 4 {
		return output{}, errors.New("usage: ipc CITY NODE METHOD [PARAMS]")
	}
	// Through the open folder, since the path of a socket must be short.
	dir, err := os.Open(filepath.Join(ts.Getenv("BSN_HOME"), "cities", args[0], "nodes", args[1]))
	if err != nil {
		return output{}, err
	}
	defer dir.Close()
	conn, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/admin.ipc", dir.Fd()))
	if err != nil {
		return output{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(callTimeout)); err != nil {
		return output{}, err
	}
	if _, err := io.WriteString(conn, request(args[2:])); err != nil {
		return output{}, err
	}
	var text json.RawMessage
	if err := json.NewDecoder(conn).Decode(&text); err != nil {
		return output{}, err
	}
	return answer(output{stdout: string(text) + "\n"})
}

func forget(ts *testscript.TestScript, args []string) (output, error) {
	if len(args) < 2 {
		return output{}, errors.New("usage: forget BLOCK URL…")
	}
	height, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil {
		return output{}, err
	}
	height += 2
	deadline := time.Now().Add(awaitTimeout)
	for left := args[1:]; len(left) > 0; {
		var still []string
		for _, url := range left {
			o, header, err := post(ts, url, request([]string{"eth_chainId"}))
			if err != nil {
				return o, err
			}
			known, err := strconv.ParseInt(header.Get("Bsn-Ledger-Height"), 10, 64)
			switch {
			case err != nil:
				return o, fmt.Errorf("answer without the ledger's height: %w", err)
			case known < height:
				still = append(still, url)
			case !strings.HasPrefix(o.stderr, "401 "):
				return o, fmt.Errorf("a gateway that knows ledger block %d, not before %d, still answered: %s", known, height, o.stdout)
			}
		}
		if left = still; time.Now().After(deadline) {
			return output{}, fmt.Errorf("%d gateways do not reach ledger block %d", len(left), height)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return output{}, nil
}

func blocks(ts *testscript.TestScript, args []string) (output, error) {
	if len(args) != 2 {
		return output{}, errors.New("usage: blocks WHERE NUMBER")
	}
	height := func() (int64, error) {
		o, err := rpc(ts, []string{args[0], "eth_blockNumber"})
		if err != nil {
			return 0, err
		}
		text, err := valueText(o.stdout, ".result")
		if err != nil {
			return 0, err
		}
		return strconv.ParseInt(text, 0, 64)
	}
	more, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return output{}, err
	}
	first, err := height()
	if err != nil {
		return output{}, err
	}
	for deadline := time.Now().Add(awaitTimeout); ; time.Sleep(awaitPause) {
		now, err := height()
		if err != nil || now >= first+more {
			return output{}, err
		}
		if time.Now().After(deadline) {
			return output{}, fmt.Errorf("the chain went from block %d to %d only", first, now)
		}
	}
}
