package peer

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Files say who a node is, and by which files it shows that.
type Files struct {
	Fleet string // name of the fleet
	Node  string // of this node, a DNS name of its certificate
	CA    string // PEM, the authorities of the fleet
	Cert  string // PEM, this node's certificate, with those between it and the authority behind it
	Key   string // PEM, of Cert
}

// lookEvery is how often it is looked whether the files have changed, at most: each look is
// three calls of stat(2), and strangers cause looks.
const lookEvery = time.Second

// soonOver is how long before its end a certificate is warned of.
const soonOver = 14 * 24 * time.Hour

// Identity is what a node shows to others, and what it asks of them. Its methods may be
// called by many goroutines.
type Identity struct {
	files Files
	log   *slog.Logger

	mu     sync.Mutex
	looked time.Time
	stamps [3]stamp
	now    *credentials // nil: none could be read so far
	err    error        // why the files as they are now cannot be used
}

// stamp tells one state of a file from the next.
type stamp struct {
	info fs.FileInfo
	err  string
}

func (s stamp) same(t stamp) bool {
	if s.info == nil || t.info == nil {
		return s.info == t.info && s.err == t.err
	}
	return os.SameFile(s.info, t.info) && s.info.ModTime().Equal(t.info.ModTime()) && s.info.Size() == t.info.Size()
}

// credentials are what the files held at one time.
type credentials struct {
	cert  tls.Certificate // with its Leaf
	roots *x509.CertPool
	named bool // our certificate names the fleet, so all must
}

// NewIdentity reads the files. What is wrong with them is told by Trouble; they are read
// again once they have changed, and what was good stays in use until then.
func NewIdentity(f Files, log *slog.Logger) *Identity {
	id := &Identity{files: f, log: log}
	id.current()
	return id
}

// Check says what is wrong with the files, nil if they can be used now.
func Check(f Files) error {
	c, err := read(f)
	if err == nil {
		err = c.lasting(f, time.Now())
	}
	return err
}

// Trouble says why others cannot be spoken to, or soon cannot; "" if nothing is wrong.
func (id *Identity) Trouble() string {
	c, err := id.current()
	switch {
	case err != nil && c != nil:
		return "certificates of [fleet] that were replaced are not used: " + err.Error()
	case err != nil:
		return err.Error()
	}
	if err := c.lasting(id.files, time.Now()); err != nil {
		return err.Error()
	}
	return ""
}

// lasting says that a certificate has ended, or soon will.
func (c *credentials) lasting(f Files, now time.Time) error {
	const renew = "put a new one of the same authority in its place, and restart millrace-agent, which signs orders by what it has read at its start"
	switch end := c.cert.Leaf.NotAfter; {
	case now.After(end):
		return fmt.Errorf("tls_cert_file of [fleet]: %s has ended at %s; remedy: %s", f.Cert, end.UTC().Format(time.DateTime), renew)
	case now.Before(c.cert.Leaf.NotBefore):
		return fmt.Errorf("tls_cert_file of [fleet]: %s is good from %s on only; remedy: look at the clock of this host", f.Cert, c.cert.Leaf.NotBefore.UTC().Format(time.DateTime))
	case now.Add(soonOver).After(end):
		return fmt.Errorf("tls_cert_file of [fleet]: %s ends at %s; remedy: %s", f.Cert, end.UTC().Format(time.DateTime), renew)
	}
	return nil
}

// current is what to use now, read anew if the files have changed. With an error there may be
// credentials: those of before.
func (id *Identity) current() (*credentials, error) {
	id.mu.Lock()
	defer id.mu.Unlock()
	if now := time.Now(); id.looked.IsZero() || now.Sub(id.looked) >= lookEvery || now.Before(id.looked) {
		id.looked = now
		var stamps [3]stamp
		changed := false
		for i, path := range []string{id.files.CA, id.files.Cert, id.files.Key} {
			info, err := os.Stat(path)
			if stamps[i].info = info; err != nil {
				stamps[i] = stamp{err: err.Error()}
			}
			changed = changed || !stamps[i].same(id.stamps[i])
		}
		// What cannot be read may be readable by a mode that no stamp shows, and a certificate is
		// replaced before or after its key.
		if changed || id.now == nil || id.err != nil {
			id.stamps = stamps
			id.reread()
		}
	}
	return id.now, id.err
}

// reread reads the files. The caller holds mu.
func (id *Identity) reread() {
	c, err := read(id.files)
	switch {
	case err != nil && (id.err == nil || id.err.Error() != err.Error()):
		id.log.Warn("certificates of the fleet cannot be used", "err", err)
	case err == nil && id.now != nil:
		id.log.Info("certificates of the fleet were read again", "until", c.cert.Leaf.NotAfter.UTC())
	}
	if id.err = err; err == nil {
		id.now = c
	}
}

// Load reads the files: this node's certificate with its key, and the authorities.
func (f Files) Load() (cert tls.Certificate, roots *x509.CertPool, err error) {
	text, err := os.ReadFile(f.CA)
	if err != nil {
		return cert, nil, fmt.Errorf("tls_ca_file of [fleet]: %w; remedy: let the agent's user read it, or correct its name", err)
	}
	roots = x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return cert, nil, fmt.Errorf("tls_ca_file of [fleet]: %s has no certificate; remedy: put that of the fleet's authority there, in PEM", f.CA)
	}
	if cert, err = tls.LoadX509KeyPair(f.Cert, f.Key); err != nil {
		return cert, nil, fmt.Errorf("tls_cert_file of [fleet]: %s and %s cannot be used: %w; remedy: give two PEM files that belong together, readable by the agent's user", f.Cert, f.Key, err)
	}
	return cert, roots, nil
}

