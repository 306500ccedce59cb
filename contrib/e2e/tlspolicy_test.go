package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/smtp"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/logbuf"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// policyRoom is a room whose receivers speak TLS and whose agent asks a real
// validating resolver, for zones that the test serves.
type policyRoom struct {
	*room
	n int // the last octet of this room's own addresses
}

// enterPolicy opens a room with a provider of so many hosts, named
// mxN.<provider>.test; serve starts the zones when the hosts' certificates are
// known, and says what the resolver must know of them.
func enterPolicy(t *testing.T, provider string, hosts int, serve func(p *policyRoom) lab.UnboundOptions, cas func(sinkCA []byte) []byte) *policyRoom {
	t.Helper()
	p := &policyRoom{}
	s := setup{
		providers: []sink.Provider{{
			Name: provider, Domains: []string{"*"}, Hosts: hosts,
			Behaviour: sink.Behaviour{StartTLS: true},
		}},
		millrace: lab.MillraceOptions{Set: map[string]string{"general.retry": `["1s"]`, "agent.source_addresses": "[]"}},
	}
	s.beforeDaemons = func(r *room) {
		p.room = r
		if _, err := fmt.Sscanf(r.dns, "127.53.0.%d", &p.n); err != nil {
			t.Fatal(err)
		}
		o := serve(p)
		o.Addr, o.Forward = fmt.Sprintf("127.54.0.%d", p.n), r.dns
		u, err := lab.StartUnbound(r.ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		r.Defer(u.Stop)
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("unbound:\n%s", tail(read(t, u.Log()), 60))
			}
		})
		ca, err := r.Internet.CAPEM()
		if err != nil {
			t.Fatal(err)
		}
		if cas != nil {
			ca = cas(ca)
		}
		file := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(file, ca, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		r.set("agent.resolvers", fmt.Sprintf(`["%s:53"]`, o.Addr))
		r.set("agent.tls_ca_file", fmt.Sprintf("%q", file))
	}
	enter(t, s)
	return p
}

// zoneAddr is an address for the k-th name server or web server of the room.
func (p *policyRoom) zoneAddr(k int) string { return fmt.Sprintf("127.55.%d.%d", k, p.n) }

// host is the address of the provider's k-th host.
func (p *policyRoom) host(k int) string { return fmt.Sprintf("127.%d.1.%d", 100+p.n, k) }

// chain is what a host shows in its handshake.
func (p *policyRoom) chain(k int) (chain []*x509.Certificate) {
	p.t.Helper()
	c, err := smtp.Dial(p.ctx, netip.MustParseAddrPort(p.host(k)+":25"), smtp.Options{
		Hello: "test.invalid", TLS: smtp.Required,
		VerifyPeer: func(s tls.ConnectionState) error { chain = s.PeerCertificates; return nil },
	})
	if err != nil {
		p.t.Fatal(err)
	}
	c.Quit(p.ctx)
	return chain
}

// plain makes the k-th host offer no STARTTLS.
func (p *policyRoom) plain(provider string, k int) {
	p.t.Helper()
	if err := p.Internet.Change(fmt.Sprintf("mx%d.%s.test", k, provider), func(b *sink.Behaviour) { b.StartTLS = false }); err != nil {
		p.t.Fatal(err)
	}
}

// delivered sends a message and waits until it has arrived; tls says how.
func (p *policyRoom) delivered(domain string) {
	p.t.Helper()
	p.send("news@lab.test", []string{"a@" + domain}, news(domain))
	p.until(domain+" has its mail", func() bool { return len(p.copies(domain)) == 1 })
	if !p.copies(domain)[0].tls {
		p.t.Errorf("%s: delivered in the clear", domain)
	}
}

