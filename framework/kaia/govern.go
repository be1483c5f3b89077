package kaia

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/ethereum/go-ethereum/common"

	"github.com/openbsn/bsn"
)

// The only keys on which a node ever votes. Others can ruin a chain: a vote on
// istanbul.timeout that passes stops it for good two epochs later, since this
// version of Kaia then cannot read its own parameters.
const (
	addValidator    = "governance.addvalidator"
	removeValidator = "governance.removevalidator"
)

// Govern casts the node's votes on the differences between the chain's
// validators and the committee that the ledger decided. A vote passes with more
// than half of the validators; it is cast again if an epoch ended before.
//
// Kaia counts one vote a node and key, the latest, so the nodes vote on one
// address at a time, all in the same order.
//
// What this ballot protects against is an operator who uses a node's own
// commands. It does not protect against a validator with altered software: Kaia
// counts a vote for the address that is written in it and does not compare that
// with the block's proposer. And Kaia keeps the count of a vote that has passed
// until the epoch ends: in that time a single operator can repeat what was once
// voted, as to bring back a removed validator, until the other nodes, at their
// next call of Govern, put it right.
func (*Kaia) Govern(ctx context.Context, site bsn.Site) (string, error) {
	chain := site.Chain
	self, member := chain.Node(site.City.Name)
	if !chain.Runs() || !member {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	did, err := govern(ctx, site, self)
	if err != nil {
		return "", fmt.Errorf("govern chain %s: %w", chain.Name, err)
	}
	return did, nil
}

func govern(ctx context.Context, site bsn.Site, self bsn.ChainNode) (string, error) {
	own, err := addressOf(self)
	if err != nil {
		return "", err
	}
	wanted, names, err := decided(site.Chain)
	if err != nil {
		return "", err
	}
	call, hangUp, err := ownerSide(ctx, site)
	if err != nil {
		return "", err
	}
	defer hangUp()
	current, err := currentValidators(ctx, call)
	if err != nil {
		return "", err
	}
	if !slices.Contains(current, own) {
		return "", nil // only validators have a vote
	}
	var did []string
	for _, d := range differences(current, wanted, own) {
		voted, err := vote(ctx, call, own, d.key, d.target)
		if err != nil {
			return "", err
		}
		if voted {
			did = append(did, d.sentence(names))
		}
	}
	return strings.Join(did, "; "), nil
}

// decided returns the addresses of the committee's nodes, and the cities of all
// nodes by address. A city that has not posted its keys yet is not counted.
func decided(chain bsn.Chain) (wanted []common.Address, names map[common.Address]string, err error) {
	names = map[common.Address]string{}
	for _, n := range chain.Nodes {
		a, err := addressOf(n)
		if err != nil {
			return nil, nil, err
		}
		names[a] = n.City
		if chain.Member(n.City) {
			wanted = append(wanted, a)
		}
	}
	if len(wanted) == 0 {
		return nil, nil, fmt.Errorf("the record names no node of the committee, and a chain needs at least one")
	}
	return wanted, names, nil
}

// difference is one change that a node votes for.
type difference struct {
	key    string
	target common.Address
}

func (d difference) sentence(cities map[common.Address]string) string {
	verb := "add"
	if d.key == removeValidator {
		verb = "remove"
	}
	text := fmt.Sprintf("voted to %s validator %s", verb, lower(d.target))
	if city, ok := cities[d.target]; ok {
		text += " of " + city
	}
	return text
}

// differences returns the changes to vote for now: of each kind at most one, the
// lowest address. A node has no vote on its own removal.
func differences(current, wanted []common.Address, own common.Address) []difference {
	var all []difference
	lowest := func(key string, from, without []common.Address) {
		var found []common.Address
		for _, a := range from {
			if !slices.Contains(without, a) && !(key == removeValidator && a == own) {
				found = append(found, a)
			}
		}
		if len(found) > 0 {
			all = append(all, difference{key, slices.MinFunc(found, common.Address.Cmp)})
		}
	}
	lowest(addValidator, wanted, current)
	lowest(removeValidator, current, wanted)
	return all
}

// vote casts a vote unless it is cast already, and tells whether it did.
func vote(ctx context.Context, call caller, own common.Address, key string, target common.Address) (bool, error) {
	var mine []struct {
		Key    string
		Value  json.RawMessage
		Casted bool
	}
	var counted []struct {
		Validator common.Address  `json:"validator"`
		Key       string          `json:"key"`
		Value     json.RawMessage `json:"value"`
	}
	var tally []struct {
		Key                string
		Value              json.RawMessage
		ApprovalPercentage float64
	}
	if err := call(ctx, &mine, "governance_myVotes"); err != nil {
		return false, err
	}
	if err := call(ctx, &counted, "governance_votes"); err != nil {
		return false, err
	}
	if err := call(ctx, &tally, "governance_showTally"); err != nil {
		return false, err
	}
	for _, v := range mine {
		if v.Key == key && names(v.Value, target) && !v.Casted {
			return false, nil // waits for the node's next turn to propose
		}
	}
	// A count that is enough but had no effect is of an earlier decision that has
	// been reversed since; it takes one more vote to have its effect again.
	stale := false
	for _, t := range tally {
		stale = stale || t.Key == key && names(t.Value, target) && t.ApprovalPercentage > 50
	}
	for _, v := range counted {
		if v.Validator == own && v.Key == key && names(v.Value, target) && !stale {
			return false, nil
		}
	}
	var answer string
	if err := call(ctx, &answer, "governance_vote", key, lower(target)); err != nil {
		return false, fmt.Errorf("vote %s %s: %w", key, lower(target), err)
	}
	return true, nil
}

// names tells whether the value of a vote is the address alone.
func names(value json.RawMessage, target common.Address) bool {
	var a common.Address
	return json.Unmarshal(value, &a) == nil && a == target
}
