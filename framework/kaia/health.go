package kaia

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"

	"github.com/openbsn/bsn"
)

// patience is how long a node may take to answer one question of ours.
const patience = 5 * time.Second

// Health asks the node at the address of its clients and, for the validators, at
// its own socket.
func (k *Kaia) Health(ctx context.Context, site bsn.Site) (bsn.Health, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	h, err := k.health(ctx, site)
	if err != nil {
		return bsn.Health{}, fmt.Errorf("ask the node of chain %s: %w", site.Chain.Name, err)
	}
	return h, nil
}

func (k *Kaia) health(ctx context.Context, site bsn.Site) (bsn.Health, error) {
	var (
		head struct {
			Number    hexutil.Uint64 `json:"number"`
			Timestamp hexutil.Uint64 `json:"timestamp"`
		}
		syncing json.RawMessage
		peers   hexutil.Uint64
	)
	ask := clientSide(k.Endpoint(site.Net, site.Chain, site.City.Index).HTTP)
	if err := ask(ctx, &head, "eth_getBlockByNumber", "latest", false); err != nil {
		return bsn.Health{}, err
	}
	if err := ask(ctx, &syncing, "eth_syncing"); err != nil {
		return bsn.Health{}, err
	}
	if err := ask(ctx, &peers, "net_peerCount"); err != nil {
		return bsn.Health{}, err
	}
	own, hangUp, err := ownerSide(ctx, site)
	if err != nil {
		return bsn.Health{}, err
	}
	defer hangUp()
	validators, err := currentValidators(ctx, own)
	if err != nil {
		return bsn.Health{}, err
	}
	h := bsn.Health{
		Height:  int64(head.Number),
		Peers:   int(peers),
		Syncing: string(syncing) != "false", // else an object with the progress
		HeadAge: max(0, time.Since(time.Unix(int64(head.Timestamp), 0)).Seconds()),
	}
	for _, v := range validators {
		h.Validators = append(h.Validators, lower(v))
	}
	return h, nil
}

func currentValidators(ctx context.Context, own caller) ([]common.Address, error) {
	var validators []common.Address
	err := own(ctx, &validators, "istanbul_getValidators", "latest")
	return validators, err
}