// refused sends a message and waits until the agent says why it is not sent:
// to its log, and to who lists the queue.
func (p *policyRoom) refused(domain, reason string) {
	p.t.Helper()
	p.send("news@lab.test", []string{"a@" + domain}, news(domain))
	p.until(domain+" waits for the reason "+reason, func() bool {
		found := false
		err := control.NewClient(p.Millrace.Control()).Messages(p.ctx, control.Filter{}, func(m *control.Message) error {
			for _, r := range m.Recipients {
				found = found || r.Address == "a@"+domain && strings.Contains(r.Reason, reason)
			}
			return nil
		})
		if err != nil {
			p.t.Fatal(err)
		}
		return found
	})
	p.logLine(p.Millrace.Agent, reason)
}

// nothingAt checks that no message left for the refused domains.
func (p *policyRoom) nothingAt(domains ...string) {
	p.t.Helper()
	for _, d := range domains {
		if n := len(p.copies(d)); n > 0 {
			p.t.Errorf("%s has %d copies in spite of its policy", d, n)
		}
	}
	if lines := logbuf.Lines(read(p.t, p.Millrace.Agent.Log()), "status=bounced"); len(lines) > 0 {
		p.t.Errorf("a policy bounces no mail:\n%s", strings.Join(lines, "\n"))
	}
}

// trace runs "millrace trace" and checks that its output has all the texts.
func (p *policyRoom) trace(domain string, ok bool, texts ...string) {
	p.t.Helper()
	dir, err := lab.Programs()
	if err != nil {
		p.t.Fatal(err)
	}
	out, err := exec.CommandContext(p.ctx, filepath.Join(dir, "millrace"), "--config", p.Millrace.Config(), "trace", domain).CombinedOutput()
	if (err == nil) != ok {
		p.t.Errorf("trace %s: %v", domain, err)
	}
	for _, text := range texts {
		if !strings.Contains(string(out), text) {
			p.t.Errorf("trace %s says nothing of %q:\n%s", domain, text, out)
		}
	}
}

// DANE against a real unbound that validates a signed zone.
func TestDANE(t *testing.T) {
	t.Parallel()
	const provider = "signed"
	p := enterPolicy(t, provider, 8, func(p *policyRoom) lab.UnboundOptions {
		p.plain(provider, 6)
		p.plain(provider, 7)
		tlsa := func(host string, usage, selector int, c []byte) string {
			return fmt.Sprintf("_25._tcp.%s.signed.test. 300 IN TLSA %d %d 1 %x", host, usage, selector, sha256.Sum256(c))
		}
		ee := p.chain(1)[0].RawSubjectPublicKeyInfo // one key for all hosts
		root := p.chain(2)[1].Raw
		records := []string{
			tlsa("mx1", 3, 1, ee),
			tlsa("mx2", 2, 0, root),
			tlsa("mx3", 3, 1, []byte("another key")),
			tlsa("mx4", 1, 1, ee), // PKIX-EE is not for SMTP
			tlsa("mx5", 3, 1, ee), // its signature is bogus
			tlsa("mx6", 3, 1, ee), // no STARTTLS there
			tlsa("mx7", 1, 1, ee), // nor there
			tlsa("alias", 2, 0, root),
			"alias.signed.test. 300 IN A " + p.host(2), // whose certificate is for mx2
			"both.signed.test. 300 IN MX 10 mx3.signed.test.", "both.signed.test. 300 IN MX 20 mx1.signed.test.",
			"names.signed.test. 300 IN MX 10 alias.signed.test.",
			"bogus.signed.test. 300 IN MX 10 mx1.signed.test.",
			"without.signed.test. 300 IN MX 10 mx8.signed.test.",
		}
		for i, d := range []string{"ee", "ta", "wrong", "unusable", "broken", "clear", "unusable-clear"} {
			records = append(records, fmt.Sprintf("%s.signed.test. 300 IN MX 10 mx%d.signed.test.", d, i+1))
		}
		for k := 1; k <= 8; k++ {
			records = append(records, fmt.Sprintf("mx%d.signed.test. 300 IN A %s", k, p.host(k)))
		}
		z := serveZone(t, p.zoneAddr(1), "signed.test", true, records, "_25._tcp.mx5.signed.test TLSA", "bogus.signed.test MX")
		// A zone without signatures proves nothing, whatever its hosts publish.
		serveZone(t, p.zoneAddr(2), "open.test", false, []string{"open.test. 300 IN MX 10 mx3.signed.test."})
		return lab.UnboundOptions{
			Zones:   map[string]string{"signed.test": p.zoneAddr(1), "open.test": p.zoneAddr(2)},
			Anchors: []string{z.anchor()},
		}
	}, nil)
	for _, domain := range []string{"ee.signed.test", "ta.signed.test", "unusable.signed.test", "without.signed.test", "both.signed.test", "open.test"} {
		p.delivered(domain)
	}
	p.refused("wrong.signed.test", "matches none of its TLSA records (3 1 1")
	p.refused("names.signed.test", "the certificate is for none of the names alias.signed.test, names.signed.test")
	p.refused("broken.signed.test", "whether host mx5.signed.test has TLSA records cannot be found out")
	p.refused("clear.signed.test", "server does not offer STARTTLS")
	p.refused("unusable-clear.signed.test", "server does not offer STARTTLS")
	p.refused("bogus.signed.test", "domain bogus.signed.test could not be looked up for now")
	p.trace("ee.signed.test", true, "MX 10 mx1.signed.test "+p.host(1)+"; policy: DANE at mx1.signed.test, TLSA 3 1 1 ", "-- TLS 1.3", "C: QUIT")
	p.trace("wrong.signed.test", false, "policy: DANE at mx3.signed.test", "matches none of its TLSA records", "mail would wait")
	p.trace("broken.signed.test", false, "policy: not to be used: DANE: whether host mx5.signed.test")
	p.nothingAt("wrong.signed.test", "names.signed.test", "broken.signed.test", "clear.signed.test", "unusable-clear.signed.test", "bogus.signed.test")
}

