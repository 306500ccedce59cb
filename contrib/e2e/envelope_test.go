package e2e

import (
	"strings"
	"testing"

	"github.com/emersion/go-milter"

	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/logbuf"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// Each recipient of a message gets it once, from the one who is to deliver it.
func TestMixedEnvelope(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{
		providers: []sink.Provider{
			{Name: "far", Domains: farDomains},
			// No MX record leads here, only the transport map.
			{Name: "private", Domains: []string{"explicit.test"}, Behaviour: sink.Behaviour{DNS: sink.NXDomain}},
		},
		postfix: lab.PostfixOptions{Extra: map[string]string{
			"virtual_alias_domains": "alias.test",
			"virtual_alias_maps":    "inline:{ remote@alias.test=aliased@far.example home@alias.test=aliased@lab.test }",
			"transport_maps":        "inline:{ explicit.test=smtp:[mx1.private.test]:25 }",
		}},
	})
	r.send("news@lab.test", []string{
		"local@lab.test", "a@far.test", "b@far.test", "c@far.example", "d@d1.example",
		"remote@alias.test", "home@alias.test", "x@explicit.test",
		"UPPER.Case@FAR.test", `"quoted local"@far.test`, `"needless"@far.test`,
		"twice@far.test", "twice@far.test", "local@lab.test",
	}, news("mixed"))

	r.mailbox("local@lab.test", 1)
	r.mailbox("aliased@lab.test", 1)
	r.exactly("mixed a@far.test ours", "mixed b@far.test ours", "mixed c@far.example ours", "mixed d@d1.example ours",
		"mixed aliased@far.example postfix", "mixed x@explicit.test postfix",
		"mixed UPPER.Case@far.test ours", `mixed "quoted local"@far.test postfix`, "mixed needless@far.test postfix",
		"mixed twice@far.test ours")
	for _, addr := range []string{"local@lab.test", "aliased@lab.test"} {
		if n := len(r.mailbox(addr, 1)); n != 1 {
			t.Errorf("%d copies in the mailbox of %s", n, addr)
		}
	}
}

// Mail of sendmail(1) is diverted whole or not at all, because the milter
// cannot see there what Postfix would do with each recipient.
func TestSendmailCommandAllOrNothing(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{postfix: lab.PostfixOptions{
		NonSMTPDMilter: lab.RelativeSocket,
		Extra:          map[string]string{"in_flow_delay": "0"},
	}})
	for _, x := range []struct {
		id    string
		to    []string
		ours  bool
		local int
	}{
		{"remote", []string{"a@far.test", "b@far.example"}, true, 0},
		{"mixed", []string{"c@far.test", "someone@lab.test"}, false, 1},
	} {
		if err := r.Postfix.Sendmail(r.ctx, "news@lab.test", x.to, []byte(news(x.id))); err != nil {
			t.Fatal(err)
		}
		r.until("all copies of "+x.id, func() bool { return len(r.copies(x.id)) >= len(x.to)-x.local })
		r.mailbox("someone@lab.test", x.local)
		r.rest()
		got := r.copies(x.id)
		if len(got) != len(x.to)-x.local {
			t.Errorf("%s: %d remote copies, want %d", x.id, len(got), len(x.to)-x.local)
		}
		for _, a := range got {
			if a.ours() != x.ours {
				t.Errorf("%s to %s: by Millrace %v, want %v", x.id, a.recipient, a.ours(), x.ours)
			}
		}
	}
	if n := len(r.mailbox("someone@lab.test", 1)); n != 1 {
		t.Errorf("%d local copies", n)
	}
}

