package bsn

// App is a published DApp service, named "account/app".
type App struct {
	Account  string    `json:"account"`
	Name     string    `json:"name"`
	Versions []Version `json:"versions"` // oldest first; none is ever removed
}

// ID is the app's "account/name".
func (a App) ID() string { return ID(a.Account, a.Name) }

// Version is one published state of an app. The highest one that is served is
// what the app's plain address means; older ones stay reachable until withdrawn.
type Version struct {
	Number int `json:"number"` // from 1
	// Artifact is the SHA-256 of the package in hex: manifest, ABI, bytecode.
	Artifact  string          `json:"artifact"`
	Chain     string          `json:"chain"`
	Cities    []string        `json:"cities"`
	Contracts []Contract      `json:"contracts"`
	Roles     map[string]Role `json:"roles,omitempty"`
	Limits    Limits          `json:"limits"`
	// Placements say how far each chosen city is, by city.
	Placements map[string]Placement `json:"placements"`
	Withdrawn  bool                 `json:"withdrawn,omitempty"`
}

// Contract is one deployed contract of a version.
type Contract struct {
	Name    string `json:"name"`
	Address string `json:"address"` // in the chain's own form
	// Nonce of the creating transaction: with it a publisher that was cut off
	// makes the very same transaction again instead of a second contract.
	Nonce uint64 `json:"nonce"`
	// CodeHash is the SHA-256 of the deployed bytecode as the node returns it, in
	// hex; empty until it has been seen on the chain.
	CodeHash string `json:"codeHash,omitempty"`
}

// Role names accounts and the functions that they may reach through a gateway's
// /app address. An app without roles is open to every project.
type Role struct {
	Accounts  []string `json:"accounts" yaml:"accounts"`
	Functions []string `json:"functions" yaml:"functions"`
}

// PlacementStatus is how far a city is with an app's version.
type PlacementStatus string

const (
	// PlacementAccepted: the city fetched and checked the artifact and will serve.
	PlacementAccepted PlacementStatus = "accepted"
	// PlacementServing: the city's own node has the contracts, its gateway routes them.
	PlacementServing PlacementStatus = "serving"
	// PlacementRefused: the city does not want the app on its site; see Reason.
	PlacementRefused PlacementStatus = "refused"
)

// Placement is a city's answer to a version.
type Placement struct {
	Status PlacementStatus `json:"status"`
	Reason string          `json:"reason,omitempty"`
}

// Latest returns the newest version that is not withdrawn.
func (a App) Latest() (Version, bool) {
	for i := len(a.Versions) - 1; i >= 0; i-- {
		if !a.Versions[i].Withdrawn {
			return a.Versions[i], true
		}
	}
	return Version{}, false
}

// Serving returns the version that the app's address means in a city: the given
// number or, for 0, the newest one that this city serves.
func (a App) Serving(city string, number int) (Version, bool) {
	for i := len(a.Versions) - 1; i >= 0; i-- {
		v := a.Versions[i]
		if (number == 0 || v.Number == number) && !v.Withdrawn && v.Placements[city].Status == PlacementServing {
			return v, true
		}
	}
	return Version{}, false
}
