package fabric

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/openbsn/bsn"
)

func TestPackage(t *testing.T) {
	site := bsn.Site{Net: 66, City: bsn.City{Name: "paris", Index: 3}, Chain: bsn.Chain{Name: "shared", Index: 1}}
	address, err := ChaincodeAddress(site, 2)
	if err != nil || address.String() != "127.66.3.11:7102" {
		t.Errorf("address %v, %v", address, err)
	}
	c := Chaincode{Label: "assets_1", Address: address}
	first, err := c.Package()
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.Package()
	if err != nil || !bytes.Equal(first, again) {
		t.Errorf("another package each time, %v", err)
	}
	id, err := PackageID(first)
	if label, sum, _ := strings.Cut(id, ":"); err != nil || label != "assets_1" || len(sum) != 64 {
		t.Errorf("id %q, %v", id, err)
	}
	spec, err := c.Plan(site, "/chaincode")
	if err != nil || spec.Address != "127.66.3.11" || spec.Ports["chaincode"] != 7102 || spec.Env[0] != "CHAINCODE_ID="+id {
		t.Errorf("%+v, %v", spec, err)
	}

	for _, bad := range []Chaincode{{Label: "", Address: address}, {Label: "a b", Address: address}, {Label: "a", Address: netip.AddrPort{}}} {
		if _, err := bad.Package(); err == nil {
			t.Errorf("packed %+v", bad)
		}
	}
	for _, n := range []int{-1, 65536} {
		if _, err := ChaincodeAddress(site, n); err == nil {
			t.Errorf("a place for chaincode %d", n)
		}
	}
	if _, err := PackageID(make([]byte, maxPackage+1)); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("too long: %v", err)
	}
	empty, err := archive(entry{"other", nil})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := PackageID(empty); err == nil || !strings.Contains(err.Error(), "no metadata") {
		t.Errorf("without metadata: %v", err)
	}
}

func FuzzPackageID(f *testing.F) {
	good, err := Chaincode{Label: "assets", Address: netip.MustParseAddrPort("127.66.1.11:7100")}.Package()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:20])
	f.Fuzz(func(t *testing.T, pkg []byte) {
		id, err := PackageID(pkg)
		if label, _, _ := strings.Cut(id, ":"); err == nil && !labelPattern.MatchString(label) {
			t.Fatalf("id %q", id)
		}
	})
}

// TestPlan: the configuration is one document of YAML that names no folder outside
// of the node's own, and no address but the node's.
func TestPlan(t *testing.T) {
	site := bsn.Site{Net: 66, City: bsn.City{Name: "paris", Index: 3}, Chain: bsn.Chain{Name: "shared", Index: 1}}
	orderer, err := PlanOrderer(site, "acme", "/orderer")
	if err != nil {
		t.Fatal(err)
	}
	peer, err := PlanPeer(site, "acme", "/peer")
	if err != nil {
		t.Fatal(err)
	}
	taken := make(map[int]string)
	for _, spec := range []bsn.NodeSpec{orderer, peer} {
		var document map[string]any
		if err := yaml.Unmarshal(spec.Files[0].Content, &document); err != nil {
			t.Errorf("%s: %v", spec.Files[0].Path, err)
		}
		if text := string(spec.Files[0].Content); strings.Contains(text, "<no value>") || strings.Contains(text, " /") || !strings.Contains(text, "127.66.3.11:") {
			t.Errorf("%s:\n%s", spec.Files[0].Path, text)
		}
		for name, port := range spec.Ports {
			if taken[port] != "" || port >= firstChaincode {
				t.Errorf("port %d is taken by %s and %s", port, taken[port], name)
			}
			taken[port] = name
		}
	}
	for _, port := range PeerPorts() {
		if name := taken[port]; name != "orderer" && name != "peer" {
			t.Errorf("other cities may reach %q", name)
		}
	}
}
