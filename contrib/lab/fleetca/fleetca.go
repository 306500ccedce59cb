// Package fleetca is a CA of a fleet for tests, made of package selfsigned: New makes it, Node and With
// issue the certificates of its nodes.
package fleetca

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab/selfsigned"
)

// CA issues certificates of one fleet.
type CA struct {
	Roots     *x509.CertPool
	authority *selfsigned.Authority
}

// New returns a CA. Its certificates are valid from two years ago to a year from now.
func New(t testing.TB) *CA {
	t.Helper()
	a, err := selfsigned.NewAuthority("fleet")
	if err != nil {
		t.Fatal(err)
	}
	return &CA{a.Roots(), a}
}

// Node returns a certificate for a node, with an Ed25519 key.
func (c *CA) Node(t testing.TB, name string) *tls.Certificate {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return c.With(t, name, key)
}

// With returns a certificate for a node with this key.
func (c *CA) With(t testing.TB, name string, key crypto.Signer) *tls.Certificate {
	t.Helper()
	p, err := c.authority.Issue(selfsigned.Leaf{DNS: []string{name}, NotBefore: time.Now().AddDate(-2, 0, 0), Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return &p.TLS
}
