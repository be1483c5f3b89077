package gateway

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/openbsn/bsn/gateway/cache"
)

// Whatever is taken, held and shared, it is counted while it is there and no longer,
// the bound holds for what is taken, and the cache has no more than the rest.
func TestMemoryIsCounted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit, cached = 100 << 20, 60 << 20
		store, err := cache.New(cached, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		m := newMemory(limit, store, cached)
		texts := [][]byte{make([]byte, smallCall), make([]byte, 40<<10), make([]byte, sharedLeast), make([]byte, 1<<20)}
		var taken []int64
		holds := map[int][]answerHeld{}
		want := func() (sum int64) {
			for _, n := range taken {
				sum += n
			}
			for i, list := range holds {
				switch {
				case len(texts[i]) >= sharedLeast && len(list) > 0:
					sum += int64(len(texts[i]))
				case len(texts[i]) > smallCall:
					sum += int64(len(texts[i]) * len(list))
				}
			}
			return sum
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0, 1:
				n := rapid.Int64Range(1, 30<<20).Draw(t, "bytes")
				if fits := want()+n <= limit; m.Take(n) != fits {
					t.Fatalf("%d beside %d: fits %v", n, want(), fits)
				} else if fits {
					taken = append(taken, n)
				}
			case 2:
				if len(taken) > 0 {
					m.Give(taken[0])
					taken = taken[1:]
				}
			case 3:
				i := rapid.IntRange(0, len(texts)-1).Draw(t, "text")
				holds[i] = append(holds[i], m.hold(texts[i]))
			case 4:
				i := rapid.IntRange(0, len(texts)-1).Draw(t, "text")
				if list := holds[i]; len(list) > 0 {
					m.letGo(list[0])
					holds[i] = list[1:]
				}
				m.relax()
			}
			if got := m.held.Load(); got != want() {
				t.Fatalf("%d bytes are counted, and there are %d", got, want())
			}
			if m.now < 0 || m.now > cached || m.easy.Load() != limit-m.now {
				t.Fatalf("the cache may have %d", m.now)
			}
		}
		for _, n := range taken {
			m.Give(n)
		}
		for _, list := range holds {
			for _, h := range list {
				m.letGo(h)
			}
		}
		if m.relax(); m.held.Load() != 0 || m.now != cached {
			t.Fatalf("%d bytes are held in the end, and the cache may have %d", m.held.Load(), m.now)
		}
	})
}

