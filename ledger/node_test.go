package ledger

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger/key"
)

// childEnv makes this test's binary the node of the network in that folder.
const childEnv = "BSN_TEST_LEDGER"

func TestMain(m *testing.M) {
	if home := os.Getenv(childEnv); home != "" {
		if err := child(home); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	// Each check of a property runs a network: fewer than rapid's own 100 will do,
	// and the command line may ask for more.
	flag.Set("rapid.checks", "4")
	os.Exit(m.Run())
}

// child runs a node and updates its city, with a new number each time, and tells
// of each write that was acknowledged, until it is killed.
func child(home string) error {
	ctx := context.Background()
	n, err := Start(NodeConfig{Home: home, Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler), pause: 10 * time.Millisecond})
	if err != nil {
		return err
	}
	if err := n.Ready(ctx); err != nil {
		return err
	}
	city, err := NewClient(n, seed("city0"))
	if err != nil {
		return err
	}
	for i := 1; ; i++ {
		if _, err := city.Write(ctx, UpdateCity(fmt.Sprintf("http://127.0.0.1:%d", i), "", nil)); err != nil {
			return err
		}
		fmt.Println(i)
	}
}

// home makes a network of one and returns its node's folder.
func home(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	id := must[Identity](t)(InitNode(dir))
	a := admission(0)
	a.ConsensusKey, a.NodeKey = id.ConsensusKey, id.NodeKey
	if err := WriteGenesis(dir, must[[]byte](t)(NewGenesis("test-net", 77, a, bsn.Parameters{}))); err != nil {
		t.Fatal(err)
	}
	return dir
}

func run(t *testing.T, home string) *Node {
	t.Helper()
	n := must[*Node](t)(Start(NodeConfig{Home: home, Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler), pause: 10 * time.Millisecond}))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := n.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestKilledNodeKeepsWhatItAcknowledged(t *testing.T) {
	t.Parallel()
	dir := home(t)
	last := 0
	for kill := range 3 {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), childEnv+"="+dir)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for last = 0; last < 5+kill && lines.Scan(); {
			if n, err := fmt.Sscan(lines.Text(), &last); n != 1 {
				t.Fatalf("%q: %v", lines.Text(), err)
			}
		}
		c.Process.Kill()
		for lines.Scan() { // what it said before it died
			fmt.Sscan(lines.Text(), &last)
		}
		c.Wait()
	}
	n := run(t, dir)
	var port int
	city := get[bsn.City](t, n, bsn.KindCity, "city-0")
	if _, err := fmt.Sscanf(city.API, "http://127.0.0.1:%d", &port); err != nil || port < last {
		t.Errorf("the city is at %s, and %d was acknowledged", city.API, last)
	}
	// It takes writes and tells of them again.
	c := must[*Client](t)(NewClient(n, seed("city0")))
	res := must[Result](t)(c.Write(t.Context(), UpdateCity("http://127.0.0.1:9999", "", nil)))
	if city := get[bsn.City](t, n, bsn.KindCity, "city-0"); city.API != "http://127.0.0.1:9999" {
		t.Errorf("after a write: %s", city.API)
	}
	for b, err := range n.Follow(t.Context(), res.Height) {
		if err != nil || len(b.Changes) != 1 {
			t.Errorf("block %d: %v, %v", b.Height, b.Changes, err)
		}
		break
	}
	if err := n.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func TestSubmitTwiceAnswersTwice(t *testing.T) {
	t.Parallel()
	n := run(t, home(t))
	defer n.Stop()
	c := must[*Client](t)(NewClient(n, seed("city0")))
	tx := must[[]byte](t)(c.Sign(t.Context(), UpdateCity("http://127.0.0.1:1", "", nil)))
	first := must[Result](t)(n.Submit(t.Context(), tx))
	must[Result](t)(c.Write(t.Context(), UpdateCity("http://127.0.0.1:2", "", nil)))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	again := must[Result](t)(n.Submit(ctx, tx))
	if again.Height != first.Height || again.Hash != first.Hash {
		t.Errorf("first %+v, again %+v", first, again)
	}
	if city := get[bsn.City](t, n, bsn.KindCity, "city-0"); city.API != "http://127.0.0.1:2" {
		t.Errorf("it took effect twice: %s", city.API)
	}
}

