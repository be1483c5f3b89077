package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"io/fs"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func open(t testing.TB, operator string) *Authority {
	t.Helper()
	a, err := Open(filepath.Join(t.TempDir(), "authority"), operator)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// contents are the files below a folder; it fails if another than the owner could
// read a key.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		all[name] = string(text)
		info, err := d.Info()
		if strings.Contains(string(text), typeKey) && info.Mode().Perm() != 0o600 {
			t.Errorf("%s holds a key and has mode %v", name, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func same(a, b map[string]string, name string) bool { return a[name] == b[name] && a[name] != "" }

func TestOpenAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "authority")
	first, err := Open(dir, "acme")
	if err != nil {
		t.Fatal(err)
	}
	before := contents(t, dir)
	again, err := Open(dir, "acme")
	if err != nil {
		t.Fatal(err)
	}
	if string(first.Roots().Identity) != string(again.Roots().Identity) || string(first.Roots().TLS) != string(again.Roots().TLS) {
		t.Error("other roots")
	}
	if err := again.Roots().Check("acme"); err != nil {
		t.Error(err)
	}
	for name := range before {
		if !same(before, contents(t, dir), name) {
			t.Errorf("%s was written again", name)
		}
	}
	if _, err := Open(dir, "globex"); err == nil || !strings.Contains(err.Error(), `is of ["acme"]`) {
		t.Errorf("opened as another operator's: %v", err)
	}
	// A certificate that is not of the key beside it.
	if err := os.Rename(filepath.Join(dir, "tls.pem"), filepath.Join(dir, "identity.pem")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, "acme"); err == nil || !strings.Contains(err.Error(), "not the certificate of the key") {
		t.Errorf("opened with exchanged certificates: %v", err)
	}
}

func TestEnrol(t *testing.T) {
	a, dir, now := open(t, "acme"), filepath.Join(t.TempDir(), "peer"), time.Now()
	member := Member{Name: "peer.paris", Role: RolePeer, Addresses: []netip.Addr{netip.MustParseAddr("127.66.3.11")}}
	enrol := func(now time.Time, want bool) map[string]string {
		t.Helper()
		renewed, err := a.Enrol(dir, member, now)
		if err != nil {
			t.Fatal(err)
		}
		if renewed != want {
			t.Errorf("renewed: %v, want %v", renewed, want)
		}
		return contents(t, dir)
	}
	first := enrol(now, false)
	c, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if c.Operator != "acme" || !slices.Equal(c.Certificate.Subject.OrganizationalUnit, []string{"peer"}) {
		t.Errorf("it is %v", c.Certificate.Subject)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(a.Roots().TLS)
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := c.TLS.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "127.66.3.11", KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			t.Error(err)
		}
	}
	if days := c.Expires().Sub(now).Hours() / 24; days < 364 || days > 366 {
		t.Errorf("it expires in %.0f days", days)
	}

	second := enrol(now.Add(200*24*time.Hour), false)
	for name := range first {
		if !same(first, second, name) {
			t.Errorf("%s changed before its time", name)
		}
	}
	third := enrol(now.Add(300*24*time.Hour), true)
	for _, name := range []string{signCert, TLSCert} {
		if same(second, third, name) {
			t.Errorf("%s was not renewed", name)
		}
	}
	for _, name := range []string{signKey, TLSKey} {
		if !same(second, third, name) {
			t.Errorf("%s changed with its certificate", name)
		}
	}
	enrol(now.Add(301*24*time.Hour), false)

	// A city that has another address needs another TLS certificate, and only that.
	member.Addresses = []netip.Addr{netip.MustParseAddr("127.66.4.11")}
	moved := enrol(now.Add(301*24*time.Hour), true)
	if same(third, moved, TLSCert) || !same(third, moved, signCert) {
		t.Error("the address is not in its TLS certificate alone")
	}
}

// TestOrderersStay: the certificate by which channels name an orderer is never
// replaced, its TLS certificate is.
func TestOrderersStay(t *testing.T) {
	a, dir, now := open(t, "acme"), t.TempDir(), time.Now()
	member := Member{Name: "orderer.paris", Role: RoleOrderer, Addresses: []netip.Addr{netip.MustParseAddr("127.66.3.11")}}
	var before map[string]string
	for _, years := range []int{0, 1, 14} {
		renewed, err := a.Enrol(dir, member, now.AddDate(years, 0, 0))
		if err != nil || renewed != (years > 0) {
			t.Fatalf("after %d years: renewed %v, %v", years, renewed, err)
		}
		after := contents(t, dir)
		if before != nil && (!same(before, after, signCert) || same(before, after, TLSCert)) {
			t.Errorf("after %d years: its identity is another or its TLS certificate the same", years)
		}
		before = after
	}
}

