package ledger

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/openbsn/bsn"
)

// A receipt is proven from a trusted block on, and nothing that whoever is asked says
// instead is believed.
func TestProvenReceipts(t *testing.T) {
	t.Parallel()
	n := run(t, home(t))
	defer n.Stop()
	ctx := t.Context()
	client := func(name string) *Client { return must[*Client](t)(NewClient(n, seed(name))) }
	write := func(c *Client, m ...Message) Result { t.Helper(); return must[Result](t)(c.Write(ctx, m...)) }
	id := write(client("op0"), Propose("", RegisterPortal("demo", offered("portal", bsn.KindPortal, "demo"), ""))).Proposal()
	write(client("op0"), Vote(id, true))
	write(client("portal"), RegisterAccount("alice", offered("alice", bsn.KindAccount, "alice")))
	write(client("alice"), SetProject(bsn.Project{Name: "main"}))
	from := must[Trust](t)(TrustAt(ctx, "test-net", n, 0))
	good := metered(time.Now().Unix()-5, spent("alice/main", 20))
	write(client("city0"), PutReceipt(good))
	var p Proof
	for deadline := time.Now().Add(time.Minute); ; {
		var err error
		if p, err = n.ProveReceipt(ctx, good.ID()); err == nil {
			break
		}
		if !errors.Is(err, bsn.ErrNoRecord) || time.Now().After(deadline) {
			t.Fatal(err)
		}
		write(client("alice"), SetProject(bsn.Project{Name: "other"})) // the next block
	}
	r, err := VerifyReceipt(ctx, "test-net", from, n, good.ID(), p)
	if err != nil || r.Projects[0] != good.Projects[0] || r.Charges[0].Units != 20 {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := n.ProveReceipt(ctx, "city-0/0000000001/1"); !errors.Is(err, bsn.ErrNoRecord) {
		t.Errorf("no such receipt: %v", err)
	}

	wrongTrust := from
	wrongTrust.Hash = strings.Repeat("ab", 32)
	for name, c := range map[string]struct {
		from   Trust
		source Source
		id     string
		spoil  func(*Proof)
	}{
		"another root":     {from, n, good.ID(), func(p *Proof) { p.Record = bytes.Replace(p.Record, []byte("abab"), []byte("cdcd"), 1) }},
		"fewer units":      {from, n, good.ID(), func(p *Proof) { p.Record = bytes.Replace(p.Record, []byte(`"units":20`), []byte(`"units":2`), 1) }},
		"another receipt":  {from, n, "city-0/0000000001/1", func(*Proof) {}},
		"another block":    {from, n, good.ID(), func(p *Proof) { p.Height = from.Height }},
		"no block":         {from, n, good.ID(), func(p *Proof) { p.Height = 0 }},
		"no such block":    {from, n, good.ID(), func(p *Proof) { p.Height += 1000 }},
		"no proof":         {from, n, good.ID(), func(p *Proof) { p.Path = nil }},
		"another path":     {from, n, good.ID(), func(p *Proof) { p.Path = append(bytes.Clone(p.Path[:len(p.Path)-1]), p.Path[len(p.Path)-1]^1) }},
		"another network":  {wrongTrust, n, good.ID(), func(*Proof) {}},
		"a forged history": {from, forger{n}, good.ID(), func(*Proof) {}},
	} {
		bad := Proof{p.Height, bytes.Clone(p.Record), bytes.Clone(p.Path)}
		c.spoil(&bad)
		if r, err := VerifyReceipt(ctx, "test-net", c.from, c.source, c.id, bad); err == nil {
			t.Errorf("%s is believed: %+v", name, r)
		}
	}
}

// forger is a source whose blocks have another state than the network's.
type forger struct{ *Node }

func (f forger) LightBlock(ctx context.Context, height int64) ([]byte, error) {
	b, err := f.Node.LightBlock(ctx, height)
	if err != nil {
		return nil, err
	}
	block, err := decodeLight("test-net", b)
	if err != nil {
		return nil, err
	}
	block.AppHash = bytes.Repeat([]byte{7}, 32)
	p, err := block.ToProto()
	if err != nil {
		return nil, err
	}
	return p.Marshal()
}
