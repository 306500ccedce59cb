package e2e

import (
	"bytes"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/logbuf"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// strictAndFar is a receiver that knows none of its recipients, and one that
// takes all.
func strictAndFar() []sink.Provider {
	return []sink.Provider{
		{Name: "far", Domains: farDomains},
		{Name: "strict", Domains: []string{"strict.test"}, Behaviour: sink.Behaviour{
			PermShare: 1, Say: map[sink.Cause]string{sink.CausePerm: "550 5.1.1 No such user here"},
		}},
	}
}

// farAndHome are two receivers, one for a queue that hands back.
func farAndHome() []sink.Provider {
	return []sink.Provider{
		{Name: "far", Domains: []string{"far.test"}},
		{Name: "home", Domains: []string{"home.test"}},
	}
}

// What fails is reported to its sender, through the hand-back port, and the
// report is not diverted.
func TestBounceComesHome(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{keep: true, providers: strictAndFar()})
	qid := r.send("<news@lab.test> RET=HDRS ENVID=envelope-7", []string{
		"a@strict.test", "<b@strict.test> NOTIFY=NEVER", "c@far.test",
	}, news("bounced"))
	dsn := r.mailbox("news@lab.test", 1)[0]
	if dsn.From != "" {
		t.Errorf("the report's sender is %q", dsn.From)
	}
	r.reportSays(dsn.Content,
		"Content-Type: multipart/report; report-type=delivery-status", "Original-Envelope-Id: envelope-7",
		"Final-Recipient: rfc822; a@strict.test\n", "Action: failed\n", "Status: 5.1.1\n", "550 5.1.1 No such user here",
		"X-Lab-ID: bounced\n", "List-Id: News <news.lab.test>\n",
	)
	if bytes.Contains(dsn.Content, []byte("b@strict.test")) {
		t.Errorf("reported though NOTIFY=NEVER:\n%s", dsn.Content)
	}
	r.logLine(r.Millrace.Agent, "qid="+qid+" ", "to=<a@strict.test>", "status=bounced", "dsn=5.1.1")

	// A sender elsewhere gets the report by Postfix, which routes it.
	r.send("news@d1.example", []string{"x@strict.test"}, news("abroad"))
	report := func() (a arrival, n int) {
		for _, x := range r.all() {
			if x.recipient == "news@d1.example" {
				a = x
				n++
			}
		}
		return a, n
	}
	r.until("report to a sender elsewhere", func() bool { _, n := report(); return n > 0 })
	r.rest()
	if a, n := report(); n != 1 || a.ours() || a.sender != "" || !strings.Contains(a.content, "x@strict.test") {
		t.Errorf("%d reports; %+v", n, a)
	}
	if n := len(r.mailbox("news@lab.test", 1)); n != 1 {
		t.Errorf("%d reports in the mailbox", n)
	}
	if got := logbuf.Lines(read(t, r.Millrace.Milter.Log()), "verdict="); len(got) != 2 {
		t.Errorf("%d verdicts; the milter is to see two newsletters and no report:\n%s", len(got), strings.Join(got, "\n"))
	}
	r.hostLines(2, "postfix/handback/smtpd", "client=") // the reports, through the hand-back port
}

// Failures that no receiver spoke of are reported too: a domain that is not, one
// that wants no mail, and mail that grew too old.
func TestFailuresWithoutAReplyComeHome(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{
		providers: []sink.Provider{
			{Name: "silent", Domains: []string{"null.test"}, Behaviour: sink.Behaviour{DNS: sink.NullMX}},
			{Name: "never", Domains: []string{"never.test"}, Behaviour: sink.Behaviour{TempShare: 1}},
		},
		millrace: lab.MillraceOptions{Set: map[string]string{"general.retry": `["1s"]`, "general.expire": `"3s"`}},
	})
	for sender, x := range map[string]struct{ to, status string }{
		"nowhere@lab.test": {"a@nowhere.test", "Status: 5.1.2\n"},
		"null@lab.test":    {"a@null.test", "Status: 5.1.10\n"},
		"never@lab.test":   {"a@never.test", "Status: 4."}, // the last reply, RFC 3464 section 2.3.4
	} {
		r.send(sender, []string{x.to}, news(x.to))
		dsn := r.mailbox(sender, 1)[0]
		r.reportSays(dsn.Content, "Final-Recipient: rfc822; "+x.to+"\n", "Action: failed\n", x.status)
	}
	r.rest()
}

// A queue may give its mail back to the host: Postfix delivers it, unchanged.
func TestHandbackQueue(t *testing.T) {
	t.Parallel()
	for _, port := range []string{"without milter", "with milter"} {
		t.Run(port, func(t *testing.T) {
			t.Parallel()
			o := setup{
				providers: farAndHome(),
				millrace: lab.MillraceOptions{
					Extra: "[[queue]]\nname = \"home\"\ndomains = [\"home.test\"]\nroute = \"handback\"\n",
				},
			}
			if port == "with milter" {
				// An admin's mistake: our own mark keeps it from going round.
				relay := netip.MustParseAddrPort(freePort(t))
				o.postfix.SMTPPort = int(relay.Port())
				o.millrace.Set = map[string]string{"handback.relay": strconv.Quote(relay.String())}
			}
			r := enter(t, o)
			const n = 60
			r.farAndHome(r.Postfix.SMTPAddr(), n)
			verdicts := logbuf.Lines(read(t, r.Millrace.Milter.Log()), "verdict=delrcpt")
			if len(verdicts) != n {
				t.Errorf("%d messages diverted, want each of %d once", len(verdicts), n)
			}
			lines := logbuf.Lines(read(t, r.Millrace.Agent.Log()), "status=\"handed back\"")
			if home := r.count("home"); len(lines) != home || home == 0 {
				t.Errorf("%d recipients logged as handed back, %d arrived", len(lines), home)
			}
		})
	}
}

// farAndHome sends n messages to recipients of both and checks that all arrive,
// delivered by Millrace where it delivers and by the host where it gives back.
func (r *room) farAndHome(addr string, n int) {
	r.t.Helper()
	g := &inject.Generator{Seed: 5, Domains: []string{"far.test", "home.test"}, MaxSize: 50 << 10, MaxRecipients: 4, Shapes: inject.AllShapes}
	in := &inject.Injector{Addr: addr, Connections: 3}
	sent, err := in.Run(r.ctx, n, g.Message)
	if err != nil || sent.Messages != n {
		r.t.Fatalf("%+v %v", sent, err)
	}
	r.exact(sent.Ledger)
	for _, a := range r.all() {
		// Our trace is on top of what we delivered, and beneath the host's of what
		// it delivered.
		if a.ours() != (a.provider == "far") {
			r.t.Errorf("%s to %s was delivered by Millrace: %v", a.id, a.recipient, a.ours())
		}
	}
}

// count is the number of copies at a provider.
func (r *room) count(provider string) (n int) {
	for _, a := range r.all() {
		if a.provider == provider {
			n++
		}
	}
	return n
}
