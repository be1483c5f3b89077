package test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/city/api"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/ledger/key"
)

// floodParallel is how many of a flood are under way at a time.
const floodParallel = 64

// flood is what somebody does who wants to be in everybody's way:
//
//	flood KEYFILE CITY transactions N   each of some 90 KB, as a city: answers about apps that there are not
//	flood KEYFILE CITY requests N       for the city's record
//	flood KEYFILE CITY streams N        of all blocks, which stay open
//	flood KEYFILE CITY artifacts N      packages of a MiB each
//	flood nobody CITY applications N    to join, with 5 MB each
//	flood nobody CITY connections N     that say half a word and then nothing, and stay open
//
// It prints how many were taken and how many not, and the reasons.
func flood(ts *testscript.TestScript, args []string) (output, error) {
	if len(args) != 4 {
		return output{}, errors.New("usage: flood KEYFILE CITY WHAT N")
	}
	n, err := strconv.Atoi(args[3])
	if err != nil {
		return output{}, err
	}
	network, url, err := contextOf(ts, args[1])
	if err != nil {
		return output{}, err
	}
	k := key.New()
	if args[0] != "nobody" {
		if k, err = key.Load(filepath.Join(ts.Getenv("BSN_HOME"), args[0])); err != nil {
			return output{}, err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), awaitTimeout)
	ts.Value(testKey{}).(*testing.T).Cleanup(cancel) // what stays open stays so long
	conn := api.Dial(url, network, args[1], k)
	var one func() error
	switch args[2] {
	case "transactions":
		client, err := ledger.NewClient(conn, k)
		if err != nil {
			return output{}, err
		}
		messages := make([]ledger.Message, 150)
		for i := range messages {
			messages[i] = ledger.PlaceApp("nobody/nothing", 1, bsn.Placement{Status: bsn.PlacementRefused, Reason: strings.Repeat("x", 500)})
		}
		one = func() error { _, err := client.Write(ctx, messages...); return err }
	case "requests":
		one = func() error { _, err := conn.Get(ctx, bsn.KindCity, args[1]); return err }
	case "streams":
		one = func() error {
			came, ended := make(chan struct{}), make(chan error, 1)
			go func() {
				first := sync.OnceFunc(func() { close(came) })
				for _, err := range conn.Follow(ctx, 1) {
					if err != nil {
						ended <- err
						return
					}
					first()
				}
			}()
			select {
			case <-came:
				return nil
			case err := <-ended:
				return err
			}
		}
	case "artifacts":
		one = func() error {
			b := make([]byte, 1<<20)
			rand.Read(b)
			_, err := conn.PutArtifact(ctx, b)
			return err
		}
	case "applications":
		one = func() error {
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/bsn.city.v1.CityService/Apply", strings.NewReader(`{"invitation":"`+strings.Repeat("x", 5_000_000)+`"}`))
			if err != nil {
				return err
			}
			r.Header.Set("Content-Type", "application/json")
			res, err := http.DefaultClient.Do(r)
			if err != nil {
				return err
			}
			defer res.Body.Close()
			text, err := io.ReadAll(res.Body)
			if err == nil && res.StatusCode != http.StatusOK {
				err = errors.New(string(text))
			}
			return err
		}
	case "connections":
		one = func() error {
			c, err := net.DialTimeout("tcp", strings.TrimPrefix(url, "http://"), 10*time.Second)
			if err != nil {
				return err
			}
			context.AfterFunc(ctx, func() { c.Close() })
			_, err = io.WriteString(c, "POST / HT")
			return err
		}
	default:
		return output{}, fmt.Errorf("flood: of %q?", args[2])
	}
	return many(n, one), nil
}

// numbers differ between reasons that are the same.
var numbers = regexp.MustCompile(`[0-9]+`)

// many does something n times and counts how it ends.
func many(n int, one func() error) (o output) {
	var taken, refused atomic.Int64
	var mu sync.Mutex
	reasons := map[string]string{}
	var wg sync.WaitGroup
	slots := make(chan struct{}, floodParallel)
	for range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			err := one()
			if err == nil {
				taken.Add(1)
				return
			}
			refused.Add(1)
			mu.Lock()
			defer mu.Unlock()
			if len(reasons) < 10 {
				reasons[numbers.ReplaceAllString(err.Error(), "")] = err.Error()
			}
		})
	}
	wg.Wait()
	o.stdout = fmt.Sprintf("%d taken, %d refused\n", taken.Load(), refused.Load())
	for _, text := range reasons {
		o.stdout += text + "\n"
	}
	return o
}

func rss(ts *testscript.TestScript, args []string) (output, error) {
	if len(args) != 3 {
		return output{}, errors.New("usage: rss CITY PART MIB")
	}
	p, err := find(ts, args[0], args[1])
	if err != nil {
		return output{}, err
	}
	most, err := strconv.Atoi(args[2])
	if err != nil {
		return output{}, err
	}
	found := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindStringSubmatch(readProc(fmt.Sprintf("/proc/%d", p.pid), "status"))
	if found == nil {
		return output{}, fmt.Errorf("%s of city %s has ended", args[1], args[0])
	}
	kib, err := strconv.Atoi(found[1])
	if err == nil && kib/1024 > most {
		err = fmt.Errorf("%s of city %s holds %d MiB, more than %d", args[1], args[0], kib/1024, most)
	}
	return output{stdout: fmt.Sprintln(kib/1024, "MiB")}, err
}
