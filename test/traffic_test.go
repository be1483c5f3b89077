package test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/openbsn/bsn"
)

// demoNetworkID is that of the chain chongqing.
const demoNetworkID = 1901

// traffic is what developers do while a network suffers, and the record of what
// they were told is done. What is refused or not answered is tried again, as it
// was.
//
//   - transactions: at each gateway one after the other, from a key of its own
//   - records: projects, on the ledger
//   - keys: made, used, revoked, and tried for ever after at all gateways; a key
//     that nobody made is tried too
//   - publications: an app under ever new names, in two cities each
type traffic struct {
	place    place
	http     *http.Client
	account  string
	project  string
	gateways map[string]string // base URLs by city
	keys     map[string]string // of the project by city
	app      string            // its folder

	stop context.CancelFunc
	done sync.WaitGroup

	mu           sync.Mutex
	transactions map[string][]string // hashes that a city's gateway acknowledged
	records      []string
	publications map[string][]string // cities by the app's name
	revoked      []revokedKey
	accepted     []string // keys that should not have been
	calls        int      // answered
	failures     map[string][]string
}

// revokedKey is a key of a city, and the block in which it was revoked.
type revokedKey struct {
	city, secret string
	block        int64
}

func trafficCommand(ts *testscript.TestScript, args []string) (output, error) {
	switch {
	case len(args) == 2 && args[0] == "start":
		return output{}, startTraffic(ts, ts.MkAbs(args[1]))
	case len(args) == 1 && args[0] == "stop":
		return stopTraffic(ts)
	}
	return output{}, errors.New("usage: traffic start FOLDER, traffic stop")
}

// running holds the traffic of each script that has some.
var running sync.Map

func startTraffic(ts *testscript.TestScript, app string) error {
	o, err := bsnCommand(ts, []string{"context", "--json", "--show-keys"})
	if err != nil {
		return err
	}
	var c struct {
		Account, Project string
		Cities           map[string]struct{ Gateway string }
		Keys             map[string]map[string]string
	}
	if err := json.Unmarshal([]byte(o.stdout), &c); err != nil {
		return err
	}
	t := &traffic{
		place: placeOf(ts), account: c.Account, project: c.Project, app: app,
		gateways: map[string]string{}, keys: c.Keys[bsn.ID(c.Account, c.Project)],
		transactions: map[string][]string{}, publications: map[string][]string{}, failures: map[string][]string{},
	}
	// A client of its own, since the script may go elsewhere.
	t.http = &http.Client{Transport: client(ts).Transport, Timeout: 20 * time.Second}
	ctx, cancel := context.WithCancel(context.Background())
	t.stop = cancel
	for _, city := range slices.Sorted(maps.Keys(t.keys)) {
		t.gateways[city] = c.Cities[city].Gateway
	}
	for city := range t.gateways {
		k, err := crypto.GenerateKey()
		if err != nil {
			return err
		}
		t.done.Go(func() { t.transact(ctx, city, k) })
	}
	t.done.Go(func() { t.record(ctx) })
	t.done.Go(func() { t.tryKeys(ctx) })
	t.done.Go(func() { t.publish(ctx) })
	running.Store(ts, t)
	ts.Defer(func() {
		cancel()
		t.done.Wait()
		running.Delete(ts)
	})
	return nil
}

// transact sends transactions through one gateway until ctx ends.
func (t *traffic) transact(ctx context.Context, city string, k *ecdsa.PrivateKey) {
	to := crypto.PubkeyToAddress(k.PublicKey)
	signer := types.LatestSignerForChainID(big.NewInt(demoNetworkID))
	for nonce := uint64(0); ctx.Err() == nil; nonce++ {
		tx, err := types.SignNewTx(k, signer, &types.LegacyTx{Nonce: nonce, To: &to, Gas: 21000, GasPrice: new(big.Int)})
		if err != nil {
			panic(err)
		}
		raw, err := tx.MarshalBinary()
		if err != nil {
			panic(err)
		}
		for ctx.Err() == nil {
			var hash string
			err := t.call(ctx, city, t.keys[city], "eth_sendRawTransaction", &hash, hexutil.Encode(raw))
			if err == nil {
				t.mu.Lock()
				t.transactions[city] = append(t.transactions[city], hash)
				t.mu.Unlock()
				break
			}
			t.fail(ctx, "transaction", err)
		}
		pause(ctx, awaitPause)
	}
}

