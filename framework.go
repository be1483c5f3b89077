package bsn

import (
	"context"
	"encoding/json"
	"errors"
)

// ErrNoNode means that no node of the given id exists.
var ErrNoNode = errors.New("no such node")

// Site is the city's own side of a chain: what a framework needs to plan and
// tend the one node that runs here.
type Site struct {
	Net   Net
	City  City
	Chain Chain
	// Dir is the node's own folder; private keys are made in it and never leave.
	Dir string
}

// Framework is the knowledge of one blockchain software, for all its chains.
type Framework interface {
	Name() string
	// Software makes sure that the node's binary is at hand and returns its path.
	// Progress reports completed and total steps of a build; it may be nil.
	Software(ctx context.Context, progress func(done, total int)) (string, error)
	// Keys makes the node's private keys in site.Dir, once, and returns their
	// public side. The same folder always gives the same keys.
	Keys(site Site) (map[string]string, error)
	// Genesis builds the chain's genesis from its record alone.
	Genesis(chain Chain) ([]byte, error)
	// CheckGenesis decodes a proposed genesis and compares it with what the record
	// asks for; the error names the first difference.
	CheckGenesis(chain Chain, proposed []byte) error
	// Plan specifies the node. The genesis is the approved artifact.
	Plan(site Site, binary string, genesis []byte) (NodeSpec, error)
	// Health asks the node itself. An error means that it does not answer.
	Health(ctx context.Context, site Site) (Health, error)
	// Govern does the node's part in changes of the running chain's membership
	// that the ledger decided, and nothing else. It returns what it did, if anything.
	Govern(ctx context.Context, site Site) (string, error)
	// Endpoint is where the node of a chain in a city serves its clients.
	Endpoint(net Net, chain Chain, cityIndex int) Endpoint
	// PeerPorts are the ports at which a chain's nodes reach each other, at the
	// addresses of the chain's service; the link opens them between the chain's cities.
	PeerPorts() []int
	// Methods is the framework's method table for the gateway.
	Methods() Methods
	// Inspect decodes a raw transaction that a client hands in with a method of
	// class MethodSend.
	Inspect(method string, params json.RawMessage) (Transaction, error)
	// Verify checks on a node that the version's contracts are on the chain.
	Verify(ctx context.Context, e Endpoint, v Version) error
	// Query reads from a contract. Arguments and result are JSON in the
	// framework's plain form; pkg is the version's artifact.
	Query(ctx context.Context, e Endpoint, v Version, pkg []byte, contract, function string, args []json.RawMessage) (json.RawMessage, error)
	// Describe lists what a version's artifact offers.
	Describe(pkg []byte) ([]Interface, error)
}

// Interface is a contract of an app, as a caller sees it.
type Interface struct {
	Contract  string          `json:"contract"`
	ABI       json.RawMessage `json:"abi,omitempty"`
	Functions []Function      `json:"functions"`
}

// Function of a contract.
type Function struct {
	Name   string   `json:"name"`
	Inputs []string `json:"inputs"`
	Reads  bool     `json:"reads"` // it changes nothing
}

// Endpoint is where a node serves its clients. A node has those that its framework speaks.
type Endpoint struct {
	HTTP string `json:"http,omitempty"` // JSON-RPC
	WS   string `json:"ws,omitempty"`
	// GRPC is http://host:port, or https:// with TLS; REST is what paths are put after.
	GRPC string `json:"grpc,omitempty"`
	REST string `json:"rest,omitempty"`
}

// Health is what a node says of itself and its chain.
type Health struct {
	Height     int64    `json:"height"`
	Peers      int      `json:"peers"`
	Syncing    bool     `json:"syncing"`
	HeadAge    float64  `json:"headAgeSeconds"` // since the newest block's own time
	Validators []string `json:"validators,omitempty"`
}

// Transaction is what a gateway's policy needs to know of a raw transaction.
type Transaction struct {
	Hash string `json:"hash"`
	From string `json:"from"` // 0x, lower case
	// To is whom it is sent to, in the same form; empty if it is sent to nobody, as
	// what creates a contract is, or if that cannot be told.
	To      string `json:"to,omitempty"`
	Creates bool   `json:"creates"`
	// Raw is the signed transaction as the node takes it.
	Raw []byte `json:"-"`
}

// MethodClass sorts a chain's methods by what the gateway does with them.
type MethodClass string

