package channel

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"

	cb "github.com/hyperledger/fabric-protos-go-apiv2/common"
	"github.com/hyperledger/fabric-protos-go-apiv2/msp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/openbsn/bsn/framework/fabric/authority"
)

// ErrUnchanged means that a channel is configured already as its record says.
var ErrUnchanged = errors.New("the channel's configuration is that of its record")

// Update is the change that makes a running channel, whose newest configuration
// block is given, what the record says now. Equal blocks and records give equal
// bytes: each member makes it by itself and signs only its own. It holds until the
// configuration changes. Error: [ErrUnchanged].
//
// The orderers change by one at a time, since a new one counts as failed until it
// has come level, and a rotated one until it was restarted. Who signs blocks and the
// policy that says so are made of the same list: orderers accept an update in which
// the two differ, and then stop for good.
func (c Channel) Update(block []byte) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, fmt.Errorf("update channel %.64q: %w", c.Name, err) }
	if err := c.check(); err != nil {
		return fail(err)
	}
	now, err := parse(block)
	if err != nil {
		return fail(err)
	}
	if got := now.header.GetChannelId(); got != c.Name {
		return fail(fmt.Errorf("the block is of channel %.64q", got))
	}
	e := new(encoder)
	want := e.channel(c.sorted())
	if e.err != nil {
		return fail(e.err)
	}
	if err := oneOrderer(now.config, want); err != nil {
		return fail(err)
	}
	read, write, changed := delta(now.config, want)
	if !changed {
		return fail(ErrUnchanged)
	}
	update := e.bytes(&cb.ConfigUpdate{ChannelId: c.Name, ReadSet: read, WriteSet: write})
	if e.err != nil {
		return fail(e.err)
	}
	return update, nil
}

// oneOrderer refuses what changes more than one of the orderers.
func oneOrderer(now, want *cb.ConfigGroup) error {
	before, err := consenters(now)
	if err != nil {
		return err
	}
	after, err := consenters(want)
	if err != nil {
		return err
	}
	different := 0
	for id := range maps.Keys(before) {
		if after[id] == nil || !proto.Equal(before[id], after[id]) {
			different++
		}
	}
	for id := range maps.Keys(after) {
		if before[id] == nil {
			different++
		}
	}
	if different > 1 {
		return fmt.Errorf("%d orderers would change; change one, and wait until it is level", different)
	}
	return nil
}

// consenters are a configuration's orderers by their number.
func consenters(config *cb.ConfigGroup) (map[uint32]*cb.Consenter, error) {
	var list cb.Orderers
	if err := proto.Unmarshal(config.GetGroups()["Orderer"].GetValues()["Orderers"].GetValue(), &list); err != nil {
		return nil, fmt.Errorf("read the orderers: %w", err)
	}
	all := make(map[uint32]*cb.Consenter)
	for _, c := range list.GetConsenterMapping() {
		all[c.GetId()] = c
	}
	return all, nil
}

// delta is what an update reads and writes to turn one group into another, as
// Fabric defines it: the versions of what it rests on, and what changes with a
// version that is one higher. A group counts as changed itself if something comes
// into it or goes out of it; then both sets name all that stays.
func delta(now, want *cb.ConfigGroup) (read, write *cb.ConfigGroup, changed bool) {
	read = &cb.ConfigGroup{Version: now.GetVersion()}
	write = &cb.ConfigGroup{Version: now.GetVersion(), ModPolicy: now.GetModPolicy()}
	values := compareSets(now.GetValues(), want.GetValues(), func(a, b *cb.ConfigValue) bool {
		return bytes.Equal(a.GetValue(), b.GetValue()) && a.GetModPolicy() == b.GetModPolicy()
	}, func(v *cb.ConfigValue, version uint64) *cb.ConfigValue {
		return &cb.ConfigValue{Version: version, Value: v.GetValue(), ModPolicy: v.GetModPolicy()}
	}, func(v *cb.ConfigValue) *cb.ConfigValue { return &cb.ConfigValue{Version: v.GetVersion()} })
	policies := compareSets(now.GetPolicies(), want.GetPolicies(), func(a, b *cb.ConfigPolicy) bool {
		return proto.Equal(a.GetPolicy(), b.GetPolicy()) && a.GetModPolicy() == b.GetModPolicy()
	}, func(p *cb.ConfigPolicy, version uint64) *cb.ConfigPolicy {
		return &cb.ConfigPolicy{Version: version, Policy: p.GetPolicy(), ModPolicy: p.GetModPolicy()}
	}, func(p *cb.ConfigPolicy) *cb.ConfigPolicy { return &cb.ConfigPolicy{Version: p.GetVersion()} })

	same := make(map[string]*cb.ConfigGroup)
	moved := values.moved || policies.moved || now.GetModPolicy() != want.GetModPolicy()
	groupsRead, groupsWrite := make(map[string]*cb.ConfigGroup), make(map[string]*cb.ConfigGroup)
	for _, name := range names(now.GetGroups(), want.GetGroups()) {
		a, b := now.GetGroups()[name], want.GetGroups()[name]
		switch {
		case b == nil:
			moved = true
		case a == nil:
			moved = true
			groupsWrite[name] = b // all of it is new, at version 0
		default:
			r, w, differ := delta(a, b)
			if !differ {
				same[name] = r
				continue
			}
			groupsRead[name], groupsWrite[name] = r, w
		}
	}
	if !moved && len(values.write)+len(policies.write)+len(groupsWrite) == 0 {
		return read, &cb.ConfigGroup{Version: now.GetVersion()}, false
	}
	read.Groups, write.Groups = groupsRead, groupsWrite
	write.Values, write.Policies = values.write, policies.write
	if moved {
		write.Version++
		write.ModPolicy = want.GetModPolicy()
		read.Values, read.Policies = values.same, policies.same
		maps.Copy(write.Values, values.same)
		maps.Copy(write.Policies, policies.same)
		maps.Copy(read.Groups, same)
		maps.Copy(write.Groups, same)
	}
	return read, write, true
}

