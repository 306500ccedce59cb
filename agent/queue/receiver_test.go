package queue

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/spool"
)

// sourced has a site for each source of a domain: "news a" of From leaves from a.
func sourced(w *world, froms ...string) {
	n := 0
	w.o.From = func(e *spool.Envelope, i int, _ string) string {
		n++
		return froms[n%len(froms)]
	}
	w.way = func(name string) (Route, bool) {
		domain, from := SplitRouteName(name)
		rt := w.to(domain)
		rt.Receiver = domain
		rt.Site, rt.Key, rt.From = domain+":"+from, domain+" from "+from, from
		return rt, true
	}
}

// The sites of one receiver share max_sessions_total as equals, however many one of them had
// first; another receiver has its own.
func TestSourcesShareTheTotal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) {
			w.policy.MaxSessions, w.policy.MaxSessionsTotal = 20, 12
			w.service = time.Second
		})
		sourced(w, "x")
		for i := range 5000 {
			w.add(spool.ID(1000+i), "news", "a.example")
		}
		pass(5 * time.Minute)
		if n := w.sessionsAt("a.example:x"); n != 12 {
			t.Fatalf("%d sessions of one source, 12 are allowed in all", n)
		}
		sourced(w, "y", "z")
		for i := range 5000 {
			w.add(spool.ID(10_000+i), "news", "a.example")
		}
		sourced(w, "x")
		for i := range 5000 {
			w.add(spool.ID(20_000+i), "news", "b.example")
		}
		for range 20 {
			pass(15 * time.Second)
			if n := w.sessionsAt("a.example:"); n > 12 {
				t.Fatalf("%d sessions at one receiver", n)
			}
		}
		for _, from := range []string{"x", "y", "z"} {
			if n := w.sessionsAt("a.example:" + from); n < 3 || n > 5 {
				t.Errorf("%d of 12 sessions from %s, of three sources", n, from)
			}
		}
		if n := w.sessionsAt("b.example:"); n != 12 {
			t.Errorf("%d sessions at another receiver", n)
		}
		for _, s := range w.Sites() {
			if s.HeldBack.Reason != QueueLimit || !strings.Contains(s.HeldBack.How, "max_sessions") {
				t.Errorf("%s is held back by %+v", s.Name, s.HeldBack)
			}
		}
	})
}

// sessionsAt is how many sessions there are at sites whose names begin so.
func (w *world) sessionsAt(prefix string) (n int) {
	for _, s := range w.Sites() {
		if strings.HasPrefix(s.Name, prefix) {
			n += s.Sessions + s.Opening
		}
	}
	return n
}

// Without other sources max_sessions_total bounds the one site.
func TestTotalBoundsOneSource(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) {
			w.policy.MaxSessions, w.policy.MaxSessionsTotal = 20, 3
			w.service = time.Second
		})
		for i := range 1000 {
			w.add(spool.ID(1000+i), "news", "a.example")
		}
		pass(time.Minute)
		if n := w.sessionsAt("a.example"); n != 3 {
			t.Errorf("%d sessions", n)
		}
	})
}