// What Millrace could not honour stays with Postfix, which can.
func TestUnknownESMTPArgumentStays(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{postfix: lab.PostfixOptions{Extra: map[string]string{"smtpd_authorized_verp_clients": "$mynetworks"}}})
	qid := r.send("<news@lab.test> XVERP", []string{"reader@far.test"}, news("verp"))
	if line := r.verdict(qid); !strings.Contains(line, "verdict=leave") || !strings.Contains(line, "XVERP") {
		t.Errorf("verdict: %s", line)
	}
	r.until("the copy", func() bool { return len(r.copies("verp")) == 1 })
	if a := r.copies("verp")[0]; a.ours() || a.sender != "news+reader=far.test@lab.test" {
		t.Errorf("arrived from %s, by Millrace: %v", a.sender, a.ours())
	}
	// REQUIRETLS (RFC 8689) is new to Postfix: here go-milter's client plays one
	// that has it.
	p := r.playPostfix()
	if code := p.header("REQUIRED", "requiretls", "news@lab.test", "reader@far.test", "REQUIRETLS"); code != milter.ActAccept {
		t.Errorf("REQUIRETLS: end of header answered %c", code)
	}
	if line := r.verdict("REQUIRED"); !strings.Contains(line, "verdict=leave") || !strings.Contains(line, "REQUIRETLS") {
		t.Errorf("verdict: %s", line)
	}
}

// odd are senders that Postfix takes from its clients, and what it makes of them.
var odd = map[string]string{
	"twice":   "<<news@lab.test>>",
	"phrase":  "<Ann <news@lab.test>>",
	"blanks":  "< news@lab.test >",
	"comment": "<news@lab.test (x)>",
	"route":   "<@relay.test:news@lab.test>",
	"final":   "<news@lab.test.>",
	"dots":    "<n..ews@lab.test>",
	"quoted":  `<"ne ws"@lab.test>`,
	"escape":  "<\"\x1b[2J\"@lab.test>",
	"bidi":    "<news\u202e@lab.test>",
	"utf8":    "<jörg@lab.test>",
}

// Addresses that are not plain stay with Postfix, which mends them: a sender with all
// its mail, a recipient alone.
func TestAddressesThatAreNotPlainStay(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{})
	want := 0
	for id, from := range odd {
		qid := r.send(from, []string{"reader@far.test"}, news(id))
		if line := r.verdict(qid); !strings.Contains(line, "verdict=leave") || !strings.Contains(line, "sender is not a plain address") {
			t.Errorf("%s: verdict: %s", id, line)
		}
		want++
	}
	to := []string{"<<a@far.test>>", "<Bob <b@far.test>>", "< c@far.test >", "<d@far.test (x)>", "<e@far.test.>", "<f..f@far.test>", "<g@far.test>", "<jörg@far.test>"}
	qid := r.send("<news@lab.test>", to, news("recipients"))
	if line := r.verdict(qid); !strings.Contains(line, "diverted=1 ") {
		t.Errorf("verdict: %s", line)
	}
	r.until("all copies", func() bool { return len(r.all()) >= want+len(to) })
	r.rest()
	for _, a := range r.all() {
		if a.ours() != (a.recipient == "g@far.test") {
			t.Errorf("%s from %q to %q: by Millrace %v", a.id, a.sender, a.recipient, a.ours())
		}
	}
	if n := len(r.all()); n != want+len(to) {
		t.Errorf("%d copies, want %d", n, want+len(to))
	}
}

// What an older Millrace has diverted with such senders goes back to Postfix in the
// octets in which Postfix took it, and so does the report to such a sender.
func TestSpooledAddressesThatAreNotPlainGoBack(t *testing.T) {
	t.Parallel()
	var r *room
	s := setup{
		providers: []sink.Provider{
			{Name: "far", Domains: farDomains},
			{Name: "strict", Domains: []string{"strict.test"}, Behaviour: sink.Behaviour{PermShare: 1}},
		},
		beforeDaemons: func(in *room) { r = in },
	}
	s.furnish = func(m *lab.Millrace) {
		for id, from := range odd {
			r.put(m, letter{id: id, from: from[1 : len(from)-1], to: []spool.Recipient{{Address: "reader@far.test"}}, content: news(id)})
		}
		// Of this one the report is ours.
		r.put(m, letter{id: "gone", from: "Ann <news@lab.test>", to: []spool.Recipient{{Address: "x@gone.invalid"}}, content: news("gone")})
		r.put(m, letter{id: "unknown", from: "Ann <news@lab.test>", to: []spool.Recipient{{Address: "x@strict.test"}}, content: news("unknown")})
		r.put(m, letter{id: "rcpt", from: "news@lab.test", to: []spool.Recipient{{Address: "f..f@far.test"}}, content: news("rcpt")})
	}
	enter(t, s)
	r.until("all copies", func() bool { return len(r.all()) >= len(odd)+1 })
	r.mailbox("news@lab.test", 2)
	r.rest()
	for _, a := range r.all() {
		if a.ours() != (a.id == "utf8") || !strings.HasSuffix(a.sender, "@lab.test") {
			t.Errorf("%s came from %q, by Millrace %v", a.id, a.sender, a.ours())
		}
	}
	if n := len(r.all()); n != len(odd)+1 {
		t.Errorf("%d copies, want %d", n, len(odd)+1)
	}
	if lines := logbuf.Lines(read(t, r.Millrace.Agent.Log()), "status=stuck"); len(lines) > 0 {
		t.Errorf("stuck:\n%s", strings.Join(lines, "\n"))
	}
}

