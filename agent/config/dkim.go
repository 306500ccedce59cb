package config

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// DKIM is one [[dkim]]: a key that signs mail which the inlet spools (RFC 6376), as the host
// MTA's own signer never sees that. Mail that the milter diverts is signed by the milters before
// it, and never here.
type DKIM struct {
	// Domain is the signature's d=. It signs mail whose From is of this domain or of a
	// subdomain, the longest that fits, unless a signature of that domain is there already.
	// Required.
	Domain string `toml:"domain"`
	// Selector is the signature's s=: the public key stands in the DNS at
	// SELECTOR._domainkey.DOMAIN. Required.
	Selector string `toml:"selector"`
	// KeyFile is a PEM file with the private key, RSA of 1024 bits or more, or Ed25519, as
	// opendkim-genkey writes it. Nobody but root and the milter's group may read it; as long as
	// it cannot be used, mail of the domain goes to the host. Required.
	KeyFile string `toml:"key_file"`

	Signer crypto.Signer `toml:"-"` // nil: KeyFile cannot be used
	File   string        `toml:"-"` // where it stands, for messages
	Line   int           `toml:"-"`
}

// DKIMFor is the entry that signs mail of a domain; nil if there is none.
func (c *Config) DKIMFor(domain string) *DKIM {
	var found *DKIM
	domain = strings.ToLower(domain)
	for i := range c.DKIM {
		d := &c.DKIM[i]
		if (domain == d.Domain || strings.HasSuffix(domain, "."+d.Domain)) && (found == nil || len(d.Domain) > len(found.Domain)) {
			found = d
		}
	}
	return found
}

func (l *loader) checkDKIM() {
	var seen []string
	for i := range l.cfg.DKIM {
		d := &l.cfg.DKIM[i]
		path := fmt.Sprintf("dkim[%d]", i)
		d.Domain = strings.ToLower(d.Domain)
		switch {
		case !isHostname(d.Domain):
			l.fail(path+".domain", remedy(fmt.Sprintf("domain: %q is not a domain", d.Domain), `write it like "news.example.com"`))
		case slices.Contains(seen, d.Domain):
			l.fail(path+".domain", remedy(fmt.Sprintf("domain: %q has a key already", d.Domain), "leave one of the two [[dkim]] out"))
		}
		seen = append(seen, d.Domain)
		if !isHostname(d.Selector) {
			l.fail(path+".selector", remedy(fmt.Sprintf("selector: %q is not a name of the DNS", d.Selector), `write it like "2026a"`))
		}
		if !filepath.IsAbs(d.KeyFile) {
			l.fail(path+".key_file", remedy(fmt.Sprintf("key_file: %q is not an absolute path", d.KeyFile), "begin it with /"))
			continue
		}
		var wrong, todo string
		if d.Signer, wrong, todo = l.privateKey(d.KeyFile); wrong != "" {
			l.refuse(path+".key_file", remedy(fmt.Sprintf("key_file: %q %s; the inlet spools no mail of %s, the host gets it", d.KeyFile, wrong, d.Domain), todo))
		}
	}
}

// privateKey reads a key that nobody else can read; without one it says what is wrong with the
// file, and what to do.
func (l *loader) privateKey(file string) (key crypto.Signer, wrong, todo string) {
	const generate = "let opendkim-genkey -b 2048 make one, and publish it"
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, "cannot be read: " + cause(err), ownReaders
	}
	if who := l.exposed(file); who != "" {
		return nil, "can be read by " + who, ownReaders + "; then make a new key"
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, "has no PEM", generate
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		any, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, "has no private key", generate
	}
	switch key := any.(type) {
	case *rsa.PrivateKey:
		if key.N.BitLen() < 1024 { // RFC 8301 section 3.2
			return nil, fmt.Sprintf("has an RSA key of %d bits, which receivers ignore", key.N.BitLen()), generate
		}
		return key, "", ""
	case ed25519.PrivateKey:
		return key, "", ""
	}
	return nil, "has a key that is neither RSA nor Ed25519", generate
}