// authority is a certificate authority of the test's own, for its web server.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	a.cert, a.key = certificate(t, nil, func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign
	})
	return a
}

func certificate(t *testing.T, by *authority, change func(*x509.Certificate)) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
	}
	change(c)
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c, key
}

// policies is a real HTTPS server of MTA-STS policies.
type policies struct {
	server  *http.Server
	fetched atomic.Int64
}

// servePolicies serves the policy of each domain at mta-sts.<domain>, with a
// certificate for that name, port 443.
func servePolicies(t *testing.T, addr string, by *authority, policy map[string]string) *policies {
	t.Helper()
	w := &policies{}
	l := listening(t, func() (net.Listener, error) { return net.Listen("tcp", addr+":443") })
	w.server = &http.Server{
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			w.fetched.Add(1)
			domain, _ := strings.CutPrefix(r.Host, "mta-sts.")
			rw.Header().Set("Content-Type", "text/plain")
			fmt.Fprint(rw, policy[domain])
		}),
		TLSConfig: &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			c, key := certificate(t, by, func(c *x509.Certificate) {
				c.DNSNames, c.ExtKeyUsage = []string{hello.ServerName}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
			})
			return &tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key}, nil
		}},
	}
	ended := make(chan error, 1)
	go func() { ended <- w.server.ServeTLS(l, "", "") }()
	t.Cleanup(func() {
		w.stop()
		<-ended
	})
	return w
}

func (w *policies) stop() { _ = w.server.Shutdown(context.Background()) }

