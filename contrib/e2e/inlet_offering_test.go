//go:build !race

package e2e

import (
	"fmt"
	"maps"
	"net"
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/sink"
	"github.com/millrace/millrace/contrib/lab/sockets"
)

// withOffering is a room whose host has no milter and offers its bulk mail to the inlet.
func withOffering(t *testing.T, mta string, s setup) setup {
	t.Helper()
	var at [2]string // inlet, pass_to
	for i := range at {
		f, addr, err := sockets.Reserve("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		at[i] = addr
	}
	s.offering = &lab.OfferingOptions{MTA: mta, Inlet: at[0], Pass: at[1], Senders: []string{"news@lab.test"}}
	port := func(addr string) string {
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		return port
	}
	set := map[string]string{
		"inlet.listen":        `["inet:` + port(at[0]) + `@127.0.0.1"]`,
		"inlet.pass_to":       `"inet:` + port(at[1]) + `@127.0.0.1"`,
		"inlet.accept_bypass": `["not-postfix"]`,
	}
	maps.Copy(set, s.millrace.Set)
	s.millrace.Set = set
	return s
}

// TestEximAndOpenSMTPDOfferTheirBulk has Debian's real MTAs, with the lines that are shipped,
// hand bulk mail to the inlet and keep the rest. What the inlet does not take, what is handed
// back and what bounces comes back to them, and is not offered again.
func TestEximAndOpenSMTPDOfferTheirBulk(t *testing.T) {
	t.Parallel()
	for _, mta := range []string{"exim", "opensmtpd"} {
		t.Run(mta, func(t *testing.T) {
			t.Parallel()
			offersItsBulk(t, mta)
		})
	}
}

func offersItsBulk(t *testing.T, mta string) {
	r := enter(t, withOffering(t, mta, setup{
		keep: true,
		providers: []sink.Provider{
			{Name: "far", Domains: []string{"far.test", "back.test"}},
			{Name: "strict", Domains: []string{"strict.test"}, Behaviour: sink.Behaviour{
				PermShare: 1, Say: map[sink.Cause]string{sink.CausePerm: "550 5.1.1 No such user here"},
			}},
		},
		millrace: lab.MillraceOptions{Extra: "[[queue]]\nname = \"back\"\ndomains = [\"back.test\"]\nroute = \"handback\"\n"},
	}))
	probes := 0
	r.until("the inlet spools", func() bool {
		probes++
		r.deliver("news@lab.test", "probe@far.test", news("probe"))
		r.until("it arrives", func() bool { return len(r.copies("probe")) == probes })
		return r.copies("probe")[probes-1].ours()
	})
	r.rest()
	r.forget()
	// Bulk that names a list; a person's letter; mail that looks like bulk and is none, or a
	// letter of a sender whose mail is offered: Exim looks at the header, OpenSMTPD at the sender.
	letter := func(id, from string) string {
		return strings.NewReplacer("From: News <news@lab.test>", "From: "+from, "List-Id", "X-Other", "List-Unsubscribe", "X-More").Replace(news(id))
	}
	doubtful := letter("doubtful", "news@lab.test")
	if mta == "exim" {
		doubtful = strings.Replace(doubtful, "X-Other:", "Precedence:", 1)
	}
	r.deliver("news@lab.test", "a@far.test", news("bulk"))
	r.deliver("news@lab.test", "b@far.test user@lab.test", news("mixed"))
	r.deliver("ann@lab.test", "c@far.test", letter("person", "ann@lab.test"))
	r.deliver("news@lab.test", "d@far.test", doubtful)
	r.deliver("news@lab.test", "e@back.test", news("handback"))
	r.deliver("news@lab.test", "f@strict.test", news("bounce"))
	if err := r.Host.Sendmail(r.ctx, "news@lab.test", []string{"g@far.test"}, []byte(strings.ReplaceAll(news("command"), "\r\n", "\n"))); err != nil {
		t.Fatal(err)
	}
	r.mailbox("user@lab.test", 1)
	report := r.mailbox("news@lab.test", 1)[0]
	r.reportSays(report.Content, "f@strict.test", "550 5.1.1 No such user here", "X-Millrace-Bounce-Class: userunknown")
	r.exactly("bulk a@far.test ours", "mixed b@far.test ours", "person c@far.test postfix", "doubtful d@far.test postfix",
		"handback e@back.test postfix", "command g@far.test ours")
	for _, a := range r.all() {
		inlet, millrace := strings.Count(a.content, "(Millrace inlet)"), strings.Count(a.content, "(Millrace)")
		want := map[string]string{"person": "0 0", "doubtful": "1 0"}[a.id]
		if want == "" {
			want = "0 1"
		}
		if got := fmt.Sprint(inlet, " ", millrace); got != want {
			t.Errorf("%s went through the inlet's way to the host and through the spool %s times, not %s:\n%s", a.id, got, want, a.content)
		}
		if !strings.HasSuffix(a.content, "What is new.\r\n") {
			t.Errorf("%s: %q", a.id, a.content)
		}
	}

	// Without the inlet Exim sends by itself, and OpenSMTPD keeps it.
	r.stop(r.Millrace.Milter)
	r.deliver("news@lab.test", "h@far.test", news("alone"))
	if mta == "exim" {
		r.until("it has arrived", func() bool { return len(r.copies("alone")) > 0 })
		if a := r.copies("alone")[0]; a.ours() {
			t.Errorf("without the inlet it came with spool id %q", a.spool)
		}
		return
	}
	r.hostLines(1, "to=<h@far.test>", `result="TempFail"`)
	if n, err := r.Host.QueueLength(r.ctx); n != 1 || err != nil {
		t.Errorf("%d in the queue, %v", n, err)
	}
}

// deliver hands a message to the host by SMTP, for recipients with spaces between them.
func (r *room) deliver(from, to, content string) {
	r.t.Helper()
	c, err := lab.Dial(r.ctx, r.Host.SMTPAddr())
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Send(r.ctx, from, strings.Fields(to), []byte(content)); err != nil {
		r.t.Fatal(err)
	}
}
