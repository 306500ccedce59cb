package sink

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"sync"

	"github.com/millrace/millrace/contrib/lab/selfsigned"
)

// authority is a certificate authority made for one Internet. All hosts share
// one key; each gets a certificate for its name when it is first needed.
type authority struct {
	pair *selfsigned.Pair

	mu     sync.Mutex
	serial int64
	hosts  map[string]*tls.Config
}

func newAuthority() (*authority, error) {
	pair, err := selfsigned.New("authority.test")
	if err != nil {
		return nil, fmt.Errorf("sink: authority: %w", err)
	}
	return &authority{pair: pair, serial: 1, hosts: make(map[string]*tls.Config)}, nil
}

// config gives the TLS configuration of a host; one without a certificate,
// which fails the handshake, when that cannot be made.
func (a *authority) config(host string) *tls.Config {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.hosts[host]; c != nil {
		return c
	}
	a.serial++
	issuer := a.pair.TLS.Leaf
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.serial),
		Subject:      pkix.Name{CommonName: host},
		DNSNames:     []string{host},
		NotBefore:    issuer.NotBefore,
		NotAfter:     issuer.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, issuer.PublicKey, a.pair.TLS.PrivateKey)
	if err == nil {
		c.Certificates = []tls.Certificate{{Certificate: [][]byte{der, issuer.Raw}, PrivateKey: a.pair.TLS.PrivateKey}}
	}
	a.hosts[host] = c
	return c
}

// CAs gives a pool with the authority that signs the hosts' certificates.
func (n *Internet) CAs() (*x509.CertPool, error) {
	a, err := n.ca()
	if err != nil {
		return nil, err
	}
	return a.pair.Roots(), nil
}

// CAPEM gives the authority's certificate in PEM, for programs that read it
// from a file.
func (n *Internet) CAPEM() ([]byte, error) {
	a, err := n.ca()
	if err != nil {
		return nil, err
	}
	return a.pair.Cert, nil
}
