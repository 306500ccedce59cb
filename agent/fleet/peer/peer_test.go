package peer

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab/leaks"
	"github.com/millrace/millrace/contrib/lab/logbuf"
	"github.com/millrace/millrace/contrib/lab/selfsigned"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// fleet is a fleet of a test: its authority, its members, where each listens.
type fleet struct {
	t  *testing.T
	ca *selfsigned.Authority

	mu sync.Mutex
	at map[string]string // of members; "": not listening
}

func newFleet(t *testing.T, members ...string) *fleet {
	t.Helper()
	ca, err := selfsigned.NewAuthority("authority")
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{t: t, ca: ca, at: make(map[string]string)}
	for _, m := range members {
		f.at[m] = ""
	}
	return f
}

func (f *fleet) member(node string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.at[node]
	return ok
}

func (f *fleet) address(node string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at[node]
}

func (f *fleet) set(node, at string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at[node] = at
}

func (f *fleet) forget(node string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.at, node)
}

// issue signs a certificate.
func (f *fleet) issue(l selfsigned.Leaf) *selfsigned.Pair {
	f.t.Helper()
	p, err := f.ca.Issue(l)
	if err != nil {
		f.t.Fatal(err)
	}
	return p
}

// files writes those of a node.
func (f *fleet) files(node string, p *selfsigned.Pair) Files {
	f.t.Helper()
	ca, cert, key, err := f.ca.Write(f.t.TempDir(), node, p)
	if err != nil {
		f.t.Fatal(err)
	}
	return Files{Fleet: "production", Node: node, CA: ca, Cert: cert, Key: key}
}

// identity is that of a node with a certificate for its name, and perhaps for its fleet.
func (f *fleet) identity(node string, uri ...string) *Identity {
	f.t.Helper()
	return NewIdentity(f.files(node, f.issue(selfsigned.Leaf{DNS: []string{node}, URI: uri})), slog.New(slog.DiscardHandler))
}

// serve runs a node's server until the test ends.
func (f *fleet) serve(id *Identity, log *slog.Logger, prepare func(*Server)) *Server {
	f.t.Helper()
	s := NewServer(ServerOptions{Address: "127.0.0.1:0", Identity: id, Member: f.member, Log: log})
	if prepare != nil {
		prepare(s)
	}
	ctx, end := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { s.Run(ctx) })
	f.t.Cleanup(func() { end(); done.Wait() })
	for s.Addr() == nil {
		time.Sleep(time.Millisecond)
	}
	f.set(id.files.Node, s.Addr().String())
	return s
}

func (f *fleet) client(id *Identity) *Client {
	c := NewClient(ClientOptions{Identity: id, Member: f.member, Address: f.address})
	f.t.Cleanup(c.Close)
	return c
}

// counting is a handler that counts its calls and says something.
func counting(n *atomic.Int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		b, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		fmt.Fprintf(w, "secret for %s of %d octets", NodeOf(r.Context()), len(b))
	})
}

func TestMembersSpeakToEachOther(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "a", "b")
	var calls atomic.Int64
	f.serve(f.identity("b"), slog.New(slog.DiscardHandler), func(s *Server) { s.Handle("POST /v1/x", counting(&calls)) })
	a := f.client(f.identity("a"))
	for _, size := range []int{0, 100, MaxBody} {
		resp, err := a.Do(t.Context(), "b", http.MethodPost, "/v1/x", bytes.NewReader(make([]byte, size)))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := fmt.Sprintf("secret for a of %d octets", size); err != nil || string(text) != want {
			t.Errorf("%q, %v", text, err)
		}
	}
	var status *StatusError
	if err := a.Call(t.Context(), "b", http.MethodGet, "/v1/none", nil, nil); !errors.As(err, &status) || status.Code != http.StatusNotFound || status.Node != "b" {
		t.Error(err)
	}
	if err := a.Call(t.Context(), "b", http.MethodPost, "/v1/x", strings.Repeat("x", MaxBody), nil); !errors.As(err, &status) || status.Code != http.StatusRequestEntityTooLarge {
		t.Error(err)
	}
	if _, err := a.Do(t.Context(), "c", http.MethodGet, "/", nil); !errors.Is(err, ErrNoMember) {
		t.Error(err)
	}
	if _, err := a.Do(t.Context(), "a", http.MethodGet, "/", nil); !errors.Is(err, ErrNoAddress) {
		t.Error(err)
	}
}

