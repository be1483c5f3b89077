package cosmos

import (
	"strings"
	"testing"

	"github.com/openbsn/bsn"
)

func TestTable(t *testing.T) {
	p, err := NewPublic()
	if err != nil {
		t.Fatal(err)
	}
	m := p.Methods()
	if !m.Final || m.Head != (bsn.Head{Method: "status", At: "sync_info.latest_block_height"}) {
		t.Errorf("%v %+v", m.Final, m.Head)
	}
	for name, class := range map[string]bsn.MethodClass{"broadcast_tx_sync": bsn.MethodSend, "abci_query": bsn.MethodRead, "unsafe_flush_mempool": "", "dial_peers": "", "eth_call": ""} {
		if m.Methods[name].Class != class {
			t.Errorf("%s: %+v", name, m.Methods[name])
		}
	}
	if m.GRPC["cosmos.tx.v1beta1.Service/BroadcastTx"].Class != bsn.MethodSend || m.REST["POST /cosmos/tx/v1beta1/txs"].Class != bsn.MethodSend ||
		m.REST["GET /broadcast_tx_sync"].Class != bsn.MethodSend {
		t.Error("what sends is not sent")
	}
}

func TestInspect(t *testing.T) {
	p := &Public{}
	for params, want := range map[string]string{
		`{"tx":"aGVsbG8="}`: "2CF24DBA5FB0A30E26E83B2AC5B9E29E1B161E5C1FA7425E73043362938B9824",
		`["aGVsbG8="]`:      "2CF24DBA5FB0A30E26E83B2AC5B9E29E1B161E5C1FA7425E73043362938B9824",
		`{"tx":"?"}`:        "not in base64",
		`{"tx":""}`:         "params must be",
		`[""]`:              "1 to",
		`[]`:                "params must be",
		`7`:                 "params must be",
	} {
		tx, err := p.Inspect("broadcast_tx_sync", []byte(params))
		if err == nil && (tx.Hash != want || tx.To != "" || tx.Creates) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v %v", params, tx, err)
		}
	}
}

func FuzzInspect(f *testing.F) {
	f.Add([]byte(`{"tx":"aGVsbG8="}`))
	f.Fuzz(func(t *testing.T, params []byte) {
		tx, err := (&Public{}).Inspect("", params)
		if err == nil && (len(tx.Raw) == 0 || len(tx.Hash) != 64) {
			t.Errorf("%q: %+v", params, tx)
		}
	})
}
