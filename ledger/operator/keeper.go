// Package operator is the ledger's module of operators and their cities. It is
// also the proof of authority: every operator has the same voting power, carried
// by one validating city.
package operator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"cosmossdk.io/collections"
	corestore "cosmossdk.io/core/store"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger/key"
	"github.com/openbsn/bsn/ledger/parameter"
	"github.com/openbsn/bsn/ledger/record"
	"github.com/openbsn/bsn/ledger/writer"
)

// StoreKey names the module's store.
const StoreKey = "bsn-operator"

// Keeper holds operators and cities.
type Keeper struct {
	parameters *parameter.Keeper
	writers    *writer.Keeper
	authority  string
	Operators  record.Table[bsn.Operator]
	Cities     record.Table[bsn.City]
	// byConsensusKey finds the city that has, or ever had, an Ed25519 key in hex: no
	// two share one.
	byConsensusKey collections.Map[string, string]
	// powers is what CometBFT was told, by consensus key in hex, without the zeros;
	// updates is what the end of this block tells it.
	powers, updates collections.Map[string, int64]
	// missed are the operators whose validating city signs nothing now.
	missed    collections.Map[string, gap]
	nextIndex collections.Sequence
	net       collections.Item[uint64]
	// changed is set while a block has changed who has a vote.
	changed collections.Item[bool]
	// removal is asked before a city leaves or is evicted.
	removal func(ctx context.Context, city bsn.City) error
}

// NewKeeper opens the module's store. Only authority admits.
func NewKeeper(store corestore.KVStoreService, parameters *parameter.Keeper, writers *writer.Keeper, authority string) *Keeper {
	k := &Keeper{parameters: parameters, writers: writers, authority: authority}
	record.Schema(store, func(sb *collections.SchemaBuilder) {
		k.Operators = record.NewTable[bsn.Operator](sb, 1, bsn.KindOperator)
		k.Cities = record.NewTable[bsn.City](sb, 2, bsn.KindCity)
		k.byConsensusKey = collections.NewMap(sb, collections.NewPrefix(3), "consensus_keys", collections.StringKey, collections.StringValue)
		k.updates = collections.NewMap(sb, collections.NewPrefix(4), "updates", collections.StringKey, collections.Int64Value)
		k.nextIndex = collections.NewSequence(sb, collections.NewPrefix(5), "index")
		k.net = collections.NewItem(sb, collections.NewPrefix(6), "net", collections.Uint64Value)
		k.powers = collections.NewMap(sb, collections.NewPrefix(7), "powers", collections.StringKey, collections.Int64Value)
		k.missed = collections.NewMap(sb, collections.NewPrefix(8), "missed", collections.StringKey, record.JSON[gap]())
		k.changed = collections.NewItem(sb, collections.NewPrefix(9), "changed", collections.BoolValue)
	})
	return k
}

// Voters returns the operators whose power is at work: those with a validating
// city. An operator that was admitted but never started does not hold up the rest.
func (k *Keeper) Voters(ctx context.Context) (map[string]bsn.Operator, error) {
	out := map[string]bsn.Operator{}
	return out, k.Operators.Each(ctx, "", func(id string, o bsn.Operator) (bool, error) {
		if o.ValidatingCity != "" {
			out[id] = o
		}
		return true, nil
	})
}

// BeforeRemoval sets what is asked before a city leaves or is evicted, and then
// does its own part of it. A city whose status is evicted goes in any case.
func (k *Keeper) BeforeRemoval(f func(ctx context.Context, city bsn.City) error) { k.removal = f }

// Net returns the network's number in virtual addresses.
func (k *Keeper) Net(ctx context.Context) (bsn.Net, error) {
	n, err := k.net.Get(ctx)
	return bsn.Net(n), err
}

// City returns the record of the city whose key signed.
func (k *Keeper) City(ctx context.Context, signer string) (bsn.City, error) {
	w, err := k.writers.As(ctx, signer, bsn.KindCity)
	if err != nil {
		return bsn.City{}, err
	}
	return k.Cities.Get(ctx, w.Name)
}

// Admission is what a city brings with it when it joins.
type Admission struct {
	Operator     string
	OperatorKey  []byte
	City         string
	CityKey      []byte
	ConsensusKey []byte
	NodeKey      []byte
	API          string
	Gateway      string
	Link         []string
}

const (
	keySize = 32 // Ed25519
	maxURL  = 256
	maxLink = 4 // addresses of a city's link
)

