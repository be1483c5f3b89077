package authority

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Files of a member in its folder, as Fabric's programs read them.
const (
	MSPDir  = "msp"
	TLSCert = "tls/cert.pem"
	TLSKey  = "tls/key.pem"
	TLSRoot = "tls/root.pem"

	signCert = MSPDir + "/signcerts/cert.pem"
	signKey  = MSPDir + "/keystore/key.pem"
	rootCert = MSPDir + "/cacerts/root.pem"
	tlsRoots = MSPDir + "/tlscacerts/root.pem"
	mspYAML  = MSPDir + "/config.yaml"
)

// nodeOUs tells a program how its own organisation names roles.
const nodeOUs = `NodeOUs:
  Enable: true
  ClientOUIdentifier: {Certificate: cacerts/root.pem, OrganizationalUnitIdentifier: client}
  PeerOUIdentifier: {Certificate: cacerts/root.pem, OrganizationalUnitIdentifier: peer}
  AdminOUIdentifier: {Certificate: cacerts/root.pem, OrganizationalUnitIdentifier: admin}
  OrdererOUIdentifier: {Certificate: cacerts/root.pem, OrganizationalUnitIdentifier: orderer}
`

// Member is a peer, an orderer or the administrator of an operator.
type Member struct {
	Name string
	Role Role
	// Addresses are where it listens; none for an administrator.
	Addresses []netip.Addr
}

// Enrol makes sure that a member's folder holds keys, mode 0600, and certificates
// for them that hold for a good while yet. With the same authority it changes
// nothing until less than a third of a certificate's time is left; renewed then
// tells that there are new ones, for the same keys, which a program reads when it
// starts. Channels need not know of that: they name orderers by their identities,
// which hold as long as the root, and by the keys of their TLS certificates.
func (a *Authority) Enrol(dir string, m Member, now time.Time) (renewed bool, err error) {
	fail := func(err error) (bool, error) {
		return renewed, fmt.Errorf("enrol %s of %s: %w", m.Name, a.Operator, err)
	}
	roots := a.Roots()
	for _, f := range []struct {
		path string
		text []byte
	}{{rootCert, roots.Identity}, {tlsRoots, roots.TLS}, {TLSRoot, roots.TLS}, {mspYAML, []byte(nodeOUs)}} {
		if err := keep(filepath.Join(dir, f.path), f.text); err != nil {
			return fail(err)
		}
	}
	for _, c := range []struct {
		key, cert string
		root      *x509.Certificate
		good      func(*x509.Certificate) bool
		sign      func(request []byte) ([]byte, error)
	}{
		{signKey, signCert, a.identity.cert, m.identified, func(r []byte) ([]byte, error) {
			return a.Sign(r, Subject{Name: m.Name, Role: m.Role}, now)
		}},
		{TLSKey, TLSCert, a.tls.cert, m.located, func(r []byte) ([]byte, error) {
			return a.SignTLS(r, m.Name, m.Addresses, now)
		}},
	} {
		key, err := openKey(filepath.Join(dir, c.key))
		if err != nil {
			return fail(err)
		}
		path := filepath.Join(dir, c.cert)
		old, err := readCertificate(path)
		if err != nil {
			return fail(err)
		}
		if old != nil && c.good(old) && key.PublicKey.Equal(old.PublicKey) && old.CheckSignatureFrom(c.root) == nil &&
			(!Due(old, now) || old.NotAfter.Equal(c.root.NotAfter)) {
			continue
		}
		request, err := Request(key)
		if err != nil {
			return fail(err)
		}
		text, err := c.sign(request)
		if err != nil {
			return fail(err)
		}
		if err := write(path, text, 0o600); err != nil {
			return fail(err)
		}
		renewed = renewed || old != nil
	}
	return renewed, nil
}

// Due tells whether a certificate should be renewed: it holds for less than four
// months, a third of what it is made for.
func Due(c *x509.Certificate, now time.Time) bool { return c.NotAfter.Sub(now) < leafLife/3 }

// identified and located tell whether a certificate says of the member what it should.
func (m Member) identified(c *x509.Certificate) bool {
	return c.Subject.CommonName == m.Name && slices.Equal(c.Subject.OrganizationalUnit, []string{string(m.Role)})
}

func (m Member) located(c *x509.Certificate) bool {
	return len(c.IPAddresses) == len(m.Addresses) && !slices.ContainsFunc(m.Addresses, func(a netip.Addr) bool {
		return c.VerifyHostname(a.String()) != nil
	})
}

// keep writes a file unless it is that already.
func keep(path string, text []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
		return nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return write(path, text, 0o600)
}

// readCertificate returns nil if there is none.
func readCertificate(path string) (*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c, err := ParseCertificate(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Credentials are what a member's folder holds: who it is, and with which key it
// signs and connects.
type Credentials struct {
	Operator    string // the MSP id
	Certificate *x509.Certificate
	Key         *ecdsa.PrivateKey
	TLS         tls.Certificate
	// Roots of its own operator.
	Roots Roots
}

// Load reads the folder of an enrolled member.
func Load(dir string) (Credentials, error) {
	fail := func(err error) (Credentials, error) {
		return Credentials{}, fmt.Errorf("read credentials in %s: %w", dir, err)
	}
	var failed error
	text := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil && failed == nil {
			failed = err
		}
		return b
	}
	sign, keyText, cert, key := text(signCert), text(signKey), text(TLSCert), text(TLSKey)
	c := Credentials{Roots: Roots{Identity: text(rootCert), TLS: text(TLSRoot)}}
	if failed != nil {
		return fail(failed)
	}
	var err error
	if c.Certificate, err = ParseCertificate(sign); err != nil {
		return fail(err)
	}
	if len(c.Certificate.Subject.Organization) != 1 {
		return fail(errors.New("the certificate names no organisation"))
	}
	c.Operator = c.Certificate.Subject.Organization[0]
	if c.Key, err = parseKey(keyText); err != nil {
		return fail(err)
	}
	if !c.Key.PublicKey.Equal(c.Certificate.PublicKey) {
		return fail(errors.New("the certificate is not of the key beside it"))
	}
	if c.TLS, err = tls.X509KeyPair(cert, key); err != nil {
		return fail(err)
	}
	return c, nil
}

// Identity is the certificate as PEM, as channels know an orderer by.
func (c Credentials) Identity() []byte { return encode(typeCertificate, c.Certificate.Raw) }

// TLSCertificate is the TLS certificate as PEM.
func (c Credentials) TLSCertificate() []byte { return encode(typeCertificate, c.TLS.Certificate[0]) }

// Sign signs a message as Fabric asks: ECDSA over its SHA-256, with a low S.
func (c Credentials) Sign(message []byte) ([]byte, error) {
	digest := sha256.Sum256(message)
	return lowS{c.Key}.Sign(rand.Reader, digest[:], crypto.SHA256)
}

// Expires is when the first of the certificates ends.
func (c Credentials) Expires() time.Time {
	if end := c.TLS.Leaf.NotAfter; end.Before(c.Certificate.NotAfter) {
		return end
	}
	return c.Certificate.NotAfter
}
