package classify

import (
	"strconv"
	"testing"
	"time"
)

// Mail of the inlet goes as a whole or not at all, and only where the host's own domains
// are known.
func TestMailOfTheInletIsAllOrNone(t *testing.T) {
	t.Parallel()
	m := newsletter()
	m.AuthUser, m.Inlet = "", true
	for i := range m.Recipients {
		m.Recipients[i].Mailer, m.Recipients[i].Host = "", ""
	}
	cfg := base()
	cfg.Scope = []string{"loopback"}
	cfg.HostDomains = nil
	if d := mustNew(t, cfg).Decide(m); d.Divert != nil {
		t.Errorf("without host_domains: %+v", d)
	}
	cfg.HostDomains = []string{"home.example"}
	if d := mustNew(t, cfg).Decide(m); len(d.Divert) != 2 || !d.Divert[0] || !d.Divert[1] {
		t.Errorf("%+v", d)
	}
	m.Recipients[1].Address = "x@home.example"
	if d := mustNew(t, cfg).Decide(m); d.Divert != nil || d.Judged {
		t.Errorf("a mixed envelope: %+v", d)
	}
	m.Recipients = m.Recipients[:1]
	cfg.Scope = []string{"authenticated"}
	if d := mustNew(t, cfg).Decide(m); d.Divert != nil {
		t.Errorf("out of scope: %+v", d)
	}
	cfg.Scope, m.Daemon = []string{"daemon:inlet"}, "inlet"
	if d := mustNew(t, cfg).Decide(m); d.Divert == nil {
		t.Errorf("a scope that names it: %+v", d)
	}
}

// What the inlet has counted is found again, and not counted a second time.
func TestCountedMailAddsNothing(t *testing.T) {
	t.Parallel()
	cfg := base()
	cfg.BulkRecipients, cfg.BulkWindow = 10, time.Hour
	c := mustNew(t, cfg)
	m := newsletter()
	m.Arrived = time.Unix(1_800_000_000, 0)
	m.Header = []Field{{"Subject", " our news"}, {"List-Unsubscribe", " <https://x.example/u>"}}
	m.Counted = true
	for range 20 {
		if d := c.Decide(m); d.Divert != nil {
			t.Fatalf("counted again: %+v", d)
		}
	}
	m.Counted = false
	for range 5 {
		c.Decide(m)
	}
	m.Counted = true
	if d := c.Decide(m); d.Divert != nil {
		t.Errorf("10 are not more than 10: %+v", d)
	}
	m.Counted = false
	c.Decide(m)
	m.Counted = true
	if d := c.Decide(m); d.Divert == nil {
		t.Errorf("what was counted before does not count: %+v", d)
	}
	// Ids that come twice, once from the inlet, are still those of recipients.
	for i := range 40 {
		m := newsletter()
		m.Recipients = m.Recipients[:1]
		m.Sender = "b@perrecipient.example"
		m.Header = []Field{{"List-Id", " <u" + strconv.Itoa(i) + ".x.perrecipient.example>"}, {"List-Unsubscribe", " <https://x.example/u>"}}
		c.Decide(m)
		m.Counted = true
		if d := c.Decide(m); i > 20 && d.Stream != "perrecipient.example" {
			t.Fatalf("stream %q", d.Stream)
		}
	}
}
