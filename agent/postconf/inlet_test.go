package postconf

import (
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/config"
)

// What mail of the inlet passes by is an error until it is accepted, and what lets clients
// of this host through unasked is none.
func TestInletPassesByWhatIsSet(t *testing.T) {
	t.Parallel()
	const smtp = "compatibility_level = 3.6\nmyhostname = mail.example.com\nmynetworks = 127.0.0.0/8 [::1]/128\nsmtpd_milters = unix:millrace/milter.sock\n"
	const master = "smtp inet n - y - - smtpd\ncleanup unix n - y - 0 cleanup\n"
	c := &config.Config{
		Milter: config.Milter{Mode: config.Divert, Listen: []string{"unix:/var/spool/postfix/millrace/milter.sock"}},
		Inlet:  config.Inlet{Listen: []string{"inet:8825@127.0.0.1"}, PassTo: "inet:25@127.0.0.1", MaxMessageSize: 10240000, MaxRecipients: 1000},
	}
	stops := func(main, master string, c *config.Config) (names []string) {
		t.Helper()
		p, err := Read(t.Context(), instance(t, main, master))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range InletStops(p.Inlet(c)) {
			name := f.Bypass
			if name == "" {
				name = f.Wrong[:10]
			}
			names = append(names, name)
		}
		return names
	}
	for _, x := range []struct {
		main, master string
		want         []string
	}{
		{smtp, master, nil},
		{smtp + "smtpd_recipient_restrictions = permit_mynetworks, check_policy_service inet:127.0.0.1:10023, reject_unauth_destination\n", master, nil},
		{smtp + "smtpd_recipient_restrictions = check_policy_service inet:127.0.0.1:10023, permit_mynetworks, reject\n", master, []string{"smtpd_recipient_restrictions"}},
		{smtp + "always_bcc = all@example.com\nheader_checks = regexp:/x\nrelayhost = [relay.example]\ntransport_maps = hash:/x\n", master,
			[]string{"always_bcc", "header_checks", "transport_maps", "relayhost"}},
		{smtp + "smtpd_milters = inet:127.0.0.1:8891, unix:millrace/milter.sock\n", master, []string{"smtpd_milters"}},
		{smtp, "smtp inet n - y - - smtpd\n  -o content_filter=scan:x\ncleanup unix n - y - 0 cleanup\n  -o always_bcc=x@example.com\n", []string{"always_bcc", "content_filter"}},
		{smtp + "mynetworks = 192.0.2.0/24\n", master, []string{"mynetworks"}},
		{smtp + "message_size_limit = 5000\n", master, []string{"message_si"}},
		{smtp + "message_size_limit = 0\n", master, nil},
		{smtp + "smtpd_recipient_limit = 50\n", master, []string{"smtpd_reci"}},
		{smtp + "smtpd_recipient_limit = 50\n", "smtp inet n - y - - smtpd\n  -o smtpd_recipient_limit=1000\ncleanup unix n - y - 0 cleanup\n", nil},
		{smtp, "587 inet n - y - - smtpd\n", []string{"no service"}},
	} {
		got := stops(x.main, x.master, c)
		if !slices.Equal(got, x.want) {
			t.Errorf("%s%s: %q, want %q", x.main, x.master, got, x.want)
		}
	}
	for limit, warns := range map[string]bool{"0": true, "50000000": true, "10240000": false} {
		p, err := Read(t.Context(), instance(t, smtp+"message_size_limit = "+limit+"\n", master))
		if err != nil {
			t.Fatal(err)
		}
		found := p.Inlet(c)
		if got := len(found) == 1 && found[0].Severity == Warning && strings.Contains(found[0].Remedy, "max_message_size"); got != warns {
			t.Errorf("message_size_limit = %s: %v", limit, found)
		}
	}
	accepted := *c
	accepted.Inlet.AcceptBypass = []string{"always_bcc"}
	if got := stops(smtp+"always_bcc = all@example.com\n", master, &accepted); got != nil {
		t.Errorf("accepted, and yet %q", got)
	}
	off := *c
	off.Inlet.Listen = nil
	if got := stops(smtp+"always_bcc = all@example.com\n", master, &off); got != nil {
		t.Errorf("without an inlet %q", got)
	}
}

// Another MTA's settings cannot be read, so its mail is passed until that is accepted.
func TestInletWithoutPostfixIsPassedUntilAccepted(t *testing.T) {
	t.Parallel()
	c := &config.Config{
		Milter: config.Milter{Mode: config.Divert},
		Inlet:  config.Inlet{Listen: []string{"inet:8825@127.0.0.1"}, PassTo: "inet:25@127.0.0.1"},
	}
	if got := InletStops(InletWithoutPostfix(c)); len(got) != 1 || got[0].Bypass != config.NotPostfix {
		t.Errorf("%v", got)
	}
	if got := InletStops(Elsewhere(c)); len(got) != 1 {
		t.Errorf("check does not say so: %v", got)
	}
	c.Inlet.AcceptBypass = []string{config.NotPostfix}
	if got := InletStops(InletWithoutPostfix(c)); len(got) != 0 {
		t.Errorf("accepted, and yet %v", got)
	}
	c.Inlet.Listen = nil
	if got := InletWithoutPostfix(c); got != nil {
		t.Errorf("without an inlet %v", got)
	}
}
