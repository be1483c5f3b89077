package bsn

// Portal is where people sign up. Many portals serve one network.
type Portal struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	URL     string `json:"url,omitempty"`
}

// Account is a person or organisation at a portal. It owns projects and apps.
type Account struct {
	Name   string `json:"name"`
	Portal string `json:"portal"`
	Identity
	// Guard says who may give the account new keys; without it nobody can.
	Guard *Guard `json:"guard,omitempty"`
	// Recoveries are what guardians named, until one takes effect or is cancelled.
	Recoveries []Recovery `json:"recoveries,omitempty"`
}

// Project is access to chains and apps: keys, limits, usage.
type Project struct {
	Account string `json:"account"`
	Name    string `json:"name"`
	Limits  Limits `json:"limits"`
	// Quota bounds what the project uses in all cities together.
	Quota Quota `json:"quota,omitzero"`
	// Deployers are EVM addresses (0x, lower case), beside the account's keys',
	// whose contract creations pass under this project's keys.
	Deployers []string `json:"deployers,omitempty"`
	Keys      []Key    `json:"keys"`
	Revoked   bool     `json:"revoked,omitempty"`
}

// ID is the project's "account/name".
func (p Project) ID() string { return ID(p.Account, p.Name) }
