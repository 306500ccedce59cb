package order

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Signed is a statement as it is kept and sent: JSON on one line. The signature is over Text,
// octet for octet, with the line of its purpose before it: a report never passes for an order.
type Signed struct {
	Text []byte `json:"text"` // an Order or a Report in JSON
	Cert []byte `json:"cert"` // of the issuer, DER
	Sig  []byte `json:"sig"`
}

// What is signed begins with one of these.
const (
	forOrder  = "millrace fleet order 1\n"
	forReport = "millrace fleet report 1\n"
)

// signer signs for this node.
type signer struct {
	key  crypto.Signer
	cert []byte
}

func newSigner(c *tls.Certificate, node string) (signer, error) {
	if len(c.Certificate) == 0 {
		return signer{}, errors.New("the node has no certificate")
	}
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		return signer{}, fmt.Errorf("the certificate of the node: %w", err)
	}
	if !slices.Contains(leaf.DNSNames, node) {
		return signer{}, fmt.Errorf("the certificate of the node is for %q, not for %q; remedy: have the fleet's CA issue one with that DNS name", leaf.DNSNames, node)
	}
	key, ok := c.PrivateKey.(crypto.Signer)
	if !ok {
		return signer{}, errors.New("the key of the node's certificate cannot sign")
	}
	if algorithm(leaf.PublicKey) == x509.UnknownSignatureAlgorithm {
		return signer{}, fmt.Errorf("the key of the node's certificate is of a kind that is not known (%T); remedy: ECDSA, Ed25519 or RSA", leaf.PublicKey)
	}
	return signer{key, c.Certificate[0]}, nil
}

// algorithm is how a key signs here: one way for each kind of key, so that the signature need not
// say which.
func algorithm(public any) x509.SignatureAlgorithm {
	switch public.(type) {
	case *ecdsa.PublicKey:
		return x509.ECDSAWithSHA256
	case ed25519.PublicKey:
		return x509.PureEd25519
	case *rsa.PublicKey:
		return x509.SHA256WithRSAPSS
	}
	return x509.UnknownSignatureAlgorithm
}

func (s *signer) sign(purpose string, v any) (*Signed, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	what := append([]byte(purpose), text...)
	sum := sha256.Sum256(what)
	digest, opts := sum[:], crypto.SignerOpts(crypto.SHA256)
	switch s.key.Public().(type) {
	case ed25519.PublicKey: // hashes by itself
		digest, opts = what, crypto.Hash(0)
	case *rsa.PublicKey:
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	}
	sig, err := s.key.Sign(rand.Reader, digest, opts)
	if err != nil {
		return nil, fmt.Errorf("signing with the node's key: %w", err)
	}
	return &Signed{Text: text, Cert: s.cert, Sig: sig}, nil
}

// verifier judges signatures.
type verifier struct {
	roots *x509.CertPool

	mu    sync.Mutex
	certs map[[sha256.Size]byte]*judged
}

// judged is a certificate that the fleet's CA has issued, with the time in which its whole chain
// is valid.
type judged struct {
	cert        *x509.Certificate
	from, until time.Time
}

// maxJudged bounds the certificates that are remembered; beyond them they are forgotten at once.
const maxJudged = 1000

// verify judges a statement that a node claims to have made at a time. The certificate must be
// valid at that time and not today: a pause outlives the certificate of the node that ordered it.
func (v *verifier) verify(purpose string, s *Signed, node string, at time.Time) error {
	c, err := v.judge(s.Cert, at)
	if err != nil {
		return err
	}
	if !slices.Contains(c.DNSNames, node) {
		return fmt.Errorf("%w: the certificate is for %q, the order is %q's", ErrForged, c.DNSNames, node)
	}
	if err := c.CheckSignature(algorithm(c.PublicKey), append([]byte(purpose), s.Text...), s.Sig); err != nil {
		return fmt.Errorf("%w: %w", ErrForged, err)
	}
	return nil
}

func (v *verifier) judge(der []byte, at time.Time) (*x509.Certificate, error) {
	key := sha256.Sum256(der)
	v.mu.Lock()
	j := v.certs[key]
	v.mu.Unlock()
	if j != nil && !at.Before(j.from) && !at.After(j.until) {
		return j.cert, nil
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	chains, err := c.Verify(x509.VerifyOptions{Roots: v.roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	j = &judged{c, c.NotBefore, c.NotAfter}
	for _, link := range chains[0] {
		if link.NotBefore.After(j.from) {
			j.from = link.NotBefore
		}
		if link.NotAfter.Before(j.until) {
			j.until = link.NotAfter
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.certs) >= maxJudged {
		clear(v.certs)
	}
	v.certs[key] = j
	return c, nil
}

// Report is what a node says of itself: which orders it has, and how far its spool is filled.
// It is signed as an order is: a store that could forge it could have a cancel reach too far.
// An old one that is repeated only says less.
type Report struct {
	Fleet    string    `json:"fleet"`
	Node     string    `json:"node"`
	Instance string    `json:"instance"`
	Number   uint64    `json:"number"` // grows within an instance
	At       time.Time `json:"at"`
	Known    Known     `json:"known"`
	// Before these times the node takes no changes of the suppression list, and no orders that
	// only lift, as it has more of them than it keeps.
	NoChanges time.Time `json:"no_changes,omitzero"`
	NoTombs   time.Time `json:"no_tombs,omitzero"`
	Position  string    `json:"position,omitempty"` // of its spool (spool.Position); "": it is not told
	Address   string    `json:"address,omitempty"`  // host:port where it answers other nodes; "": nowhere
}

// newer reports whether a report is of a later time than another of the same node.
func (r *Report) newer(x *Report) bool {
	if r.Instance == x.Instance {
		return r.Number > x.Number
	}
	return r.At.After(x.At)
}