// MTA-STS against a real HTTPS server with an authority of its own.
func TestMTASTS(t *testing.T) {
	t.Parallel()
	const provider = "open"
	own := newAuthority(t)
	policy := func(mode, mx string) string {
		return "version: STSv1\nmode: " + mode + "\nmx: " + mx + "\nmax_age: 86400\n"
	}
	var web, strange *policies
	p := enterPolicy(t, provider, 3, func(p *policyRoom) lab.UnboundOptions {
		p.plain(provider, 3)
		records := []string{
			"alias.open.test. 300 IN A " + p.host(2), // whose certificate is for mx2
			"both.open.test. 300 IN MX 20 mx1.open.test.",
		}
		for k := 1; k <= 3; k++ {
			records = append(records, fmt.Sprintf("mx%d.open.test. 300 IN A %s", k, p.host(k)))
		}
		for domain, mx := range map[string]string{
			"good": "mx1", "wild": "mx1", "stranger": "mx2", "invalid": "alias", "clear": "mx3",
			"testing": "alias", "off": "mx2", "unfetched": "mx2", "both": "mx2",
		} {
			web := p.zoneAddr(4)
			if domain == "unfetched" {
				web = p.zoneAddr(5)
			}
			records = append(records, domain+".open.test. 300 IN MX 10 "+mx+".open.test.",
				"_mta-sts."+domain+`.open.test. 300 IN TXT "v=STSv1; id=1;"`, "mta-sts."+domain+".open.test. 300 IN A "+web)
		}
		serveZone(t, p.zoneAddr(3), "open.test", false, records)
		web = servePolicies(t, p.zoneAddr(4), own, map[string]string{
			"good.open.test": policy("enforce", "mx1.open.test"), "wild.open.test": policy("enforce", "*.open.test"),
			"stranger.open.test": policy("enforce", "mx1.open.test"), "invalid.open.test": policy("enforce", "alias.open.test"),
			"clear.open.test": policy("enforce", "mx3.open.test"), "testing.open.test": policy("testing", "mx1.open.test"),
			"off.open.test": "version: STSv1\nmode: none\nmax_age: 86400\n", "both.open.test": policy("enforce", "mx1.open.test"),
		})
		strange = servePolicies(t, p.zoneAddr(5), newAuthority(t), map[string]string{"unfetched.open.test": policy("enforce", "mx1.open.test")})
		return lab.UnboundOptions{Zones: map[string]string{"open.test": p.zoneAddr(3)}}
	}, func(sinkCA []byte) []byte {
		return append(sinkCA, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.cert.Raw})...)
	})
	for _, domain := range []string{"good", "wild", "testing", "off", "unfetched", "both"} {
		p.delivered(domain + ".open.test")
	}
	p.refused("stranger.open.test", "host mx2.open.test is not one that the policy of stranger.open.test names")
	p.refused("invalid.open.test", "certificate is valid for mx2.open.test, not alias.open.test")
	p.refused("clear.open.test", "server does not offer STARTTLS")
	p.logLine(p.Millrace.Agent, "MTA-STS in testing mode", "alias.open.test is not one that the policy of testing.open.test names")
	p.logLine(p.Millrace.Agent, "MTA-STS in testing mode", "certificate is valid for mx2.open.test, not alias.open.test")
	p.logLine(p.Millrace.Agent, "MTA-STS policy cannot be fetched", "domain=unfetched.open.test", "unknown authority")
	if n := strange.fetched.Load(); n != 0 {
		t.Errorf("%d policies taken from a server nobody vouches for", n)
	}
	if n := web.fetched.Load(); n != 8 {
		t.Errorf("%d fetches for 8 domains", n)
	}
	p.trace("good.open.test", true, "MX 10 mx1.open.test", "policy: MTA-STS, enforced", "verified for mx1.open.test")
	p.trace("stranger.open.test", false, "policy: not to be used: MTA-STS: host mx2.open.test is not one")
	p.trace("testing.open.test", true, "policy: MTA-STS, testing; enforced it would not be used: MTA-STS: host alias.open.test", "-- MTA-STS, testing: ")
	fetched := web.fetched.Load()
	// A restart, and nobody to ask: the policies are still there.
	p.stop(p.Millrace.Agent)
	web.stop()
	p.start(p.Millrace.Agent)
	p.refused("stranger.open.test", "host mx2.open.test is not one that the policy of stranger.open.test names")
	if n := web.fetched.Load(); n != fetched {
		t.Errorf("%d fetches, %d before the restart", n, fetched)
	}
	p.nothingAt("stranger.open.test", "invalid.open.test", "clear.open.test")
}
