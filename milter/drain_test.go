package milter_test

import (
	"strings"
	"testing"
)

// A drain turns the milter into an observer at once, and what is under way then
// stays with the host: small, or large and half spooled. Its end needs nothing else.
func TestDrainedSpoolTakesNothingMore(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("a line of a large body\r\n", 10_000)
	s := serve(t, divertAll(), &fakeSpool{})
	m := connect(t, s, postfixVersion, actions, steps)
	send := func(body string) string {
		m.wants(m.headers("a@b.example", []string{"c@d.example"}, "Subject: x"), cont)
		return m.body(body)
	}
	for _, body := range []string{"text\r\n", large} {
		if v := send(body); v != "-<c@d.example> a" {
			t.Fatalf("verdict %q before", v)
		}
	}
	for _, body := range []string{"text\r\n", large} {
		m.wants(m.headers("a@b.example", []string{"c@d.example"}, "Subject: x"), cont)
		s.spool.drains.Store(true)
		if v := m.body(body); v != "a" {
			t.Errorf("verdict %q for a message under way", v)
		}
		m.wants(m.headers("a@b.example", []string{"c@d.example"}, "Subject: x"), acc)
		s.spool.drains.Store(false)
	}
	if v := send("text\r\n"); v != "-<c@d.example> a" {
		t.Errorf("verdict %q after the end", v)
	}
	if n := len(s.log.Lines("verdict=observe")); n != 2 {
		t.Errorf("%d messages observed", n)
	}
	if n := len(s.log.Lines("verdict=leave", `reason="the spool is being drained"`)); n != 2 {
		t.Errorf("%d messages left", n)
	}
	if n := len(s.log.Lines("level=WARN", "millrace drain --end")); n != 1 {
		t.Errorf("warned %d times", n)
	}
	released := 0
	for _, k := range s.spool.all() {
		if v := <-k.verdict; v == "released" {
			released++
		}
	}
	if released != 3 {
		t.Errorf("%d messages released, want 3", released)
	}
}