func TestFollowCoalescesAndEnds(t *testing.T) {
	t.Parallel()
	n := run(t, home(t))
	c := must[*Client](t)(NewClient(n, seed("city0")))
	res := must[Result](t)(c.Write(t.Context(), UpdateCity("http://127.0.0.1:1", "", nil), UpdateCity("http://127.0.0.1:2", "", nil)))
	for b, err := range n.Follow(t.Context(), res.Height) {
		if err != nil || len(b.Changes) != 1 || !strings.Contains(string(b.Changes[0].Record), "127.0.0.1:2") {
			t.Errorf("two changes of one record in a block: %v, %v", b.Changes, err)
		}
		break
	}
	for _, err := range n.Follow(t.Context(), 0) {
		if !errors.Is(err, bsn.ErrPruned) {
			t.Errorf("from before the first block: %v", err)
		}
	}
	ended := make(chan error, 1)
	go func() {
		for _, err := range n.Follow(t.Context(), res.Height+1000) {
			ended <- err
		}
	}()
	if err := n.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := <-ended; err == nil {
		t.Error("a follower of a stopped node has no error")
	}
}

func TestNodeRefusesOddReads(t *testing.T) {
	t.Parallel()
	n := run(t, home(t))
	defer n.Stop()
	for _, c := range [][2]string{{"secret", "x"}, {"city", strings.Repeat("x", 1<<20)}, {"city", "\xff\x00"}, {"city", ""}} {
		if _, err := n.Get(t.Context(), bsn.Kind(c[0]), c[1]); !errors.Is(err, bsn.ErrNoRecord) || len(err.Error()) > 300 {
			t.Errorf("get %.20q %.20q: %.300v", c[0], c[1], err)
		}
	}
	if _, _, err := n.List(t.Context(), "secret", "", 1); !errors.Is(err, bsn.ErrNoRecord) {
		t.Errorf("list: %v", err)
	}
	if page, _, err := n.List(t.Context(), bsn.KindCity, "\xff", -1); err != nil || len(page) != 0 {
		t.Errorf("list: %v %v", page, err)
	}
	// Peers that cannot be are refused one by one.
	for _, peer := range []string{"nonsense", "zz@127.0.0.1:1", strings.Repeat("0", 40) + "@127.0.0.1:99999"} {
		if err := n.Connect([]string{peer}, nil); err == nil {
			t.Errorf("connects to %q", peer)
		}
	}
	if err := n.Connect([]string{strings.Repeat("1", 40) + "@127.0.0.1:1"}, []string{strings.Repeat("2", 40), "nonsense"}); err != nil {
		t.Error(err)
	}
}

func TestFilesAreTheOwners(t *testing.T) {
	t.Parallel()
	dir := home(t)
	again := must[Identity](t)(InitNode(dir))
	if first := must[Identity](t)(InitNode(dir)); !bytes.Equal(first.NodeKey, again.NodeKey) || string(first.ConsensusKey) != string(again.ConsensusKey) {
		t.Error("the same folder gives other keys")
	}
	must[key.Key](t)(key.LoadOrNew(filepath.Join(dir, "keys", "a.key")))
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && path != dir && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// A state that is gone must not be made anew: the key may have signed.
	if err := os.Remove(filepath.Join(dir, "data", "priv_validator_state.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := InitNode(dir); err == nil || !strings.Contains(err.Error(), "backup") {
		t.Errorf("without its state: %v", err)
	}
	if _, err := Start(NodeConfig{Home: dir, Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("a node started without its state")
	}
}
