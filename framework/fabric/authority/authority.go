// Package authority is an operator's certificate authority for Fabric, and the
// folders of keys and certificates that Fabric's programs read.
//
// It is a plain X.509 authority in this process. An operator has a handful of
// nodes and the participants of its apps; what Fabric CA adds for them, a server
// with a database, passwords for enrolment and a listener of its own, would be one
// more thing to run, to guard and to back up. Its certificates are what Fabric
// asks for and no more: ECDSA P-256, low-S signatures, the role as organisational
// unit. An operator who runs another authority can sign the same requests with it.
//
// There are two roots, as Fabric keeps identities and TLS apart. Private keys are
// made where they are used: the authority sees signing requests only.
package authority

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/openbsn/bsn"
)

// Role is what a certificate's holder is for the operator's organisation: Fabric's
// node OUs.
type Role string

const (
	RoleClient  Role = "client"
	RolePeer    Role = "peer"
	RoleOrderer Role = "orderer"
	RoleAdmin   Role = "admin"
)

const (
	// rootYears is how long a root holds: replacing it changes every channel.
	rootYears = 15
	// leafLife is how long what it signs holds, but for the identities of orderers.
	leafLife = 365 * 24 * time.Hour
	// early is by how much certificates begin before they are made, for clocks that
	// are behind.
	early = time.Hour
	// maxRequest bounds a signing request, in bytes; one of P-256 has under 500.
	maxRequest = 8 << 10
	// maxUnits bounds the organisational units beside the role.
	maxUnits = 8
)

// Roots are the two root certificates of an operator, as PEM. They are public.
type Roots struct {
	Identity []byte `json:"identity"`
	TLS      []byte `json:"tls"`
}

// Authority signs for one operator. It may be used by many goroutines at once.
type Authority struct {
	// Operator is also the id of the operator's MSP in every channel.
	Operator string
	identity root
	tls      root
}

type root struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Open reads the operator's authority from its folder, or makes it there on first
// use. The folder holds the keys of the roots, mode 0600: who has them can speak
// for the operator on every channel.
func Open(dir, operator string) (*Authority, error) {
	if err := bsn.CheckName("operator", operator); err != nil {
		return nil, err
	}
	a := &Authority{Operator: operator}
	var err error
	if a.identity, err = openRoot(dir, "identity", operator); err == nil {
		a.tls, err = openRoot(dir, "tls", operator)
	}
	if err != nil {
		return nil, fmt.Errorf("open the certificate authority of %s: %w", operator, err)
	}
	return a, nil
}

