package milter

import (
	"bytes"
	"strings"
	"testing"

	"github.com/millrace/millrace/milter/classify"
)

func TestHeadKeepsEveryOctet(t *testing.T) {
	t.Parallel()
	got, err := appendHead(nil, []classify.Field{{Name: "SUBJECT", Value: "  x \t"}, {Name: "x-Fold", Value: "a\n\tb\n  c"}, {Name: "E", Value: ""}, {Name: "U", Value: " \xc3\xa4"}})
	want := "SUBJECT:  x \t\r\nx-Fold:a\r\n\tb\r\n  c\r\nE:\r\nU: \xc3\xa4\r\n\r\n"
	if err != nil || string(got) != want {
		t.Errorf("%q %v, want %q", got, err, want)
	}
	if got, err := appendHead(nil, nil); err != nil || string(got) != "\r\n" {
		t.Errorf("no fields: %q %v", got, err)
	}
}

func TestHeadRefusesWhatCouldNotLeave(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]classify.Field{
		"LF":           {Name: "A", Value: "x\ny"},
		"LF at end":    {Name: "A", Value: "x\n"},
		"CR":           {Name: "A", Value: "x\ry"},
		"CRLF":         {Name: "A", Value: "x\r\n y"},
		"NUL":          {Name: "A", Value: "x\x00"},
		"long":         {Name: "A", Value: strings.Repeat("x", 997)},
		"blank":        {Name: "A B", Value: "x"},
		"8-bit name":   {Name: "\xc3\xa4", Value: "x"},
		"control name": {Name: "A\r", Value: "x"},
	} {
		if got, err := appendHead(nil, []classify.Field{f}); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
	if _, err := appendHead(nil, []classify.Field{{Name: "A", Value: strings.Repeat("x", 996)}}); err != nil {
		t.Errorf("998 octets: %v", err)
	}
}

// atOnce is what lines must agree with: a check of the whole at once.
func atOnce(b []byte) error {
	if bytes.IndexByte(b, 0) >= 0 {
		return errNUL
	}
	rest := bytes.ReplaceAll(b, []byte("\r\n"), []byte{0})
	switch {
	case bytes.IndexByte(rest, '\r') >= 0:
		return errBareCR
	case bytes.IndexByte(rest, '\n') >= 0:
		return errBareLF
	}
	for _, l := range bytes.Split(rest, []byte{0}) {
		if len(l) > MaxLine {
			return errLong
		}
	}
	return nil
}

// Cut into pieces anywhere, content is judged as if it had come at once.
func FuzzLines(f *testing.F) {
	f.Add([]byte("a\r\nb"), uint16(2), uint16(3))
	f.Add([]byte("\r\r\n"), uint16(1), uint16(1))
	f.Add(bytes.Repeat([]byte("x"), 999), uint16(500), uint16(600))
	f.Add([]byte("a\nb\x00"), uint16(0), uint16(9))
	f.Fuzz(func(t *testing.T, b []byte, i, j uint16) {
		x, y := min(int(i), len(b)), min(int(j), len(b))
		x, y = min(x, y), max(x, y)
		var l lines
		var got error
		for _, piece := range [][]byte{b[:x], b[x:y], b[y:]} {
			if got == nil {
				got = l.write(piece)
			}
		}
		missing := ""
		if got == nil {
			missing, got = l.end()
		}
		want := atOnce(b)
		if (got == nil) != (want == nil) {
			t.Fatalf("%q in pieces at %d, %d: %v, at once: %v", b, x, y, got, want)
		}
		if got == nil && len(b) > 0 && !strings.HasSuffix(string(b)+missing, "\r\n") {
			t.Fatalf("%q does not end in CRLF", string(b)+missing)
		}
	})
}

// What appendHead lets through is what the lines check lets through, and no value can
// make a line of its own.
func FuzzHead(f *testing.F) {
	f.Add("Subject", " x\n y", "X")
	f.Add("A", "x\r\nBcc: y", "B")
	f.Fuzz(func(t *testing.T, name, value, other string) {
		b, err := appendHead(nil, []classify.Field{{Name: name, Value: value}, {Name: other, Value: value}})
		if err != nil {
			return
		}
		if err := atOnce(b); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		starts := 0
		for l := range strings.SplitSeq(strings.TrimSuffix(string(b), "\r\n\r\n"), "\r\n") {
			if l == "" || l[0] != ' ' && l[0] != '\t' {
				starts++
			}
		}
		if starts != 2 {
			t.Fatalf("%d fields in %q", starts, b)
		}
	})
}

func TestMissingFieldsAreThoseThatAreMissing(t *testing.T) {
	t.Parallel()
	got, err := missingFields([]classify.Field{{Name: "message-ID"}, {Name: "DATE"}, {Name: "FROM"}}, "q", "h", testTime)
	if got != "" || err != nil {
		t.Errorf("added %q, %v", got, err)
	}
	got, err = missingFields([]classify.Field{{Name: "From"}}, "Q1\r\nX: y", "mail.example>\r\n", testTime)
	if want := "Message-ID: <20260304050607.000000.Q1Xy@mail.example>\r\nDate: Wed, 4 Mar 2026 05:06:07 +0000\r\n"; got != want || err != nil {
		t.Errorf("added %q, %v, want %q", got, err, want)
	}
	// What only Sendmail can complete is not ours.
	for _, fields := range [][]classify.Field{{{Name: "Subject"}}, {{Name: "From"}, {Name: "RESENT-From"}}} {
		if got, err = missingFields(fields, "q", "h", testTime); err == nil {
			t.Errorf("%v: added %q", fields, got)
		}
	}
}

func TestSendmailSendsNoBcc(t *testing.T) {
	t.Parallel()
	for want, fields := range map[string][]classify.Field{
		"To: a|Bcc-Log: c":       {{Name: "bcc", Value: " b"}, {Name: "To", Value: " a"}, {Name: "BCC", Value: " b,\n\tc"}, {Name: "Bcc-Log", Value: " c"}},
		"Bcc:|From: a|BCC:":      {{Name: "Bcc", Value: " b"}, {Name: "From", Value: " a"}, {Name: "BCC", Value: " b,\n\tc"}},
		"cc: a|Subject: Bcc: b":  {{Name: "cc", Value: " a"}, {Name: "Subject", Value: " Bcc: b"}},
		"Apparently-To:":         {{Name: "Bcc", Value: " b"}, {Name: "Apparently-To", Value: ""}},
		"Resent-Bcc: b|From: a2": {{Name: "Resent-Bcc", Value: " b"}, {Name: "From", Value: " a2"}}, // stays, by missingFields
	} {
		var got []string
		for _, f := range withoutBcc(fields) {
			got = append(got, f.Name+":"+f.Value)
		}
		if strings.Join(got, "|") != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