// Check tells whether the admission could be accepted now.
func (k *Keeper) Check(ctx context.Context, a Admission) error {
	if err := errors.Join(bsn.CheckName("operator", a.Operator), bsn.CheckName("city", a.City)); err != nil {
		return err
	}
	if has, err := k.Cities.Has(ctx, a.City); err != nil || has {
		return errors.Join(err, fmt.Errorf("there is a city %q already", a.City))
	}
	if err := writer.CheckKey(a.CityKey); err != nil {
		return fmt.Errorf("city: %w", err)
	}
	if len(a.ConsensusKey) != keySize {
		return fmt.Errorf("consensus key must be an Ed25519 public key of %d bytes", keySize)
	}
	if has, err := k.byConsensusKey.Has(ctx, fmt.Sprintf("%x", a.ConsensusKey)); err != nil || has {
		return errors.Join(err, errors.New("another city has this consensus key"))
	}
	if len(a.NodeKey) != keySize {
		return fmt.Errorf("node key must be an Ed25519 public key of %d bytes", keySize)
	}
	if err := k.freeNodeKey(ctx, a.NodeKey); err != nil {
		return err
	}
	// Who names an operator that the network knows must know its key: the votes are
	// for the operator that the key belongs to.
	o, err := k.Operators.Get(ctx, a.Operator)
	if err == nil {
		address, err := key.Address(a.OperatorKey)
		if _, has := o.Signer(address); err != nil || !has {
			return fmt.Errorf("operator %q has another key", a.Operator)
		}
		if o.Evicted > 0 {
			return fmt.Errorf("operator %q was evicted", a.Operator)
		}
	} else if !errors.Is(err, bsn.ErrNoRecord) {
		return err
	}
	return checkAddresses(a.API, a.Gateway, a.Link)
}

// checkAddresses looks at where a city says that it is reached: other cities and
// people's programs connect there. What is empty is not looked at.
func checkAddresses(api, gateway string, link []string) error {
	for _, text := range []string{api, gateway} {
		u, err := url.Parse(text)
		if text != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || text != u.Scheme+"://"+u.Host || !hostPort(u.Host, u.Port())) {
			return fmt.Errorf("addresses of API and gateway must be http or https and a host, such as https://paris.example.org:7700, of at most %d bytes", maxURL)
		}
	}
	if len(link) > maxLink {
		return fmt.Errorf("%d addresses of the link, the most is %d", len(link), maxLink)
	}
	for _, text := range link {
		if _, port, err := net.SplitHostPort(text); err != nil || port == "" || !hostPort(text, port) {
			return fmt.Errorf("address of the link must be host:port, such as paris.example.org:%d, and at most %d bytes", bsn.PortLink, maxURL)
		}
	}
	return nil
}

// hostPort tells whether a text can be a host's name or IP address, with a port if
// that is not empty.
func hostPort(text, port string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.:[]"
	if port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return false
		}
	}
	return text != "" && text[0] != ':' && len(text) < maxURL && strings.Trim(text, letters) == ""
}

// Admit makes the city, and its operator if that is new, part of the network.
func (k *Keeper) Admit(ctx context.Context, a Admission, height int64) (bsn.City, error) {
	if err := k.Check(ctx, a); err != nil {
		return bsn.City{}, err
	}
	known, err := k.Operators.Has(ctx, a.Operator)
	if err != nil {
		return bsn.City{}, err
	}
	if !known {
		id, err := k.writers.Found(ctx, writer.Writer{Kind: bsn.KindOperator, Name: a.Operator}, a.OperatorKey)
		if err != nil {
			return bsn.City{}, fmt.Errorf("operator: %w", err)
		}
		if err := k.Operators.Set(ctx, a.Operator, bsn.Operator{Name: a.Operator, Identity: id, Admitted: height}); err != nil {
			return bsn.City{}, err
		}
	}
	address, err := k.writers.Register(ctx, a.CityKey, writer.Writer{Kind: bsn.KindCity, Name: a.City, Parent: a.Operator})
	if err != nil {
		return bsn.City{}, fmt.Errorf("city: %w", err)
	}
	n, err := k.nextIndex.Next(ctx)
	if err != nil {
		return bsn.City{}, fmt.Errorf("number city: %w", err)
	}
	index := int(n) + 1
	if index > bsn.MaxCities {
		return bsn.City{}, fmt.Errorf("the network has its %d cities", bsn.MaxCities)
	}
	number, err := k.Net(ctx)
	if err != nil {
		return bsn.City{}, fmt.Errorf("read net: %w", err)
	}
	home := number.Addr(index, bsn.ServiceCity)
	c := bsn.City{
		Name: a.City, Operator: a.Operator, Index: index, Address: address,
		ConsensusKey: a.ConsensusKey, NodeKey: a.NodeKey, Link: a.Link, Status: bsn.CityAdmitted,
		API:     or(a.API, "http://"+bsn.HostPort(home, bsn.PortAPI)),
		Gateway: or(a.Gateway, "http://"+bsn.HostPort(home, bsn.PortGateway)),
	}
	if err := k.byConsensusKey.Set(ctx, fmt.Sprintf("%x", a.ConsensusKey), a.City); err != nil {
		return bsn.City{}, err
	}
	return c, k.Cities.Set(ctx, c.Name, c)
}

// Activate gives a city that follows the ledger its part. The operator's first
// active city carries its power.
func (k *Keeper) Activate(ctx context.Context, name string) error {
	c, err := k.Cities.Get(ctx, name)
	if err != nil || c.Status != bsn.CityAdmitted {
		return err
	}
	c.Status = bsn.CityActive
	if err := k.Cities.Set(ctx, name, c); err != nil {
		return err
	}
	o, err := k.Operators.Get(ctx, c.Operator)
	if err != nil || o.ValidatingCity != "" || o.Suspended != nil {
		return err
	}
	return k.empower(ctx, o, c)
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