// TestRootsEnd: nothing is signed past the end of a root, and what ends with it is
// not renewed for ever.
func TestRootsEnd(t *testing.T) {
	a, dir := open(t, "acme"), t.TempDir()
	late := a.identity.cert.NotAfter.Add(-24 * time.Hour)
	member := Member{Name: "admin", Role: RoleAdmin}
	if _, err := a.Enrol(dir, member, late); err != nil {
		t.Fatal(err)
	}
	c, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !c.Certificate.NotAfter.Equal(a.identity.cert.NotAfter) {
		t.Errorf("a certificate until %v of a root until %v", c.Certificate.NotAfter, a.identity.cert.NotAfter)
	}
	if renewed, err := a.Enrol(dir, member, late.Add(time.Hour)); renewed || err != nil {
		t.Errorf("renewed %v, %v", renewed, err)
	}
	if _, err := a.Enrol(t.TempDir(), member, late.Add(48*time.Hour)); err == nil || !strings.Contains(err.Error(), "ended on") {
		t.Errorf("an ended root signs: %v", err)
	}
}

func TestSign(t *testing.T) {
	a := open(t, "acme")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	request, err := Request(key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := a.Sign(request, Subject{Name: "carol", Role: RoleClient, Units: []string{"alice/assets"}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseCertificate(text)
	if err != nil {
		t.Fatal(err)
	}
	if !key.PublicKey.Equal(c.PublicKey) || c.IsCA || !slices.Equal(c.Subject.OrganizationalUnit, []string{"client", "alice/assets"}) {
		t.Errorf("signed %v", c.Subject)
	}

	other := func(make func() (any, error)) []byte {
		t.Helper()
		key, err := make()
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			t.Fatal(err)
		}
		return encode(typeRequest, der)
	}
	forged := slices.Clone(request)
	der, _ := decode(typeRequest, forged)
	der[len(der)-1] ^= 1
	for name, c := range map[string]struct {
		request []byte
		subject Subject
		want    string
	}{
		"another curve":    {other(func() (any, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) }), Subject{Role: RoleClient}, "P-256"},
		"another kind":     {other(func() (any, error) { return rsa.GenerateKey(rand.Reader, 2048) }), Subject{Role: RoleClient}, "P-256"},
		"forged":           {encode(typeRequest, der), Subject{Role: RoleClient}, "not signed by its own key"},
		"something else":   {[]byte("hello"), Subject{Role: RoleClient}, "want one PEM block"},
		"with more":        {append(slices.Clone(request), '\n'), Subject{Role: RoleClient}, "nothing else"},
		"too long":         {make([]byte, maxRequest+1), Subject{Role: RoleClient}, "more than"},
		"no role":          {request, Subject{Role: "boss"}, `no role "boss"`},
		"role as a unit":   {request, Subject{Role: RoleClient, Units: []string{"admin"}}, "cannot be"},
		"too many units":   {request, Subject{Role: RoleClient, Units: make([]string, maxUnits+1)}, "more than"},
		"unit has no name": {request, Subject{Role: RoleClient, Units: []string{""}}, "cannot be"},
	} {
		if _, err := a.Sign(c.request, c.subject, time.Now()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestLowS: every signature that Fabric gets to see has the smaller S.
func TestLowS(t *testing.T) {
	a, dir := open(t, "acme"), t.TempDir()
	if _, err := a.Enrol(dir, Member{Name: "admin", Role: RoleAdmin}, time.Now()); err != nil {
		t.Fatal(err)
	}
	c, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		signature, err := c.Sign(rapid.SliceOf(rapid.Byte()).Draw(t, "message"))
		if err != nil {
			t.Fatal(err)
		}
		var v struct{ R, S *big.Int }
		if _, err := asn1.Unmarshal(signature, &v); err != nil {
			t.Fatal(err)
		}
		if v.S.Cmp(halfOrder) > 0 {
			t.Fatalf("S is %x", v.S)
		}
	})
}

// FuzzSign: whatever is asked, what is signed is for a key of P-256 and for nothing
// that the authority did not say.
func FuzzSign(f *testing.F) {
	a := open(f, "acme")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	request, err := Request(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(request)
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"))
	f.Fuzz(func(t *testing.T, request []byte) {
		text, err := a.Sign(request, Subject{Name: "carol", Role: RoleClient}, time.Now())
		if err != nil {
			return
		}
		c, err := ParseCertificate(text)
		if err != nil {
			t.Fatal(err)
		}
		if k, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() || c.IsCA || c.Subject.CommonName != "carol" {
			t.Fatalf("signed %v", c.Subject)
		}
	})
}
