package gateway

import (
	"strings"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/gateway/token"
)

// address is what the path of a request for a chain says.
type address struct {
	chain string
	// key is empty if the path has none.
	key string
	// project is an id ("account/name") that the key must belong to; empty if the
	// path names none.
	project string
	// foreign: the path names a project, but not as account.project.
	foreign bool
}

// Protocols of BSN's form of address. On a chain of the EVM family both JSON-RPC
// ones are the chain's, and both WebSockets too.
const (
	protocolRPC    = "rpc"
	protocolEVMRPC = "evmrpc"
	protocolWS     = "ws"
	protocolEVMWS  = "evmws"
	protocolREST   = "rest"
)

// readTarget reads the address of a JSON-RPC request in its plain forms:
//
//	/rpc/{chain}
//	/rpc/{chain}/{key}
//	/api/{account}.{project}/{chain}/rpc    or evmrpc; with or without a slash
//
// Not ok means that it is none of them, or that it is written in a way that is not plain.
func readTarget(target []byte) (a address, ok bool) {
	if len(target) > 4<<10 {
		return a, false
	}
	for _, c := range target {
		if !plainByte[c] {
			return a, false
		}
	}
	path := string(target)
	if rest, is := strings.CutPrefix(path, "/rpc/"); is {
		a.chain, a.key, _ = strings.Cut(rest, "/")
		return a, plainSegment(a.chain) && (plainSegment(a.key) || a.key == "" && !strings.HasSuffix(rest, "/"))
	}
	rest, is := strings.CutPrefix(path, "/api/")
	if !is {
		return a, false
	}
	project, rest, _ := strings.Cut(rest, "/")
	chain, protocol, _ := strings.Cut(rest, "/")
	protocol = strings.TrimSuffix(protocol, "/")
	if !plainSegment(project) || !plainSegment(chain) || protocol != protocolRPC && protocol != protocolEVMRPC {
		return a, false
	}
	a.chain = chain
	a.setProject(project)
	return a, true
}

// setProject takes in a project as BSN's form writes it: account.project. Names hold
// no dot, and an id's slash would be two segments.
func (a *address) setProject(text string) {
	account, name, _ := strings.Cut(text, ".")
	if a.project = bsn.ID(account, name); bsn.CheckName("account", account) != nil || bsn.CheckName("project", name) != nil {
		a.foreign = true
	}
}

func plainSegment(s string) bool {
	return s != "" && s != "." && s != ".." && strings.IndexByte(s, '/') < 0
}

// plainByte holds the bytes of a path that mean themselves.
var plainByte = func() (plain [256]bool) {
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/") {
		plain[c] = true
	}
	return plain
}()

// looksLikeKey tells a key or token from the name of a chain.
func looksLikeKey(s string) bool { return strings.HasPrefix(s, "bsn_") || token.Is(s) }
