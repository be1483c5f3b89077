package fabric

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"strings"

	"github.com/openbsn/bsn"
)

// packageType is Fabric's word for chaincode that runs as a service.
const packageType = "ccaas"

// maxPackage bounds a chaincode package, in bytes: it holds where the chaincode
// listens, and no code.
const maxPackage = 64 << 10

// labelPattern is Fabric's rule for labels, and a little less.
var labelPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$`)

// Chaincode is one that runs beside a city's peer as a process of its own.
type Chaincode struct {
	// Label names it for people; it is a part of its id.
	Label   string
	Address netip.AddrPort
}

// ChaincodeAddress is where the city's n-th chaincode listens, from 0.
func ChaincodeAddress(site bsn.Site, n int) (netip.AddrPort, error) {
	port := firstChaincode + n
	if n < 0 || port > 65535 {
		return netip.AddrPort{}, fmt.Errorf("a city has no place for chaincode %d", n)
	}
	return netip.AddrPortFrom(Address(site), uint16(port)), nil
}

// Package is what the city's peer installs: it only says where the chaincode
// listens. Equal chaincode gives equal bytes.
func (c Chaincode) Package() ([]byte, error) {
	if !labelPattern.MatchString(c.Label) || !c.Address.IsValid() {
		return nil, fmt.Errorf("package chaincode: label %.100q or address %s cannot be used", c.Label, c.Address)
	}
	connection, err := json.Marshal(map[string]any{"address": c.Address.String(), "dial_timeout": "5s", "tls_required": false})
	var code, metadata, whole []byte
	if err == nil {
		code, err = archive(entry{"connection.json", connection})
	}
	if err == nil {
		metadata, err = json.Marshal(map[string]string{"type": packageType, "label": c.Label})
	}
	if err == nil {
		whole, err = archive(entry{"metadata.json", metadata}, entry{"code.tar.gz", code})
	}
	if err != nil {
		return nil, fmt.Errorf("package chaincode %s: %w", c.Label, err)
	}
	return whole, nil
}

type entry struct {
	name    string
	content []byte
}

// archive is a gzipped tar file without times or owners.
func archive(entries ...entry) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	t := tar.NewWriter(z)
	for _, e := range entries {
		if err := t.WriteHeader(&tar.Header{Name: e.name, Mode: 0o644, Size: int64(len(e.content)), Typeflag: tar.TypeReg}); err != nil {
			return nil, err
		}
		if _, err := t.Write(e.content); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// PackageID is Fabric's id of a package: its label and the hash of its bytes.
func PackageID(pkg []byte) (string, error) {
	if len(pkg) > maxPackage {
		return "", fmt.Errorf("the package has more than %d bytes", maxPackage)
	}
	z, err := gzip.NewReader(bytes.NewReader(pkg))
	if err != nil {
		return "", fmt.Errorf("read package: %w", err)
	}
	files := tar.NewReader(io.LimitReader(z, maxPackage))
	for {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return "", errors.New("read package: it holds no metadata.json")
		}
		if err != nil {
			return "", fmt.Errorf("read package: %w", err)
		}
		if h.Name != "metadata.json" {
			continue
		}
		var metadata struct{ Label string }
		if err := json.NewDecoder(files).Decode(&metadata); err != nil {
			return "", fmt.Errorf("read package: metadata.json: %w", err)
		}
		if !labelPattern.MatchString(metadata.Label) {
			return "", fmt.Errorf("read package: %.100q is no label", metadata.Label)
		}
		sum := sha256.Sum256(pkg)
		return metadata.Label + ":" + hex.EncodeToString(sum[:]), nil
	}
}

// Plan specifies the chaincode's process. It serves the peer of its own city, at
// the loopback address in its package.
func (c Chaincode) Plan(site bsn.Site, binary string) (bsn.NodeSpec, error) {
	pkg, err := c.Package()
	if err != nil {
		return bsn.NodeSpec{}, err
	}
	id, err := PackageID(pkg)
	if err != nil {
		return bsn.NodeSpec{}, err
	}
	_, sum, _ := strings.Cut(id, ":")
	return bsn.NodeSpec{
		ID: "fabric-" + site.Chain.Name + "-chaincode-" + sum[:16], Binary: binary,
		Env:     []string{"CHAINCODE_ID=" + id, "CHAINCODE_SERVER_ADDRESS=" + c.Address.String()},
		Address: c.Address.Addr().String(), Ports: map[string]int{"chaincode": int(c.Address.Port())},
		MemoryMiB: 64,
	}, nil
}
