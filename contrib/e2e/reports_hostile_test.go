package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
)

// What looks like a report and is made to cost much, or to be taken for another, passes as any
// mail does: nothing is refused or changed, and none of it is written to the spool.
func TestHostileReportsPassUnchanged(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{millrace: lab.MillraceOptions{Set: map[string]string{"feedback.read": "true"}}})
	const head = "From: mailer-daemon@remote.test\r\nTo: news@lab.test\r\nSubject: failure notice\r\nDate: Mon, 23 Nov 2026 12:00:00 +0000\r\nMessage-ID: <h@remote.test>\r\n"
	const report = head + "Content-Type: multipart/report; boundary=b\r\n\r\n"
	const status = "--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; x\r\n\r\nFinal-Recipient: rfc822; a@far.test\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n"
	const returned = "--b\r\nContent-Type: message/rfc822\r\n\r\n"
	const forged = " id 4Q1.M1-2.0123456789abcdef0123 (AAAAAAAAAAAAAAAAAAAAAAAA)"
	nested := report
	for i := range 200 {
		b := strings.Repeat("b", i+1)
		nested += fmt.Sprintf("--%s\r\nContent-Type: multipart/report; boundary=%sb\r\n\r\n", b, b)
	}
	all := map[string]string{
		"10,000 parts":         report + strings.Repeat("--b\r\n\r\nx\r\n", 10_000),
		"nested":               nested,
		"10,000 recipients":    report + strings.Repeat(status, 10_000),
		"20,000 fields":        head + "Content-Type: multipart/report; boundary=b\r\n" + strings.Repeat("X: y\r\n", 20_000) + "\r\n" + status,
		"10,000 marks":         report + status + returned + strings.Repeat("Received: by x\r\n\t"+strings.Repeat(forged, 20)+"\r\n", 500) + "\r\n--b--\r\n",
		"NULs":                 report + strings.Replace(status, "a@far", "a\x00\x00@far", 1) + returned + "X: y\r\n\r\n\x00x\x00\r\n--b--\r\n",
		"eight bits":           report + strings.Replace(status, "failed", "f\xe4iled \xff\xfe", 1) + returned + "Received: \xff\xfe\r\n\r\n--b--\r\n",
		"broken base64":        report + "--b\r\nContent-Type: message/delivery-status; charset=utf-16\r\nContent-Transfer-Encoding: base64\r\n\r\n" + strings.Repeat("!!!!\r\n", 1000) + "--b--\r\n",
		"a report in a report": report + returned + report + status + "\r\n--b--\r\n",
		"no boundary":          head + "Content-Type: multipart/report\r\n\r\n" + status,
		"a letter":             head + "\r\nHi. This is the mail that you know.\r\n",
		"a megabyte":           report + status + returned + strings.Repeat("Received: x\r\n", 80_000) + "\r\n--b--\r\n",
	}
	p := r.outsider()
	for name, text := range all {
		if line := r.verdict(p.sends("<>", []string{"<news@lab.test>"}, text)); !strings.Contains(line, "verdict=leave") {
			t.Errorf("%s: %s", name, line)
		}
	}
	home := r.mailbox("news@lab.test", len(all))
next:
	for name, text := range all {
		for _, m := range home {
			if bytes.HasSuffix(m.Content, []byte(strings.ReplaceAll(text, "\r\n", "\n"))) {
				continue next
			}
		}
		t.Errorf("%s has not come home as it was sent", name)
	}
	r.stop(r.Millrace.Milter) // what waits is read
	if _, err := os.Stat(filepath.Join(r.Millrace.Spool(), "reports")); !os.IsNotExist(err) {
		t.Errorf("something is written to the spool: %v", err)
	}
}
