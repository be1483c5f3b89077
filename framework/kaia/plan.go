package kaia

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/openbsn/bsn"
)

const (
	// roundTimeout is the length of a first consensus round in milliseconds: it
	// must exceed the time of a proposal and the way between the farthest cities,
	// and is what the turn of a dead validator costs.
	roundTimeout = 2000
	// blockInterval is in seconds.
	blockInterval = 1
	// apis are open to whoever reaches the node's address, before a gateway's
	// policy. Never add governance, istanbul or admin: they cast the node's votes
	// and rule the node, and are for the owner of the socket alone.
	apis = "eth,net,web3,klay,kaia"
)

// Files in the node's own folder.
const (
	dataDir     = "data"
	genesisName = "genesis.json"
	peersName   = "peers"
	socketName  = "admin.ipc"
)

// storage are the flags that say how the database is laid out and how much of it
// is kept in memory; init and the node must agree on them. The sizes are MiB, and
// the smallest with which Kaia runs.
var storage = []string{
	"--datadir", dataDir,
	"--state.cache-size", "16",
	"--state.trie-cache-limit", "32",
	"--db.leveldb.cache-size", "64",
	"--db.single",
	"--db.num-statetrie-shards", "1",
}

// memoryMiB keeps the garbage collector's slack small. What the node needs lies
// well below it.
const memoryMiB = 256

// Plan specifies the city's node. It also writes the addresses of the chain's
// other nodes into the site's folder, beside the specification and not in it: a
// node reads them when it starts, so that a city that joins or leaves does not
// restart the nodes of the others. A node that joins dials those that are there.
func (*Kaia) Plan(site bsn.Site, binary string, genesis []byte) (bsn.NodeSpec, error) {
	chain := site.Chain
	fail := func(err error) (bsn.NodeSpec, error) {
		return bsn.NodeSpec{}, fmt.Errorf("plan node of chain %s: %w", chain.Name, err)
	}
	if sum := sha256.Sum256(genesis); chain.Genesis != "" && hex.EncodeToString(sum[:]) != chain.Genesis {
		return fail(errors.New("the genesis is not the approved one"))
	}
	own, ok := chain.Node(site.City.Name)
	if !ok {
		return fail(fmt.Errorf("city %s has not posted its keys", site.City.Name))
	}
	if err := writePeers(site); err != nil {
		return fail(err)
	}
	address := site.Net.Addr(site.City.Index, bsn.ChainService(chain.Index))
	host := address.String()
	return bsn.NodeSpec{
		ID:     Name + "-" + chain.Name,
		Binary: binary,
		Args: append([]string{
			"--networkid", strconv.FormatUint(chain.NetworkID, 10),
			"--nodekey", nodeKeyFile,
			"--p2p.addr", bsn.HostPort(address, portPeers),
			"--p2p.peers", peersName,
			"--as", "cn",
			"--rewardbase", own.Keys[keyAddress],
			"--istanbul.timeout", strconv.Itoa(roundTimeout),
			"--block-generation-interval", strconv.Itoa(blockInterval),
			// Neither the internet nor the local network is asked for anything.
			"--maxconnections", "64",
			"--nodiscover", "--nat", "none", "--bootnodes", "", "--ntp.disable",
			"--syncmode", "full",
			// Every block's state is stored at once, so that kill -9 loses none.
			"--gcmode", "archive",
			"--rpc", "--rpcaddr", host, "--rpcport", strconv.Itoa(portHTTP), "--rpcapi", apis,
			"--ws", "--wsaddr", host, "--wsport", strconv.Itoa(portWS), "--wsapi", apis,
			// With "./" Kaia takes the path as it is; otherwise it would make it
			// absolute, and a socket's path has at most 107 bytes.
			"--ipcpath", "./" + socketName,
			"--verbosity", "3",
		}, storage...),
		Prepare:     append(append([]string{}, storage...), "init", genesisName),
		Files:       []bsn.File{{Path: genesisName, Mode: 0o600, Content: genesis}},
		Address:     host,
		Ports:       map[string]int{"peers": portPeers, "http": portHTTP, "ws": portWS},
		MemoryMiB:   memoryMiB,
		StopTimeout: 20 * time.Second,
	}, nil
}

// writePeers stores the kni:// addresses of all nodes but the city's own.
func writePeers(site bsn.Site) error {
	var lines strings.Builder
	for _, n := range site.Chain.Nodes {
		if n.City == site.City.Name {
			continue
		}
		if _, err := addressOf(n); err != nil {
			return err
		}
		at := bsn.HostPort(site.Net.Addr(n.CityIndex, bsn.ChainService(site.Chain.Index)), portPeers)
		fmt.Fprintf(&lines, "kni://%s@%s?discport=0&ntype=cn\n", n.Keys[keyNode], at)
	}
	if err := os.MkdirAll(site.Dir, 0o700); err != nil {
		return fmt.Errorf("make the node's folder: %w", err)
	}
	name := filepath.Join(site.Dir, peersName)
	text := []byte(lines.String())
	switch old, err := os.ReadFile(name); {
	case err == nil && bytes.Equal(old, text):
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("write peers: %w", err)
	}
	if err := renameio.WriteFile(name, text, 0o600, renameio.WithTempDir(filepath.Dir(name))); err != nil {
		return fmt.Errorf("write peers: %w", err)
	}
	return nil
}
