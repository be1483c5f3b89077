package fabric

import (
	"bytes"
	_ "embed"
	"fmt"
	"net/netip"
	"text/template"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/framework/fabric/authority"
)

// Ports of a city's Fabric nodes on their virtual address.
const (
	PortOrderer = 7050
	PortPeer    = 7051
	// Of the operator alone: they ask for a certificate of its own, and are not among
	// those that the link opens.
	portChaincodes        = 7052
	portAdmin             = 7053
	portOrdererOperations = 7054
	portPeerOperations    = 7055
	// firstChaincode is the port of the first chaincode; others follow.
	firstChaincode = 7100
)

// PeerPorts are the ports at which the cities' nodes reach each other.
func PeerPorts() []int { return []int{PortOrderer, PortPeer} }

// memoryMiB keeps the garbage collector's slack small, for each of the two.
const memoryMiB = 256

const stopTimeout = 20 * time.Second

// environment is what both programs are told: where their configuration lies, and
// what goes into their logs, without colours. Of the orderers' cluster that is
// errors only: it warns with each message of a certificate's end that is none.
var environment = []string{
	"FABRIC_CFG_PATH=.",
	"FABRIC_LOGGING_SPEC=warn:orderer.common.cluster.step=error",
	"FABRIC_LOGGING_FORMAT=%{time:2006-01-02T15:04:05.000Z07:00} %{level:.4s} %{module}: %{message}",
}

var (
	//go:embed orderer.yaml
	ordererText string
	//go:embed core.yaml
	coreText        string
	ordererTemplate = template.Must(template.New("orderer.yaml").Parse(ordererText))
	coreTemplate    = template.Must(template.New("core.yaml").Parse(coreText))
)

// Address is the virtual address of a city's orderer and peer.
func Address(site bsn.Site) netip.Addr {
	return site.Net.Addr(site.City.Index, bsn.ChainService(site.Chain.Index))
}

// OrdererMember and PeerMember are who the city's nodes are for the authority.
func OrdererMember(site bsn.Site) authority.Member {
	return authority.Member{Name: "orderer." + site.City.Name, Role: authority.RoleOrderer, Addresses: []netip.Addr{Address(site)}}
}

func PeerMember(site bsn.Site) authority.Member {
	return authority.Member{Name: "peer." + site.City.Name, Role: authority.RolePeer, Addresses: []netip.Addr{Address(site)}}
}

// settings fill the templates of both programs.
type settings struct {
	Name, Host, MSP                                string
	Port, AdminPort, OperationsPort, ChaincodePort int
}

func (s settings) fill(t *template.Template) ([]byte, error) {
	var b bytes.Buffer
	if err := t.Execute(&b, s); err != nil {
		return nil, fmt.Errorf("write %s: %w", t.Name(), err)
	}
	return b.Bytes(), nil
}

// PlanOrderer specifies the city's orderer. The node's folder holds what
// [authority.Authority.Enrol] put there for [OrdererMember], of this operator.
func PlanOrderer(site bsn.Site, operator, binary string) (bsn.NodeSpec, error) {
	host := Address(site).String()
	config, err := settings{
		Host: host, MSP: operator, Port: PortOrderer, AdminPort: portAdmin, OperationsPort: portOrdererOperations,
	}.fill(ordererTemplate)
	if err != nil {
		return bsn.NodeSpec{}, err
	}
	return bsn.NodeSpec{
		ID: "fabric-" + site.Chain.Name + "-orderer", Binary: binary,
		Env:     environment,
		Files:   []bsn.File{{Path: "orderer.yaml", Content: config}},
		Address: host, Ports: map[string]int{"orderer": PortOrderer, "admin": portAdmin, "operations": portOrdererOperations},
		MemoryMiB: memoryMiB, StopTimeout: stopTimeout,
	}, nil
}

// PlanPeer specifies the city's peer, likewise for [PeerMember].
func PlanPeer(site bsn.Site, operator, binary string) (bsn.NodeSpec, error) {
	host := Address(site).String()
	config, err := settings{
		Name: "peer." + site.City.Name, Host: host, MSP: operator,
		Port: PortPeer, ChaincodePort: portChaincodes, OperationsPort: portPeerOperations,
	}.fill(coreTemplate)
	if err != nil {
		return bsn.NodeSpec{}, err
	}
	return bsn.NodeSpec{
		ID: "fabric-" + site.Chain.Name + "-peer", Binary: binary,
		Args:    []string{"node", "start"},
		Env:     environment,
		Files:   append([]bsn.File{{Path: "core.yaml", Content: config}}, builder...),
		Address: host, Ports: map[string]int{"peer": PortPeer, "chaincodes": portChaincodes, "operations": portPeerOperations},
		MemoryMiB: memoryMiB, StopTimeout: stopTimeout,
	}, nil
}

// builder is the peer's builder for chaincode that runs as a service: there is
// nothing to build, the peer only has to learn where it listens.
var builder = []bsn.File{
	{Path: "builder/bin/detect", Mode: 0o700, Content: []byte("#!/bin/sh\nexec grep -q '\"type\":\"" + packageType + "\"' \"$2/metadata.json\"\n")},
	{Path: "builder/bin/build", Mode: 0o700, Content: []byte("#!/bin/sh\nexec cp \"$1/connection.json\" \"$3/\"\n")},
	{Path: "builder/bin/release", Mode: 0o700, Content: []byte("#!/bin/sh\nmkdir -p \"$2/chaincode/server\" && exec cp \"$1/connection.json\" \"$2/chaincode/server/\"\n")},
}