// shown makes a TLS configuration of who tries to get in with a certificate.
func shown(p *selfsigned.Pair, name string) *tls.Config {
	c := &tls.Config{ServerName: name, InsecureSkipVerify: true}
	if p != nil {
		c.Certificates = []tls.Certificate{p.TLS}
	}
	return c
}

// Whoever is not of the fleet learns nothing and changes nothing.
func TestStrangersLearnAndChangeNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "a", "b")
	other := newFleet(t, "a", "b")
	alone, err := selfsigned.New("a")
	if err != nil {
		t.Fatal(err)
	}
	issue := func(l selfsigned.Leaf) *selfsigned.Pair { return f.issue(l) }
	old := issue(selfsigned.Leaf{DNS: []string{"a"}, NotAfter: time.Now().Add(-time.Hour)})
	early := issue(selfsigned.Leaf{DNS: []string{"a"}, NotBefore: time.Now().Add(time.Hour)})
	good := issue(selfsigned.Leaf{DNS: []string{"a"}})
	named := issue(selfsigned.Leaf{DNS: []string{"a"}, URI: []string{"millrace:production"}})
	twelve := shown(good, "b.production")
	twelve.MaxVersion = tls.VersionTLS12
	const unseen = true // not even the server's certificate is shown
	for name, c := range map[string]struct {
		tls    *tls.Config
		unseen bool
		strict bool // the server's own certificate names the fleet
		in     bool
	}{
		"no certificate":               {shown(nil, "b.production"), !unseen, false, false},
		"another authority's":          {shown(other.issue(selfsigned.Leaf{DNS: []string{"a"}}), "b.production"), !unseen, false, false},
		"signed by itself":             {shown(alone, "b.production"), !unseen, false, false},
		"not a member's name":          {shown(issue(selfsigned.Leaf{DNS: []string{"c"}}), "b.production"), !unseen, false, false},
		"no name":                      {shown(issue(selfsigned.Leaf{}), "b.production"), !unseen, false, false},
		"a wildcard":                   {shown(issue(selfsigned.Leaf{DNS: []string{"*"}}), "b.production"), !unseen, false, false},
		"a longer name":                {shown(issue(selfsigned.Leaf{DNS: []string{"a.example"}}), "b.production"), !unseen, false, false},
		"names of two members":         {shown(issue(selfsigned.Leaf{DNS: []string{"a", "b"}}), "b.production"), !unseen, false, false},
		"ended":                        {shown(old, "b.production"), !unseen, false, false},
		"not yet good":                 {shown(early, "b.production"), !unseen, false, false},
		"good for servers alone":       {shown(issue(selfsigned.Leaf{DNS: []string{"a"}, Uses: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}), "b.production"), !unseen, false, false},
		"of another fleet":             {shown(issue(selfsigned.Leaf{DNS: []string{"a"}, URI: []string{"millrace:staging"}}), "b.production"), !unseen, false, false},
		"of no fleet, where ours is":   {shown(good, "b.production"), !unseen, true, false},
		"asks for another fleet":       {shown(good, "b.staging"), unseen, false, false},
		"asks for another node":        {shown(good, "a.production"), unseen, false, false},
		"asks for nobody":              {shown(good, ""), unseen, false, false},
		"an older TLS":                 {twelve, unseen, false, false},
		"a member":                     {shown(good, "b.production"), !unseen, false, true},
		"a member that names it":       {shown(named, "B.production"), !unseen, true, true},
		"a member that names it alone": {shown(named, "b.production"), !unseen, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var calls atomic.Int64
			var log logbuf.Buffer
			f := &fleet{t: t, ca: f.ca, at: map[string]string{"a": "", "b": ""}}
			var uri []string
			if c.strict {
				uri = append(uri, "millrace:production")
			}
			s := f.serve(f.identity("b", uri...), log.Logger(), func(s *Server) { s.Handle("/", counting(&calls)) })
			saw := false
			config := c.tls.Clone()
			config.VerifyConnection = func(tls.ConnectionState) error { saw = true; return nil }
			answer, err := raw(s.Addr().String(), config, "POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx")
			if in := calls.Load() > 0; in != c.in || strings.Contains(answer, "secret") != c.in {
				t.Errorf("let in: %v, answer %q, %v", in, answer, err)
			}
			if !c.in && answer != "" {
				t.Errorf("it was told %q", answer)
			}
			if c.unseen && saw {
				t.Error("the certificate was shown")
			}
			for end := time.Now().Add(10 * time.Second); !c.in && len(log.Lines("refused one that is not of the fleet")) == 0 && time.Now().Before(end); {
				time.Sleep(time.Millisecond) // who was refused may know it before it is counted and told
			}
			if !c.in && (s.Refused() != 1 || len(log.Lines("refused one that is not of the fleet")) != 1) {
				t.Errorf("%d refused: %s", s.Refused(), log.String())
			}
		})
	}
}