// The cache gives up what it has when calls need it.
func TestCacheGivesWay(t *testing.T) {
	store, err := cache.New(64<<20, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	m := newMemory(64<<20, store, 64<<20)
	for i := range 100 {
		store.Put([]byte{byte(i)}, cache.Entry{Answer: make([]byte, 512<<10), Final: true})
	}
	if bytes, _ := store.Size(); bytes < 40<<20 {
		t.Fatalf("the cache has %d bytes", bytes)
	}
	if !m.Take(48 << 20) {
		t.Fatal("the cache does not give way")
	}
	if bytes, _ := store.Size(); bytes > 16<<20 {
		t.Errorf("the cache has %d bytes beside 48 MiB of calls, of 64", bytes)
	}
	if m.Take(17 << 20) {
		t.Error("more than there is")
	}
}

// A node that is stuck, a thousand who wait for it, and then a mebibyte for each of
// them, which they do not read: the gateway's memory stays bounded, who was not refused
// gets all of the answer in the end, and nothing stays counted.
func TestMemoryIsBounded(t *testing.T) {
	const callers, limit, size = 1000, 96 << 20, 1 << 20
	dir := t.TempDir()
	state := filepath.Join(dir, "state.json")
	w := mustScripted(t, Config{State: state}, true, "paris")
	eventually(t, "state is saved", func() bool { r, _, err := loadState(state); return err == nil && r != nil })
	n := w.nodes["paris"]
	release := make(chan struct{})
	stuck := newStuckNode(n, release, size)
	defer stuck.Close()
	port, err := strconv.Atoi(urlPort(t, stuck.url))
	if err != nil {
		t.Fatal(err)
	}
	address, metrics := freeAddress(t), freeAddress(t)
	told, err := json.Marshal(child{
		Config: Config{City: "paris", Listen: []string{address}, Metrics: metrics, State: state, MaxMemoryBytes: limit},
		Ports:  map[int]int{1: port},
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "BSN_GATEWAY_CHILD="+string(told))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	eventually(t, "gateway answers", func() bool {
		r, err := http.Get("http://" + address + "/health")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		text, _ := io.ReadAll(r.Body)
		return strings.Contains(string(text), `"height":7`)
	})
	metric := func(name string) (value float64) {
		r, err := http.Get("http://" + metrics + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			if text, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
				if value, err = strconv.ParseFloat(text, 64); err != nil {
					t.Fatal(err)
				}
			}
		}
		return value
	}
	worst := map[string]float64{}
	look := func() {
		for _, name := range []string{"bsn_gateway_memory_held_bytes", "go_memstats_heap_inuse_bytes", "process_resident_memory_bytes"} {
			worst[name] = max(worst[name], metric(name))
		}
	}
	// They have small windows, and small packets, so that the kernel takes little.
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		_ = c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
			if err == nil {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, 536)
			}
		})
		return err
	}}
	conns := make([]net.Conn, callers)
	for i := range conns {
		c, err := dialer.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		body := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"eth_call","params":[{"data":"0x%08x"},"latest"]}`, i, i)
		if _, err := fmt.Fprintf(c, "POST /rpc/lab/%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", w.keys["one"], len(body), body); err != nil {
			t.Fatal(err)
		}
		conns[i] = c
	}
	eventually(t, "all wait for the node", func() bool { look(); return stuck.waiting.Load() == callers })
	close(release)
	eventually(t, "the answers are there", func() bool {
		look()
		return metric("bsn_gateway_memory_refusals_total") > 0 && stuck.waiting.Load() == 0
	})
	for range 20 {
		look()
		time.Sleep(50 * time.Millisecond)
	}
	var answered, refused atomic.Int64
	var group sync.WaitGroup
	for i, c := range conns {
		group.Go(func() {
			_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
			r, err := http.ReadResponse(bufio.NewReaderSize(c, 4096), nil)
			if err != nil {
				t.Errorf("caller %d: %v", i, err)
				return
			}
			defer r.Body.Close()
			text, err := io.ReadAll(r.Body)
			switch {
			case err != nil:
				t.Errorf("caller %d: %v", i, err)
			case r.StatusCode == http.StatusOK && len(text) > size && strings.HasPrefix(string(text), fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"result":"0x%08x`, i, i)):
				answered.Add(1)
			case r.StatusCode == http.StatusServiceUnavailable && strings.Contains(string(text), `"code":-32024`) && r.Header.Get("Retry-After") == "1":
				refused.Add(1)
			default:
				t.Errorf("caller %d: %d %s", i, r.StatusCode, clip(text))
			}
		})
	}
	group.Wait()
	t.Logf("%d answered, %d refused, at most %v", answered.Load(), refused.Load(), worst)
	if answered.Load() < 10 || refused.Load() < 10 || answered.Load()+refused.Load() != callers {
		t.Errorf("%d answered and %d refused", answered.Load(), refused.Load())
	}
	if held := worst["bsn_gateway_memory_held_bytes"]; held > limit {
		t.Errorf("%.0f bytes were held, of %d", held, limit)
	}
	if heap := worst["go_memstats_heap_inuse_bytes"]; heap > limit+64<<20 {
		t.Errorf("the heap was %.0f bytes, with a limit of %d", heap, limit)
	}
	eventually(t, "nothing is counted any more", func() bool { return metric("bsn_gateway_memory_held_bytes") == 0 })
}

// stuckNode is a scripted node that lets eth_call wait, and then answers with a text of
// its own for each.
type stuckNode struct {
	*http.Server
	url     string
	waiting atomic.Int64
}

func newStuckNode(n *scriptedNode, release chan struct{}, size int) *stuckNode {
	n.mu.Lock()
	n.head = 7
	n.mu.Unlock()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	s := &stuckNode{url: "http://" + l.Addr().String()}
	padding := strings.Repeat("0", size)
	s.Server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		_, data, found := strings.Cut(string(text), `"data":"0x`)
		if !found {
			r.Body = io.NopCloser(strings.NewReader(string(text)))
			n.ServeHTTP(w, r)
			return
		}
		s.waiting.Add(1)
		<-release
		head, tail := `{"jsonrpc":"2.0","id":1,"result":"0x`+data[:8], `"}`
		w.Header().Set("Content-Length", strconv.Itoa(len(head)+size+len(tail)))
		_, _ = io.WriteString(w, head)
		_, _ = io.WriteString(w, padding)
		_, _ = io.WriteString(w, tail)
		s.waiting.Add(-1)
	})}
	go s.Server.Serve(l)
	return s
}

func urlPort(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}
