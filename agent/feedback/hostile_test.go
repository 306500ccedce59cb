package feedback

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const envelopeOfReport = "From: mailer-daemon@remote.example\r\nContent-Type: multipart/report; boundary=b\r\n\r\n"

const status1 = "--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; x\r\n\r\nFinal-Recipient: rfc822; a@b.example\r\nAction: failed\r\nStatus: 5.1.1\r\n"

// hostile are messages that want to cost much, or to be taken for something else.
func hostile() map[string][]byte {
	many := func(part string, n int) string { return strings.Repeat(part, n) }
	nested := envelopeOfReport
	for i := range 1000 {
		nested += fmt.Sprintf("--%s\r\nContent-Type: multipart/report; boundary=%sb\r\n\r\n", strings.Repeat("b", i+1), strings.Repeat("b", i+1))
	}
	return map[string][]byte{
		"10,000 parts":             []byte(envelopeOfReport + many("--b\r\n\r\nx\r\n", 10_000)),
		"10,000 status parts":      []byte(envelopeOfReport + many(status1, 10_000)),
		"nested":                   []byte(nested),
		"10,000 recipients":        []byte(envelopeOfReport + status1 + many("\r\nFinal-Recipient: rfc822; a@b.example\r\n", 10_000)),
		"10,000 fields":            []byte(envelopeOfReport + "--b\r\nContent-Type: text/rfc822-headers\r\n\r\n" + many("Received: x\r\n", 20_000) + "\r\n" + status1),
		"a header without end":     []byte("Content-Type: multipart/report; boundary=b\r\n" + many("X: y\r\n", 100_000)),
		"a folded field of 1 MB":   []byte("Content-Type: multipart/report;\r\n" + many(" x=y;\r\n", 200_000) + " boundary=b\r\n\r\n" + status1),
		"no boundary":              []byte("Content-Type: multipart/report\r\n\r\n" + status1),
		"octets before a boundary": []byte("Content-Type: multipart/report(\xf2\xf2\xf2BoundArY="),
		"an empty boundary":        []byte("Content-Type: multipart/report; boundary=\"\"\r\n\r\n--\r\n--\r\n"),
		"wrong charsets":           []byte(envelopeOfReport + "--b\r\nContent-Type: message/delivery-status; charset=\"\xff\xfe\"\r\n\r\nFinal-Recipient: x-\xff; \xff\xfe@b.example\r\nAction: f\xe4iled\r\nStatus: 5.\xff.1\r\nDiagnostic-Code: smtp; 550 \xff\x00\xfe\r\n"),
		"broken base64":            []byte(envelopeOfReport + "--b\r\nContent-Type: message/delivery-status\r\nContent-Transfer-Encoding: base64\r\n\r\n" + many("!!!!", 1000)),
		"nothing":                  nil,
		"NULs":                     bytes.Repeat([]byte{0}, MaxSize),
		"line ends":                bytes.Repeat([]byte("\n"), MaxSize),
		"qmail of hyphens":         []byte("From: mailer-daemon@x.example\r\nSubject: failure notice\r\n\r\nHi. This is the\r\n\r\n" + many("<a@b.example>:\r\nx\r\n\r\n", 20_000)),
	}
}

// Whatever comes, no more is made of it than the bounds say.
func TestHostileReportsAreBounded(t *testing.T) {
	t.Parallel()
	for name, b := range hostile() {
		parts := 0
		newMessage(b[:min(len(b), MaxSize)], "text/plain").walk(0, func(*message) bool { parts++; return true })
		if parts > maxParts {
			t.Errorf("%s: %d parts are looked at", name, parts)
		}
		r, err := Parse(b)
		if err == nil {
			bounded(t, name, r)
		}
		if name == "10,000 recipients" && (r == nil || len(r.Recipients) != maxRecipients) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

func bounded(t *testing.T, name string, r *Report) {
	t.Helper()
	if len(r.Recipients) > maxRecipients || len(r.Received) > maxReceived {
		t.Errorf("%s: %d recipients, %d Received fields", name, len(r.Recipients), len(r.Received))
	}
	for _, v := range r.Received {
		if len(v) > 2*maxValue {
			t.Errorf("%s: a field of %d octets", name, len(v))
		}
	}
	for _, x := range r.Recipients {
		if len(x.Final) > 254 || len(x.Original) > 254 || len(x.Diagnostic) > maxText+3 || len(x.Remote) > maxText+3 || len(x.Status) > 9 || len(x.Action) > 2*maxValue {
			t.Errorf("%s: %+v", name, x)
		}
	}
}

// A message is no report as it has one inside: a person may pass one on.
func TestForwardedReportIsNone(t *testing.T) {
	t.Parallel()
	inner := envelopeOfReport + status1 + "--b--\r\n"
	for _, b := range []string{
		"From: ann@example.net\r\nSubject: fwd\r\nContent-Type: multipart/mixed; boundary=o\r\n\r\n--o\r\nContent-Type: message/rfc822\r\n\r\n" + inner + "--o--\r\n",
		"From: ann@example.net\r\nSubject: failure notice\r\n\r\nHi. This is the qmail-send program\r\n\r\n<a@b.example>:\r\nx\r\n",
		"From: ann@example.net\r\nSubject: complaint about message from 192.0.2.1\r\nContent-Type: multipart/mixed; boundary=o\r\n\r\n--o\r\nContent-Type: message/rfc822\r\n\r\nReceived: x\r\n\r\n--o--\r\n",
		"From: mailer-daemon@example.net\r\nContent-Type: multipart/report; boundary=o\r\n\r\n--o\r\nContent-Type: message/rfc822\r\n\r\n" + inner + "--o--\r\n",
	} {
		if r, err := Parse([]byte(b)); err == nil {
			t.Errorf("%q\nis read as %+v", b, r)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, dir := range []string{"seen", "heldout"} {
		files, _ := filepath.Glob(filepath.Join("testdata", dir, "*.eml"))
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			_, text, _ := bytes.Cut(b, []byte("\n\n"))
			f.Add(text)
		}
	}
	for _, b := range hostile() {
		f.Add(b[:min(len(b), 4096)])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		Wanted(header(b).get)
		r, err := Parse(b)
		if err != nil {
			return
		}
		bounded(t, "fuzz", r)
	})
}

func BenchmarkParse(b *testing.B) {
	for name, m := range hostile() {
		b.Run(strings.ReplaceAll(name, " ", "_"), func(b *testing.B) {
			for b.Loop() {
				Parse(m)
			}
		})
	}
}

// Of a field that is looked at in every message no more is read than of others: to have 100 KB
// of words parsed as addresses took a tenth of a second, while the client waited.
func TestLongFromIsCut(t *testing.T) {
	t.Parallel()
	get := func(from string) func(string) string {
		return func(name string) string {
			return map[string]string{"From": from, "Subject": "failure notice"}[name]
		}
	}
	if !Wanted(get(strings.Repeat("a ", 100) + "<mailer-daemon@x.example>")) {
		t.Error("a name of a hundred words")
	}
	if Wanted(get(strings.Repeat("a ", maxValue) + "<mailer-daemon@x.example>")) {
		t.Error("a name of any number of words")
	}
}