const (
	// MethodRead may be answered by any node, and asked again elsewhere.
	MethodRead MethodClass = "read"
	// MethodSend hands in a signed transaction.
	MethodSend MethodClass = "send"
	// MethodSubscribe needs a connection that stays.
	MethodSubscribe MethodClass = "subscribe"
	// MethodLocal is answered by the gateway itself, from the chain's record; where
	// the record does not tell, it is a read.
	MethodLocal MethodClass = "local"
	// MethodRefused never passes: an exception from a row for many methods of gRPC or REST.
	MethodRefused MethodClass = "refused"
)

// Caching says for how long the answer to a method holds, for a gateway's cache.
type Caching string

const (
	// CacheNone: it is different each time, or of one node and not of the chain.
	CacheNone Caching = ""
	// CacheStatic: it never changes for a chain.
	CacheStatic Caching = "static"
	// CacheHead: until the chain has another newest block.
	CacheHead Caching = "head"
	// CacheBlock: it follows from the block that the params name (see Method.Block
	// and Method.Filter): once that is final it holds for ever, before until the
	// chain has another newest block.
	CacheBlock Caching = "block"
	// CacheHash: the params name what they ask for by its hash, and the result tells
	// its block (see Method.Shows): then as with CacheBlock.
	CacheHash Caching = "hash"
)

// Shows says where a method's result tells a block's number.
type Shows string

const (
	// ShowsResult: the result is the number of the newest block.
	ShowsResult Shows = "result"
	// ShowsNumber and ShowsBlockNumber: a member of this name of the result, or of its
	// first element if it is an array.
	ShowsNumber      Shows = "number"
	ShowsBlockNumber Shows = "blockNumber"
)

// AnswerChainID is the answer of a local method: the chain's NetworkID as a hex quantity.
const AnswerChainID = "chainId"

// Method is a row of a framework's method table. A method without a row is refused.
type Method struct {
	Class MethodClass `yaml:"class" json:"class"`
	// Block is the position of the parameter that names a block, from 1, or 0 for
	// none; there the tags finalized and safe mean latest on chains with BFT finality.
	Block int `yaml:"block" json:"block,omitempty"`
	// Filter is the position of a log filter, whose fromBlock and toBlock name blocks.
	Filter int `yaml:"filter" json:"filter,omitempty"`
	// Contract is the position of the parameter that names the contract that is asked:
	// an address, a call's object with the member to or, where it is also Filter's
	// position, a log filter with the member address; 0 for none.
	Contract int `yaml:"contract" json:"contract,omitempty"`
	// Units is what a call costs, in compute units.
	Units int `yaml:"units" json:"units"`
	// Notify is what each notification of a subscription costs, in compute units; of a
	// stream of gRPC each further message, in either direction.
	Notify int `yaml:"notify" json:"notify,omitempty"`
	// Cache says for how long an answer holds.
	Cache Caching `yaml:"cache" json:"cache,omitempty"`
	// Shows is where the result tells the block that it is of.
	Shows Shows `yaml:"shows" json:"shows,omitempty"`
	// Answer says what a method of class local is answered with.
	Answer string `yaml:"answer" json:"answer,omitempty"`
	// At is where a node answers an address of REST, if not at its REST interface.
	At string `yaml:"at" json:"at,omitempty"`
	// Restricted: it is so dear that only keys whose record names it may use it.
	Restricted bool `yaml:"restricted" json:"restricted,omitempty"`
}

// AtRPC: it is answered below the address of JSON-RPC.
const AtRPC = "rpc"

// Head says how to ask a node for its newest block over JSON-RPC. The zero value is the
// way of the Ethereum JSON-RPC.
type Head struct {
	Method string `yaml:"method" json:"method"`
	// At is where in the result the number is, in decimals: members with dots between.
	At string `yaml:"at" json:"at"`
}

// Methods is a framework's method table: data, not code.
type Methods struct {
	// Final: every block is final, so finalized and safe mean latest.
	Final bool `yaml:"final" json:"final"`
	Head  Head `yaml:"head" json:"head,omitzero"`
	// Methods are those of JSON-RPC, by name.
	Methods map[string]Method `yaml:"methods" json:"methods"`
	// GRPC are the methods of gRPC by full name, as in cosmos.bank.v1beta1.Query/Balance.
	// A row whose name ends in * stands for all that begin so; of several the longest
	// counts. Those of class read and send take one message and give one; what streams,
	// either way, is of class subscribe.
	GRPC map[string]Method `yaml:"grpc" json:"grpc,omitempty"`
	// REST are the addresses of REST by method and path, in the form of patterns of
	// [net/http.ServeMux]: GET /cosmos/bank/v1beta1/balances/{address}.
	REST map[string]Method `yaml:"rest" json:"rest,omitempty"`
}
