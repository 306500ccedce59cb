package settings

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/route/dane"
	"github.com/millrace/millrace/agent/smtp"
)

// tlsBase is what all TLS connections under one configuration have in common.
// The tickets go with a reload: they stand for verifications by its authorities.
type tlsBase struct {
	roots   *x509.CertPool // nil: the system's
	client  []tls.Certificate
	floor   uint16
	tickets tls.ClientSessionCache
}

// maxTickets bounds the sessions that can be resumed, and maxTicket the octets of each:
// it holds the ticket and the peer's chain, which is some 5 KiB and at a stranger's may be
// 256 KiB. Without it the next handshake is a whole one.
const (
	maxTickets = 4096
	maxTicket  = 16 << 10
)

// maxChain bounds the certificates of a peer, in octets. They stay in memory, taken apart,
// for as long as the connection is up: at a stranger's 256 KiB may be, of tens of thousands
// of names, and take megabytes in each session. Ordinary ones are some 5 KiB.
const maxChain = 32 << 10

// bounded refuses a peer with more than maxChain. Where TLS is not required it is spoken to in the
// clear, as one whose handshake fails.
func bounded(s tls.ConnectionState) error {
	size := 0
	for _, c := range s.PeerCertificates {
		size += len(c.Raw)
	}
	if size > maxChain {
		return fmt.Errorf("the certificates take %d octets, more than %d", size, maxChain)
	}
	return nil
}

func newTLSBase(c *config.Agent) (*tlsBase, error) {
	b := &tlsBase{floor: tls.VersionTLS12, tickets: tls.NewLRUClientSessionCache(maxTickets)}
	if c.TLSMinVersion == config.TLS13 {
		b.floor = tls.VersionTLS13
	}
	if c.TLSCAFile != "" {
		text, err := os.ReadFile(c.TLSCAFile)
		if err != nil {
			return nil, fmt.Errorf("agent.tls_ca_file: %w", err)
		}
		b.roots = x509.NewCertPool()
		if !b.roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("agent.tls_ca_file: %s has no certificate", c.TLSCAFile)
		}
	}
	if c.TLSCertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.TLSCertFile, c.TLSKeyFile)
		if err != nil {
			return nil, fmt.Errorf("agent.tls_cert_file: %w", err)
		}
		b.client = []tls.Certificate{pair}
	}
	return b, nil
}

// levels are the queues' TLS levels in the session's terms.
var levels = map[config.TLS]smtp.Level{
	config.TLSNone:          smtp.None,
	config.TLSOpportunistic: smtp.Opportunistic,
	config.TLSRequired:      smtp.Required,
	config.TLSVerify:        smtp.Verify,
}

// secure says what TLS a connection to a host must have: what the queue asks,
// raised by what the domain's policies need. Where TLS fails and is not
// required, the caller goes on without; what is required here is never given up.
func (b *tlsBase) secure(o *smtp.Options, q *config.Queue, p Host, report func(string)) {
	o.TLS, o.ServerName = levels[q.TLS], p.Name
	if p.Name == "" {
		o.ServerName = p.Addr.Addr().String()
	}
	if raises(o, q, p) {
		o.TLS = smtp.Verify
	}
	need := p.Need
	switch need.Asks {
	case route.Match:
		// The records take the place of authorities, also for a queue that says
		// "verify": they come from the domain itself.
		o.TLS, o.ServerName = smtp.Required, need.ServerName
		o.VerifyPeer = func(s tls.ConnectionState) error {
			return dane.Verify(need.Records, s.PeerCertificates, need.Names, time.Now())
		}
	case route.Valid:
		o.TLS = smtp.Verify
	case route.Encrypt:
		o.TLS = max(o.TLS, smtp.Required)
	case route.Report:
		o.VerifyPeer = func(s tls.ConnectionState) error {
			if err := b.validFor(s, p.Name); err != nil {
				report(err.Error())
			}
			return nil
		}
	}
	conf := &tls.Config{
		RootCAs: b.roots, Certificates: b.client, MinVersion: b.floor, VerifyConnection: bounded,
		// A ticket is good for one name at one level only; and for the TLSA
		// records it was got under, as it stands for the certificate of then.
		ClientSessionCache: ticketsOf{b.tickets, fmt.Sprintf("%d %s ", o.TLS, need.Key())},
	}
	switch {
	case o.TLS == smtp.Opportunistic: // the alternative is the clear
		conf.MinVersion = tls.VersionTLS10
		conf.CipherSuites = suites(func(*tls.CipherSuite) bool { return true })
	case o.TLS == smtp.Required && need.Asks != route.Match: // whose certificate may be anybody's
		conf.CipherSuites = suites(func(s *tls.CipherSuite) bool { return !s.Insecure || keyByRSA[s.ID] })
	}
	o.TLSConfig = conf
}

// keyByRSA are suites with a good cipher whose key exchange is that of the certificate's
// RSA key. Some receivers have no other, and Postfix's level "encrypt" reaches them
// (smtp_tls_mandatory_ciphers = medium).
var keyByRSA = map[uint16]bool{
	tls.TLS_RSA_WITH_AES_128_GCM_SHA256: true, tls.TLS_RSA_WITH_AES_256_GCM_SHA384: true,
	tls.TLS_RSA_WITH_AES_128_CBC_SHA: true, tls.TLS_RSA_WITH_AES_256_CBC_SHA: true, tls.TLS_RSA_WITH_AES_128_CBC_SHA256: true,
}

// suites are those of crypto/tls that are wanted, of TLS 1.2 and before. Which of those that
// both sides have is taken is not decided by their order: crypto/tls has its own, the weak
// ones last.
func suites(wanted func(*tls.CipherSuite) bool) []uint16 {
	var list []uint16
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if wanted(s) {
			list = append(list, s.ID)
		}
	}
	return list
}

// validFor checks a chain as MTA-STS in enforce mode would.
func (b *tlsBase) validFor(s tls.ConnectionState, name string) error {
	if len(s.PeerCertificates) == 0 {
		return fmt.Errorf("%s showed no certificate", name)
	}
	between := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: name, Roots: b.roots, Intermediates: between})
	return err
}

// ticketsOf is the part of a session cache that belongs to one level.
type ticketsOf struct {
	all   tls.ClientSessionCache
	level string
}

func (t ticketsOf) Get(key string) (*tls.ClientSessionState, bool) { return t.all.Get(t.level + key) }

func (t ticketsOf) Put(key string, s *tls.ClientSessionState) {
	if s != nil && ticketSize(s) > maxTicket {
		s = nil // the one of before goes, too
	}
	t.all.Put(t.level+key, s)
}

// ticketSize is how many octets a session takes; of one that cannot be told, too many.
func ticketSize(s *tls.ClientSessionState) int {
	ticket, state, err := s.ResumptionState()
	if err != nil || state == nil {
		return maxTicket + 1
	}
	octets, err := state.Bytes()
	if err != nil {
		return maxTicket + 1
	}
	return len(ticket) + len(octets)
}

// raises says that a connection has its TLS raised to Verify for the sake of the
// relay's password: the queue asks for less, and does not say that any certificate
// will do. With tls = "none" there is no TLS to raise, and no password is sent.
func raises(o *smtp.Options, q *config.Queue, p Host) bool {
	return o.Auth != nil && !o.Auth.AnyCertificate && o.TLS < smtp.Verify &&
		(o.TLS > smtp.None || o.ImplicitTLS) && !p.Addr.Addr().IsLoopback()
}