// raw says something over TLS, or without for nil, and returns what is answered.
func raw(address string, config *tls.Config, say string) (string, error) {
	c, err := tls.Dial("tcp", address, config)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, say); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(c)
	return string(answer), err
}

// Nobody who stands at a member's address hears a request unless he is that member.
func TestRequestsGoToTheMemberAlone(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "a", "b", "c")
	other := newFleet(t)
	for name, p := range map[string]*selfsigned.Pair{
		"another authority's":    other.issue(selfsigned.Leaf{DNS: []string{"b"}}),
		"another member":         f.issue(selfsigned.Leaf{DNS: []string{"c"}}),
		"not a member":           f.issue(selfsigned.Leaf{DNS: []string{"d"}}),
		"ended":                  f.issue(selfsigned.Leaf{DNS: []string{"b"}, NotAfter: time.Now().Add(-time.Hour)}),
		"of another fleet":       f.issue(selfsigned.Leaf{DNS: []string{"b"}, URI: []string{"millrace:staging"}}),
		"good for clients alone": f.issue(selfsigned.Leaf{DNS: []string{"b"}, Uses: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var calls atomic.Int64
			s := httptest.NewUnstartedServer(counting(&calls))
			s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
			s.TLS = &tls.Config{Certificates: []tls.Certificate{p.TLS}, ClientAuth: tls.RequestClientCert}
			s.StartTLS()
			t.Cleanup(s.Close)
			f := &fleet{t: t, ca: f.ca, at: map[string]string{"a": "", "b": s.Listener.Addr().String(), "c": ""}}
			if err := f.client(f.identity("a")).Call(t.Context(), "b", http.MethodPost, "/v1/x", "word", nil); err == nil || calls.Load() > 0 {
				t.Errorf("%d calls, %v", calls.Load(), err)
			}
		})
	}
}

// Who was forgotten is refused over the connection that he still has, too.
func TestForgottenMembersAreRefused(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "a", "b")
	var calls atomic.Int64
	s := f.serve(f.identity("b"), slog.New(slog.DiscardHandler), func(s *Server) { s.Handle("/", counting(&calls)) })
	id := f.identity("a")
	everybody := func(string) bool { return true } // the forgotten one has not heard of it
	a := NewClient(ClientOptions{Identity: id, Member: everybody, Address: f.address})
	t.Cleanup(a.Close)
	if err := a.Call(t.Context(), "b", http.MethodPost, "/", nil, nil); err != nil {
		t.Fatal(err)
	}
	f.forget("a")
	var status *StatusError
	if err := a.Call(t.Context(), "b", http.MethodPost, "/", nil, nil); !errors.As(err, &status) || status.Code != http.StatusForbidden || status.Text != "" {
		t.Errorf("over the old connection: %v", err)
	}
	if err := a.Call(t.Context(), "b", http.MethodPost, "/", nil, nil); err == nil || errors.As(err, &status) && status.Code != http.StatusForbidden {
		t.Errorf("over a new one: %v", err)
	}
	for end := time.Now().Add(10 * time.Second); s.Refused() < 2 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if calls.Load() != 1 || s.Refused() < 2 {
		t.Errorf("%d calls, %d refused", calls.Load(), s.Refused())
	}

	over := &memberConn{Conn: loose{}, node: "b", until: time.Now().Add(-time.Second)}
	w := httptest.NewRecorder()
	s.guarded(new(sync.WaitGroup)).ServeHTTP(w, httptest.NewRequestWithContext(context.WithValue(t.Context(), nodeKey{}, over), "GET", "/", nil))
	if w.Code != http.StatusForbidden || w.Body.Len() > 0 || calls.Load() != 1 {
		t.Errorf("with a certificate that has ended: %d", w.Code)
	}
}

