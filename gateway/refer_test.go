package gateway

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/openbsn/bsn"
	"pgregory.net/rapid"
)

func TestRefer(t *testing.T) {
	hash := `"0x` + strings.Repeat("ab", 32) + `"`
	number := func(n int64) reference { return reference{scope: scopeNumber, number: n} }
	first, second, filter := bsn.Method{Cache: bsn.CacheBlock, Block: 1}, bsn.Method{Cache: bsn.CacheBlock, Block: 2}, bsn.Method{Cache: bsn.CacheBlock, Filter: 1}
	for _, c := range []struct {
		method bsn.Method
		params string
		want   reference
	}{
		{bsn.Method{}, `["latest"]`, toNode},
		{bsn.Method{Cache: bsn.CacheStatic}, ``, reference{scope: scopeStatic}},
		{bsn.Method{Cache: bsn.CacheHead}, `[]`, toHead},
		{bsn.Method{Cache: bsn.CacheHash}, `[` + hash + `]`, toHash},
		{first, ``, toHead},
		{first, `[]`, toHead},
		{first, `{"block":"0x1"}`, toNode},
		{first, `["latest",true]`, toHead},
		{first, `[ "0x10" , true]`, number(16)},
		{first, `["0x10",true]`, number(16)},
		{first, `["finalized"]`, toHead},
		{first, `["pending"]`, toNode},
		{first, `["earliest"]`, number(0)},
		{first, `["\u006catest"]`, toNode},
		{first, `["0x10\""]`, toNode},
		{first, `["0xg"]`, toNode},
		{first, `["16"]`, toNode},
		{first, `[16]`, toNode},
		{first, `[null]`, toNode},
		{first, `["0x1000000000000000"]`, toNode},
		{first, `[` + hash + `]`, toHash},
		{second, `[{"to":"0xaa"}]`, toHead},
		{second, `[{"to":"0xaa"},"0x1"]`, number(1)},
		{second, `["0xaa",{"blockNumber":"0x7"}]`, number(7)},
		{second, `["0xaa",{"blockHash":` + hash + `,"requireCanonical":true}]`, toHash},
		{second, `["0xaa",{"blockHash":"0x12"}]`, toNode},
		{second, `["0xaa",{"blockNumber":"0x7","blockNumber":"latest"}]`, toNode},
		{second, `["0xaa",{"blockNumber":"0x7","blockHash":` + hash + `}]`, toNode},
		{second, `["0xaa",{"block\u004eumber":"0x7","blockNumber":"0x7"}]`, toNode},
		{second, `["0xaa",{}]`, toNode},
		{filter, `[{"fromBlock":"0x1","toBlock":"0x5"}]`, number(5)},
		{filter, `[{"fromBlock":"0x1"}]`, toHead},
		{filter, `[{"fromBlock":"0x1","toBlock":null}]`, toHead},
		{filter, `[{}]`, toHead},
		{filter, `[{"fromBlock":"earliest","toBlock":"0x2","address":"0xaa","topics":[]}]`, number(2)},
		{filter, `[{"fromBlock":"0x1","toBlock":"latest"}]`, toHead},
		{filter, `[{"fromBlock":"0x1","toBlock":"pending"}]`, toNode},
		{filter, `[{"fromBlock":"0x1","toBlock":"0x5","toBlock":"latest"}]`, toNode},
		{filter, `[{"blockHash":` + hash + `}]`, toHash},
		{filter, `[{"blockHash":` + hash + `,"toBlock":"0x1"}]`, toNode},
		{filter, `[{"to\u0042lock":"0x1"}]`, toNode},
		{filter, `["0x1"]`, toNode},
	} {
		var params []byte
		if c.params != "" {
			params = []byte(c.params)
		}
		if got := refer(c.method, params); got != c.want {
			t.Errorf("%+v %s: %+v, want %+v", c.method, c.params, got, c.want)
		}
	}
}

func TestShowsBlock(t *testing.T) {
	for _, c := range []struct {
		where  bsn.Shows
		result string
		want   int64
		found  bool
	}{
		{bsn.ShowsResult, `"0x10"`, 16, true},
		{bsn.ShowsResult, `null`, 0, false},
		{bsn.ShowsNumber, `{"hash":"0x1","number":"0x2","transactions":[{"number":"0x9"}]}`, 2, true},
		{bsn.ShowsNumber, `{"transactions":[{"number":"0x9"}],"number":"0x2"}`, 2, true},
		{bsn.ShowsNumber, `{"number":null}`, 0, false},
		{bsn.ShowsBlockNumber, `[{"blockNumber":"0x3"},{"blockNumber":"0x4"}]`, 3, true},
		{bsn.ShowsBlockNumber, `[]`, 0, false},
		{bsn.ShowsBlockNumber, `{"number":"0x2"}`, 0, false},
		{"", `{"number":"0x2"}`, 0, false},
	} {
		if got, found := showsBlock(c.where, []byte(c.result)); got != c.want || found != c.found {
			t.Errorf("%s of %s: %d %v", c.where, c.result, got, found)
		}
	}
}

