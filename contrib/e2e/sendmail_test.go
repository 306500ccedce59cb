//go:build !race

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// What leaves is what the client sent, when the host is a Sendmail, by either
// verdict. Sendmail takes it well that all recipients of a message are deleted.
func TestSendmailEveryByteArrives(t *testing.T) {
	t.Parallel()
	for _, verdict := range []string{"discard", "delrcpt"} {
		t.Run(verdict, func(t *testing.T) {
			t.Parallel()
			set := map[string]string{}
			if verdict != "discard" { // which is what auto chooses
				set["milter.verdict"] = `"` + verdict + `"`
			}
			r := enter(t, setup{sendmail: &lab.SendmailOptions{}, millrace: lab.MillraceOptions{Set: set}})
			const n = 60
			g := &inject.Generator{Seed: 3, Domains: farDomains[:2], MinSize: 1 << 10, MaxSize: 1 << 20, MaxRecipients: 20, Shapes: inject.AllShapes}
			in := &inject.Injector{Addr: r.Host.SMTPAddr(), Connections: 2, PerConnection: 7}
			sent, err := in.Run(r.ctx, n, g.Message)
			if err != nil || sent.Messages != n {
				t.Fatalf("Sendmail took %d of %d messages: %v %v", sent.Messages, n, sent.Err, err)
			}
			r.exact(sent.Ledger)
			for _, a := range r.all() {
				if !a.ours() {
					t.Errorf("%s to %s went by Sendmail", a.id, a.recipient)
				}
			}
			got := r.verdicts(n, "verdict="+verdict+" ")
			if len(got) != n {
				t.Errorf("%d verdicts %s", len(got), verdict)
			}
			// One grep for the queue id finds what Sendmail says of it.
			said := map[string]string{"discard": "discarded", "delrcpt": "Milter (millrace) delete: rcpt <"}[verdict]
			for _, line := range got {
				r.hostLines(1, field(line, "qid")+": ", said)
			}
			for _, addr := range []string{"root@lab.test", "postmaster@lab.test"} {
				if n := len(r.mailbox(addr, 0)); n > 0 {
					t.Errorf("Sendmail sent %d notices to %s", n, addr)
				}
			}
		})
	}
}

