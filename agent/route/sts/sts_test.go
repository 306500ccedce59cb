package sts

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab/leaks"
	"github.com/millrace/millrace/contrib/lab/logbuf"
	"github.com/millrace/millrace/contrib/lab/selfsigned"
)

func TestMain(m *testing.M) { leaks.Main(m) }

const good = "version: STSv1\nmode: enforce\nmx: mx.example.com\nmax_age: 604800\n"

// world is a real HTTPS server for mta-sts.example.com with an authority of its
// own, the DNS record beside it, and a Store that sees both.
type world struct {
	t     *testing.T
	dir   string
	store *Store
	log   logbuf.Buffer
	roots *x509.CertPool

	mu      sync.Mutex
	now     time.Time
	txt     []string
	txtErr  error
	answer  http.HandlerFunc
	fetches int
	dialed  []string
	down    bool
	server  *httptest.Server
}

func newWorld(t *testing.T, names ...string) *world {
	t.Helper()
	if len(names) == 0 {
		names = []string{"mta-sts.example.com"}
	}
	pair, err := selfsigned.New(names...)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: t.TempDir(), now: time.Now(), txt: []string{"v=STSv1; id=1;"}, roots: pair.Roots()}
	w.say(good)
	w.server = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.fetches++
		answer := w.answer
		w.mu.Unlock()
		if r.URL.Path != "/.well-known/mta-sts.txt" || r.Host != "mta-sts.example.com" {
			http.NotFound(rw, r)
			return
		}
		answer(rw, r)
	}))
	w.server.TLS = &tls.Config{Certificates: []tls.Certificate{pair.TLS}}
	w.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	w.server.StartTLS()
	t.Cleanup(w.server.Close)
	w.open()
	return w
}

func (w *world) open() {
	w.store = Open(Options{
		Directory: w.dir, Roots: w.roots, MaxPolicies: 10,
		Log: w.log.Logger(),
		Now: func() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now },
		TXT: func(_ context.Context, name string) ([]string, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if !strings.HasPrefix(name, "_mta-sts.") {
				return nil, fmt.Errorf("asked for %s", name)
			}
			return w.txt, w.txtErr
		},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			w.mu.Lock()
			w.dialed = append(w.dialed, address)
			down := w.down
			w.mu.Unlock()
			if down {
				return nil, errors.New("no route to host")
			}
			var d net.Dialer
			return d.DialContext(ctx, network, w.server.Listener.Addr().String())
		},
	})
}

// say has the server answer with a text.
func (w *world) say(text string) {
	w.reply(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = rw.Write([]byte(text))
	})
}

func (w *world) reply(h http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = h
}

func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// policy asks, and says what counts: "enforce 1", with the id; "" is none.
func (w *world) policy() string {
	p, _ := w.store.Policy(w.t.Context(), "example.com", true)
	if p == nil {
		return ""
	}
	return string(p.Mode) + " " + p.ID
}

func (w *world) expect(want string, fetches int) {
	w.t.Helper()
	got := w.policy()
	w.mu.Lock()
	defer w.mu.Unlock()
	if got != want || w.fetches != fetches {
		w.t.Errorf("policy %q after %d fetches, want %q after %d\n%s", got, w.fetches, want, fetches, &w.log)
	}
}

func TestPolicyIsFetchedOnceAndOutlivesARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.expect("enforce 1", 1)
	w.expect("enforce 1", 1)
	if w.dialed[0] != "mta-sts.example.com:443" {
		t.Errorf("dialed %q", w.dialed)
	}
	w.open() // a new run
	w.set(func() { w.down = true })
	w.expect("enforce 1", 1)
	if p, _ := w.store.Policy(t.Context(), "example.com", true); !p.Matches("mx.example.com") || p.Matches("other.example.com") {
		t.Errorf("after a restart: %+v", p)
	}
}

func TestNewIDBringsTheNewPolicy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.expect("enforce 1", 1)
	w.say(strings.Replace(good, "enforce", "testing", 1))
	w.set(func() { w.txt = []string{"v=STSv1; id=2;"} })
	w.expect("testing 2", 2)
	w.say("version: STSv1\nmode: none\nmax_age: 60\n")
	w.set(func() { w.txt = []string{"v=STSv1; id=3;"} })
	w.expect("none 3", 3)
}

