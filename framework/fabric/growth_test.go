package fabric

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hyperledger/fabric-gateway/pkg/client"

	"github.com/openbsn/bsn/framework/fabric/channel"
)

// testGrowth: a fifth city takes part in the ordering of a running channel, becomes
// a member of it and endorses; then it no longer orders.
func (n *network) testGrowth(name string) {
	t := n.t
	founders := slices.Clone(n.cities)
	const app = "alice/assets"
	block, err := n.channelOf(name, app, founders).Genesis()
	if err != nil {
		t.Fatal(err)
	}
	n.add(founders[0].site.Net, "sydney")
	fifth := n.cities[4]
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()

	begin := time.Now()
	n.change(ctx, n.channelOf(name, app, founders), founders, 3)
	t.Logf("the channel has five orderers after %.1f s", time.Since(begin).Seconds())
	config, err := founders[0].peer.Config(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	if err := fifth.orderer.Join(ctx, name, config); err != nil {
		t.Fatal(err)
	}
	writer := founders[1].contract(founders[1].participant("writer", app), name)
	n.level(founders[1].peer, fifth.orderer, name, writer)
	t.Logf("the fifth orderer is level after %.1f s", time.Since(begin).Seconds())

	begin = time.Now()
	n.change(ctx, n.channelOf(name, app, n.cities), founders, 3)
	if err := fifth.peer.Join(ctx, name, block); err != nil {
		t.Fatal(err)
	}
	n.eventually("the fifth peer has the chaincode's definition", func(ctx context.Context) error {
		all, err := fifth.peer.Committed(ctx, name)
		if err == nil && len(all) != 1 {
			err = fmt.Errorf("it has %v", all)
		}
		return err
	})
	n.approve(ctx, fifth, Definition{Channel: name, Name: chaincodeName, Version: "1", Sequence: 1})
	own := fifth.contract(fifth.participant("zoe", app), name)
	n.eventually("a transaction endorsed by the fifth", func(ctx context.Context) error {
		_, err := own.SubmitWithContext(ctx, "Create", client.WithArguments("harbour", "blue", "1", "zoe", "1"),
			client.WithEndorsingOrganizations(fifth.operator, founders[0].operator, founders[2].operator))
		if err != nil && strings.Contains(explain(err).Error(), "exists already") {
			return nil
		}
		return explain(err)
	})
	t.Logf("the fifth city endorses %.1f s after the change was begun", time.Since(begin).Seconds())

	// With another orderer away, blocks need the fifth's signature: four of five.
	away := founders[3]
	if err := away.runtime.Stop(t.Context(), away.specs[0].ID); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := away.runtime.Start(t.Context(), away.specs[0]); err != nil {
			t.Error(err)
		}
	}()
	n.eventually("a block signed by the fifth", func(ctx context.Context) error {
		_, err := own.SubmitWithContext(ctx, "Update", client.WithArguments("harbour", "green", "1", "zoe", "1"))
		return explain(err)
	})
	if err := away.runtime.Start(t.Context(), away.specs[0]); err != nil {
		t.Fatal(err)
	}
	n.level(founders[0].peer, away.orderer, name, writer)

	// It gives up ordering, once the one that was away is level, and stays a member.
	less := n.channelOf(name, app, n.cities)
	less.Orderers = less.Orderers[:len(founders)]
	n.change(ctx, less, founders, 3)
	if err := fifth.orderer.Leave(ctx, name); err != nil {
		t.Fatal(err)
	}
	n.submit(own, "Transfer", "harbour", "yves")
}

// change makes a channel what the record says: every administrator makes the update
// by itself, and as many as must sign it. One less is refused.
func (n *network) change(ctx context.Context, next channel.Channel, who []*city, enough int) {
	t := n.t
	t.Helper()
	var update []byte
	var signatures [][]byte
	for _, c := range who {
		config, err := c.peer.Config(ctx, next.Name)
		if err != nil {
			t.Fatal(err)
		}
		own, err := next.Update(config)
		if err != nil {
			t.Fatal(err)
		}
		if update != nil && !bytes.Equal(own, update) {
			t.Fatalf("%s makes another update", c.site.City.Name)
		}
		update = own
		s, err := channel.SignUpdate(own, c.admin)
		if err != nil {
			t.Fatal(err)
		}
		signatures = append(signatures, s)
	}
	conn, err := DialOrderer(who[1].site, who[1].authority.Roots())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, signed := range []int{enough - 1, enough} {
		envelope, err := next.Envelope(update, signatures[:signed], who[0].admin)
		if err != nil {
			t.Fatal(err)
		}
		err = Broadcast(ctx, conn, envelope)
		if refused := err != nil && strings.Contains(err.Error(), "not satisfied"); refused != (signed < enough) || !refused && err != nil {
			t.Fatalf("with %d signatures: %v", signed, err)
		}
	}
	for _, c := range who {
		n.eventually("the change is in force in "+c.site.City.Name, func(ctx context.Context) error {
			config, err := c.peer.Config(ctx, next.Name)
			if err != nil {
				return err
			}
			if _, err := next.Update(config); !errors.Is(err, channel.ErrUnchanged) {
				return fmt.Errorf("there is still something to change: %v", err)
			}
			return nil
		})
	}
}

// level waits until an orderer has all blocks that a peer has. One that was away
// hears of what it missed with the blocks that come after.
func (n *network) level(peer *Peer, orderer *Orderer, channel string, writer *client.Contract) {
	n.t.Helper()
	n.eventually("an orderer level on "+channel, func(ctx context.Context) error {
		height, err := peer.Height(ctx, channel)
		if err != nil {
			return err
		}
		p, err := orderer.Channel(ctx, channel)
		if err == nil && (p.Height < height || p.Relation != "consenter") {
			n.submit(writer, "Create", fmt.Sprint("nudge", time.Now().UnixNano()), "grey", "1", "writer", "1")
			err = fmt.Errorf("%s at %d of %d", p.Relation, p.Height, height)
		}
		return err
	})
}
