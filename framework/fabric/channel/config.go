package channel

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"time"

	cb "github.com/hyperledger/fabric-protos-go-apiv2/common"
	"github.com/hyperledger/fabric-protos-go-apiv2/msp"
	ob "github.com/hyperledger/fabric-protos-go-apiv2/orderer"
	"github.com/hyperledger/fabric-protos-go-apiv2/orderer/smartbft"
	pb "github.com/hyperledger/fabric-protos-go-apiv2/peer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/openbsn/bsn/framework/fabric/authority"
)

// Batches: a block is cut after so much time, or so many transactions or bytes.
const (
	batchTimeout  = 100 * time.Millisecond
	batchCount    = 500
	batchMaxBytes = 10 << 20
	batchBytes    = 2 << 20
)

// admins is the policy that rules changes of every part.
const admins = "Admins"

// consensus are SmartBFT's options. SyncOnStart is false: with it an orderer that
// starts is of no use for seconds, and a new one comes level by the next blocks.
func consensus() *smartbft.Options {
	return &smartbft.Options{
		RequestBatchMaxCount: batchCount, RequestBatchMaxBytes: batchMaxBytes, RequestBatchMaxInterval: batchTimeout.String(),
		IncomingMessageBufferSize: 200, RequestPoolSize: 400, RequestMaxBytes: batchMaxBytes,
		RequestForwardTimeout: "2s", RequestComplainTimeout: "5s", RequestAutoRemoveTimeout: "3m",
		ViewChangeResendInterval: "2s", ViewChangeTimeout: "10s",
		LeaderHeartbeatTimeout: "5s", LeaderHeartbeatCount: 10, CollectTimeout: "1s",
		LeaderRotation: smartbft.Options_ROTATION_OFF,
	}
}

// encoder marshals deterministically and keeps the first error.
type encoder struct{ err error }

func (e *encoder) bytes(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil && e.err == nil {
		e.err = err
	}
	return b
}

// Genesis is block 0, encoded. Equal channels give equal bytes.
func (c Channel) Genesis() ([]byte, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	e := new(encoder)
	block := e.block(c.sorted())
	raw := e.bytes(block)
	if e.err != nil {
		return nil, fmt.Errorf("channel %s: encode block 0: %w", c.Name, e.err)
	}
	return raw, nil
}

func (e *encoder) block(c Channel) *cb.Block {
	config := e.bytes(&cb.ConfigEnvelope{Config: &cb.Config{ChannelGroup: e.channel(c)}})
	// A nonce that follows from the content: nothing signs this envelope.
	nonce := sha256.Sum256(config)
	id := sha256.Sum256(nonce[:24])
	envelope := e.bytes(&cb.Envelope{Payload: e.bytes(&cb.Payload{
		Header: &cb.Header{
			ChannelHeader: e.bytes(&cb.ChannelHeader{
				Type: int32(cb.HeaderType_CONFIG), Version: 1, ChannelId: c.Name,
				Timestamp: &timestamppb.Timestamp{Seconds: c.Time}, TxId: hex.EncodeToString(id[:]),
			}),
			SignatureHeader: e.bytes(&cb.SignatureHeader{Nonce: nonce[:24]}),
		},
		Data: config,
	})})
	hash := sha256.Sum256(envelope)
	metadata := make([][]byte, len(cb.BlockMetadataIndex_name))
	last := &cb.LastConfig{Index: 0}
	metadata[cb.BlockMetadataIndex_SIGNATURES] = e.bytes(&cb.Metadata{Value: e.bytes(&cb.OrdererBlockMetadata{LastConfig: last})})
	//lint:ignore SA1019 Fabric's own tools still write it beside its successor
	metadata[cb.BlockMetadataIndex_LAST_CONFIG] = e.bytes(&cb.Metadata{Value: e.bytes(last)})
	return &cb.Block{
		Header:   &cb.BlockHeader{DataHash: hash[:]},
		Data:     &cb.BlockData{Data: [][]byte{envelope}},
		Metadata: &cb.BlockMetadata{Metadata: metadata},
	}
}

func (e *encoder) value(m proto.Message) *cb.ConfigValue {
	return &cb.ConfigValue{Value: e.bytes(m), ModPolicy: admins}
}

func (e *encoder) capabilities(version string) *cb.ConfigValue {
	return e.value(&cb.Capabilities{Capabilities: map[string]*cb.Capability{version: {}}})
}

