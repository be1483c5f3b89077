package bsn

// ChainKind says who may use a chain and who runs it.
type ChainKind string

const (
	// ChainDedicated is permissioned, for one consortium.
	ChainDedicated ChainKind = "dedicated"
	// ChainOpen is run by cities and usable by every account.
	ChainOpen ChainKind = "open"
	// ChainPublic is permissionless; the network only gives access.
	ChainPublic ChainKind = "public"
)

// ChainStatus is where a chain stands on its way into service.
type ChainStatus string

const (
	// ChainKeys: waiting for every city of the committee to post its node's public keys.
	ChainKeys ChainStatus = "keys"
	// ChainGenesis: keys are complete; a genesis is proposed, rebuilt, compared and approved.
	ChainGenesis ChainStatus = "genesis"
	// ChainRunning: the genesis is approved and nodes run.
	ChainRunning ChainStatus = "running"
	// ChainClosed: takes no new apps.
	ChainClosed ChainStatus = "closed"
)

// DeployPolicy says whose top-level contract creations a chain's gateways accept.
type DeployPolicy string

const (
	// DeployAccounts: the owner of the calling project and the deployers that the
	// project names.
	DeployAccounts DeployPolicy = "accounts"
	// DeployAnyone: every transaction with a valid key for the gateway.
	DeployAnyone DeployPolicy = "anyone"
)

// Chain is a running instance of a framework.
type Chain struct {
	Name      string    `json:"name"`
	Kind      ChainKind `json:"kind"`
	Framework string    `json:"framework"`
	// Index gives the chain's nodes their virtual address, from 1.
	Index int `json:"index"`
	// NetworkID is the id that clients sign for: the EVM chain id.
	NetworkID uint64       `json:"networkId"`
	Deploy    DeployPolicy `json:"deploy"`
	// Committee names the cities that run the chain, in the order given.
	Committee []string `json:"committee"`
	// Nodes holds what the committee's cities posted, in order of city name.
	Nodes  []ChainNode `json:"nodes"`
	Status ChainStatus `json:"status"`
	// Genesis is the SHA-256 of the genesis artifact in hex, and Proposer the
	// city that proposed it. GenesisTime is the ledger time, in Unix seconds, of
	// the block that completed the keys: the one time that all members know.
	Genesis     string     `json:"genesis,omitempty"`
	Proposer    string     `json:"proposer,omitempty"`
	GenesisTime int64      `json:"genesisTime,omitempty"`
	Approvals   []Approval `json:"approvals,omitempty"`
}

// ChainNode is the public side of one node of a chain.
type ChainNode struct {
	City string `json:"city"`
	// CityIndex repeats the city's index, so that a chain's record alone says
	// where its nodes listen.
	CityIndex int `json:"cityIndex"`
	// Keys are public keys and addresses in the framework's own text form, by
	// the framework's own names for them.
	Keys map[string]string `json:"keys"`
}

// Approval is one member's answer to a proposed genesis.
type Approval struct {
	City     string `json:"city"`
	Approved bool   `json:"approved"`
	Reason   string `json:"reason,omitempty"`
}

// Node returns what the city posted for this chain.
func (c Chain) Node(city string) (ChainNode, bool) {
	for _, n := range c.Nodes {
		if n.City == city {
			return n, true
		}
	}
	return ChainNode{}, false
}

// Refused tells whether so many members refused the proposed genesis that it
// can no longer be approved: then another is proposed.
func (c Chain) Refused() bool {
	no := 0
	for _, a := range c.Approvals {
		if !a.Approved {
			no++
		}
	}
	return c.Genesis != "" && 3*(len(c.Committee)-no) <= 2*len(c.Committee)
}

// Runs tells whether the chain's nodes run, so that it can be called.
func (c Chain) Runs() bool { return c.Status == ChainRunning || c.Status == ChainClosed }

// Member tells whether the city belongs to the chain's committee.
func (c Chain) Member(city string) bool {
	for _, m := range c.Committee {
		if m == city {
			return true
		}
	}
	return false
}
