package channel

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	cb "github.com/hyperledger/fabric-protos-go-apiv2/common"
	"google.golang.org/protobuf/proto"
)

// maxBlock bounds a configuration block, in bytes; each operator adds some ten
// kilobytes to it. It is also what the orderers take, see orderer.yaml.
const maxBlock = 8 << 20

// CheckGenesis tells whether a proposed block 0 is the channel's own; the error
// names the first part in which it differs.
func (c Channel) CheckGenesis(proposed []byte) error {
	want, err := c.Genesis()
	if err != nil {
		return err
	}
	if bytes.Equal(want, proposed) {
		return nil
	}
	return fmt.Errorf("channel %s: the proposed block 0 is not the one that follows from the record: %w", c.Name, difference(want, proposed))
}

func difference(want, proposed []byte) error {
	ours, err := parse(want)
	if err != nil {
		return err
	}
	theirs, err := parse(proposed)
	if err != nil {
		return err
	}
	if path := groupsDiffer("/Channel", ours.config, theirs.config); path != "" {
		return fmt.Errorf("%.200q differs", path)
	}
	if ours.header.GetChannelId() != theirs.header.GetChannelId() {
		return fmt.Errorf("it is of channel %.64q", theirs.header.GetChannelId())
	}
	if !proto.Equal(ours.header.GetTimestamp(), theirs.header.GetTimestamp()) {
		return errors.New("its time differs")
	}
	return errors.New("its configuration is the same, but not what surrounds it or how it is encoded")
}

type parsed struct {
	header *cb.ChannelHeader
	config *cb.ConfigGroup
}

// parse opens the envelopes of a configuration block.
func parse(raw []byte) (parsed, error) {
	var (
		block    cb.Block
		envelope cb.Envelope
		payload  cb.Payload
		header   cb.ChannelHeader
		config   cb.ConfigEnvelope
	)
	fail := func(what string, err error) (parsed, error) {
		return parsed{}, fmt.Errorf("read its %s: %w", what, err)
	}
	if len(raw) > maxBlock {
		return parsed{}, fmt.Errorf("it has more than %d bytes", maxBlock)
	}
	if err := proto.Unmarshal(raw, &block); err != nil {
		return fail("block", err)
	}
	if n := len(block.GetData().GetData()); n != 1 {
		return parsed{}, fmt.Errorf("it has %d transactions, want one", n)
	}
	if err := proto.Unmarshal(block.GetData().GetData()[0], &envelope); err != nil {
		return fail("envelope", err)
	}
	if err := proto.Unmarshal(envelope.GetPayload(), &payload); err != nil {
		return fail("payload", err)
	}
	if err := proto.Unmarshal(payload.GetHeader().GetChannelHeader(), &header); err != nil {
		return fail("header", err)
	}
	if err := proto.Unmarshal(payload.GetData(), &config); err != nil {
		return fail("configuration", err)
	}
	return parsed{&header, config.GetConfig().GetChannelGroup()}, nil
}

// groupsDiffer returns the path of the first part that differs, in order of name,
// or nothing.
func groupsDiffer(path string, a, b *cb.ConfigGroup) string {
	if p := firstDifferent(path, a.GetValues(), b.GetValues()); p != "" {
		return p
	}
	if p := firstDifferent(path, a.GetPolicies(), b.GetPolicies()); p != "" {
		return p + " (policy)"
	}
	for _, name := range names(a.GetGroups(), b.GetGroups()) {
		x, y := a.GetGroups()[name], b.GetGroups()[name]
		if x == nil || y == nil {
			return path + "/" + name
		}
		if p := groupsDiffer(path+"/"+name, x, y); p != "" {
			return p
		}
	}
	if a.GetModPolicy() != b.GetModPolicy() || a.GetVersion() != b.GetVersion() {
		return path + " (version or policy of changes)"
	}
	return ""
}

func firstDifferent[M proto.Message](path string, a, b map[string]M) string {
	for _, name := range names(a, b) {
		x, inA := a[name]
		y, inB := b[name]
		if inA != inB || !proto.Equal(x, y) {
			return path + "/" + name
		}
	}
	return ""
}

// names are those of both maps, in order.
func names[V any](a, b map[string]V) []string {
	all := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.SortFunc(all, strings.Compare)
	return slices.Compact(all)
}
