package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// BenchmarkSubscribers has BSN_SUBSCRIBERS clients, ten thousand by default, wait for
// heads, in a process of their own. It measures what each of them costs the gateway's
// process in memory, and when the last of them has a new head.
func BenchmarkSubscribers(b *testing.B) {
	count := 10_000
	if s := os.Getenv("BSN_SUBSCRIBERS"); s != "" {
		var err error
		if count, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	n := startStaged(b, Config{})
	n.connect().subscribe()
	before := resident(b)
	load := exec.Command(os.Args[0], "-test.run=^TestSubscribersLoad$", "-test.count=1")
	load.Env = append(os.Environ(), "BSN_LOAD="+strings.Replace(n.url, "http", "ws", 1)+"/rpc/lab/"+n.secret, "BSN_LOAD_COUNT="+strconv.Itoa(count))
	load.Stderr = os.Stderr
	in, err := load.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := load.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := load.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { in.Close(); _ = load.Wait() }()
	lines := bufio.NewScanner(out)
	next := func(want string) string {
		for lines.Scan() {
			if rest, ok := strings.CutPrefix(lines.Text(), want+" "); ok {
				return rest
			}
		}
		b.Fatal("load generator ended")
		return ""
	}
	next("subscribed")
	idle := resident(b)
	var times []float64
	for b.Loop() {
		n.chain.grow(0)
		began := time.Now()
		n.both()
		last, err := strconv.ParseInt(next("head"), 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		times = append(times, float64(time.Unix(0, last).Sub(began).Microseconds())/1000)
	}
	slices.Sort(times)
	b.ReportMetric(float64(idle-before)/1024/float64(count), "KiB/subscriber")
	b.ReportMetric(float64(resident(b)-before)/1024/float64(count), "KiB/subscriber-after")
	b.ReportMetric(times[len(times)/2], "p50-last-ms")
	b.ReportMetric(times[len(times)-1], "max-last-ms")
}

// resident is the memory of this process, after what can be given back was.
func resident(b *testing.B) int64 {
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// TestSubscribersLoad is the load generator of BenchmarkSubscribers. It says when all
// have subscribed, and for each head when the last of them had it.
func TestSubscribersLoad(t *testing.T) {
	address := os.Getenv("BSN_LOAD")
	if address == "" {
		t.Skip("runs as a part of BenchmarkSubscribers")
	}
	count, err := strconv.Atoi(os.Getenv("BSN_LOAD_COUNT"))
	if err != nil {
		t.Fatal(err)
	}
	var ready sync.WaitGroup
	var heads atomic.Int64
	slots := make(chan struct{}, 64)
	for range count {
		ready.Add(1)
		slots <- struct{}{}
		go func() {
			conn, early, _, err := ws.Dial(context.Background(), address)
			if err != nil || early != nil {
				t.Error(err)
				os.Exit(1)
			}
			frame := ws.MaskFrameInPlace(ws.NewTextFrame([]byte(`{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["newHeads"]}`)))
			if err := ws.WriteFrame(conn, frame); err != nil {
				t.Error(err)
				os.Exit(1)
			}
			r := bufio.NewReaderSize(conn, 2048)
			for i := 0; ; i++ {
				h, err := ws.ReadHeader(r)
				if err == nil {
					_, err = io.CopyN(io.Discard, r, h.Length)
				}
				if err != nil {
					os.Exit(0)
				}
				switch {
				case h.OpCode == ws.OpPing:
					i--
					_ = ws.WriteFrame(conn, ws.MaskFrameInPlace(ws.NewPongFrame(nil)))
				case h.OpCode != ws.OpText:
					os.Exit(0)
				case i == 0:
					<-slots
					ready.Done()
				default:
					if heads.Add(1)%int64(count) == 0 {
						fmt.Printf("head %d\n", time.Now().UnixNano())
					}
				}
			}
		}()
	}
	ready.Wait()
	fmt.Printf("subscribed %d\n", count)
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}
