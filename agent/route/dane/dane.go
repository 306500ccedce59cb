// Package dane judges a server's certificates by its TLSA records, as RFC 7672
// lays down for SMTP and RFC 7671 for DANE at large.
//
// It is pure: the records come from a lookup whose answers were validated with
// DNSSEC, the certificates from a handshake that checked nothing. Usable sorts
// out the records that can be judged by; when a host has TLSA records and none
// of them is usable, the connection must be encrypted and nothing more is known
// (RFC 7672 section 2.2). Verify then accepts or refuses a chain.
//
// Two usages count. DANE-EE(3) names the server's own certificate or key: its
// names and dates do not matter. DANE-TA(2) names an authority in the chain the
// server sends: the chain must lead to it, be valid today, and carry one of the
// names. PKIX-TA(0) and PKIX-EE(1) are not usable for SMTP (section 3.1.3).
// Where a server publishes SHA2-512 digests beside SHA2-256 ones of the same
// usage and selector, only the stronger count (RFC 7671 section 9).
package dane

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The usages, selectors and matching types of TLSA records (RFC 7218).
const (
	TA = 2 // an authority of the chain
	EE = 3 // the server's own certificate

	Cert = 0 // the whole certificate
	SPKI = 1 // its SubjectPublicKeyInfo

	Full   = 0 // the octets themselves
	SHA256 = 1
	SHA512 = 2
)

// Record is one TLSA record (RFC 6698 section 2.1).
type Record struct {
	Usage, Selector, Matching uint8
	Data                      string // the octets, not their hexadecimal form
}

// String writes the record as a zone file has it, the data cut short.
func (r Record) String() string {
	data := fmt.Sprintf("%x", r.Data)
	if len(data) > 16 {
		data = data[:16] + "..."
	}
	return fmt.Sprintf("%d %d %d %s", r.Usage, r.Selector, r.Matching, data)
}

// Usable returns the records that Verify can judge by, sorted, each once.
func Usable(all []Record) []Record {
	var list []Record
	for _, r := range all {
		if usable(r) {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b Record) int {
		return bytes.Compare(
			append([]byte{a.Usage, a.Selector, a.Matching}, a.Data...),
			append([]byte{b.Usage, b.Selector, b.Matching}, b.Data...))
	})
	list = slices.Compact(list)
	return slices.DeleteFunc(list, func(r Record) bool {
		return r.Matching == SHA256 && slices.ContainsFunc(list, func(x Record) bool {
			return x.Usage == r.Usage && x.Selector == r.Selector && x.Matching == SHA512
		})
	})
}

func usable(r Record) bool {
	if r.Usage != TA && r.Usage != EE {
		return false
	}
	switch r.Matching {
	case SHA256:
		return r.Selector <= SPKI && len(r.Data) == sha256.Size
	case SHA512:
		return r.Selector <= SPKI && len(r.Data) == sha512.Size
	case Full:
		var err error
		switch r.Selector {
		case Cert:
			_, err = x509.ParseCertificate([]byte(r.Data))
		case SPKI:
			_, err = x509.ParsePKIXPublicKey([]byte(r.Data))
		default:
			return false
		}
		return err == nil
	}
	return false
}

// Verify accepts a chain as the server sent it, its own certificate first, by
// records that Usable let through. names are what a certificate below a
// DANE-TA(2) record must carry one of: the MX host and the domain the mail is
// for (RFC 7672 section 3.2.2). The error says why nothing matched.
func Verify(records []Record, chain []*x509.Certificate, names []string, now time.Time) error {
	if len(chain) == 0 {
		return errors.New("DANE: the server sent no certificate")
	}
	for _, r := range records {
		if r.Usage == EE && r.matches(chain[0]) {
			return nil
		}
	}
	var anchored error
	for _, r := range records {
		if r.Usage != TA {
			continue
		}
		err := r.anchors(chain, names, now)
		if err == nil {
			return nil
		}
		if !errors.Is(err, errNotInChain) {
			anchored = err
		}
	}
	if anchored != nil {
		return anchored
	}
	list := make([]string, len(records))
	for i, r := range records {
		list[i] = r.String()
	}
	return fmt.Errorf("DANE: the server's certificate matches none of its TLSA records (%s)", strings.Join(list, ", "))
}

var errNotInChain = errors.New("DANE: no such authority in the chain")

// anchors checks a chain against a DANE-TA(2) record. The server must send the
// authority, unless the record holds it whole (RFC 7671 section 5.2).
func (r Record) anchors(chain []*x509.Certificate, names []string, now time.Time) error {
	roots, between, found := x509.NewCertPool(), x509.NewCertPool(), false
	for _, c := range chain[1:] {
		if r.matches(c) {
			roots.AddCert(c)
			found = true
		} else {
			between.AddCert(c)
		}
	}
	if r.Selector == Cert && r.Matching == Full {
		if c, err := x509.ParseCertificate([]byte(r.Data)); err == nil {
			roots.AddCert(c)
			found = true
		}
	}
	if !found {
		return errNotInChain
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return fmt.Errorf("DANE: chain to the authority of TLSA record %s: %w", r, err)
	}
	for _, name := range names {
		if err = chain[0].VerifyHostname(name); err == nil {
			return nil
		}
	}
	return fmt.Errorf("DANE: the certificate is for none of the names %s", strings.Join(names, ", "))
}

// matches compares one certificate with the record's data.
func (r Record) matches(c *x509.Certificate) bool {
	part := c.Raw
	if r.Selector == SPKI {
		part = c.RawSubjectPublicKeyInfo
	}
	switch r.Matching {
	case SHA256:
		sum := sha256.Sum256(part)
		return string(sum[:]) == r.Data
	case SHA512:
		sum := sha512.Sum512(part)
		return string(sum[:]) == r.Data
	}
	return string(part) == r.Data
}