// call is JSON-RPC at a city's gateway.
func (t *traffic) call(ctx context.Context, city, key, method string, result any, params ...any) error {
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	if err != nil {
		return err
	}
	_, text, err := t.post(ctx, city, key, string(body))
	if err != nil {
		return err
	}
	var a struct {
		Result json.RawMessage
		Error  *struct{ Message string }
	}
	if err := json.Unmarshal(text, &a); err != nil {
		return fmt.Errorf("no JSON-RPC answer: %s", text)
	}
	if a.Error != nil {
		return errors.New(a.Error.Message)
	}
	return json.Unmarshal(a.Result, result)
}

func (t *traffic) post(ctx context.Context, city, key, body string) (*http.Response, []byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, t.gateways[city]+"/rpc/chongqing/"+key, strings.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	res, err := t.http.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res, text, err
}

// fail notes what did not succeed, and waits before the next try.
func (t *traffic) fail(ctx context.Context, what string, err error) {
	if ctx.Err() != nil {
		return
	}
	t.mu.Lock()
	t.failures[what] = append(t.failures[what], err.Error())
	t.mu.Unlock()
	pause(ctx, awaitPause)
}

// bsn runs bsn, again and again until it succeeds or ctx ends. An acknowledgement
// counts however late it comes, so a run that has begun ends by itself.
func (t *traffic) bsn(ctx context.Context, what string, args ...string) (string, bool) {
	for ctx.Err() == nil {
		run, cancel := context.WithTimeout(context.WithoutCancel(ctx), programTimeout)
		o, err := t.place.bsn(run, args...)
		cancel()
		if err == nil {
			return o.stdout, true
		}
		t.fail(ctx, what, fmt.Errorf("%w: %s", err, o.stderr))
	}
	return "", false
}

// keyProject is the project whose keys are revoked: the first record.
const keyProject = "record-0"

// record writes projects, and every so often makes a key, uses it and revokes it.
func (t *traffic) record(ctx context.Context) {
	cities := slices.Sorted(maps.Keys(t.gateways))
	for i := 0; ctx.Err() == nil; i++ {
		name := fmt.Sprintf("record-%d", i)
		if _, ok := t.bsn(ctx, "record", "project", "create", name); ok {
			t.mu.Lock()
			t.records = append(t.records, name)
			t.mu.Unlock()
		}
		if i%3 == 0 {
			t.revokeOne(ctx, cities[i/3%len(cities)])
		}
		pause(ctx, awaitPause)
	}
}

var inBlock = regexp.MustCompile(`in block (\d+)`)

func (t *traffic) revokeOne(ctx context.Context, city string) {
	secret, ok := t.bsn(ctx, "key", "key", "create", "--project", keyProject, "--city", city)
	if !ok {
		return
	}
	secret = strings.TrimSpace(secret)
	for ctx.Err() == nil { // until its city knows it
		var n string
		if err := t.call(ctx, city, secret, "eth_blockNumber", &n); err == nil {
			break
		}
		pause(ctx, awaitPause)
	}
	said, ok := t.bsn(ctx, "revocation", "key", "revoke", "--project", keyProject, secret)
	if !ok {
		return
	}
	block, err := strconv.ParseInt(inBlock.FindStringSubmatch(said)[1], 10, 64)
	if err != nil {
		panic(err)
	}
	t.mu.Lock()
	t.revoked = append(t.revoked, revokedKey{city, secret, block})
	t.mu.Unlock()
}

// tryKeys calls every gateway with keys that it must not take, and with good ones.
func (t *traffic) tryKeys(ctx context.Context) {
	unknown, _ := bsn.NewKey("nowhere")
	for ctx.Err() == nil {
		for city := range t.gateways {
			var n string
			if err := t.call(ctx, city, t.keys[city], "eth_blockNumber", &n); err != nil {
				t.fail(ctx, "read", err)
			} else {
				t.mu.Lock()
				t.calls++
				t.mu.Unlock()
			}
			t.mustRefuse(ctx, city, revokedKey{secret: unknown})
			t.mu.Lock()
			revoked := slices.Clone(t.revoked)
			t.mu.Unlock()
			for _, k := range revoked {
				t.mustRefuse(ctx, city, k)
			}
		}
		pause(ctx, awaitPause)
	}
}