func (e *encoder) channel(c Channel) *cb.ConfigGroup {
	return &cb.ConfigGroup{
		Groups: map[string]*cb.ConfigGroup{"Orderer": e.orderers(c), "Application": e.application(c)},
		Values: map[string]*cb.ConfigValue{
			"HashingAlgorithm":          e.value(&cb.HashingAlgorithm{Name: "SHA256"}),
			"BlockDataHashingStructure": e.value(&cb.BlockDataHashingStructure{Width: math.MaxUint32}),
			"Capabilities":              e.capabilities("V3_0"),
		},
		Policies:  e.standard(nil),
		ModPolicy: admins,
	}
}

func (e *encoder) orderers(c Channel) *cb.ConfigGroup {
	g := &cb.ConfigGroup{
		Groups: make(map[string]*cb.ConfigGroup),
		Values: map[string]*cb.ConfigValue{
			"ConsensusType": e.value(&ob.ConsensusType{Type: "BFT", Metadata: e.bytes(consensus())}),
			"BatchSize":     e.value(&ob.BatchSize{MaxMessageCount: batchCount, AbsoluteMaxBytes: batchMaxBytes, PreferredMaxBytes: batchBytes}),
			"BatchTimeout":  e.value(&ob.BatchTimeout{Timeout: batchTimeout.String()}),
			"Capabilities":  e.capabilities("V2_0"),
		},
		ModPolicy: admins,
	}
	var consenters []*cb.Consenter
	addresses := make(map[string][]string)
	for _, o := range c.Orderers {
		consenters = append(consenters, &cb.Consenter{
			Id: o.ID, Host: o.Address.Addr().String(), Port: uint32(o.Address.Port()), MspId: o.Operator.Name,
			Identity: o.Identity, ClientTlsCert: o.TLS, ServerTlsCert: o.TLS,
		})
		addresses[o.Operator.Name] = append(addresses[o.Operator.Name], o.Address.String())
	}
	for _, o := range c.Orderers {
		// Orderers and administrators only: an operator's participants, those of other
		// apps among them, come in by the application's policies or not at all.
		org := e.organisation(o.Operator, []*msp.MSPPrincipal{e.role(o.Operator, msp.MSPRole_ORDERER), e.role(o.Operator, msp.MSPRole_ADMIN)})
		org.Values["Endpoints"] = e.value(&cb.OrdererAddresses{Addresses: addresses[o.Operator.Name]})
		g.Groups[o.Operator.Name] = org
	}
	g.Values["Orderers"] = e.value(&cb.Orderers{ConsenterMapping: consenters})
	g.Policies = e.standard(map[string]*cb.ConfigPolicy{"BlockValidation": e.validation(consenters)})
	return g
}

// validation is the policy of valid blocks. Orderers compare it with the consenters,
// byte for byte, so that it is made of them and of nothing else.
func (e *encoder) validation(consenters []*cb.Consenter) *cb.ConfigPolicy {
	var signers []*msp.MSPPrincipal
	for _, c := range consenters {
		signers = append(signers, &msp.MSPPrincipal{
			PrincipalClassification: msp.MSPPrincipal_IDENTITY,
			Principal:               e.bytes(&msp.SerializedIdentity{Mspid: c.MspId, IdBytes: c.Identity}),
		})
	}
	return e.signatures(Quorum(len(consenters)), signers)
}

func (e *encoder) application(c Channel) *cb.ConfigGroup {
	g := &cb.ConfigGroup{
		Groups:    make(map[string]*cb.ConfigGroup),
		Values:    map[string]*cb.ConfigValue{"Capabilities": e.capabilities("V2_5")},
		ModPolicy: admins,
		Policies: e.standard(map[string]*cb.ConfigPolicy{
			"Endorsement":          e.implicit(cb.ImplicitMetaPolicy_MAJORITY, "Endorsement"),
			"LifecycleEndorsement": e.implicit(cb.ImplicitMetaPolicy_MAJORITY, "Endorsement"),
		}),
	}
	for _, m := range c.Members {
		callers := []*msp.MSPPrincipal{e.role(m.Operator, msp.MSPRole_PEER), e.role(m.Operator, msp.MSPRole_ADMIN)}
		if c.App != "" {
			callers = append(callers, e.unit(m.Operator, c.App))
		}
		org := e.organisation(m.Operator, callers)
		org.Policies["Endorsement"] = e.signatures(1, []*msp.MSPPrincipal{e.role(m.Operator, msp.MSPRole_PEER)})
		var anchors []*pb.AnchorPeer
		for _, p := range m.Peers {
			anchors = append(anchors, &pb.AnchorPeer{Host: p.Addr().String(), Port: int32(p.Port())})
		}
		org.Values["AnchorPeers"] = e.value(&pb.AnchorPeers{AnchorPeers: anchors})
		g.Groups[m.Operator.Name] = org
	}
	return g
}