// read reads the files, and looks at whether others would take what they hold for this node.
// Its end is looked at when it is used: a certificate that has ended is replaced, not refused.
func read(f Files) (*credentials, error) {
	c := &credentials{}
	var err error
	if c.cert, c.roots, err = f.Load(); err != nil {
		return nil, err
	}
	leaf := c.cert.Leaf
	if !slices.ContainsFunc(leaf.DNSNames, func(name string) bool { return strings.EqualFold(name, f.Node) }) {
		return nil, fmt.Errorf("tls_cert_file of [fleet]: %s is not for the node %s; remedy: have subjectAltName=DNS:%s in it", f.Cert, f.Node, f.Node)
	}
	if c.named, err = fleetOf(leaf, f.Fleet); err != nil {
		return nil, fmt.Errorf("tls_cert_file of [fleet]: %s: %w; remedy: have subjectAltName=URI:%s%s in it, or correct name", f.Cert, err, scheme, f.Fleet)
	}
	chain := make([]*x509.Certificate, 0, len(c.cert.Certificate))
	for _, der := range c.cert.Certificate {
		x, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("tls_cert_file of [fleet]: %s: %w; remedy: put the node's certificate there, in PEM", f.Cert, err)
		}
		chain = append(chain, x)
	}
	at, now := middle(leaf), time.Now()
	switch {
	case leaf.NotAfter.Before(leaf.NotBefore):
		return nil, fmt.Errorf("tls_cert_file of [fleet]: %s is good at no time, as it begins at %s and ends at %s; remedy: get one that ends later than it begins",
			f.Cert, leaf.NotBefore.UTC().Format(time.DateTime), leaf.NotAfter.UTC().Format(time.DateTime))
	case !now.Before(leaf.NotBefore) && !now.After(leaf.NotAfter):
		at = now // so that the end of the authority is seen, too
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		err := c.holds(chain, use, at)
		var invalid x509.CertificateInvalidError
		if errors.As(err, &invalid) && invalid.Reason == x509.Expired && !invalid.Cert.Equal(leaf) {
			return nil, fmt.Errorf("the authority of %s (tls_cert_file of [fleet]), %q, is good from %s to %s only; remedy: renew it, or get one of an authority that is good, and put that into tls_ca_file of all nodes",
				f.Cert, invalid.Cert.Subject.CommonName, invalid.Cert.NotBefore.UTC().Format(time.DateTime), invalid.Cert.NotAfter.UTC().Format(time.DateTime))
		}
		if err != nil {
			return nil, fmt.Errorf("tls_cert_file of [fleet]: %s: %w; remedy: have tls_ca_file sign it, for the use serverAuth and clientAuth", f.Cert, err)
		}
	}
	return c, nil
}

// middle is a moment at which a certificate is good.
func middle(c *x509.Certificate) time.Time {
	return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2)
}

// scheme begins the URI by which a certificate names its fleet.
const scheme = "millrace:"

// fleetOf says whether a certificate names the fleet; an error, that it names another alone.
func fleetOf(leaf *x509.Certificate, fleet string) (named bool, err error) {
	other := ""
	for _, u := range leaf.URIs {
		if name, ok := strings.CutPrefix(u.String(), scheme); ok && name == fleet {
			return true, nil
		} else if ok {
			other = name
		}
	}
	if other != "" {
		return false, fmt.Errorf("the certificate is of the fleet %q", other)
	}
	return false, nil
}

// holds verifies a chain, the leaf first.
func (c *credentials) holds(chain []*x509.Certificate, use x509.ExtKeyUsage, now time.Time) error {
	between := x509.NewCertPool()
	for _, x := range chain[1:] {
		between.AddCert(x)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: c.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{use}, CurrentTime: now})
	return err
}

var (
	errNoCertificate = errors.New("no certificate was shown")
	errNoMember      = errors.New("the certificate is no member's")
	errSeveral       = errors.New("the certificate has the names of several members")
	errUnnamed       = errors.New("the certificate does not name the fleet, as this node's own does")
)

// nodeOf is the member whose certificate was shown, by the rules of the package's comment.
func (c *credentials) nodeOf(chain []*x509.Certificate, use x509.ExtKeyUsage, fleet string, member func(string) bool) (node string, err error) {
	if len(chain) == 0 {
		return "", errNoCertificate
	}
	if err := c.holds(chain, use, time.Now()); err != nil {
		return "", err
	}
	named, err := fleetOf(chain[0], fleet)
	if err != nil {
		return "", err
	}
	if c.named && !named {
		return "", errUnnamed
	}
	for _, name := range chain[0].DNSNames {
		if name = strings.ToLower(name); name == node || !member(name) {
			continue
		}
		if node != "" {
			return "", errSeveral
		}
		node = name
	}
	if node == "" {
		return "", fmt.Errorf("%w: %.200q", errNoMember, chain[0].DNSNames)
	}
	return node, nil
}

// hello is the name of the server in the handshake.
func hello(node, fleet string) string { return node + "." + fleet }