func openRoot(dir, kind, operator string) (root, error) {
	path := filepath.Join(dir, kind+".pem")
	key, err := openKey(filepath.Join(dir, kind+".key"))
	if err != nil {
		return root{}, err
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if text, err = makeRoot(key, kind, operator); err == nil {
			err = write(path, text, 0o644)
		}
	}
	if err != nil {
		return root{}, err
	}
	cert, err := ParseCertificate(text)
	if err != nil {
		return root{}, fmt.Errorf("%s: %w", path, err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return root{}, fmt.Errorf("%s is not the certificate of the key beside it", path)
	}
	if got := cert.Subject.Organization; len(got) != 1 || got[0] != operator {
		return root{}, fmt.Errorf("%s is of %q", path, got)
	}
	return root{cert, key}, nil
}

func makeRoot(key *ecdsa.PrivateKey, kind, operator string) ([]byte, error) {
	now := time.Now()
	t, err := template(&key.PublicKey, pkix.Name{CommonName: operator + " " + kind, Organization: []string{operator}}, now, now.AddDate(rootYears, 0, 0))
	if err != nil {
		return nil, err
	}
	t.IsCA = true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	return sign(t, t, &key.PublicKey, key)
}

// Roots returns the certificates that others know the operator by.
func (a *Authority) Roots() Roots {
	return Roots{Identity: encode(typeCertificate, a.identity.cert.Raw), TLS: encode(typeCertificate, a.tls.cert.Raw)}
}

// Subject is who an identity is for: what the authority vouches for. Nothing that a
// signing request says is taken over but its key.
type Subject struct {
	Name string
	Role Role
	// Units are further organisational units: the apps that a participant may call.
	Units []string
}

// Sign issues an identity for the key of a PKCS #10 request (PEM), and returns the
// certificate as PEM. It holds for a year, that of an orderer as long as the root.
func (a *Authority) Sign(request []byte, s Subject, now time.Time) ([]byte, error) {
	key, err := readRequest(request)
	if err != nil {
		return nil, fmt.Errorf("sign for %s: %w", s.Name, err)
	}
	switch s.Role {
	case RoleClient, RolePeer, RoleOrderer, RoleAdmin:
	default:
		return nil, fmt.Errorf("sign for %s: there is no role %q", s.Name, s.Role)
	}
	if len(s.Units) > maxUnits {
		return nil, fmt.Errorf("sign for %s: %d organisational units are more than %d", s.Name, len(s.Units), maxUnits)
	}
	for _, u := range s.Units {
		// A unit that is named like a role would be one.
		switch Role(u) {
		case RoleClient, RolePeer, RoleOrderer, RoleAdmin, "":
			return nil, fmt.Errorf("sign for %s: %q cannot be an organisational unit", s.Name, u)
		}
	}
	end := now.Add(leafLife)
	if s.Role == RoleOrderer {
		// Channels name an orderer by its very certificate: another one, even of the same
		// key, would shut it out until each channel is changed.
		end = a.identity.cert.NotAfter
	}
	t, err := template(key, pkix.Name{
		CommonName: s.Name, Organization: []string{a.Operator},
		OrganizationalUnit: append([]string{string(s.Role)}, s.Units...),
	}, now, end)
	if err != nil {
		return nil, err
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	return a.identity.issue(t, key)
}

// SignTLS issues a TLS certificate, for both sides of a connection, that names the
// addresses.
func (a *Authority) SignTLS(request []byte, name string, addresses []netip.Addr, now time.Time) ([]byte, error) {
	key, err := readRequest(request)
	if err != nil {
		return nil, fmt.Errorf("sign TLS for %s: %w", name, err)
	}
	t, err := template(key, pkix.Name{CommonName: name, Organization: []string{a.Operator}}, now, now.Add(leafLife))
	if err != nil {
		return nil, err
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, address := range addresses {
		t.IPAddresses = append(t.IPAddresses, net.IP(address.AsSlice()))
	}
	return a.tls.issue(t, key)
}

// issue signs, but never past the root's own end: no one would accept that.
func (r root) issue(t *x509.Certificate, key *ecdsa.PublicKey) ([]byte, error) {
	if t.NotAfter.After(r.cert.NotAfter) {
		t.NotAfter = r.cert.NotAfter
	}
	if !t.NotAfter.After(t.NotBefore.Add(early)) {
		return nil, fmt.Errorf("the root %q ended on %s", r.cert.Subject.CommonName, r.cert.NotAfter.Format(time.DateOnly))
	}
	if t.NotBefore.Before(r.cert.NotBefore) {
		t.NotBefore = r.cert.NotBefore // Fabric judges a chain at its leaf's beginning
	}
	return sign(t, r.cert, key, r.key)
}

func template(key *ecdsa.PublicKey, name pkix.Name, now, end time.Time) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	id := sha256.Sum256(public)
	return &x509.Certificate{
		SerialNumber: serial, Subject: name, SubjectKeyId: id[:20], BasicConstraintsValid: true,
		NotBefore: now.Add(-early).UTC(), NotAfter: end.UTC(),
	}, nil
}

func sign(t, parent *x509.Certificate, public *ecdsa.PublicKey, key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, public, lowS{key})
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	return encode(typeCertificate, der), nil
}

// readRequest checks that who asks has the key, and that it is one that Fabric takes.
func readRequest(text []byte) (*ecdsa.PublicKey, error) {
	if len(text) > maxRequest {
		return nil, fmt.Errorf("the signing request has more than %d bytes", maxRequest)
	}
	der, err := decode(typeRequest, text)
	if err != nil {
		return nil, err
	}
	r, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("read signing request: %w", err)
	}
	if err := r.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the signing request is not signed by its own key: %w", err)
	}
	key, ok := r.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("the signing request's key is not of ECDSA on P-256, which Fabric asks for")
	}
	return key, nil
}

// ParseCertificate reads one certificate from PEM.
func ParseCertificate(text []byte) (*x509.Certificate, error) {
	der, err := decode(typeCertificate, text)
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	return c, nil
}

// Check tells whether these can be the roots of an operator.
func (r Roots) Check(operator string) error {
	for kind, text := range map[string][]byte{"identity": r.Identity, "TLS": r.TLS} {
		c, err := ParseCertificate(text)
		if err != nil {
			return fmt.Errorf("%s root of %s: %w", kind, operator, err)
		}
		switch {
		case !c.IsCA || len(c.SubjectKeyId) == 0:
			return fmt.Errorf("%s root of %s is no certificate of an authority", kind, operator)
		case c.CheckSignatureFrom(c) != nil:
			return fmt.Errorf("%s root of %s is not signed by itself", kind, operator)
		}
	}
	if bytes.Equal(r.Identity, r.TLS) {
		return fmt.Errorf("the roots of %s are one and the same", operator)
	}
	return nil
}
