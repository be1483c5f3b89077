package fabric

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hyperledger/fabric-gateway/pkg/client"
	"github.com/hyperledger/fabric-gateway/pkg/hash"
	"github.com/hyperledger/fabric-gateway/pkg/identity"
	gp "github.com/hyperledger/fabric-protos-go-apiv2/gateway"
	"github.com/hyperledger/fabric-protos-go-apiv2/peer/lifecycle"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/openbsn/bsn/framework/fabric/authority"
)

// lifecycleName is Fabric's own chaincode for the life of others.
const lifecycleName = "_lifecycle"

// How long one attempt may take at each step of a transaction. Without an end an
// orderer that dies would hold a client for as long as the peer waits for it.
const (
	evaluateTimeout = 10 * time.Second
	endorseTimeout  = 30 * time.Second
	submitTimeout   = 15 * time.Second
	commitTimeout   = 30 * time.Second
)

// retryPause lies between two attempts at what comes about by itself: peers tell
// each other of channels and chaincode by gossip, within seconds.
const retryPause = 200 * time.Millisecond

// Connect makes a client of the Fabric Gateway of the peer behind the connection,
// which stays the caller's.
func Connect(conn grpc.ClientConnInterface, c authority.Credentials) (*client.Gateway, error) {
	id, err := identity.NewX509Identity(c.Operator, c.Certificate)
	if err != nil {
		return nil, fmt.Errorf("connect to the gateway: %w", err)
	}
	sign, err := identity.NewPrivateKeySign(c.Key)
	if err != nil {
		return nil, fmt.Errorf("connect to the gateway: %w", err)
	}
	g, err := client.Connect(id, client.WithSign(sign), client.WithHash(hash.SHA256), client.WithClientConnection(conn),
		client.WithEvaluateTimeout(evaluateTimeout), client.WithEndorseTimeout(endorseTimeout),
		client.WithSubmitTimeout(submitTimeout), client.WithCommitStatusTimeout(commitTimeout))
	if err != nil {
		return nil, fmt.Errorf("connect to the gateway: %w", err)
	}
	return g, nil
}

// Definition is what the members of a channel agree on about a chaincode. Endorsement
// is the channel's policy of that name: a majority of its members.
type Definition struct {
	Channel string
	Name    string
	Version string
	// Sequence counts the definitions of this name on the channel, from 1.
	Sequence int64
}

// Approve agrees to a definition in the operator's name, with the package that its
// own peer runs for it. It tries until ctx ends while the peer does not yet know
// enough of the channel. That it was approved already is no error.
func (p *Peer) Approve(ctx context.Context, d Definition, packageID string) error {
	args, err := proto.Marshal(&lifecycle.ApproveChaincodeDefinitionForMyOrgArgs{
		Name: d.Name, Version: d.Version, Sequence: d.Sequence,
		Source: &lifecycle.ChaincodeSource{Type: &lifecycle.ChaincodeSource_LocalPackage{
			LocalPackage: &lifecycle.ChaincodeSource_Local{PackageId: packageID},
		}},
	})
	if err == nil {
		err = p.lifecycle(ctx, d.Channel, "ApproveChaincodeDefinitionForMyOrg", args, client.WithEndorsingOrganizations(p.admin.Operator))
	}
	if err != nil && !strings.Contains(err.Error(), "with unchanged content") {
		return fmt.Errorf("approve chaincode %s on channel %s for %s: %w", d.Name, d.Channel, p.admin.Operator, err)
	}
	return nil
}

// Commit puts an approved definition into force. It tries until ctx ends while not
// enough members' approvals or peers are seen. That it is in force is no error.
func (p *Peer) Commit(ctx context.Context, d Definition) error {
	fail := func(err error) error {
		return fmt.Errorf("commit chaincode %s on channel %s: %w", d.Name, d.Channel, err)
	}
	args, err := proto.Marshal(&lifecycle.CommitChaincodeDefinitionArgs{Name: d.Name, Version: d.Version, Sequence: d.Sequence})
	if err != nil {
		return fail(err)
	}
	err = p.lifecycle(ctx, d.Channel, "CommitChaincodeDefinition", args)
	if err == nil {
		return nil
	}
	if is, asked := p.Committed(ctx, d.Channel); asked == nil && slices.Contains(is, d) {
		return nil
	}
	return fail(err)
}

// Committed are the definitions in force on a channel.
func (p *Peer) Committed(ctx context.Context, channel string) ([]Definition, error) {
	var list lifecycle.QueryChaincodeDefinitionsResult
	text, err := p.ask(ctx, channel, lifecycleName, []byte("QueryChaincodeDefinitions"), nil)
	if err == nil {
		err = proto.Unmarshal(text, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("list the chaincode of channel %s: %w", channel, err)
	}
	var all []Definition
	for _, d := range list.GetChaincodeDefinitions() {
		all = append(all, Definition{Channel: channel, Name: d.GetName(), Version: d.GetVersion(), Sequence: d.GetSequence()})
	}
	return all, nil
}

// lifecycle submits a transaction, and again while it fails for what passes.
func (p *Peer) lifecycle(ctx context.Context, channel, function string, args []byte, options ...client.ProposalOption) error {
	g, err := Connect(p.conn, p.admin)
	if err != nil {
		return err
	}
	defer g.Close()
	contract := g.GetNetwork(channel).GetContract(lifecycleName)
	for {
		_, err := contract.SubmitWithContext(ctx, function, append([]client.ProposalOption{client.WithBytesArguments(args)}, options...)...)
		if err == nil {
			return nil
		}
		if !passes(err) || sleep(ctx, retryPause) != nil {
			return explain(err)
		}
	}
}

// passes tells whether the cause of an error may go by itself: a node that is away
// or behind, and members who have not approved yet.
func passes(err error) bool {
	text := explain(err).Error()
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded:
		return true
	case codes.FailedPrecondition:
		return !strings.Contains(text, "Failed evaluating policy") // it may not
	case codes.Aborted:
		return strings.Contains(text, "not agreed to by this org")
	}
	return false
}

// explain adds what the nodes behind the gateway said, which it only counts.
func explain(err error) error {
	var causes []string
	for _, d := range status.Convert(err).Details() {
		if d, ok := d.(*gp.ErrorDetail); ok {
			causes = append(causes, fmt.Sprintf("%s at %s: %s", d.GetMspId(), d.GetAddress(), d.GetMessage()))
		}
	}
	if len(causes) == 0 {
		return err
	}
	return &explained{errors.New(strings.Join(causes, "; ")), err}
}

// explained keeps the error for who asks for its kind and adds causes to its text.
type explained struct{ causes, err error }

func (e *explained) Error() string { return e.err.Error() + ": " + e.causes.Error() }
func (e *explained) Unwrap() error { return e.err }