// sets are what stays of a group's values or policies, and what is written.
type sets[E any] struct {
	same, write map[string]E
	moved       bool // something came or went
}

// compareSets sorts the elements of a group; at makes one with a version, and stub
// one that is its version and nothing else.
func compareSets[E interface{ GetVersion() uint64 }](now, want map[string]E, equal func(a, b E) bool, at func(e E, version uint64) E, stub func(E) E) sets[E] {
	s := sets[E]{same: make(map[string]E), write: make(map[string]E)}
	for name, a := range now {
		b, ok := want[name]
		switch {
		case !ok:
			s.moved = true
		case equal(a, b):
			s.same[name] = stub(a)
		default:
			s.write[name] = at(b, a.GetVersion()+1)
		}
	}
	for name, b := range want {
		if _, ok := now[name]; !ok {
			s.moved = true
			s.write[name] = at(b, 0)
		}
	}
	return s
}

// SignUpdate is an administrator's signature of an update.
func SignUpdate(update []byte, who authority.Credentials) ([]byte, error) {
	e := new(encoder)
	header, err := e.signer(who)
	if err != nil {
		return nil, fmt.Errorf("sign update: %w", err)
	}
	signature, err := who.Sign(append(slices.Clone(header), update...))
	if err != nil {
		return nil, fmt.Errorf("sign update: %w", err)
	}
	raw := e.bytes(&cb.ConfigSignature{SignatureHeader: header, Signature: signature})
	return raw, e.err
}

// Envelope is an update with the signatures that it needs, to be handed in by who
// is named. Signatures are those of [SignUpdate].
func (c Channel) Envelope(update []byte, signatures [][]byte, who authority.Credentials) (*cb.Envelope, error) {
	fail := func(err error) (*cb.Envelope, error) { return nil, fmt.Errorf("update channel %.64q: %w", c.Name, err) }
	e := new(encoder)
	content := &cb.ConfigUpdateEnvelope{ConfigUpdate: update}
	for _, raw := range signatures {
		s := new(cb.ConfigSignature)
		if err := proto.Unmarshal(raw, s); err != nil {
			return fail(fmt.Errorf("read signature: %w", err))
		}
		content.Signatures = append(content.Signatures, s)
	}
	header, err := e.signer(who)
	if err != nil {
		return fail(err)
	}
	payload := e.bytes(&cb.Payload{
		Header: &cb.Header{
			ChannelHeader:   e.bytes(&cb.ChannelHeader{Type: int32(cb.HeaderType_CONFIG_UPDATE), ChannelId: c.Name, Timestamp: timestamppb.Now()}),
			SignatureHeader: header,
		},
		Data: e.bytes(content),
	})
	signature, err := who.Sign(payload)
	if err != nil {
		return fail(err)
	}
	if e.err != nil {
		return fail(e.err)
	}
	return &cb.Envelope{Payload: payload, Signature: signature}, nil
}

// signer is the header that says who signs.
func (e *encoder) signer(who authority.Credentials) ([]byte, error) {
	nonce := make([]byte, 24)
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	creator := e.bytes(&msp.SerializedIdentity{Mspid: who.Operator, IdBytes: who.Identity()})
	return e.bytes(&cb.SignatureHeader{Creator: creator, Nonce: nonce}), e.err
}
