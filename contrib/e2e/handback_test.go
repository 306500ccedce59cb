package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/emersion/go-msgauth/dkim"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// verb runs a verb of millrace(1) to its end, and returns what it said.
func (r *room) verb(args ...string) string {
	r.t.Helper()
	programs, err := lab.Programs()
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(r.ctx, waiting)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(programs, "millrace"), append([]string{"--config", r.Millrace.Config()}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("millrace %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// left is how many recipients Millrace has.
func (r *room) left() int { return r.status().Queued() }

// loaded waits until the agent has read its spool: before that it takes no orders.
func (r *room) loaded() {
	r.t.Helper()
	r.until("the spool is read", func() bool { return !r.status().Loading })
}

// status asks the agent.
func (r *room) status() *control.Status {
	r.t.Helper()
	st, err := control.NewClient(r.Millrace.Control()).Status(r.ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	return st
}

// hostile is a main.cf that does to mail all that a main.cf may do. It is set when
// the mail has left Postfix for Millrace: what comes in would not get far.
func hostile() map[string]string {
	const nobody = "[127.0.0.1]:9" // refuses connections
	return map[string]string{
		"header_checks":                           "regexp:{ { /^Subject: (.*)/ REPLACE Subject: [lab] $$1 } { /^List-Id:/ IGNORE } }",
		"body_checks":                             "regexp:{ { /./ REPLACE gone } }",
		"canonical_maps":                          "regexp:{ { /^.*@sender\\.test$$/ changed@lab.test } }",
		"canonical_classes":                       "header_sender header_recipient",
		"masquerade_domains":                      "test",
		"masquerade_classes":                      "header_sender, header_recipient",
		"local_header_rewrite_clients":            "static:all",
		"remote_header_rewrite_domain":            "invalid.test",
		"always_add_missing_headers":              "yes",
		"content_filter":                          "smtp:" + nobody,
		"smtpd_proxy_filter":                      nobody,
		"milter_default_action":                   "reject",
		"smtpd_milters":                           "inet:127.0.0.1:9",
		"non_smtpd_milters":                       "inet:127.0.0.1:9",
		"smtpd_client_restrictions":               "reject",
		"smtpd_helo_restrictions":                 "reject",
		"smtpd_sender_restrictions":               "reject",
		"smtpd_relay_restrictions":                "reject",
		"smtpd_recipient_restrictions":            "check_policy_service inet:127.0.0.1:9, reject", // a greylisting that is down
		"smtpd_data_restrictions":                 "reject",
		"smtpd_end_of_data_restrictions":          "reject",
		"smtpd_reject_unlisted_sender":            "yes",
		"smtpd_discard_ehlo_keywords":             "dsn, 8bitmime, pipelining",
		"smtpd_tls_security_level":                "encrypt",
		"smtpd_client_connection_rate_limit":      "1",
		"smtpd_client_message_rate_limit":         "1",
		"smtpd_client_recipient_rate_limit":       "1",
		"smtpd_client_event_limit_exceptions":     "",
		"sender_bcc_maps":                         "static:archive@lab.test",
		"recipient_bcc_maps":                      "static:archive@lab.test",
		"smtpd_command_filter":                    "regexp:{ { /^MAIL (.*)/ NOOP } }",
		"smtpd_upstream_proxy_protocol":           "haproxy",
		"smtpd_discard_ehlo_keyword_address_maps": "static:dsn",
	}
}

// Mail that goes back to Postfix is what it was, whatever main.cf would do to mail
// that comes in: its signature holds, its copies were made once, and what was asked
// about reports goes on.
func TestHandedBackMailSurvivesAHostileMainCF(t *testing.T) {
	t.Parallel()
	socket, key := opendkim(t, "sender.test")
	r := enter(t, setup{
		keep:      true,
		providers: []sink.Provider{{Name: "far", Domains: farDomains, Behaviour: sink.Behaviour{TempShare: 1}}},
		postfix: lab.PostfixOptions{
			Milter: socket + ", " + lab.RelativeSocket,
			Extra:  map[string]string{"always_bcc": "archive@lab.test"},
		},
	})
	const n = 30
	g := &inject.Generator{Seed: 11, Domains: farDomains[:2], MaxSize: 60 << 10, MaxRecipients: 3, Shapes: inject.AllShapes, Sender: "bounce@sender.test"}
	in := &inject.Injector{Addr: r.Postfix.SMTPAddr(), Connections: 2}
	sent, err := in.Run(r.ctx, n, g.Message)
	if err != nil || sent.Messages != n {
		t.Fatalf("Postfix took %d of %d messages: %v %v", sent.Messages, n, sent.Err, err)
	}
	r.send("<news@lab.test> RET=HDRS ENVID=envelope-8", []string{"<asked@far.test> NOTIFY=FAILURE,DELAY ORCPT=rfc822;first@lab.test"}, news("asked"))
	const copies = "archive@lab.test"
	r.mailbox(copies, n+1)
	all := sent.Ledger.Len() + 1
	r.until("all are in Millrace's queue", func() bool { return r.left() == all })

	for name, value := range hostile() {
		if err := r.Postfix.Set(r.ctx, name, value); err != nil {
			t.Fatal(err)
		}
	}
	r.reloadPostfix()
	said := r.verb("handback", "--all", "--yes", "--wait")
	if want := fmt.Sprintf("%d handed back, 0 waiting", all); !strings.Contains(said, want) {
		t.Errorf("millrace handback does not say %q:\n%s", want, said)
	}
	// Not before: some may not have had their first try by Millrace yet.
	if err := r.Internet.Change("far", func(b *sink.Behaviour) { b.TempShare = 0 }); err != nil {
		t.Fatal(err)
	}
	r.until("all has arrived", func() bool {
		if err := r.Postfix.Flush(r.ctx); err != nil {
			t.Fatal(err)
		}
		return len(r.all()) >= all
	})
	r.rest()
	lookup := func(string) ([]string, error) { return []string{key}, nil }
	for _, a := range r.all() {
		if a.ours() {
			t.Errorf("%s to %s went by Millrace", a.id, a.recipient)
		}
		if a.id == "asked" {
			if !strings.Contains(a.mailArgs, "RET=HDRS") || !strings.Contains(a.mailArgs, "ENVID=envelope-8") ||
				!strings.Contains(a.rcptArgs, "NOTIFY=FAILURE,DELAY") || !strings.Contains(a.rcptArgs, "ORCPT=rfc822;first@lab.test") {
				t.Errorf("arguments %q, %q", a.mailArgs, a.rcptArgs)
			}
			if _, own, _ := strings.Cut(a.content, "X-Lab-ID"); "X-Lab-ID"+own != news("asked") {
				t.Errorf("changed on its way:\n%s", a.content)
			}
			continue
		}
		if a.sender != "bounce@sender.test" {
			t.Errorf("%s came from %s", a.id, a.sender)
		}
		got, err := dkim.VerifyWithOptions(strings.NewReader(a.content), &dkim.VerifyOptions{LookupTXT: lookup})
		if err != nil || len(got) != 1 || got[0].Err != nil {
			t.Errorf("%s to %s: %d signatures %+v, %v\n%.2000s", a.id, a.recipient, len(got), got, err, a.content)
		}
	}
	if got := len(r.all()); got != all {
		t.Errorf("%d copies, want %d", got, all)
	}
	if got := len(r.mailbox(copies, n+1)); got != n+1 {
		t.Errorf("%d copies for the archive, want %d", got, n+1)
	}
}
