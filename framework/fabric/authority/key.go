package authority

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// Types of PEM blocks.
const (
	typeCertificate = "CERTIFICATE"
	typeRequest     = "CERTIFICATE REQUEST"
	typeKey         = "PRIVATE KEY"
)

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// decode takes exactly one block of the kind, with nothing before or after it: what
// is agreed on by its bytes has one form.
func decode(kind string, text []byte) ([]byte, error) {
	b, _ := pem.Decode(text)
	if b == nil || b.Type != kind || len(b.Headers) > 0 || !bytes.Equal(encode(kind, b.Bytes), text) {
		return nil, fmt.Errorf("want one PEM block %q and nothing else", kind)
	}
	return b.Bytes, nil
}

// openKey reads a private key, or makes it on first use.
func openKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(path)
	}
	if err != nil {
		return nil, err
	}
	key, err := parseKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

func parseKey(text []byte) (*ecdsa.PrivateKey, error) {
	der, err := decode(typeKey, text)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("this is no key of ECDSA on P-256")
	}
	return key, nil
}

func makeKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return key, write(path, encode(typeKey, der), 0o600)
}

// Request makes a signing request (PEM) for a key. It says nothing but the key.
func Request(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{}}, key)
	if err != nil {
		return nil, fmt.Errorf("make signing request: %w", err)
	}
	return encode(typeRequest, der), nil
}

// write replaces a file; its folder is made for the owner alone.
func write(path string, content []byte, mode fs.FileMode) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return renameio.WriteFile(path, content, mode, renameio.WithTempDir(dir), renameio.IgnoreUmask())
}

// halfOrder is half the order of P-256.
var halfOrder = new(big.Int).Rsh(elliptic.P256().Params().N, 1)

// lowS signs with the smaller of the two values that S can have. Fabric refuses the
// other in messages and rewrites it in certificates, which then are no longer what
// their authority signed.
type lowS struct{ *ecdsa.PrivateKey }

func (k lowS) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	signature, err := k.PrivateKey.Sign(random, digest, opts)
	if err != nil {
		return nil, err
	}
	var v struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(signature, &v); err != nil {
		return nil, fmt.Errorf("read signature: %w", err)
	}
	if v.S.Cmp(halfOrder) <= 0 {
		return signature, nil
	}
	v.S.Sub(elliptic.P256().Params().N, v.S)
	return asn1.Marshal(v)
}
