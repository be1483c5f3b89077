package bsn

// ProtocolID is the id of the one record of [KindProtocol].
const ProtocolID = "ledger"

// Protocol says which version of its rules the ledger follows. Every version of
// bsn supports all protocol versions up to its newest.
type Protocol struct {
	Version uint64 `json:"version"`
	// Next is what the operators have decided; nil if nothing is planned.
	Next *Upgrade `json:"next,omitempty"`
	// Upgrades are those that took place, oldest first.
	Upgrades []Upgrade `json:"upgrades,omitempty"`
}

// Upgrade is a change of protocol version.
type Upgrade struct {
	Version uint64 `json:"version"`
	// Height is the first block under the new version's rules.
	Height int64 `json:"height"`
	// Name is what people call the release that brings it, and URL where it is found.
	Name string `json:"name,omitempty"`
	URL  string `json:"url,omitempty"`
}

// At returns the version whose rules the block of a height follows, as far as is
// decided.
func (p Protocol) At(height int64) uint64 {
	version := uint64(1)
	if len(p.Upgrades) == 0 {
		version = p.Version
	}
	for _, u := range p.Upgrades {
		if height >= u.Height {
			version = u.Version
		}
	}
	if p.Next != nil && height >= p.Next.Height {
		version = p.Next.Version
	}
	return version
}