// Any params that are valid JSON are read without a fault, and what is taken for a
// number is the number that a node reads there.
func FuzzRefer(f *testing.F) {
	f.Add(`[{"to":"0xaa"},"0x1"]`)
	f.Add(`[{"fromBlock":"0x1","toBlock":"0x5"}]`)
	f.Add(`["0xaa",{"blockNumber":"0x7"}]`)
	f.Fuzz(func(t *testing.T, params string) {
		if scanText([]byte(params), maxRequestDepth) != nil || !strings.HasPrefix(params, "[") {
			return
		}
		for _, m := range []bsn.Method{{Cache: bsn.CacheBlock, Block: 1}, {Cache: bsn.CacheBlock, Block: 2}, {Cache: bsn.CacheBlock, Filter: 1}} {
			r := refer(m, []byte(params))
			if r.scope != scopeNumber || m.Filter > 0 {
				continue
			}
			var all []json.RawMessage
			if err := json.Unmarshal([]byte(params), &all); err != nil {
				t.Fatal(err)
			}
			var text string
			var object struct{ BlockNumber string }
			if json.Unmarshal(all[m.Block-1], &text) != nil {
				if err := json.Unmarshal(all[m.Block-1], &object); err != nil {
					t.Fatal(err)
				}
				text = object.BlockNumber
			}
			if text != "earliest" && !strings.EqualFold(strings.TrimLeft(strings.TrimPrefix(text, "0x"), "0"), strings.TrimLeft(fmt.Sprintf("%x", r.number), "0")) {
				t.Errorf("%s: read as %d", params, r.number)
			}
		}
	})
}

func TestJudge(t *testing.T) {
	for failure, want := range map[string]verdict{
		`{"code":3,"message":"execution reverted: rate limit"}`:                    verdictAnswer,
		`{"code":-32000,"message":"execution reverted"}`:                           verdictAnswer,
		`{"code":-32000,"message":"evm: execution reverted"}`:                      verdictAnswer,
		`{"code":-32602,"message":"invalid argument 0"}`:                           verdictAnswer,
		`{"code":-32000,"message":"insufficient funds for transfer"}`:              verdictAnswer,
		`{"code":-32000,"message":"nonce too low"}`:                                verdictAnswer,
		`{"code":-32000,"message":"header not found"}`:                             verdictMissing,
		`{"code":-32000,"message":"missing trie node 12 (path )"}`:                 verdictMissing,
		`{"code":-32601,"message":"the method x does not exist/is not available"}`: verdictMissing,
		`{"code":-32005,"message":"limit exceeded"}`:                               verdictLimited,
		`{"code":429,"message":"compute units"}`:                                   verdictLimited,
		`{"code":-32000,"message":"Too Many Requests"}`:                            verdictLimited,
		`{"code":-32005,"message":"query returned more than 10000 results"}`:       verdictAnswer,
		`{"code":-32603,"message":"internal error"}`:                               verdictFault,
		`{"code":-32603,"message":"VM Exception while processing: revert"}`:        verdictAnswer,
		`{"code":-32000,"message":"request timed out"}`:                            verdictFault,
		`"nothing"`: verdictAnswer,
	} {
		if got := judge([]byte(failure)); got != want {
			t.Errorf("%s: %d, want %d", failure, got, want)
		}
	}
}

// What a caller was shown never goes down while it is remembered.
func TestFloorsRise(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var f floors
		most := map[string]int64{}
		now := time0
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			who := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "who")
			height := rapid.Int64Range(0, 100).Draw(t, "height")
			f.raise(who, height, now)
			most[who] = max(most[who], height)
			if got := f.get(who, now); got != most[who] {
				t.Fatalf("%s: floor %d, shown %d", who, got, most[who])
			}
		}
		if f.get("a", now.Add(floorMemory+1)) != 0 {
			t.Fatal("remembered for ever")
		}
	})
}

var time0 = time.Unix(1_700_000_000, 0)