// An attacker who blocks the record and the fetch must not end a policy.
func TestPolicyAtHandSurvivesFailures(t *testing.T) {
	t.Parallel()
	failures := map[string]func(*world){
		"record gone":        func(w *world) { w.txt = nil },
		"record unreadable":  func(w *world) { w.txt = []string{"v=STSv1; id=?"} },
		"two records":        func(w *world) { w.txt = []string{"v=STSv1; id=2;", "v=STSv1; id=3;"} },
		"no answer":          func(w *world) { w.txtErr = errors.New("SERVFAIL") },
		"new id, no fetch":   func(w *world) { w.txt, w.down = []string{"v=STSv1; id=2;"}, true },
		"refresh, no fetch":  func(w *world) { w.now, w.down = w.now.Add(25*time.Hour), true },
		"new id, no policy":  func(w *world) { w.txt, w.answer = []string{"v=STSv1; id=2;"}, http.NotFound },
		"garbled directory":  func(w *world) { os.WriteFile(filepath.Join(w.dir, "x.sts"), []byte("?"), 0o600) },
		"almost out of date": func(w *world) { w.now, w.down = w.now.Add(604799*time.Second), true },
	}
	for name, fail := range failures {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.expect("enforce 1", 1)
			w.set(func() { fail(w) })
			if got := w.policy(); got != "enforce 1" {
				t.Errorf("policy %q", got)
			}
		})
	}
	t.Run("out of date", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.expect("enforce 1", 1)
		w.set(func() { w.now, w.down = w.now.Add(604800*time.Second), true })
		w.expect("", 1)
	})
}

func TestFetchTakesOnlyWhatTheStandardAllows(t *testing.T) {
	t.Parallel()
	plain := func(code int, text string) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "text/plain")
			rw.WriteHeader(code)
			_, _ = rw.Write([]byte(text))
		}
	}
	answers := map[string]struct {
		answer http.HandlerFunc
		log    string
	}{
		"not found": {plain(404, good), "404"},
		"created":   {plain(201, good), "201"},
		"redirect": {func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, "https://mta-sts.example.com/.well-known/mta-sts.txt?again", http.StatusFound)
		}, "302"},
		"html": {func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "text/html")
			_, _ = rw.Write([]byte(good))
		}, "text/html"},
		"too long":  {plain(200, good+strings.Repeat("x: y\n", maxBody/5)), "64 KiB"},
		"no policy": {plain(200, "mode: enforce\n"), "no version"},
		"cut off": {func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "text/plain")
			rw.Header().Set("Content-Length", "1000")
			_, _ = rw.Write([]byte(good))
		}, "EOF"},
	}
	for name, tt := range answers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.reply(tt.answer)
			w.expect("", 1)
			if !strings.Contains(w.log.String(), tt.log) {
				t.Errorf("log has no %q:\n%s", tt.log, &w.log)
			}
			w.say(good)
			w.expect("", 1) // not again at once
			w.set(func() { w.now = w.now.Add(retryAfter) })
			w.expect("enforce 1", 2)
		})
	}
	t.Run("certificate of another name", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, "example.com")
		w.expect("", 0)
		if !strings.Contains(w.log.String(), "not mta-sts.example.com") {
			t.Errorf("log:\n%s", &w.log)
		}
	})
	t.Run("unknown authority", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.roots = x509.NewCertPool()
		w.open()
		w.expect("", 0)
		if !strings.Contains(w.log.String(), "unknown authority") {
			t.Errorf("log:\n%s", &w.log)
		}
	})
}

func TestPolicyAtHandIsRefreshed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.expect("enforce 1", 1)
	w.set(func() { w.now = w.now.Add(refreshAfter - time.Second) })
	w.expect("enforce 1", 1)
	w.set(func() { w.now = w.now.Add(time.Second) })
	w.expect("enforce 1", 2)
	w.set(func() { w.now = w.now.Add(604800*time.Second - time.Hour) }) // from the refresh on
	w.expect("enforce 1", 3)
}

func TestFilesAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := &Policy{ID: "1", Mode: None, MaxAge: time.Hour, Fetched: time.Now()}
	for i := range 100 {
		domain := fmt.Sprintf("d%d.example/../x", i)
		if err := w.store.files.write(domain, p); err != nil {
			t.Fatal(err)
		}
		if w.store.files.read(domain) == nil {
			t.Fatalf("%s is gone at once", domain)
		}
	}
	if err := w.store.files.write("d99.example/../x", p); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(entries); n > 10 || n < 5 {
		t.Errorf("%d files, at most 10 are wanted", n)
	}
}