// Content that could not leave unchanged stays with Postfix, which changes it.
func TestContentThatCannotLeaveStays(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{})
	for id, x := range map[string]struct{ more, why string }{
		"nul":       {"a\x00b\r\n", "a NUL"},
		"long-line": {strings.Repeat("x", 999) + "\r\n", "a line of more than 998 octets"},
		"long-late": {strings.Repeat("line\r\n", 40_000) + strings.Repeat("x", 2000) + "\r\n", "a line of more than 998 octets"},
	} {
		qid := r.send("news@lab.test", []string{"reader@far.test"}, news(id)+x.more)
		if line := r.verdict(qid); !strings.Contains(line, "verdict=leave") || !strings.Contains(line, x.why) {
			t.Errorf("%s: verdict: %s", id, line)
		}
		r.until("the copy of "+id, func() bool { return len(r.copies(id)) > 0 })
	}
	// A line of 998 octets is the longest that leaves.
	r.send("news@lab.test", []string{"reader@far.test"}, news("longest")+strings.Repeat("x", 998)+"\r\n")
	r.until("the longest line", func() bool { return len(r.copies("longest")) > 0 })
	r.rest()
	for _, a := range r.all() {
		if a.ours() != (a.id == "longest") {
			t.Errorf("%s: by Millrace: %v", a.id, a.ours())
		}
	}
	if n := len(r.all()); n != 4 {
		t.Errorf("%d copies of 4 messages", n)
	}
}

// One grep for the host's queue id follows a message through Postfix, milter
// and agent; the spool id then finds what the agent did with it.
func TestOneGrepFollowsAMessage(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{
		providers: []sink.Provider{
			{Name: "far", Domains: farDomains},
			{Name: "busy", Domains: []string{"busy.test"}, Behaviour: sink.Behaviour{TempShare: 1, TempTimes: 1}},
		},
		millrace: lab.MillraceOptions{Set: map[string]string{"general.retry": `["1s"]`}},
	})
	qid := r.send("news@lab.test", []string{"a@far.test", "b@busy.test"}, news("followed"))
	r.until("both copies", func() bool { return len(r.copies("followed")) == 2 })

	r.hostLines(1, qid)
	line := r.verdict(qid)
	for _, want := range []string{"verdict=delrcpt", "from=news@lab.test", "nrcpt=2", "diverted=2", "stream=news.lab.test"} {
		if !strings.Contains(line, want) {
			t.Errorf("verdict without %s: %s", want, line)
		}
	}
	a := r.copies("followed")[0]
	if a.qid != qid || !strings.Contains(line, "id="+a.spool) {
		t.Errorf("our trace names %s and %s, the verdict is: %s", a.qid, a.spool, line)
	}
	for _, words := range [][]string{
		{"to=<a@far.test>", "status=sent", "dsn=2.", "relay=mx1.far.test["},
		{"to=<b@busy.test>", "status=deferred", "dsn=4."},
		{"to=<b@busy.test>", "status=sent"},
	} {
		r.logLine(r.Millrace.Agent, append(words, "qid="+qid+" ", "id="+a.spool+" ")...)
	}
	if got := logbuf.Lines(read(t, r.Millrace.Milter.Log()), "qid="+qid+" "); len(got) != 1 {
		t.Errorf("%d lines for one verdict:\n%s", len(got), strings.Join(got, "\n"))
	}
	if got := logbuf.Lines(read(t, r.Millrace.Agent.Log()), "qid="+qid+" "); len(got) != 3 {
		t.Errorf("%d lines for 3 attempts:\n%s", len(got), strings.Join(got, "\n"))
	}
}
