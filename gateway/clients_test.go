package gateway

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/openbsn/bsn"
)

// Clients that share no code with the gateway make their usual calls, unchanged, over
// HTTP and over WebSocket, to real nodes.

// anvilKeys are those of accounts that have coins on every anvil.
var anvilKeys = []string{
	"0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
	"0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
	"0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
	"0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
	"0x47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a",
	"0x8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba",
	"0x92db14e403b83dfe3df233f83dfa3a0d7096f21ca9b0d6d6b8d88b2b4ec1564e",
	"0x4bbbf85ce3377467afe5d46f804f221813b2bb87f24d81f60f1fcdbf7cbf4356",
}

// asked is the creation of a contract that, whatever it is asked, answers 42 and says so
// with an event Answered(uint256).
func askedBytecode(topic string) string {
	return "0x6030600c60003960306000f3" + "602a6000527f" + strings.TrimPrefix(topic, "0x") + "60206000a160206000f3"
}

// startOneCity is a gateway in front of one anvil, on which everyone may create contracts.
func startOneCity(t testing.TB) *twoCities {
	n := newTwoCities(t)
	n.paris = startAnvil(t)
	n.chain.Deploy, n.chain.Committee, n.chain.Nodes = bsn.DeployAnyone, []string{"paris"}, []bsn.ChainNode{{City: "paris", CityIndex: 1}}
	n.ledger.put(n.chain)
	n.framework = newLab(t, map[int]*anvil{1: n.paris})
	n.serve(Config{Cache: Cache{MaxBytes: 16 << 20}})
	return n
}

// scripts is a folder with the clients' scripts and packages.
func scripts(t testing.TB) (dir, cast string) {
	t.Helper()
	software, err := testSoftware()
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/clients")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(software, "node_modules"), filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	return dir, filepath.Join(software, "node_modules", "@foundry-rs", "cast-linux-amd64", "bin", "cast")
}

// run runs a program and returns what it prints.
func run(t testing.TB, dir string, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s%s", filepath.Base(program), args, err, out, errs.String())
	}
	return strings.TrimSpace(string(out))
}

func TestClients(t *testing.T) {
	n := startOneCity(t)
	dir, cast := scripts(t)
	bytecode := askedBytecode(run(t, dir, cast, "keccak", "Answered(uint256)"))
	want := map[string]any{
		"chain": 31337.0, "full": true, "status": 1.0, "call": 42.0, "logs": 1.0, "estimate": true, "balance": true, "code": true, "nonce": 2.0,
		"head": true, "event": 42.0,
	}
	keys := anvilKeys
	for _, scheme := range []string{"http", "ws"} {
		url := strings.Replace(n.url, "http", scheme, 1) + "/rpc/lab/" + n.secret
		for _, tool := range []string{"ethers", "viem", "web3"} {
			key := keys[0]
			keys = keys[1:]
			t.Run(tool+" "+scheme, func(t *testing.T) {
				t.Parallel()
				text := run(t, dir, "node", tool+".mjs", url, key, bytecode)
				var got map[string]any
				if err := json.Unmarshal([]byte(text), &got); err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("%s (%v)", text, err)
				}
			})
		}
		key := keys[0]
		keys = keys[1:]
		t.Run("cast "+scheme, func(t *testing.T) {
			t.Parallel()
			castCalls(t, cast, url, key, bytecode)
		})
	}
}

// castCalls makes the calls of cast's users.
func castCalls(t *testing.T, cast, url, key, bytecode string) {
	dir := t.TempDir()
	call := func(args ...string) string {
		t.Helper()
		return run(t, dir, cast, append([]string{args[0], "--rpc-url", url}, args[1:]...)...)
	}
	type receipt struct{ Status, ContractAddress, TransactionHash, BlockNumber string }
	send := func(args ...string) (r receipt) {
		t.Helper()
		if text := call(append([]string{"send", "--json", "--private-key", key}, args...)...); json.Unmarshal([]byte(text), &r) != nil || r.Status != "0x1" {
			t.Fatalf("send: %s", text)
		}
		return r
	}
	from := run(t, dir, cast, "wallet", "address", "--private-key", key)
	address := send("--create", bytecode).ContractAddress
	// Over a WebSocket cast hears of events by itself.
	var events chan string
	if strings.HasPrefix(url, "ws") {
		events = make(chan string, 1)
		listener := exec.CommandContext(t.Context(), cast, "logs", "--subscribe", "--address", address, "--rpc-url", url)
		out, err := listener.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := listener.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = listener.Process.Kill(); _ = listener.Wait() }()
		go func() {
			for lines := bufio.NewScanner(out); lines.Scan(); {
				if strings.Contains(lines.Text(), "data:") {
					events <- lines.Text()
					return
				}
			}
		}()
	}
	done := send(address, "ask()")
	for i := 0; events != nil; i++ {
		select {
		case text := <-events:
			if !strings.HasSuffix(text, "2a") {
				t.Errorf("event: %s", text)
			}
			events = nil
		default: // it may have subscribed after that
			send(address, "ask()")
			if i == 50 {
				t.Fatal("cast hears of no event")
			}
		}
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"chain-id"}, "31337"},
		{[]string{"call", address, "answer()(uint256)"}, "42"},
		{[]string{"block", done.BlockNumber, "--full", "--json"}, done.TransactionHash},
		{[]string{"tx", done.TransactionHash, "--json"}, done.TransactionHash},
		{[]string{"receipt", done.TransactionHash, "--json"}, `"status":"0x1"`},
		{[]string{"logs", "--address", address, "--from-block", done.BlockNumber, "--json", "Answered(uint256)"}, done.TransactionHash},
		{[]string{"code", address}, "0x602a"},
		{[]string{"rpc", "eth_getBlockByNumber", "latest", "false"}, `"hash":"0x`},
	} {
		if got := call(c.args...); !strings.Contains(got, c.want) {
			t.Errorf("cast %v: %s", c.args, got)
		}
	}
	if got := call("estimate", "--from", from, address, "ask()"); len(got) != 5 {
		t.Errorf("estimate: %s", got)
	}
	if got := call("balance", "--ether", from); !strings.HasPrefix(got, "9999.") {
		t.Errorf("balance: %s", got)
	}
}

// Calls of every kind of gRPC, by a client in another language.
func TestGRPCClients(t *testing.T) {
	n := startTalk(t, Config{})
	dir, _ := scripts(t)
	got := run(t, dir, "node", "grpc.mjs", strings.TrimPrefix(n.url, "http://"), n.secret, "lab")
	want := `{"unary":1,"server":1,"cancelled":1,"client":6,"both":[5,6,7],"status":10,"late":4,"refused":12}`
	if got != want {
		t.Errorf("%s, not %s", got, want)
	}
}
