// Package manifest reads bsn.yaml, the file that says what an app is made of:
//
//	name: certificates            # the app's name
//	chain: chongqing              # or framework: kaia
//	contracts:
//	  - name: Certificates        # what callers write
//	    source: Certificates.sol  # or artifact: out/Certificates.sol/Certificates.json
//	    args: ["Spring school"]   # the constructor's arguments
//	cities: [chongqing, paris]
//	roles:
//	  registrar: {accounts: [school], functions: [issue, revoke]}
//	limits:
//	  requestsPerSecond: 50
package manifest

import (
	"encoding/json"

	"github.com/openbsn/bsn"
)

// File is the manifest's name in an app's folder.
const File = "bsn.yaml"

// Bounds of a manifest. A longer file or list is refused.
const (
	MaxSize      = 64 << 10 // bytes
	MaxContracts = 64
	maxList      = 256 // cities, roles, accounts or functions of a role, arguments
	maxRate      = 1_000_000
)

// Manifest is the content of a bsn.yaml. The JSON form is part of an app's
// published artifact.
type Manifest struct {
	// Name of the app, a [bsn.CheckName] name. Required.
	Name string `json:"name"`
	// Chain is the name of the chain to publish on, and Framework the blockchain
	// software that the app is written for. At most one of them is given; the
	// publisher may name another chain, and has to name one if Chain is empty.
	Chain     string `json:"chain,omitempty"`
	Framework string `json:"framework,omitempty"`
	// Contracts in the order in which they are deployed. At least one.
	Contracts []Contract `json:"contracts"`
	// Cities that are to serve the app. The publisher may name others, and has to
	// name some if there are none here.
	Cities []string `json:"cities,omitempty"`
	// Roles, by name, say which accounts reach which functions through a gateway's
	// /app address. Without roles the app is open to every project.
	Roles map[string]bsn.Role `json:"roles,omitempty"`
	// Limits bound the app at each gateway: requestsPerSecond, 0 (none given) to a
	// million.
	Limits bsn.Limits `json:"limits,omitzero"`
}

// Contract is one contract to deploy. Exactly one of Source and Artifact is given.
type Contract struct {
	// Name that callers write: a letter, then letters, digits and underscores, at
	// most 64, unique within the app. Required.
	Name string `json:"name"`
	// Source is the path of a Solidity file, relative to the app's folder, with
	// slashes. "Certificates.sol:Registry" picks one of several contracts in it;
	// otherwise it is the only one of the file, or the one called Name.
	Source string `json:"source,omitempty"`
	// Artifact is the path of a Hardhat or Foundry artifact (JSON), relative to
	// the app's folder, with slashes.
	Artifact string `json:"artifact,omitempty"`
	// Args are the constructor's arguments. Scalars are JSON strings of the text
	// that the file holds, so that no digit of a large number or of an unquoted
	// address is lost; lists and mappings are JSON arrays and objects of such.
	Args []json.RawMessage `json:"args,omitempty"`
}
