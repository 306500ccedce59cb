package e2e

import (
	"cmp"
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/sink"
	"github.com/millrace/millrace/contrib/lab/sockets"
)

// mailing is a list of a real Mailman at the host, with its members.
type mailing struct {
	*lab.Mailman
	r       *room
	address string
}

// listDomain is the list's.
const listDomain = "lists.lab.test"

// hostsLists is a Postfix that gives the list's mail to Mailman, and the address where
// Mailman is to take it.
func hostsLists(t *testing.T) (o lab.PostfixOptions, lmtp string) {
	t.Helper()
	port, lmtp, err := sockets.Reserve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { port.Close() })
	return lab.PostfixOptions{Extra: map[string]string{"relay_domains": listDomain, "relay_transport": "lmtp:inet:" + lmtp}}, lmtp
}

// mailing starts Mailman beside a Postfix that hosts lists, with one list. It sends by relay, and
// for "" by Postfix.
func (r *room) mailing(lmtp, relay string, members ...string) *mailing {
	r.t.Helper()
	mailman, err := lab.StartMailman(r.ctx, lab.MailmanOptions{Relay: cmp.Or(relay, r.Postfix.SMTPAddr()), LMTP: lmtp})
	if err != nil {
		r.t.Fatal(err)
	}
	r.Defer(mailman.Stop)
	r.t.Cleanup(func() {
		if r.t.Failed() {
			r.t.Logf("Mailman:\n%s", mailman.Log())
		}
	})
	m := &mailing{mailman, r, "news@" + listDomain}
	if err := mailman.AddList(r.ctx, m.address, members...); err != nil {
		r.t.Fatal(err)
	}
	return m
}

// post writes to the list.
func (m *mailing) post() {
	m.r.t.Helper()
	m.r.send("editor@lab.test", []string{m.address}, "X-Lab-ID: post\r\nFrom: Editor <editor@lab.test>\r\nTo: "+m.address+"\r\nSubject: News\r\n"+
		"Date: Mon, 23 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@lab.test>\r\n\r\nWhat is new.\r\n")
}

// score is what Mailman counts of bounces against a member. Its web server ends a worker
// that was busy for half a minute, with whoever asks; the next one answers.
func (m *mailing) score(member string) (score int) {
	m.r.t.Helper()
	m.r.until("an answer of Mailman", func() bool {
		x, err := m.Member(m.r.ctx, m.address, member)
		if err != nil {
			m.r.t.Log(err)
		}
		score = x.BounceScore
		return err == nil
	})
	return score
}

// TestMailmanProcessesTheBounceThatComesHome has the real list software at both
// ends. Mailman sends to a list, each recipient with a return path of its own
// (VERP); Postfix lets us divert that; one receiver knows its recipient, the other
// does not; our report goes home by Postfix, to the return path that Mailman chose,
// and Mailman reads it and counts it against that member alone.
func TestMailmanProcessesTheBounceThatComesHome(t *testing.T) {
	t.Parallel()
	postfix, lmtp := hostsLists(t)
	r := enter(t, setup{
		keep: true,
		providers: []sink.Provider{
			{Name: "far", Domains: []string{"far.test"}},
			{Name: "strict", Domains: []string{"strict.test"}, Behaviour: sink.Behaviour{
				PermShare: 1, Say: map[sink.Cause]string{sink.CausePerm: "550 5.1.1 No such user here"},
			}},
		},
		postfix: postfix,
	})
	list := r.mailing(lmtp, "", "reader@far.test", "gone@strict.test")
	list.post()
	r.until("a copy at the reader", func() bool { return len(r.all()) == 1 })
	if a := r.all()[0]; !a.ours() || a.recipient != "reader@far.test" || a.sender != "news-bounces+reader=far.test@"+listDomain {
		t.Errorf("what arrived was diverted: %v, to %s, with the return path %s", a.ours(), a.recipient, a.sender)
	}
	r.logLine(r.Millrace.Agent, "to=<gone@strict.test>", "status=bounced", "dsn=5.1.1")
	r.until("Mailman counts the bounce", func() bool { return list.score("gone@strict.test") == 1 })
	if n := list.score("reader@far.test"); n != 0 {
		t.Errorf("the reader, who has the mail, has a bounce score of %d", n)
	}
	r.rest()
	home := r.hostLines(1, "postfix/lmtp", "to=<news-bounces+gone=strict.test@"+listDomain+">", "status=sent")
	if len(home) != 1 {
		t.Errorf("%d reports came home to the return path: %s", len(home), strings.Join(home, "\n"))
	}
	if n := len(r.all()); n != 1 {
		t.Errorf("%d copies arrived", n)
	}
}
