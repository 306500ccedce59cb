package e2e

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// TestMailmanProcessesTheBounceThatComesHome has the real list software at both
// ends. Mailman sends to a list, each recipient with a return path of its own
// (VERP); Postfix lets us divert that; one receiver knows its recipient, the other
// does not; our report goes home by Postfix, to the return path that Mailman chose,
// and Mailman reads it and counts it against that member alone.
func TestMailmanProcessesTheBounceThatComesHome(t *testing.T) {
	t.Parallel()
	const (
		domain = "lists.lab.test"
		list   = "news@" + domain
		lmtp   = "127.0.0.1:8024"
	)
	r := enter(t, setup{
		keep: true,
		providers: []sink.Provider{
			{Name: "far", Domains: []string{"far.test"}},
			{Name: "strict", Domains: []string{"strict.test"}, Behaviour: sink.Behaviour{
				PermShare: 1, Say: map[sink.Cause]string{sink.CausePerm: "550 5.1.1 No such user here"},
			}},
		},
		postfix: lab.PostfixOptions{Extra: map[string]string{
			"relay_domains": domain, "relay_transport": "lmtp:inet:" + lmtp,
		}},
	})
	mailman, err := lab.StartMailman(r.ctx, lab.MailmanOptions{Relay: r.Postfix.SMTPAddr(), LMTP: lmtp})
	if err != nil {
		t.Fatal(err)
	}
	r.Defer(mailman.Stop)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Mailman:\n%s", mailman.Log())
		}
	})
	if err := mailman.AddList(r.ctx, list, "reader@far.test", "gone@strict.test"); err != nil {
		t.Fatal(err)
	}
	score := func(member string) int {
		m, err := mailman.Member(r.ctx, list, member)
		if err != nil {
			t.Fatal(err)
		}
		return m.BounceScore
	}

	r.send("editor@lab.test", []string{list}, "From: Editor <editor@lab.test>\r\nTo: "+list+"\r\nSubject: News\r\n"+
		"Date: Mon, 23 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@lab.test>\r\n\r\nWhat is new.\r\n")
	r.until("a copy at the reader", func() bool { return len(r.all()) == 1 })
	if a := r.all()[0]; !a.ours() || a.recipient != "reader@far.test" || a.sender != "news-bounces+reader=far.test@"+domain {
		t.Errorf("what arrived was diverted: %v, to %s, with the return path %s", a.ours(), a.recipient, a.sender)
	}
	r.logLine(r.Millrace.Agent, "to=<gone@strict.test>", "status=bounced", "dsn=5.1.1")
	r.until("Mailman counts the bounce", func() bool { return score("gone@strict.test") == 1 })
	if n := score("reader@far.test"); n != 0 {
		t.Errorf("the reader, who has the mail, has a bounce score of %d", n)
	}
	r.rest()
	home := r.hostLines(1, "postfix/lmtp", "to=<news-bounces+gone=strict.test@"+domain+">", "status=sent")
	if len(home) != 1 {
		t.Errorf("%d reports came home to the return path: %s", len(home), strings.Join(home, "\n"))
	}
	if n := len(r.all()); n != 1 {
		t.Errorf("%d copies arrived", n)
	}
}
