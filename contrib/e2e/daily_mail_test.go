package e2e

import (
	"bytes"
	"fmt"
	"net/mail"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/ledger"
)

// The daily report goes to Postfix at the hand-back port, and on from there as any mail of the
// host: while a rule diverts all that our milter sees, the report is not shown to it.
func TestDailyMailIsNeverDiverted(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{keep: true, millrace: lab.MillraceOptions{
		Set:   map[string]string{"outcomes.keep": `"7d"`, "outcomes.keep_totals": `"400d"`},
		Extra: "[[milter.rule]]\nname = \"all\"\naction = \"divert\"\nrecipient_domain = [\"*\"]\nstream = \"all\"\n",
	}})
	day := time.Now().UTC()
	letter := ledger.IDHeader + ": plain\r\nFrom: <joe@lab.test>\r\nTo: <admin@far.test>\r\nSubject: hello\r\n" +
		"Date: Mon, 23 Nov 2026 12:00:00 +0000\r\nMessage-ID: <plain@lab.test>\r\n\r\nHello.\r\n"
	qid := r.send("<joe@lab.test>", []string{"<admin@far.test>"}, letter)
	if line := r.verdict(qid); !strings.Contains(line, "rule=all") {
		t.Fatalf("the rule is not in force: %s", line)
	}
	const sent = "\nsent                                   1             -\n"
	r.until("it is counted", func() bool {
		for range 2 { // midnight may have passed
			if strings.Contains(r.verb("report", "--day", day.Format(time.DateOnly)), sent) {
				return true
			}
			day = time.Now().UTC()
		}
		return false
	})
	for _, to := range []string{"admin@far.test", "archive@lab.test"} {
		if said := r.verb("report", "--day", day.Format(time.DateOnly), "--mail", to); said != "" {
			t.Errorf("it says %q", said)
		}
	}
	local := r.mailbox("archive@lab.test", 1)[0].Content
	r.exactly("plain admin@far.test ours", " admin@far.test postfix")
	remote := r.copies("")[0]
	if remote.sender != "" {
		t.Errorf("the sender is %q", remote.sender)
	}
	for to, content := range map[string][]byte{"archive@lab.test": local, "admin@far.test": []byte(remote.content)} {
		m, err := mail.ReadMessage(bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		for key, want := range map[string]string{
			"From": "MAILER-DAEMON@" + lab.Hostname + " (Millrace)", "To": "<" + to + ">", "Auto-Submitted": "auto-generated", "Mime-Version": "1.0",
			"Content-Type": "text/plain; charset=utf-8",
			"Subject":      fmt.Sprintf("Millrace on %s, %s: 1 sent, 0 bounced, no complaints", lab.Hostname, day.Format(time.DateOnly)),
		} {
			if got := m.Header[key]; len(got) != 1 || got[0] != want {
				t.Errorf("to %s: %s is %q, want %q", to, key, got, want)
			}
		}
		if date, err := m.Header.Date(); err != nil || time.Since(date) > patience || m.Header.Get("Message-Id") == "" {
			t.Errorf("to %s: %v, %v", to, m.Header, err)
		}
		if text := strings.ReplaceAll(string(content), "\r\n", "\n"); !strings.Contains(text, sent) || !strings.Contains(text, "\n         1        -         0        0        0          0     0  all\n") {
			t.Errorf("to %s:\n%s", to, text)
		}
	}
	if lines := r.verdicts(1); len(lines) != 1 {
		t.Errorf("the milter has judged more than the one message:\n%s", strings.Join(lines, "\n"))
	}
}
