package gateway

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway/journal"
)

// A quota holds over a restart, with what other cities billed, and day and month apart.
func TestQuota(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	n := startTwoCities(t, Config{Journal: dir})
	n.project.Quota = bsn.Quota{Daily: 20, Monthly: 30}
	n.ledger.put(n.project)
	n.follow()
	call := func() reply { return n.rpc(`{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber"}`) } // 2 units
	refused := func(kind string, code int) {
		t.Helper()
		r := call()
		if r.status != http.StatusTooManyRequests || !strings.Contains(r.body, fmt.Sprint(code)) || !strings.Contains(r.body, kind) || r.header.Get("retry-after") == "" {
			t.Fatalf("status %d: %s %v", r.status, r.body, r.header)
		}
	}
	for i := range 8 {
		if r := call(); r.status != http.StatusOK {
			t.Fatalf("call %d: %d %s", i, r.status, r.body)
		}
	}
	// What is refused or not served costs nothing.
	n.rpc(`{"jsonrpc":"2.0","id":1,"method":"admin_peers"}`)
	// Another gateway process of the city goes on with what this one counted.
	n.serve(Config{Journal: dir})
	for i := range 2 {
		if r := call(); r.status != http.StatusOK {
			t.Fatalf("call %d after the restart: %d %s", i, r.status, r.body)
		}
	}
	refused("daily-quota", codeDaily)

	// More is allowed a day, and another city has billed most of the month's.
	n.project.Quota.Daily = 1000
	now := n.gateway.directory.now().Unix()
	n.ledger.put(n.project, bsn.Usage{Project: n.project.ID()}.Add("chongqing", now+1, 10))
	n.follow()
	eventually(t, "what another city billed is counted", func() bool { return call().status == http.StatusTooManyRequests })
	refused("monthly-quota", codeMonthly)
	n.project.Quota = bsn.Quota{}
	n.ledger.put(n.project)
	n.follow()
	if r := call(); r.status != http.StatusOK {
		t.Errorf("without a quota: %d %s", r.status, r.body)
	}
}

func TestUsedBy(t *testing.T) {
	at := time.Date(2030, 6, 15, 12, 0, 0, 0, time.UTC).Unix()
	row := []bsn.UsageRow{{Project: "alice/main", Units: 5}, {Project: "alice/side", Units: 100}}
	files := []journal.File{
		{Until: at - 24*3600*100, Rows: row}, // of another month
		{Until: at - 24*3600*2, Rows: row},
		{Until: at - 60, Rows: row},
		{Until: at + 60, Rows: row},
	}
	u := bsn.Usage{}.Add("paris", at-60, 40) // which has all but the last
	for name, c := range map[string]struct {
		u    bsn.Usage
		now  int64
		want used
	}{
		"today":          {u, at, used{45, 45}},
		"the next day":   {u, at + 24*3600, used{0, 45}},
		"the next month": {u, at + 20*24*3600, used{0, 0}},
		"never billed":   {bsn.Usage{}, at, used{10, 15}},
	} {
		if got := *usedBy(c.u, "alice/main", "paris", files, c.now); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
