package feedback

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The dialects in testdata are shapes of reports, in words of our own, by what the named
// sources say. Those of heldout were written before the parser and not looked at while it
// was. @RCPT@ is the recipient, @FROM@ the return path, @RECEIVED@ our Received field,
// @BASE64:text@ a text in base64.

// dialect is one of them.
type dialect struct {
	name, want string // "late_bounce class=userunknown hard dsn=5.1.1"
	text       []byte
}

const (
	dialectRecipient = "bob@remote.example"
	dialectFrom      = "news-bounces+bob=remote.example@lists.example"
	dialectReceived  = "Received: from app (app.example.com [192.0.2.7])\r\n\tby mail.lists.example (Millrace) with ESMTPA\r\n\tid 4Q1.M1-2.00;\r\n\tSat, 28 Nov 2026 10:00:00 +0000 (UTC)"
)

func dialects(t *testing.T, dir string) []dialect {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", dir, "*.eml"))
	if err != nil || len(files) == 0 {
		t.Fatal(err, len(files))
	}
	var list []dialect
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		head, text, _ := bytes.Cut(b, []byte("\n\n"))
		d := dialect{name: filepath.Base(file)}
		for line := range strings.SplitSeq(string(head), "\n") {
			if want, ok := strings.CutPrefix(line, "# want: "); ok {
				d.want = want
			}
		}
		d.text = Fill(text, dialectRecipient, dialectFrom, dialectReceived)
		list = append(list, d)
	}
	return list
}

// Fill puts values in the place of a dialect's words.
func Fill(text []byte, rcpt, from, received string) []byte {
	s := strings.NewReplacer("\r\n", "\r\n", "\n", "\r\n").Replace(string(text))
	s = strings.NewReplacer("@RCPT@", rcpt, "@FROM@", from, "@RECEIVED@", received).Replace(s)
	if before, rest, ok := strings.Cut(s, "@BASE64:"); ok {
		plain, after, _ := strings.Cut(rest, "\r\n@")
		s = before + base64.StdEncoding.EncodeToString([]byte(plain+"\r\n")) + after
	}
	return []byte(s)
}

func TestDialectsAreRead(t *testing.T)        { t.Parallel(); testDialects(t, "seen", 15) }
func TestHeldOutDialectsAreRead(t *testing.T) { t.Parallel(); testDialects(t, "heldout", 15) }

func testDialects(t *testing.T, dir string, n int) {
	list := dialects(t, dir)
	if len(list) != n {
		t.Errorf("%d dialects, want %d", len(list), n)
	}
	for _, d := range list {
		h := header(d.text)
		if !Wanted(h.get) {
			t.Errorf("%s: its body is not asked for", d.name)
		}
		r, err := Parse(d.text)
		if err != nil {
			t.Errorf("%s: %v", d.name, err)
			continue
		}
		if len(r.Received) == 0 || !strings.Contains(strings.Join(r.Received, " "), "id 4Q1.M1-2.00;") {
			t.Errorf("%s: Received fields that came back: %q", d.name, r.Received)
		}
		kind, rest, _ := strings.Cut(d.want, " ")
		if (kind == "late_bounce" || kind == "none") != (r.Kind == Delivery) || (kind == "complaint") != r.Complains() {
			t.Errorf("%s: kind %d, type %s, want %s", d.name, r.Kind, r.Type, kind)
		}
		if want, ok := strings.CutPrefix(rest, "type="); ok && r.Type != want {
			t.Errorf("%s: type %s, want %s", d.name, r.Type, want)
		}
		for i := range r.Recipients {
			if x := r.Recipients[i]; x.Final != dialectRecipient {
				t.Errorf("%s: recipient %+v", d.name, x)
			}
		}
		if r.Kind == Complaint {
			continue
		}
		if len(r.Recipients) != 1 || r.Recipients[0].Failed() != (kind == "late_bounce") {
			t.Errorf("%s: recipients %+v", d.name, r.Recipients)
			continue
		}
		if _, dsn, ok := strings.Cut(rest, "dsn="); ok && r.Recipients[0].Status != dsn {
			t.Errorf("%s: %+v, want status %s", d.name, r.Recipients[0], dsn)
		}
	}
}
