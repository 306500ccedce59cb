package config

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
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
			l.fail(path, remedy(fmt.Sprintf("domain: %q is not a domain", d.Domain), `write it like "news.example.com"`))
		case slices.Contains(seen, d.Domain):
			l.fail(path, remedy(fmt.Sprintf("domain: %q has a key already", d.Domain), "leave one of the two [[dkim]] out"))
		case !isHostname(d.Selector):
			l.fail(path, remedy(fmt.Sprintf("selector: %q is not a name of the DNS", d.Selector), `write it like "2026a"`))
		case !filepath.IsAbs(d.KeyFile):
			l.fail(path, remedy(fmt.Sprintf("key_file: %q is not an absolute path", d.KeyFile), "begin it with /"))
		default:
			var err error
			if d.Signer, err = privateKey(d.KeyFile); err == nil {
				if who := l.exposed(d.KeyFile); who != "" {
					d.Signer, err = nil, fmt.Errorf("%s can read %q", who, d.KeyFile)
				}
			}
			if err != nil {
				l.refuse(path+".key_file", remedy(fmt.Sprintf("key_file: %v; mail of %s goes to the host and is not spooled by the inlet", err, d.Domain),
					ownReaders+", and let it be a private key in PEM"))
			}
		}
		seen = append(seen, d.Domain)
	}
}

// privateKey reads a key.
func privateKey(file string) (crypto.Signer, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s has no PEM", file)
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return rsaKey(key)
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s has no private key: %w", file, err)
	}
	switch key := any.(type) {
	case *rsa.PrivateKey:
		return rsaKey(key)
	case ed25519.PrivateKey:
		return key, nil
	}
	return nil, fmt.Errorf("%s has a key of a kind that DKIM does not know", file)
}

func rsaKey(key *rsa.PrivateKey) (crypto.Signer, error) {
	if key.N.BitLen() < 1024 { // RFC 8301 section 3.2
		return nil, errors.New("RSA key of less than 1024 bits, which receivers ignore")
	}
	return key, nil
}