// organisation is an operator's part in orderers or application; who reads and
// writes there is said by the principals.
func (e *encoder) organisation(o Operator, who []*msp.MSPPrincipal) *cb.ConfigGroup {
	return &cb.ConfigGroup{
		Values: map[string]*cb.ConfigValue{"MSP": e.value(&msp.MSPConfig{Config: e.bytes(mspConfig(o))})},
		Policies: map[string]*cb.ConfigPolicy{
			"Readers": e.signatures(1, who),
			"Writers": e.signatures(1, who),
			admins:    e.signatures(1, []*msp.MSPPrincipal{e.role(o, msp.MSPRole_ADMIN)}),
		},
		ModPolicy: admins,
	}
}

func mspConfig(o Operator) *msp.FabricMSPConfig {
	unit := func(r authority.Role) *msp.FabricOUIdentifier {
		return &msp.FabricOUIdentifier{Certificate: o.Roots.Identity, OrganizationalUnitIdentifier: string(r)}
	}
	return &msp.FabricMSPConfig{
		Name: o.Name, RootCerts: [][]byte{o.Roots.Identity}, TlsRootCerts: [][]byte{o.Roots.TLS},
		CryptoConfig: &msp.FabricCryptoConfig{SignatureHashFamily: "SHA2", IdentityIdentifierHashFunction: "SHA256"},
		FabricNodeOus: &msp.FabricNodeOUs{
			Enable: true, ClientOuIdentifier: unit(authority.RoleClient), PeerOuIdentifier: unit(authority.RolePeer),
			AdminOuIdentifier: unit(authority.RoleAdmin), OrdererOuIdentifier: unit(authority.RoleOrderer),
		},
	}
}

// role are all of an operator's certificates with a role.
func (e *encoder) role(o Operator, r msp.MSPRole_MSPRoleType) *msp.MSPPrincipal {
	return &msp.MSPPrincipal{
		PrincipalClassification: msp.MSPPrincipal_ROLE,
		Principal:               e.bytes(&msp.MSPRole{MspIdentifier: o.Name, Role: r}),
	}
}

// unit are all of an operator's certificates with an organisational unit.
func (e *encoder) unit(o Operator, name string) *msp.MSPPrincipal {
	certifiers, err := certifiersOf(o.Roots.Identity)
	if err != nil && e.err == nil {
		e.err = err
	}
	return &msp.MSPPrincipal{
		PrincipalClassification: msp.MSPPrincipal_ORGANIZATION_UNIT,
		Principal: e.bytes(&msp.OrganizationUnit{
			MspIdentifier: o.Name, OrganizationalUnitIdentifier: name, CertifiersIdentifier: certifiers,
		}),
	}
}

// certifiersOf is how Fabric names the chain above a certificate: the hash of it.
func certifiersOf(root []byte) ([]byte, error) {
	c, err := authority.ParseCertificate(root)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(c.Raw)
	return sum[:], nil
}

// signatures is a policy that asks for n different ones of the signers.
func (e *encoder) signatures(n int, signers []*msp.MSPPrincipal) *cb.ConfigPolicy {
	rules := make([]*cb.SignaturePolicy, len(signers))
	for i := range signers {
		rules[i] = &cb.SignaturePolicy{Type: &cb.SignaturePolicy_SignedBy{SignedBy: int32(i)}}
	}
	return &cb.ConfigPolicy{ModPolicy: admins, Policy: &cb.Policy{
		Type: int32(cb.Policy_SIGNATURE),
		Value: e.bytes(&cb.SignaturePolicyEnvelope{
			Identities: slices.Clone(signers),
			Rule:       &cb.SignaturePolicy{Type: &cb.SignaturePolicy_NOutOf_{NOutOf: &cb.SignaturePolicy_NOutOf{N: int32(n), Rules: rules}}},
		}),
	}}
}

// implicit is a policy over those of the same name one level below.
func (e *encoder) implicit(rule cb.ImplicitMetaPolicy_Rule, name string) *cb.ConfigPolicy {
	return &cb.ConfigPolicy{ModPolicy: admins, Policy: &cb.Policy{
		Type: int32(cb.Policy_IMPLICIT_META), Value: e.bytes(&cb.ImplicitMetaPolicy{Rule: rule, SubPolicy: name}),
	}}
}

// standard adds the three policies that every group above the organisations has.
func (e *encoder) standard(policies map[string]*cb.ConfigPolicy) map[string]*cb.ConfigPolicy {
	if policies == nil {
		policies = make(map[string]*cb.ConfigPolicy)
	}
	policies["Readers"] = e.implicit(cb.ImplicitMetaPolicy_ANY, "Readers")
	policies["Writers"] = e.implicit(cb.ImplicitMetaPolicy_ANY, "Writers")
	policies[admins] = e.implicit(cb.ImplicitMetaPolicy_MAJORITY, admins)
	return policies
}
