package fabric

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	cb "github.com/hyperledger/fabric-protos-go-apiv2/common"
	ob "github.com/hyperledger/fabric-protos-go-apiv2/orderer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/framework/fabric/authority"
)

// DialOrderer connects to the orderer of a city whose operator has these roots. It
// does not wait for the connection.
func DialOrderer(site bsn.Site, roots authority.Roots) (*grpc.ClientConn, error) {
	return dial(netip.AddrPortFrom(Address(site), PortOrderer), roots)
}

func dial(address netip.AddrPort, roots authority.Roots) (*grpc.ClientConn, error) {
	config, err := clientTLS(roots.TLS)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	conn, err := grpc.NewClient("passthrough:///"+address.String(), grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	return conn, nil
}

// Broadcast hands an envelope to the orderer behind the connection. That it was
// taken does not say that it will be in a block. A change of a channel's orderers is
// for one orderer only: each makes a transaction of its own of it, and those that
// come second stay with an orderer for ever and stop the channel when it leads.
func Broadcast(ctx context.Context, conn *grpc.ClientConn, envelope *cb.Envelope) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := ob.NewAtomicBroadcastClient(conn).Broadcast(ctx)
	if err == nil {
		err = stream.Send(envelope)
	}
	var answer *ob.BroadcastResponse
	if err == nil {
		answer, err = stream.Recv()
	}
	if err == nil && answer.GetStatus() != cb.Status_SUCCESS {
		err = errors.New(answer.GetStatus().String() + ": " + answer.GetInfo())
	}
	if err != nil {
		return fmt.Errorf("hand in to an orderer: %w", err)
	}
	return nil
}
