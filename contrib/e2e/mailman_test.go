//go:build !race

// Mailman reads what the daemons send elsewhere with the race detector too, and is itself Python.

package e2e

import (
	"cmp"
	"path/filepath"
	"slices"
	"strconv"
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

// TestMailmanReadsWhatComesHome has the real list software at both ends. Mailman sends to a
// list, each recipient with a return path of its own (VERP); Postfix lets us divert that; one
// receiver does not know its recipient, and our report goes home by Postfix, to the return path
// that Mailman chose; another receiver's report comes back late, and is read in passing. Mailman
// reads both, and counts each against that member alone.
func TestMailmanReadsWhatComesHome(t *testing.T) {
	t.Parallel()
	const reader, late, gone = "reader@far.test", "late@far.test", "gone@strict.test"
	postfix, lmtp := hostsLists(t)
	file := filepath.Join(t.TempDir(), "events.jsonl")
	r := enter(t, setup{
		keep: true,
		providers: []sink.Provider{
			{Name: "far", Domains: []string{"far.test"}},
			{Name: "strict", Domains: []string{"strict.test"}, Behaviour: sink.Behaviour{
				PermShare: 1, Say: map[sink.Cause]string{sink.CausePerm: "550 5.1.1 No such user here"},
			}},
		},
		postfix: postfix,
		millrace: lab.MillraceOptions{Set: map[string]string{
			"feedback.read": "true", "suppression.mode": `"drop"`, "suppression.after": "1", "events.file": strconv.Quote(file),
		}},
	})
	list := r.mailing(lmtp, "", reader, late, gone)
	list.post()
	r.until("a copy at both", func() bool { return len(r.all()) == 2 })
	back := func(member string) string {
		return "news-bounces+" + strings.Replace(member, "@", "=", 1) + "@" + listDomain
	}
	for _, member := range []string{reader, late} {
		i := slices.IndexFunc(r.all(), func(a arrival) bool { return a.recipient == member })
		if i < 0 {
			t.Fatalf("no copy for %s", member)
		}
		if a := r.all()[i]; !a.ours() || a.sender != back(member) {
			t.Errorf("what arrived at %s was diverted: %v, with the return path %s", member, a.ours(), a.sender)
		}
	}

	r.logLine(r.Millrace.Agent, "to=<"+gone+">", "status=bounced", "dsn=5.1.1")
	r.until("Mailman counts the bounce", func() bool { return list.score(gone) == 1 })
	for _, member := range []string{reader, late} {
		if n := list.score(member); n != 0 {
			t.Errorf("%s, who has the mail, has a bounce score of %d", member, n)
		}
	}
	r.rest()
	home := r.hostLines(1, "postfix/lmtp", "to=<"+back(gone)+">", "status=sent")
	if len(home) != 1 {
		t.Errorf("%d reports came home to the return path: %s", len(home), strings.Join(home, "\n"))
	}

	copied := r.all()[slices.IndexFunc(r.all(), func(a arrival) bool { return a.recipient == late })]
	d := dialects(t)[slices.IndexFunc(dialects(t), func(d dialect) bool { return d.name == "exchange.eml" })]
	r.outsider().sends("<>", []string{"<" + copied.sender + ">"}, d.about(copied, late))
	r.until("Mailman counts the late bounce", func() bool { return list.score(late) == 1 })
	r.until("the event", func() bool { return len(r.cameBack(file)) == 1 })
	if e := r.cameBack(file)[0]; e.Event != "late_bounce" || e.Recipient != late || !*e.Counted || e.Stream != "news."+listDomain {
		t.Errorf("event %+v", e)
	}
	if n, m := list.score(reader), list.score(gone); n != 0 || m != 1 {
		t.Errorf("the reader has a bounce score of %d, and who was gone before %d", n, m)
	}
	stream := "news." + listDomain + " "
	if got := r.suppressed(); !slices.Equal(got, []string{stream + gone, stream + late}) {
		t.Errorf("suppressed: %v", got)
	}
	if n := len(r.all()); n != 2 {
		t.Errorf("%d copies arrived", n)
	}
}