func TestUnusableDirectoryIsSaidAndLivedWith(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	file := filepath.Join(w.dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.dir = file
	w.open()
	w.expect("enforce 1", 1)
	w.expect("enforce 1", 2)
	if !strings.Contains(w.log.String(), "state_directory") {
		t.Errorf("log:\n%s", &w.log)
	}
}

// TestTinyLivesAreNoLoop has policies that would be over before they are used: they count
// for a while all the same, and are not fetched for each question.
func TestTinyLivesAreNoLoop(t *testing.T) {
	t.Parallel()
	for _, age := range []string{"0", "1", "60"} {
		w := newWorld(t)
		w.say(strings.Replace(good, "604800", age, 1))
		for range 5 {
			p, err := w.store.Policy(t.Context(), "example.com", true)
			if err != nil || p == nil {
				t.Fatalf("max_age %s: %v, %v", age, p, err)
			}
			if left := p.Expires().Sub(w.now); left < time.Minute {
				t.Errorf("max_age %s: it is over in %v, and its domain looked up again", age, left)
			}
			w.set(func() { w.now = w.now.Add(time.Second) })
		}
		if w.fetches != 1 {
			t.Errorf("max_age %s: fetched %d times for 5 questions", age, w.fetches)
		}
	}
}

// TestWithoutFetchTheDNSAloneIsAsked tells whoever must not wait for a web server that a
// policy is to be fetched.
func TestWithoutFetchTheDNSAloneIsAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ask := func(fetch bool) string {
		p, err := w.store.Policy(t.Context(), "example.com", fetch)
		return fmt.Sprint(p != nil, " ", err, " ", w.fetches)
	}
	expect := func(when string, fetch bool, want string) {
		t.Helper()
		if got := ask(fetch); got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
	w.set(func() { w.txt = nil })
	expect("none is announced", false, "false <nil> 0")
	w.set(func() { w.txt = []string{"v=STSv1; id=1;"} })
	expect("one is announced", false, "false "+ErrFetch.Error()+" 0")
	expect("it is fetched", true, "true <nil> 1")
	expect("it is at hand", false, "true <nil> 1")
	w.set(func() { w.now = w.now.Add(25 * time.Hour) })
	expect("it is a day old", false, "true "+ErrFetch.Error()+" 1")
	w.set(func() { w.answer = http.NotFound })
	expect("it cannot be had anew", true, "true <nil> 2")
	expect("nor lately", false, "true <nil> 2")
}

// TestPoliciesAreBoundedInOctets stores many of the longest policies, and longer ones in the
// place of short ones.
func TestPoliciesAreBoundedInOctets(t *testing.T) {
	t.Parallel()
	const most = 256 << 10
	dir := t.TempDir()
	f := files{dir: dir, limit: 1000, most: most}
	large := Policy{ID: "1", Mode: Enforce, MaxAge: time.Hour, Fetched: time.Now()}
	for n := range 1500 {
		large.MX = append(large.MX, fmt.Sprintf("mx%d.example.com", n))
	}
	small := large
	small.MX = large.MX[:1]
	for n := range 75 {
		p := &large
		if n < 25 {
			p = &small
		}
		if err := f.write(fmt.Sprintf("d%d.example", n%50), p); err != nil {
			t.Fatal(err)
		}
		if n%5 != 0 {
			continue
		}
		taken := int64(0)
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				t.Fatal(err)
			}
			taken += (info.Size() + 4095) / 4096 * 4096
		}
		if taken > most || taken != f.octets || len(entries) != f.n {
			t.Fatalf("after %d: %d octets in %d files, counted %d in %d, want at most %d", n, taken, len(entries), f.octets, f.n, most)
		}
	}
	if p := f.read("d24.example"); p == nil || len(p.MX) != len(large.MX) {
		t.Errorf("the last one: %v", p)
	}
	again := files{dir: dir, limit: 1000, most: most}
	if err := again.open(); err != nil || again.octets != f.octets || again.n != f.n {
		t.Errorf("after a restart: %d octets in %d files, want %d in %d, %v", again.octets, again.n, f.octets, f.n, err)
	}
}