// Certificates that are replaced are used without a restart, and bad ones are not.
func TestFilesAreReadAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "a", "b")
	var calls atomic.Int64
	b := f.identity("b")
	s := f.serve(b, slog.New(slog.DiscardHandler), func(s *Server) { s.Handle("/", counting(&calls)) })
	a := f.client(f.identity("a"))
	ask := func() error {
		a.Close() // so that there is a handshake
		b.mu.Lock()
		b.looked = time.Time{}
		b.mu.Unlock()
		return a.Call(t.Context(), "b", http.MethodPost, "/", nil, nil)
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	write := func(p *selfsigned.Pair, ca *selfsigned.Authority) {
		if _, _, _, err := ca.Write(filepath.Dir(b.files.Cert), "b", p); err != nil {
			t.Fatal(err)
		}
	}
	other := newFleet(t)
	write(other.issue(selfsigned.Leaf{DNS: []string{"b"}}), f.ca)
	if err := ask(); err != nil || !strings.Contains(b.Trouble(), "remedy") {
		t.Errorf("a certificate of another authority: %v, %q", err, b.Trouble())
	}
	write(f.issue(selfsigned.Leaf{DNS: []string{"b"}, NotAfter: time.Now().Add(24 * time.Hour)}), f.ca)
	if err := ask(); err != nil || !strings.Contains(b.Trouble(), "ends at") {
		t.Errorf("one that ends tomorrow: %v, %q", err, b.Trouble())
	}
	c, err := tls.Dial("tcp", s.Addr().String(), &tls.Config{ServerName: "b.production", InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if end := c.ConnectionState().PeerCertificates[0].NotAfter; time.Until(end) > 25*time.Hour {
		t.Errorf("the old certificate is shown, until %v", end)
	}
}

// What is wrong with certificates is said with the file and what to do; nothing panics.
func TestCertificatesThatCannotBeUsedAreNamed(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	other := newFleet(t)
	good := f.files("b", f.issue(selfsigned.Leaf{DNS: []string{"b"}}))
	if err := Check(good); err != nil {
		t.Error(err)
	}
	lacking := good
	lacking.Key = filepath.Join(t.TempDir(), "none")
	empty := good
	empty.CA = good.Key
	past := *f.ca.TLS.Leaf // the authority with the same key, ended
	past.NotAfter = time.Now().Add(-time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, &past, &past, past.PublicKey, f.ca.TLS.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	ended := good
	ended.CA = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ended.CA, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	foreign := good
	foreign.CA = other.files("x", other.issue(selfsigned.Leaf{})).CA
	for name, x := range map[string]struct {
		files Files
		want  string
	}{
		"no key":            {lacking, "none"},
		"no authority":      {empty, "has no certificate"},
		"another authority": {foreign, "unknown authority"},
		"another node":      {f.files("b", f.issue(selfsigned.Leaf{DNS: []string{"a"}})), "not for the node b"},
		"another fleet":     {f.files("b", f.issue(selfsigned.Leaf{DNS: []string{"b"}, URI: []string{"millrace:x"}})), `of the fleet "x"`},
		"no client":         {f.files("b", f.issue(selfsigned.Leaf{DNS: []string{"b"}, Uses: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})), "incompatible key usage"},
		"ended":             {f.files("b", f.issue(selfsigned.Leaf{DNS: []string{"b"}, NotAfter: time.Now().Add(-time.Hour)})), "has ended"},
		"good at no time":   {f.files("b", f.issue(selfsigned.Leaf{DNS: []string{"b"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(-2 * time.Hour)})), "is good at no time"},
		"ended authority":   {ended, "renew it"},
		"not yet":           {f.files("b", f.issue(selfsigned.Leaf{DNS: []string{"b"}, NotBefore: time.Now().Add(time.Hour)})), "clock"},
	} {
		err := Check(x.files)
		if err == nil || !strings.Contains(err.Error(), x.want) || !strings.Contains(err.Error(), "remedy") || !strings.Contains(err.Error(), "[fleet]") {
			t.Errorf("%s: %v", name, err)
		}
		id := NewIdentity(x.files, slog.New(slog.DiscardHandler))
		if !strings.Contains(id.Trouble(), x.want) {
			t.Errorf("%s: %q", name, id.Trouble())
		}
	}
}
