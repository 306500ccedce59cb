package selfsigned

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// Authority signs certificates for the nodes of a fleet.
type Authority struct{ *Pair }

// NewAuthority makes an authority that is good for a year.
func NewAuthority(name string) (*Authority, error) {
	p, err := New(name)
	if err != nil {
		return nil, err
	}
	return &Authority{p}, nil
}

// Leaf says what is signed. Times that are zero are those of the authority.
type Leaf struct {
	DNS                 []string
	URI                 []string
	NotBefore, NotAfter time.Time
	Uses                []x509.ExtKeyUsage // none: server and client
	Key                 crypto.Signer      // nil: one is made, on P-256
}

// Issue signs a certificate.
func (a *Authority) Issue(l Leaf) (*Pair, error) {
	key := l.Key
	if key == nil {
		own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("issued certificate: %w", err)
		}
		key = own
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, fmt.Errorf("issued certificate: %w", err)
	}
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "node"}, DNSNames: l.DNS, NotBefore: l.NotBefore, NotAfter: l.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: l.Uses,
	}
	for _, text := range l.URI {
		u, err := url.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("issued certificate: %w", err)
		}
		c.URIs = append(c.URIs, u)
	}
	if c.NotBefore.IsZero() {
		c.NotBefore = a.TLS.Leaf.NotBefore
	}
	if c.NotAfter.IsZero() {
		c.NotAfter = a.TLS.Leaf.NotAfter
	}
	if c.ExtKeyUsage == nil {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	p, err := sign(c, a.TLS.Leaf, a.TLS.PrivateKey.(crypto.Signer), key)
	if err != nil {
		return nil, fmt.Errorf("issued certificate: %w", err)
	}
	return p, nil
}

// Write puts the pair and the authority's certificate into a directory, as NAME.crt, NAME.key
// and ca.crt, and returns their paths.
func (a *Authority) Write(dir, name string, p *Pair) (ca, cert, key string, err error) {
	ca, cert, key = filepath.Join(dir, "ca.crt"), filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	return ca, cert, key, errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(ca, a.Cert, 0o644), os.WriteFile(cert, p.Cert, 0o644), os.WriteFile(key, p.Key, 0o600))
}
