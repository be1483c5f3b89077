package operator

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"strings"

	sdk "github.com/cosmos/cosmos-sdk/types"

	"github.com/openbsn/bsn"
	pb "github.com/openbsn/bsn/gen/ledger/operatorpb"
	"github.com/openbsn/bsn/ledger/writer"
)

// RotationProof is what a new Ed25519 key of a city signs: on no other network, for
// no other city or purpose, and nothing that CometBFT or libp2p would take for theirs.
func RotationProof(network, city string, purpose bsn.KeyPurpose, public []byte) []byte {
	return []byte(strings.Join([]string{"bsn-city-key/1", network, city, string(purpose), hex.EncodeToString(public)}, "\n"))
}

// RotateKey gives a city another key for a purpose. The same again changes nothing.
func (k *Keeper) RotateKey(ctx sdk.Context, m *pb.MsgRotateKey) error {
	c, err := k.Own(ctx, m.Signer, m.City)
	if err != nil {
		return err
	}
	if !c.Status.Member() {
		return fmt.Errorf("city %q is %s: its keys are worth nothing any more", c.Name, c.Status)
	}
	switch purpose := bsn.KeyPurpose(m.Purpose); purpose {
	case bsn.KeyConsensus:
		if bytes.Equal(c.ConsensusKey, m.PublicKey) {
			return nil
		}
		if err := proven(ctx, c, purpose, m); err != nil {
			return err
		}
		_, err = k.rekey(ctx, c, m.PublicKey)
		return err
	case bsn.KeyNode:
		if bytes.Equal(c.NodeKey, m.PublicKey) {
			return nil
		}
		if err := proven(ctx, c, purpose, m); err != nil {
			return err
		}
		if err := k.freeNodeKey(ctx, m.PublicKey); err != nil {
			return err
		}
		c.NodeKey = m.PublicKey
		return k.Cities.Set(ctx, c.Name, c)
	case bsn.KeyCity:
		w := writer.Writer{Kind: bsn.KindCity, Name: c.Name, Parent: c.Operator}
		address, err := k.writers.Replace(ctx, w, c.Address, m.PublicKey, m.Proof)
		if err != nil || address == c.Address {
			return err
		}
		c.Address = address
		return k.Cities.Set(ctx, c.Name, c)
	}
	return fmt.Errorf("key for %.32q: a city has keys for %s, %s and %s", m.Purpose, bsn.KeyConsensus, bsn.KeyNode, bsn.KeyCity)
}

func proven(ctx sdk.Context, c bsn.City, purpose bsn.KeyPurpose, m *pb.MsgRotateKey) error {
	if len(m.PublicKey) != keySize {
		return fmt.Errorf("%s key must be an Ed25519 public key of %d bytes", purpose, keySize)
	}
	if !ed25519.Verify(m.PublicKey, RotationProof(ctx.ChainID(), c.Name, purpose, m.PublicKey), m.Proof) {
		return fmt.Errorf("the new %s key does not prove that it is for city %q: offer it again", purpose, c.Name)
	}
	return nil
}

// freeNodeKey refuses a node key that a city has.
func (k *Keeper) freeNodeKey(ctx context.Context, public []byte) error {
	return k.Cities.Each(ctx, "", func(_ string, c bsn.City) (bool, error) {
		if bytes.Equal(c.NodeKey, public) {
			return false, fmt.Errorf("city %q has this node key", c.Name)
		}
		return true, nil
	})
}

func (s server) RotateKey(ctx context.Context, m *pb.MsgRotateKey) (*pb.MsgRotateKeyResponse, error) {
	return &pb.MsgRotateKeyResponse{}, s.k.RotateKey(sdk.UnwrapSDKContext(ctx), m)
}