// Each recipient gets the message once, from the one who is to deliver it: local
// users, aliases and domains with an explicit way are Sendmail's, and so is a
// domain that it relays for, once host_domains names it: Sendmail shows it as any
// other.
func TestSendmailMixedEnvelope(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{
		providers: []sink.Provider{
			{Name: "far", Domains: append([]string{"relayed.test", "xn--nhn-sna.test"}, farDomains...)},
			// No MX record leads here, only the mailertable.
			{Name: "private", Domains: []string{"explicit.test"}, Behaviour: sink.Behaviour{DNS: sink.NXDomain}},
		},
		sendmail: &lab.SendmailOptions{
			Lines: "FEATURE(`mailertable', `hash -o /etc/mail/mailertable')dnl\nFEATURE(`virtusertable', `hash -o /etc/mail/virtusertable')dnl\n",
			Files: map[string]string{
				"aliases":       "alias: aliased@far.example\n",
				"relay-domains": "relayed.test\n",
				"mailertable":   "explicit.test\tesmtp:[mx1.private.test]\n",
				"virtusertable": "mapped@lab.test\tmapped@far.example\n",
			},
		},
		millrace: lab.MillraceOptions{Set: map[string]string{"milter.host_domains": `["lab.test", "relayed.test"]`}},
	})
	r.send("news@lab.test", []string{
		"local@lab.test", "alias@lab.test", "mapped@lab.test", "a@far.test", "b@far.test", "c@far.example", "d@d1.example",
		"x@explicit.test", "y@relayed.test",
		"UPPER.Case@FAR.test", `"quoted local"@far.test`, `"needless"@far.test`,
		"twice@far.test", "twice@far.test", "Twice@far.test",
	}, news("mixed"))
	want := []string{
		"far a@far.test ours", "far b@far.test ours", "far c@far.example ours", "far d@d1.example ours",
		"far aliased@far.example host", "far mapped@far.example host", "private x@explicit.test host",
		"far UPPER.Case@far.test ours", `far "quoted local"@far.test host`, `far "needless"@far.test host`,
		"far twice@far.test ours", "far y@relayed.test host",
	}
	r.mailbox("local@lab.test", 1)
	r.until("all remote copies", func() bool { return len(r.all()) >= len(want) })
	r.rest()
	var got []string
	for _, a := range r.all() {
		way := "host"
		if a.ours() {
			way = "ours"
		}
		local, domain, _ := cutLast(a.recipient, "@")
		got = append(got, fmt.Sprintf("%s %s@%s %s", a.provider, local, strings.ToLower(domain), way))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("arrived\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// A smarthost is an explicit way for everything.
func TestSendmailSmartHostKeepsItsMail(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{
		providers: []sink.Provider{
			// No MX record leads here, only the smarthost.
			{Name: "far", Domains: farDomains, Behaviour: sink.Behaviour{DNS: sink.NXDomain}},
		},
		sendmail: &lab.SendmailOptions{Lines: "define(`SMART_HOST', `esmtp:[mx1.far.test]')dnl\n"},
	})
	qid := r.send("news@lab.test", []string{"a@far.test"}, news("smart"))
	if line := r.verdict(qid); !strings.Contains(line, "verdict=leave") || !strings.Contains(line, "no remote recipient") {
		t.Errorf("verdict: %s", line)
	}
	r.until("the copy", func() bool { return len(r.copies("smart")) > 0 })
	if r.copies("smart")[0].ours() {
		t.Error("arrived by Millrace")
	}
}

// Mail of sendmail(8) comes to the daemon by SMTP, and is diverted as any other.
func TestSendmailSubmission(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{keep: true, sendmail: &lab.SendmailOptions{}})
	to := []string{"a@far.test", "b@far.example", "home@lab.test"}
	content := strings.ReplaceAll(news("submitted"), "\r\n", "\n")
	if err := r.Host.Sendmail(r.ctx, "news@lab.test", to, []byte(content)); err != nil {
		t.Fatal(err)
	}
	r.until("the remote copies", func() bool { return len(r.copies("submitted")) >= 2 })
	r.mailbox("home@lab.test", 1)
	r.rest()
	for _, a := range r.copies("submitted") {
		if !a.ours() || a.sender != "news@lab.test" {
			t.Errorf("%s from %s: by Millrace %v", a.recipient, a.sender, a.ours())
		}
		// Our own, and that of the submission, which came from it.
		if n := strings.Count(a.content, "Received: "); n != 2 {
			t.Errorf("%d Received fields:\n%s", n, a.content)
		}
	}
	if n, m := len(r.copies("submitted")), len(r.mailbox("home@lab.test", 1)); n != 2 || m != 1 {
		t.Errorf("%d remote copies and %d local ones", n, m)
	}
}

// Sendmail adds fields when it sends, so that no filter sees them. Millrace adds
// Message-ID and Date in its place; mail that Sendmail would add other fields to,
// which only it knows how to write, is Sendmail's.
func TestSendmailMissingFieldsAreAdded(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{keep: true, sendmail: &lab.SendmailOptions{}})
	for id, x := range map[string]struct {
		missing string
		more    string
		ours    bool
	}{
		"complete": {"", "", true},
		"no-id":    {"Message-ID", "", true},
		"no-date":  {"Date", "", true},
		"neither":  {"Message-ID Date To Subject", "", true},
		"no-from":  {"From", "", false},
		"resent":   {"Date", "Resent-From: a@lab.test\r\n", false},
	} {
		content := x.more + news(id)
		for name := range strings.FieldsSeq(x.missing) {
			i := strings.Index(content, name+": ")
			content = content[:i] + content[i+strings.Index(content[i:], "\r\n")+2:]
		}
		r.send("news@lab.test", []string{"bulk@far.test"}, content)
		r.send("news@lab.test", []string{"person@far.test"}, strings.ReplaceAll(content, "List-", "Mist-"))
		r.until("both copies of "+id, func() bool { return len(r.copies(id)) == 2 })
		got := map[string]string{}
		for _, a := range r.copies(id) {
			head, _, _ := strings.Cut(a.content, "\r\n\r\n")
			var names []string
			for line := range strings.SplitSeq(head, "\r\n") {
				if name, _, ok := strings.Cut(line, ":"); ok && line[0] != ' ' && line[0] != '\t' {
					names = append(names, strings.ReplaceAll(strings.ToLower(name), "mist-", "list-"))
				}
			}
			slices.Sort(names)
			got[a.recipient] = strings.Join(names, " ")
			if ours := x.ours && a.recipient == "bulk@far.test"; a.ours() != ours {
				t.Errorf("%s to %s: by Millrace %v", id, a.recipient, a.ours())
			}
		}
		if got["bulk@far.test"] != got["person@far.test"] {
			t.Errorf("%s: fields of what Millrace sent\n  %s\nand of what Sendmail sent\n  %s", id, got["bulk@far.test"], got["person@far.test"])
		}
	}
}

