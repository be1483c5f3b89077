package ledger

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	cdctypes "github.com/cosmos/cosmos-sdk/codec/types"
	sdk "github.com/cosmos/cosmos-sdk/types"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gen/ledger/accountpb"
	"github.com/openbsn/bsn/gen/ledger/apppb"
	"github.com/openbsn/bsn/gen/ledger/chainpb"
	"github.com/openbsn/bsn/gen/ledger/governpb"
	"github.com/openbsn/bsn/gen/ledger/operatorpb"
	"github.com/openbsn/bsn/gen/ledger/parameterpb"
	"github.com/openbsn/bsn/gen/ledger/receiptpb"
	"github.com/openbsn/bsn/gen/ledger/upgradepb"
)

// Message is one write to the ledger, waiting for its signer.
type Message struct {
	build func(signer string) (sdk.Msg, error)
	// single: one key says it for itself, however many have to agree otherwise.
	single bool
}

// Effect is what a proposal does when the operators have voted for it.
type Effect struct{ msg sdk.Msg }

func message(build func(signer string) sdk.Msg) Message {
	return Message{build: func(signer string) (sdk.Msg, error) { return build(signer), nil }}
}

// AdmitCity is the effect that makes a city, and its operator if new, part of the network.
func AdmitCity(a Admission) Effect {
	return Effect{&operatorpb.MsgAdmitCity{
		Authority: authority.String(), Operator: a.Operator, OperatorKey: a.OperatorKey, City: a.City, CityKey: a.CityKey,
		ConsensusKey: a.ConsensusKey, NodeKey: a.NodeKey, Api: a.API, Gateway: a.Gateway, Link: a.Link,
	}}
}

// OpenChain is the effect that makes a chain: its name, kind, framework, network
// id, deploy policy and committee.
func OpenChain(c bsn.Chain) Effect {
	return Effect{&chainpb.MsgOpenChain{
		Authority: authority.String(), Name: c.Name, Kind: string(c.Kind), Framework: c.Framework,
		NetworkId: c.NetworkID, Deploy: string(c.Deploy), Committee: c.Committee,
	}}
}

// SetCommittee is the effect that changes which cities run a chain.
func SetCommittee(chain string, cities []string) Effect {
	return Effect{&chainpb.MsgSetCommittee{Authority: authority.String(), Chain: chain, Committee: cities}}
}

// CloseChain is the effect that closes a chain to new apps, ReopenChain the one
// that opens it again.
func CloseChain(chain string) Effect {
	return Effect{&chainpb.MsgCloseChain{Authority: authority.String(), Chain: chain}}
}

// ReopenChain opens a closed chain again.
func ReopenChain(chain string) Effect {
	return Effect{&chainpb.MsgReopenChain{Authority: authority.String(), Chain: chain}}
}

// SetDeploy is the effect that changes who may create contracts on a chain.
func SetDeploy(chain string, p bsn.DeployPolicy) Effect {
	return Effect{&chainpb.MsgSetDeploy{Authority: authority.String(), Chain: chain, Deploy: string(p)}}
}

// EvictCity is the effect that puts a city out of the network.
func EvictCity(city string) Effect {
	return Effect{&operatorpb.MsgEvictCity{Authority: authority.String(), City: city}}
}

// EvictOperator is the effect that puts an operator out, with all its cities.
func EvictOperator(operator string) Effect {
	return Effect{&operatorpb.MsgEvictOperator{Authority: authority.String(), Operator: operator}}
}

// ReinstateOperator is the effect that gives a suspended operator its power back,
// carried by one of its cities with a new consensus key.
func ReinstateOperator(operator, city string, consensusKey []byte) Effect {
	return Effect{&operatorpb.MsgReinstateOperator{
		Authority: authority.String(), Operator: operator, City: city, ConsensusKey: consensusKey,
	}}
}

// SetParameter is the effect that changes one of the network's [bsn.Parameters].
func SetParameter(name string, value int64) Effect {
	return Effect{&parameterpb.MsgSetParameter{Authority: authority.String(), Name: name, Value: value}}
}

// Upgrade is the effect that plans the ledger's next protocol version.
func Upgrade(u bsn.Upgrade) Effect {
	return Effect{&upgradepb.MsgUpgrade{Authority: authority.String(), Version: u.Version, Height: u.Height, Name: u.Name, Url: u.URL}}
}

