package fabric

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"

	cb "github.com/hyperledger/fabric-protos-go-apiv2/common"
	"github.com/hyperledger/fabric-protos-go-apiv2/msp"
	pb "github.com/hyperledger/fabric-protos-go-apiv2/peer"
	"github.com/hyperledger/fabric-protos-go-apiv2/peer/lifecycle"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/framework/fabric/authority"
)

// maxMessage bounds a message of a peer, in bytes, as Fabric does.
const maxMessage = 100 << 20

// Dial connects to the peer of a city whose operator has these roots. It does not
// wait for the connection.
func Dial(site bsn.Site, roots authority.Roots) (*grpc.ClientConn, error) {
	return dial(netip.AddrPortFrom(Address(site), PortPeer), roots)
}

// Peer rules a city's peer. It may be used by many goroutines at once.
type Peer struct {
	conn  *grpc.ClientConn
	admin authority.Credentials
}

// NewPeer rules the peer behind the connection, which stays the caller's, with the
// credentials of an administrator of the peer's operator.
func NewPeer(conn *grpc.ClientConn, admin authority.Credentials) *Peer {
	return &Peer{conn: conn, admin: admin}
}

// Join makes the peer hold a channel, by its block 0. That it does already is no error.
func (p *Peer) Join(ctx context.Context, channel string, block []byte) error {
	_, err := p.ask(ctx, "", "cscc", []byte("JoinChain"), block)
	if err == nil {
		return nil
	}
	if _, known := p.Height(ctx, channel); known == nil {
		return nil
	}
	return fmt.Errorf("join channel %s: %w", channel, err)
}

// Channels are the names of the channels that the peer holds.
func (p *Peer) Channels(ctx context.Context) ([]string, error) {
	var list pb.ChannelQueryResponse
	text, err := p.ask(ctx, "", "cscc", []byte("GetChannels"))
	if err == nil {
		err = proto.Unmarshal(text, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("list the peer's channels: %w", err)
	}
	names := make([]string, len(list.GetChannels()))
	for i, c := range list.GetChannels() {
		names[i] = c.GetChannelId()
	}
	return names, nil
}

// Height is the number of blocks that the peer has of a channel.
func (p *Peer) Height(ctx context.Context, channel string) (uint64, error) {
	var info cb.BlockchainInfo
	text, err := p.ask(ctx, channel, "qscc", []byte("GetChainInfo"), []byte(channel))
	if err == nil {
		err = proto.Unmarshal(text, &info)
	}
	if err != nil {
		return 0, fmt.Errorf("ask the peer for its height: %w", err)
	}
	return info.GetHeight(), nil
}

// Config is the newest configuration block that the peer has of a channel.
func (p *Peer) Config(ctx context.Context, channel string) ([]byte, error) {
	block, err := p.ask(ctx, channel, "cscc", []byte("GetConfigBlock"), []byte(channel))
	if err != nil {
		return nil, fmt.Errorf("ask the peer for the configuration of channel %s: %w", channel, err)
	}
	return block, nil
}

// Install gives the peer a package, see [Chaincode.Package]. That it has it already
// is no error.
func (p *Peer) Install(ctx context.Context, pkg []byte) error {
	id, err := PackageID(pkg)
	if err != nil {
		return fmt.Errorf("install chaincode: %w", err)
	}
	args, err := proto.Marshal(&lifecycle.InstallChaincodeArgs{ChaincodeInstallPackage: pkg})
	if err != nil {
		return fmt.Errorf("install chaincode: %w", err)
	}
	if _, err = p.ask(ctx, "", lifecycleName, []byte("InstallChaincode"), args); err == nil {
		return nil
	}
	if has, listed := p.Installed(ctx); listed == nil {
		for _, known := range has {
			if known == id {
				return nil
			}
		}
	}
	return fmt.Errorf("install chaincode: %w", err)
}

// Installed are the ids of the packages that the peer has.
func (p *Peer) Installed(ctx context.Context) ([]string, error) {
	var list lifecycle.QueryInstalledChaincodesResult
	text, err := p.ask(ctx, "", lifecycleName, []byte("QueryInstalledChaincodes"), nil)
	if err == nil {
		err = proto.Unmarshal(text, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("list installed chaincode: %w", err)
	}
	ids := make([]string, len(list.GetInstalledChaincodes()))
	for i, c := range list.GetInstalledChaincodes() {
		ids[i] = c.GetPackageId()
	}
	return ids, nil
}

// ask sends a proposal to one of the peer's own chaincodes; channel may be empty.
func (p *Peer) ask(ctx context.Context, channel, chaincode string, args ...[]byte) ([]byte, error) {
	proposal, err := p.propose(channel, chaincode, args)
	if err != nil {
		return nil, err
	}
	answer, err := pb.NewEndorserClient(p.conn).ProcessProposal(ctx, proposal)
	if err != nil {
		return nil, explain(err)
	}
	if r := answer.GetResponse(); r.GetStatus() != int32(cb.Status_SUCCESS) {
		if r.GetMessage() == "" {
			return nil, fmt.Errorf("status %d", r.GetStatus())
		}
		return nil, errors.New(r.GetMessage())
	}
	return answer.GetResponse().GetPayload(), nil
}

// propose signs a proposal; its form is that of Fabric's transaction proposals.
func (p *Peer) propose(channel, chaincode string, args [][]byte) (*pb.SignedProposal, error) {
	var failed error
	encode := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		failed = errors.Join(failed, err)
		return b
	}
	nonce := make([]byte, 24)
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	creator := encode(&msp.SerializedIdentity{Mspid: p.admin.Operator, IdBytes: p.admin.Identity()})
	id := sha256.Sum256(append(append([]byte{}, nonce...), creator...))
	name := &pb.ChaincodeID{Name: chaincode}
	raw := encode(&pb.Proposal{
		Header: encode(&cb.Header{
			ChannelHeader: encode(&cb.ChannelHeader{
				Type: int32(cb.HeaderType_ENDORSER_TRANSACTION), TxId: hex.EncodeToString(id[:]), ChannelId: channel,
				Timestamp: timestamppb.Now(), Extension: encode(&pb.ChaincodeHeaderExtension{ChaincodeId: name}),
			}),
			SignatureHeader: encode(&cb.SignatureHeader{Creator: creator, Nonce: nonce}),
		}),
		Payload: encode(&pb.ChaincodeProposalPayload{Input: encode(&pb.ChaincodeInvocationSpec{
			ChaincodeSpec: &pb.ChaincodeSpec{Type: pb.ChaincodeSpec_GOLANG, ChaincodeId: name, Input: &pb.ChaincodeInput{Args: args}},
		})}),
	})
	if failed != nil {
		return nil, fmt.Errorf("encode proposal: %w", failed)
	}
	signature, err := p.admin.Sign(raw)
	if err != nil {
		return nil, fmt.Errorf("sign proposal: %w", err)
	}
	return &pb.SignedProposal{ProposalBytes: raw, Signature: signature}, nil
}
