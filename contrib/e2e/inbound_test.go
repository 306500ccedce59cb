package e2e

import (
	"maps"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/ledger"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// bulk is a newsletter with every sign of bulk there is.
func bulk(id string) string {
	return ledger.IDHeader + ": " + id + "\r\n" +
		"From: News <news@lab.test>\r\nTo: Readers <readers@lab.test>\r\nSubject: " + id + "\r\n" +
		"Date: Mon, 23 Nov 2026 12:00:00 +0000\r\nMessage-ID: <" + id + "@lab.test>\r\n" +
		"List-Id: News <news.lab.test>\r\nList-Unsubscribe: <https://lab.test/u>\r\n" +
		"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nFeedback-ID: 1:news:lab\r\nPrecedence: list\r\n" +
		"X-CSA-Complaints: complaints@lab.test\r\nX-BeenThere: news@lab.test\r\nX-Mailman-Version: 2.1.39\r\n" +
		"X-Millrace: divert\r\n\r\nWhat is new.\r\n"
}

// host is a Postfix of every trade: MX of lab.test and local.test, MX before
// others of relay.test, backup MX of backup.test, with virtual and local
// aliases and explicit next hops, and a submission service of its own.
type host struct {
	*room
	outside    netip.Addr
	submission string
}

// everyTrade opens the room. Rooms are open side by side: addr is a loopback
// address of this one.
func everyTrade(t *testing.T, addr string, extra map[string]string, o lab.MillraceOptions) *host {
	t.Helper()
	outside, err := lab.Outside()
	if err != nil {
		t.Fatal(err)
	}
	mx := netip.MustParseAddr(addr).Next()
	params := saslServer(t)
	maps.Copy(params, map[string]string{
		"mydestination":            "local.test",
		"alias_maps":               "inline:{ friends=member@far.test }",
		"relay_domains":            "relay.test",
		"virtual_alias_domains":    "alias.test",
		"virtual_alias_maps":       "inline:{ remote@alias.test=aliased@far.test moved@lab.test=moved@far.test }",
		"transport_maps":           "inline:{ explicit.test=smtp:[mx1.private.test]:25 listed.test=smtp:[mx1.private.test]:25 detour.test=smtp:inner.test }",
		"proxy_interfaces":         mx.String(),
		"smtpd_sasl_auth_enable":   "yes",
		"smtpd_relay_restrictions": "permit_mynetworks permit_sasl_authenticated permit_mx_backup reject_unauth_destination",
		"local_recipient_maps":     "",
	})
	maps.Copy(params, extra)
	h := &host{outside: outside, submission: addr + ":587"}
	h.room = enter(t, setup{
		providers: []sink.Provider{
			{Name: "far", Domains: []string{"far.test", "far.example"}},
			{Name: "inner", Domains: []string{"relay.test", "inner.test", "detour.test"}},
			// No MX record leads to these, only the transport map.
			{Name: "private", Domains: []string{"explicit.test", "listed.test"}, Behaviour: sink.Behaviour{DNS: sink.NXDomain}},
			{Name: "smart", Domains: []string{"nowhere.test", "f*.test", "f*.example"}, Behaviour: sink.Behaviour{DNS: sink.NXDomain}},
			// Its second MX is this host, by name and by address.
			{Name: "backup", Domains: []string{"backup.test"}, Host: []sink.Host{{Name: lab.Hostname, Addr: mx, Preference: 20}}},
		},
		postfix: lab.PostfixOptions{
			NonSMTPDMilter: lab.RelativeSocket,
			Extra:          params,
			Master: []string{
				h.submission + " inet n - n - - smtpd",
				"  -o syslog_name=postfix/submission",
				"  -o smtpd_relay_restrictions=permit_sasl_authenticated,reject",
				"  -o milter_macro_daemon_name=ORIGINATING",
			},
		},
		millrace: o,
	})
	return h
}

// port25 connects from outside to the port of an MX.
func (h *host) port25() *peer {
	h.t.Helper()
	p := h.call(h.outside, h.Postfix.SMTPAddr())
	p.says("250", "EHLO elsewhere.test")
	return p
}

// submits connects from outside to the submission service as a user.
func (h *host) submits(user string) *peer {
	h.t.Helper()
	p := h.call(h.outside, h.submission)
	p.says("250 235", "EHLO app.test", plain(user))
	return p
}

// logged checks the milter's one line about a message.
func (h *host) logged(qid string, texts ...string) {
	h.t.Helper()
	line := h.verdict(qid)
	for _, text := range texts {
		if !strings.Contains(line, text) {
			h.t.Errorf("the line has no %q: %s", text, line)
		}
	}
}

// What comes from outside is not ours, whatever it says of itself and wherever
// the host is to send it; the same message of an authenticated user is, for the
// recipients that the host would send to their own domain.
func TestInboundIsNotOurs(t *testing.T) {
	t.Parallel()
	h := everyTrade(t, "127.77.0.1", nil, lab.MillraceOptions{
		Set:   map[string]string{"milter.host_domains": `["lab.test", "*.lab.test", "local.test", "alias.test", "relay.test", "listed.test"]`},
		Extra: "[[milter.rule]]\nname = \"of joe\"\naction = \"divert\"\nauth_user = [\"joe\"]\n",
	})
	const not = "reason=\"not in scope\""

	mx := h.port25()
	for _, x := range []struct{ id, to string }{
		{"to-mailbox", "<user@lab.test>"}, {"to-moved", "<moved@lab.test>"}, {"to-alias", "<remote@alias.test>"},
		{"to-local-alias", "<friends@local.test>"}, {"to-relay", "<u@relay.test>"}, {"to-backup", "<u@backup.test>"},
	} {
		h.logged(mx.sends("<list@elsewhere.test>", []string{x.to}, bulk(x.id)), "verdict=leave", not)
	}
	// Elsewhere the host relays nothing of a stranger.
	mx.says("250 554 250 250 354", "MAIL FROM:<list@elsewhere.test>",
		"RCPT TO:<a@far.test>", "RCPT TO:<all@relay.test>", "RCPT TO:<all@backup.test>", "DATA")
	h.logged(lab.QueueID(mx.says("250", bulk("to-all")+".")), "verdict=leave", "nrcpt=2", not)
	mx.quits()

	joe := h.submits("joe")
	h.logged(joe.sends("<news@lab.test>", []string{
		"<a@far.test>", "<b@far.example>", "<home@lab.test>", "<moved@lab.test>", "<remote@alias.test>", "<friends@local.test>",
		"<u@relay.test>", "<u@backup.test>", "<u@explicit.test>", "<u@detour.test>",
	}, bulk("by-joe")), "verdict=delrcpt", "nrcpt=10", "diverted=3", `rule="of joe"`)
	// A user of whom no rule speaks, by the built-in one.
	joe.quits()
	ann := h.submits("ann")
	h.logged(ann.sends("<news@lab.test>", []string{"<c@far.test>"}, bulk("by-ann")), "verdict=delrcpt", "rule=builtin")
	h.logged(ann.sends("<news@lab.test>", []string{"<u@relay.test>", "<u@explicit.test>"}, bulk("by-ann-inner")),
		"verdict=leave", `reason="no remote recipient"`)
	ann.quits()
	stranger := h.call(h.outside, h.submission)
	stranger.says("250 535 250 554", "EHLO app.test", "AUTH PLAIN AGpvZQB3cm9uZw==", "MAIL FROM:<news@lab.test>", "RCPT TO:<d@far.test>")
	stranger.quits()

	h.commands(
		command{"cmd-remote", []string{"e@far.test", "f@far.example"}, true},
		command{"cmd-alias", []string{"g@far.test", "remote@alias.test"}, false},
		command{"cmd-relay", []string{"h@far.test", "u@relay.test"}, false},
		command{"cmd-explicit", []string{"u@listed.test"}, false},
		command{"cmd-moved", []string{"moved@lab.test"}, false},
	)
	h.mailbox("user@lab.test", 1)
	h.mailbox("home@lab.test", 1)
	h.exactly(
		"to-moved moved@far.test postfix", "to-alias aliased@far.test postfix", "to-local-alias member@far.test postfix",
		"to-relay u@relay.test postfix", "to-backup u@backup.test postfix",
		"to-all all@relay.test postfix", "to-all all@backup.test postfix",

		"by-joe a@far.test ours", "by-joe b@far.example ours", "by-joe u@backup.test ours",
		"by-joe moved@far.test postfix", "by-joe aliased@far.test postfix", "by-joe member@far.test postfix",
		"by-joe u@relay.test postfix", "by-joe u@explicit.test postfix", "by-joe u@detour.test postfix",
		"by-ann c@far.test ours", "by-ann-inner u@relay.test postfix", "by-ann-inner u@explicit.test postfix",

		"cmd-remote e@far.test ours", "cmd-remote f@far.example ours",
		"cmd-alias g@far.test postfix", "cmd-alias aliased@far.test postfix",
		"cmd-relay h@far.test postfix", "cmd-relay u@relay.test postfix",
		"cmd-explicit u@listed.test postfix", "cmd-moved moved@far.test postfix",
	)
	for _, user := range []string{"user@lab.test", "home@lab.test"} {
		if n := len(h.mailbox(user, 1)); n != 1 {
			t.Errorf("%d copies in the mailbox of %s", n, user)
		}
	}
	h.arrivedAt("u@explicit.test", "private")
	h.arrivedAt("u@detour.test", "inner")
}

// command is a message for sendmail(1).
type command struct {
	id   string
	to   []string
	ours bool
}

// commands hands messages to sendmail(1) and checks what the milter says of each.
func (h *host) commands(messages ...command) {
	h.t.Helper()
	for _, x := range messages {
		from := x.id + "@lab.test"
		if err := h.Postfix.Sendmail(h.ctx, from, x.to, []byte(bulk(x.id))); err != nil {
			h.t.Fatal(err)
		}
		want := "verdict=leave"
		if x.ours {
			want = "verdict=discard"
		}
		if line := h.logLine(h.Millrace.Milter, "verdict", "from="+from); !strings.Contains(line, want) {
			h.t.Errorf("%s: %s, want %s", x.id, line, want)
		}
	}
}

// A smarthost's client sends nothing itself, nor do we for it, unless the admin
// has named the next hop as one that means the internet.
func TestSmarthostClientKeepsItsMail(t *testing.T) {
	t.Parallel()
	h := everyTrade(t, "127.77.1.1", map[string]string{"relayhost": "[mx1.smart.test]:25"}, lab.MillraceOptions{
		Set: map[string]string{"milter.host_domains": "[]"}, // no domain is known to be remote
	})
	joe := h.submits("joe")
	h.logged(joe.sends("<news@lab.test>", []string{"<a@far.test>", "<b@far.example>", "<u@explicit.test>"}, bulk("smart")),
		"verdict=leave", `reason="no remote recipient"`)
	app := h.local()
	app.says("250", "EHLO app.test")
	h.logged(app.sends("<news@lab.test>", []string{"<c@far.test>"}, bulk("smart-local")), "verdict=leave", `reason="no remote recipient"`)
	h.commands(command{"smart-cmd", []string{"d@far.test"}, false})
	// Mail that still waits goes by the new one.
	h.until("all have left by the smarthost", func() bool { return len(h.all()) == 5 })
	// relayhost in another form, which still is not the recipient's domain.
	if err := h.Postfix.Set(h.ctx, "relayhost", "far.example"); err != nil {
		t.Fatal(err)
	}
	joe.quits()
	app.quits()
	h.restartPostfix()
	joe = h.submits("joe")
	h.logged(joe.sends("<news@lab.test>", []string{"<e@far.test>"}, bulk("by-mx")), "verdict=leave", `reason="no remote recipient"`)
	joe.quits()
	h.exactly("smart a@far.test postfix", "smart b@far.example postfix", "smart u@explicit.test postfix",
		"smart-local c@far.test postfix", "smart-cmd d@far.test postfix", "by-mx e@far.test postfix")
	h.arrivedAt("u@explicit.test", "private")
	h.arrivedAt("e@far.test", "far")
	for _, addr := range []string{"a@far.test", "b@far.example", "c@far.test", "d@far.test"} {
		h.arrivedAt(addr, "smart")
	}
}

// arrivedAt checks at which provider each copy for a recipient arrived.
func (h *host) arrivedAt(recipient, provider string) {
	h.t.Helper()
	for _, a := range h.all() {
		if a.recipient == recipient && a.provider != provider {
			h.t.Errorf("%s to %s arrived at %s, want %s", a.id, a.recipient, a.provider, provider)
		}
	}
}

// A scope of one service: what Postfix calls ORIGINATING, and nothing else.
func TestScopeOfOneService(t *testing.T) {
	t.Parallel()
	h := everyTrade(t, "127.77.2.1", nil, lab.MillraceOptions{
		Set: map[string]string{"milter.scope": `["daemon:ORIGINATING"]`},
	})
	joe := h.submits("joe")
	h.logged(joe.sends("<news@lab.test>", []string{"<a@far.test>"}, bulk("originating")), "verdict=delrcpt")
	joe.quits()
	mx := h.port25()
	mx.says("235", plain("joe"))
	h.logged(mx.sends("<news@lab.test>", []string{"<b@far.test>"}, bulk("authenticated")), "verdict=leave", `reason="not in scope"`)
	mx.quits()
	app := h.local()
	app.says("250", "EHLO app.test")
	h.logged(app.sends("<news@lab.test>", []string{"<c@far.test>"}, bulk("loopback")), "verdict=leave", `reason="not in scope"`)
	app.quits()
	h.exactly("originating a@far.test ours", "authenticated b@far.test postfix", "loopback c@far.test postfix")
}

// restartPostfix has all of Postfix go by its configuration. After a reload a process that
// is there may take one more message by what it has read; no client may have a session.
func (r *room) restartPostfix() {
	r.t.Helper()
	if err := r.Postfix.Halt(); err != nil {
		r.t.Fatal(err)
	}
	if err := r.Postfix.Start(r.ctx); err != nil {
		r.t.Fatal(err)
	}
}

// reloadPostfix makes Postfix read its configuration and waits until it has begun to.
func (r *room) reloadPostfix() {
	r.t.Helper()
	count := func() int {
		b, err := os.ReadFile(r.Postfix.Log())
		if err != nil {
			r.t.Fatal(err)
		}
		return strings.Count(string(b), "reload -- version")
	}
	before := count()
	if err := r.Postfix.Reload(r.ctx); err != nil {
		r.t.Fatal(err)
	}
	r.until("Postfix has reloaded", func() bool { return count() > before })
}