// CancelUpgrade is the effect that drops a planned upgrade.
func CancelUpgrade(version uint64) Effect {
	return Effect{&upgradepb.MsgCancelUpgrade{Authority: authority.String(), Version: version}}
}

// RegisterPortal is the effect that makes a portal, whose key was offered for it.
func RegisterPortal(name string, k Offer, url string) Effect {
	return Effect{&accountpb.MsgRegisterPortal{Authority: authority.String(), Name: name, Key: k.PublicKey, Proof: k.Proof, Url: url}}
}

// Propose opens a proposal; signed by an operator or by one of its cities. See
// Result.Proposal.
func Propose(summary string, e Effect) Message {
	return Message{build: func(signer string) (sdk.Msg, error) {
		if e.msg == nil {
			return nil, errors.New("proposal has no effect")
		}
		packed, err := cdctypes.NewAnyWithValue(e.msg)
		return &governpb.MsgPropose{Proposer: signer, Summary: summary, Effect: packed}, err
	}}
}

// Vote is signed by an operator.
func Vote(proposal uint64, yes bool) Message {
	return message(func(s string) sdk.Msg { return &governpb.MsgVote{Operator: s, Id: proposal, Yes: yes} })
}

// ActivateCity is signed by a city that follows the ledger.
func ActivateCity() Message {
	return message(func(s string) sdk.Msg { return &operatorpb.MsgActivateCity{City: s} })
}

// UpdateCity changes where the signing city is reached: an empty api or gateway
// stays, link is replaced.
func UpdateCity(api, gateway string, link []string) Message {
	return message(func(s string) sdk.Msg {
		return &operatorpb.MsgUpdateCity{City: s, Api: api, Gateway: gateway, Link: link}
	})
}

// LeaveCity begins a city's way out of the network; signed by the city or its
// operator. It goes on answering for the time of notice, of ledger time.
func LeaveCity(city string, notice time.Duration) Message {
	return message(func(s string) sdk.Msg {
		return &operatorpb.MsgLeaveCity{Signer: s, City: city, Notice: uint32(min(max(notice, 0)/time.Second, math.MaxUint32))}
	})
}

// EndCity says that a leaving city has left; signed by the city once it has
// drained, or by its operator.
func EndCity(city string) Message {
	return message(func(s string) sdk.Msg { return &operatorpb.MsgEndCity{Signer: s, City: city} })
}

// PostNode posts the public keys of the signing city's node of a chain.
func PostNode(chain string, keys map[string]string) Message {
	return message(func(s string) sdk.Msg {
		m := &chainpb.MsgPostNode{City: s, Chain: chain}
		for _, name := range slices.Sorted(maps.Keys(keys)) {
			m.Keys = append(m.Keys, &chainpb.NodeKey{Name: name, Value: keys[name]})
		}
		return m
	})
}

// ProposeGenesis is signed by a city of the committee.
func ProposeGenesis(chain, hash string) Message {
	return message(func(s string) sdk.Msg { return &chainpb.MsgProposeGenesis{City: s, Chain: chain, Genesis: hash} })
}

// AnswerGenesis approves a proposed genesis, or refuses it with a reason.
func AnswerGenesis(chain, hash string, a bsn.Approval) Message {
	return message(func(s string) sdk.Msg {
		return &chainpb.MsgAnswerGenesis{City: s, Chain: chain, Genesis: hash, Approved: a.Approved, Reason: a.Reason}
	})
}

// RegisterAccount is signed by a portal. The account's key was offered for it.
func RegisterAccount(name string, k Offer) Message {
	return message(func(s string) sdk.Msg {
		return &accountpb.MsgRegisterAccount{Portal: s, Name: name, Key: k.PublicKey, Proof: k.Proof}
	})
}

// SetProject makes a project of the signing account, or sets its limits and deployers.
func SetProject(p bsn.Project) Message {
	return message(func(s string) sdk.Msg {
		return &accountpb.MsgSetProject{
			Account: s, Name: p.Name, RequestsPerSecond: uint32(p.Limits.RequestsPerSecond), Deployers: p.Deployers,
		}
	})
}

// RevokeProject ends a project of the signing account for good.
func RevokeProject(name string) Message {
	return message(func(s string) sdk.Msg { return &accountpb.MsgRevokeProject{Account: s, Name: name} })
}

