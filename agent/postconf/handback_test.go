package postconf

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/config"
	snippets "github.com/millrace/millrace/contrib/postfix"
)

// TestUndoTakesOutTheHandbackServiceOfEitherForm: what set-ups before the socket wrote,
// and what they write now, whatever the relay is by the time.
func TestUndoTakesOutTheHandbackServiceOfEitherForm(t *testing.T) {
	t.Parallel()
	const main = "compatibility_level = 3.6\nqueue_directory = /var/spool/postfix\n"
	const before, after = "# the admin's\nsmtp inet n - y - - smtpd\ncleanup unix n - y - 0 cleanup\n", "# more of the admin's\nsmtp unix - - y - - smtp\n"
	relays := []string{"127.0.0.1:10626", "unix:/var/spool/postfix/public/millrace"}
	for _, written := range relays {
		for _, now := range relays {
			service, err := snippets.Handback(written)
			if err != nil {
				t.Fatal(err)
			}
			dir := instance(t, main, before+beginMark+service+endMark+after)
			c := &config.Config{
				Milter:   config.Milter{Listen: []string{"unix:/var/spool/postfix/millrace/milter.sock"}},
				Handback: config.Handback{Relay: now},
			}
			plan, err := Undo(t.Context(), c, SetupOptions{Dir: dir})
			if err != nil || len(plan.Changes) != 1 || len(plan.ByHand) != 0 {
				t.Fatalf("%s while relay is %s: %+v, %v", written, now, plan, err)
			}
			if got := string(plan.Changes[0].New); got != before+after {
				t.Errorf("%s while relay is %s leaves\n%s", written, now, got)
			}
		}
	}
}

// TestShippedHandbackServiceUndoesMainCF: each of these would harm mail that goes
// back, and the shipped service has an answer to it; take that away, and it is told.
func TestShippedHandbackServiceUndoesMainCF(t *testing.T) {
	t.Parallel()
	c := &config.Config{
		Milter:   config.Milter{Mode: config.Divert, Listen: []string{"unix:/var/spool/postfix/millrace/milter.sock"}},
		Handback: config.Handback{Relay: "unix:/var/spool/postfix/public/millrace"},
	}
	const base = "compatibility_level = 3.6\nmyhostname = mail.example.com\nqueue_directory = /var/spool/postfix\n"
	findings := func(main, master string) (all string) {
		p, err := Read(t.Context(), instance(t, base+main, "smtp inet n - y - - smtpd\ncleanup unix n - y - 0 cleanup\n"+master))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range p.handback(c) {
			all += f.String() + "\n"
		}
		return all
	}
	for _, x := range []struct{ main, answer, told string }{
		{"always_bcc = archive@example.com\n", "  -o always_bcc=\n", "copied by always_bcc a second time"},
		{"sender_bcc_maps = static:archive@example.com\n", "  -o cleanup_service_name=handback\n", "copied by sender_bcc_maps a second time"},
		{"remote_header_rewrite_domain = invalid.test\n", "  -o remote_header_rewrite_domain=\n", "remote_header_rewrite_domain is invalid.test"},
		{"smtpd_tls_security_level = encrypt\n", "  -o smtpd_tls_security_level=none\n", "nothing can return"},
		{"local_header_rewrite_clients = static:all\n", "  -o local_header_rewrite_clients=\n", "rewritten"},
		{"content_filter = scan:[127.0.0.1]:10024\n", "  -o content_filter=\n", "content_filter"},
	} {
		if got := findings(x.main, snippets.MasterCF); got != "" {
			t.Errorf("with %sand the shipped service: %s", x.main, got)
		}
		without := strings.Replace(snippets.MasterCF, x.answer, "", 1)
		if got := findings(x.main, without); without == snippets.MasterCF || !strings.Contains(got, x.told) {
			t.Errorf("with %swithout %s: %q", x.main, x.answer, got)
		}
	}
}