// mustRefuse notes a gateway that takes a key though it is not for its city, or
// though it knows of the second block after the one in which it was revoked.
func (t *traffic) mustRefuse(ctx context.Context, city string, k revokedKey) {
	res, text, err := t.post(ctx, city, k.secret, `{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":[]}`)
	if err != nil || res.StatusCode == http.StatusUnauthorized || !bytes.Contains(text, []byte(`"result"`)) {
		return
	}
	known, err := strconv.ParseInt(res.Header.Get("Bsn-Ledger-Height"), 10, 64)
	if err == nil && city == k.city && known < k.block+2 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.accepted = append(t.accepted, fmt.Sprintf("gateway of %s, which knows ledger block %d, takes a key of %q that was revoked in block %d", city, known, k.city, k.block))
}

// publish publishes the app again and again, each time under another name.
func (t *traffic) publish(ctx context.Context) {
	cities := slices.Sorted(maps.Keys(t.gateways))
	for i := 0; ctx.Err() == nil; i++ {
		name := fmt.Sprintf("app-%d", i)
		folder := t.app + "-" + strconv.Itoa(i)
		where := []string{cities[i%len(cities)], cities[(i+1)%len(cities)]}
		if err := t.copyApp(folder, name); err != nil {
			t.fail(ctx, "publication", err)
			continue
		}
		if _, ok := t.bsn(ctx, "publication", "app", "publish", folder, "--cities", strings.Join(where, ",")); ok {
			t.mu.Lock()
			t.publications[name] = where
			t.mu.Unlock()
		}
		pause(ctx, awaitPause)
	}
}

// copyApp copies the app's folder, with NAME in its manifest replaced.
func (t *traffic) copyApp(folder, name string) error {
	if err := os.CopyFS(folder, os.DirFS(t.app)); err != nil {
		return err
	}
	manifest := filepath.Join(folder, "bsn.yaml")
	text, err := os.ReadFile(manifest)
	if err != nil {
		return err
	}
	return os.WriteFile(manifest, bytes.ReplaceAll(text, []byte("NAME"), []byte(name)), 0o644)
}

// stopTraffic says what there was, in JSON: lost are what was acknowledged and is
// not there, accepted the keys that should not have been.
func stopTraffic(ts *testscript.TestScript) (output, error) {
	v, ok := running.Load(ts)
	if !ok {
		return output{}, errors.New("there is no traffic")
	}
	t := v.(*traffic)
	t.stop()
	t.done.Wait()
	report := struct {
		Transactions int            `json:"transactions"`
		Records      int            `json:"records"`
		Revocations  int            `json:"revocations"`
		Publications int            `json:"publications"`
		Reads        int            `json:"reads"`
		Retries      map[string]int `json:"retries"`
		// Errors are the last of those that led to retries.
		Errors   map[string]string `json:"errors"`
		Lost     []string          `json:"lost"`
		Accepted []string          `json:"accepted"`
	}{Records: len(t.records), Revocations: len(t.revoked), Publications: len(t.publications), Reads: t.calls, Retries: map[string]int{}, Errors: map[string]string{}, Lost: []string{}, Accepted: append([]string{}, t.accepted...)}
	for what, errs := range t.failures {
		report.Retries[what], report.Errors[what] = len(errs), errs[len(errs)-1]
	}
	for _, hashes := range t.transactions {
		report.Transactions += len(hashes)
	}
	// A city that was hit last may still be catching up.
	for deadline := time.Now().Add(awaitTimeout); ; time.Sleep(time.Second) {
		report.Lost = append([]string{}, slices.Concat(t.lostTransactions(), t.lostRecords(), t.lostApps())...)
		if len(report.Lost) == 0 || time.Now().After(deadline) {
			break
		}
	}
	report.Lost = report.Lost[:min(len(report.Lost), 20)]
	text, err := json.Marshal(report)
	return output{stdout: string(text) + "\n"}, err
}