// AddKey registers a key of a project of the signing account.
func AddKey(project string, k bsn.Key) Message {
	return message(func(s string) sdk.Msg {
		return &accountpb.MsgAddKey{Account: s, Project: project, City: k.City, Hash: k.Hash}
	})
}

// SetKey registers a key of a project of the signing account with its limits,
// restrictions and expiry, or sets them anew for a key that is registered.
func SetKey(project string, k bsn.Key) Message {
	return message(func(s string) sdk.Msg {
		r := k.Restrictions
		return &accountpb.MsgSetKey{
			Account: s, Project: project, City: k.City, Hash: k.Hash, Rates: rates(k.Limits), Methods: r.Methods,
			DeniedMethods: r.DeniedMethods, Contracts: r.Contracts, Ips: r.IPs, Origins: r.Origins, Expires: k.Expires,
		}
	})
}

// SetLimits sets the limits and quotas of a project of the signing account.
func SetLimits(p bsn.Project) Message {
	return message(func(s string) sdk.Msg {
		return &accountpb.MsgSetLimits{
			Account: s, Project: p.Name, Rates: rates(p.Limits), DailyUnits: p.Quota.Daily, MonthlyUnits: p.Quota.Monthly,
		}
	})
}

func rates(l bsn.Limits) *accountpb.Rates {
	return &accountpb.Rates{RequestsPerSecond: uint32(l.RequestsPerSecond), UnitsPerSecond: uint32(l.UnitsPerSecond)}
}

// RevokeKey ends a key for good.
func RevokeKey(project, keyID string) Message {
	return message(func(s string) sdk.Msg { return &accountpb.MsgRevokeKey{Account: s, Project: project, KeyId: keyID} })
}

// PublishApp makes a version of an app of the signing account from the version's
// artifact, chain, cities, roles and limits. See Result.Version.
func PublishApp(name string, v bsn.Version) Message {
	return message(func(s string) sdk.Msg {
		m := &apppb.MsgPublish{
			Account: s, Name: name, Artifact: v.Artifact, Chain: v.Chain, Cities: v.Cities,
			RequestsPerSecond: uint32(v.Limits.RequestsPerSecond),
		}
		for _, role := range slices.Sorted(maps.Keys(v.Roles)) {
			r := v.Roles[role]
			m.Roles = append(m.Roles, &apppb.Role{Name: role, Accounts: r.Accounts, Functions: r.Functions})
		}
		return m
	})
}

// SetContracts records where a version's contracts are.
func SetContracts(name string, version int, contracts []bsn.Contract) Message {
	return message(func(s string) sdk.Msg {
		m := &apppb.MsgSetContracts{Account: s, Name: name, Version: uint32(version)}
		for _, c := range contracts {
			m.Contracts = append(m.Contracts, &apppb.Contract{Name: c.Name, Address: c.Address, Nonce: c.Nonce, CodeHash: c.CodeHash})
		}
		return m
	})
}

// WithdrawApp takes a version out of service, or with 0 all of them.
func WithdrawApp(name string, version int) Message {
	return message(func(s string) sdk.Msg {
		return &apppb.MsgWithdraw{Account: s, Name: name, Version: uint32(version)}
	})
}

// PlaceApp is a chosen city's answer to a version of an app ("account/name").
func PlaceApp(app string, version int, p bsn.Placement) Message {
	return message(func(s string) sdk.Msg {
		return &apppb.MsgPlace{City: s, App: app, Version: uint32(version), Status: string(p.Status), Reason: p.Reason}
	})
}

// PutReceipt puts a part of a city's receipt on the ledger: its city, period, number
// and projects; signed by the city or its operator. The same again changes nothing.
func PutReceipt(r bsn.Receipt) Message {
	return Message{build: func(signer string) (sdk.Msg, error) {
		m := &receiptpb.MsgReceipt{Signer: signer, City: r.City, Until: r.Until, Part: uint32(r.Part), Parts: uint32(r.Parts)}
		for _, p := range r.Projects {
			root, err := hex.DecodeString(p.Root)
			if err != nil {
				return nil, fmt.Errorf("root of project %s: %w", p.Project, err)
			}
			m.Projects = append(m.Projects, &receiptpb.ProjectUse{Project: p.Project, Calls: p.Calls, Units: p.Units, Rows: uint32(p.Rows), Root: root})
		}
		return m, nil
	}}
}
