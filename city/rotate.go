package city

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/ledger/key"
)

// otherKeyPause is how long a city that does not know which of its node keys the
// ledger has tries one before the other.
const otherKeyPause = 20 * time.Second

// signer is the city's own key and who writes with it.
type signer struct {
	mu     sync.Mutex
	key    key.Key
	client *ledger.Client
}

func (s *signer) get() (key.Key, *ledger.Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.key, s.client
}

func (s *signer) set(k key.Key, conn ledger.Conn) error {
	c, err := ledger.NewClient(conn, k)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key, s.client = k, c
	return nil
}

func (h Home) newKeyFile() string { return h.keyFile() + ".new" }

// OfferKey makes the key that is to follow the city's present one for a purpose,
// once, and offers it.
func (h Home) OfferKey(purpose bsn.KeyPurpose) (ledger.Offer, error) {
	s, err := h.Load()
	if err != nil {
		return ledger.Offer{}, err
	}
	if s.Network == "" {
		return ledger.Offer{}, fmt.Errorf("city %q is not part of a network yet: its keys are new", h.Name)
	}
	if purpose != bsn.KeyCity {
		return ledger.OfferKey(h.ledger(), purpose, s.Network, h.Name)
	}
	k, err := key.LoadOrNew(h.newKeyFile())
	if err != nil {
		return ledger.Offer{}, err
	}
	return ledger.NewOffer(k, s.Network, bsn.KindCity, h.Name), nil
}

// Rotating tells whether a key was offered that is not in use yet.
func (h Home) Rotating(purpose bsn.KeyPurpose) (bool, error) {
	if purpose != bsn.KeyCity {
		k, err := ledger.KeysOf(h.ledger(), purpose)
		return k.New != nil, err
	}
	_, err := os.Stat(h.newKeyFile())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// rotate takes keys into use that the ledger has taken into the city's record.
func (d *daemon) rotate(ctx context.Context, v view, self bsn.City) error {
	return errors.Join(d.rotateCity(self), d.rotateConsensus(ctx, self), d.rotateNode(v, self))
}

func (d *daemon) rotateCity(self bsn.City) error {
	next, err := key.Load(d.home.newKeyFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || next.Address() != self.Address {
		return err
	}
	if err := os.Rename(d.home.newKeyFile(), d.home.keyFile()); err != nil {
		return fmt.Errorf("take the city's new key: %w", err)
	}
	if err := d.own.set(next, d.ledger); err != nil {
		return err
	}
	d.dialled.forget()
	d.log.Info("the city has another key of its own", "address", self.Address)
	return nil
}

// rotateConsensus takes the new key once no block is to be signed with the present
// one any more: with few validators the ledger would stand still without it.
func (d *daemon) rotateConsensus(ctx context.Context, self bsn.City) error {
	k, err := ledger.KeysOf(d.home.ledger(), bsn.KeyConsensus)
	if err != nil || k.New == nil && k.Former == nil {
		return err
	}
	if bytes.Equal(self.ConsensusKey, k.Present) {
		return ledger.DropFormerKey(d.home.ledger(), bsn.KeyConsensus)
	}
	if !bytes.Equal(self.ConsensusKey, k.New) {
		return nil
	}
	signs, err := d.ledger.Signs(ctx, k.Present)
	if err != nil || signs {
		return err
	}
	d.log.Info("the city signs ledger blocks with another key")
	return d.restartWith(func() error { return ledger.TakeKey(d.home.ledger(), bsn.KeyConsensus) })
}

// rotateNode takes the key that the ledger has. A city that hears nothing of the
// ledger may have missed which that is, and the others take no other: it tries them
// in turn.
func (d *daemon) rotateNode(v view, self bsn.City) error {
	k, err := ledger.KeysOf(d.home.ledger(), bsn.KeyNode)
	if err != nil || k.New == nil && k.Former == nil {
		return err
	}
	swap := ledger.TakeKey
	switch {
	case bytes.Equal(self.NodeKey, k.Present) && v.fresh:
		return ledger.DropFormerKey(d.home.ledger(), bsn.KeyNode)
	case bytes.Equal(self.NodeKey, k.New) && v.fresh:
	case bytes.Equal(self.NodeKey, k.Former) && v.fresh:
		swap = ledger.TakeBackKey
	case v.fresh || time.Since(d.tried) < otherKeyPause:
		return nil
	case k.New == nil:
		swap = ledger.TakeBackKey
	}
	d.tried = time.Now()
	d.log.Info("the city shows other cities another node key")
	err = d.restartWith(func() error { return swap(d.home.ledger(), bsn.KeyNode) })
	return errors.Join(err, d.link.close()) // the next one is opened with the key as it is then
}

// restartWith changes files of the ledger node while it does not run.
func (d *daemon) restartWith(change func() error) error {
	var failed error
	err := d.ledger.Restart(func(*ledger.NodeConfig) { failed = change() })
	return errors.Join(failed, err)
}