// Sendmail takes the value of Bcc off when it sends, so that no filter sees that. What
// Millrace sends is the same, octet for octet but for what each hop writes itself, and a
// signature that does not cover Bcc holds.
func TestSendmailStripsBcc(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{keep: true, sendmail: &lab.SendmailOptions{}})
	for id, fields := range map[string]string{
		"none":   "",
		"plain":  "Bcc: secret@lab.test\r\n",
		"folded": "BCC: Secret\r\n\t<secret@lab.test>,\r\n other@lab.test\r\n",
		"twice":  "bcc: secret@lab.test\r\nX-Between: kept  \r\nBcc:secret@lab.test\r\n",
		"empty":  "Bcc:\r\n",
		"alone":  "X-Before: x\r\nBcc: secret@lab.test\r\nX-Empty:\r\nbCC: secret@lab.test,\r\n\tother@lab.test\r\n",
		"copied": "Bcc: secret@lab.test\r\ncC: copy@lab.test\r\n",
		"old":    "Bcc: secret@lab.test\r\nApparently-To: <news@lab.test>\r\n",
		"void":   "Bcc: secret@lab.test\r\nTo:\r\n",
		"kin":    "X-Bcc: kept@lab.test\r\nBcc-Log: kept@lab.test\r\nCc: kept@lab.test\r\n",
		"resent": "Resent-From: a@lab.test\r\nResent-Date: Mon, 23 Nov 2026 12:00:00 +0000\r\nResent-Message-ID: <r@lab.test>\r\nResent-Bcc: secret@lab.test\r\n",
	} {
		content := fields + news(id)
		if id == "alone" || id == "copied" || id == "old" || id == "void" { // no other field that names a recipient, or just one
			content = strings.ReplaceAll(content, "To: Readers <readers@lab.test>\r\n", "")
		}
		r.send("news@lab.test", []string{"bulk@far.test"}, content)
		r.send("news@lab.test", []string{"person@far.test"}, strings.ReplaceAll(content, "List-", "Mist-"))
		r.until("both copies of "+id, func() bool { return len(r.copies(id)) == 2 })
		got := map[string]string{}
		for _, a := range r.copies(id) {
			if ours := id != "resent" && a.recipient == "bulk@far.test"; a.ours() != ours {
				t.Errorf("%s to %s: by Millrace %v", id, a.recipient, a.ours())
			}
			if strings.Contains(strings.ToLower(a.content), "secret") || strings.Contains(a.content, "other@") {
				t.Errorf("%s shows who else got it:\n%s", id, a.content)
			}
			for strings.HasPrefix(a.content, "Received:") { // each hop's own
				end := strings.Index(a.content, "\r\n")
				for a.content[end+2] == '\t' || a.content[end+2] == ' ' {
					end += 2 + strings.Index(a.content[end+2:], "\r\n")
				}
				a.content = a.content[end+2:]
			}
			got[a.recipient] = strings.ReplaceAll(a.content, "Mist-", "List-")
		}
		if got["bulk@far.test"] != got["person@far.test"] {
			t.Errorf("%s: Millrace sent\n%q\nand Sendmail\n%q", id, got["bulk@far.test"], got["person@far.test"])
		}
	}
}
