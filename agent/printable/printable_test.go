package printable

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// hostile is what terminals, and who reads them, obey: ESC and CSI in both widths, line
// ends, bidirectional controls, separators, DEL, what is not UTF-8, tags.
var hostile = map[string]string{
	"\x1b[2J":           "?[2J",
	"\u009b2J\u0085":    "?2J?",
	"a\r\nb\tc":         "a??b?c",
	"\u202eabc\u2066":   "?abc?",
	"\u2028\u2029":      "??",
	"\x00\x7f\b":        "???",
	"\x9b\xff\ufffd":    "???",
	"\u200b\ufeff":      "??",
	"\U000e0041 word":   "? word",
	"grüße, \"日本\" ✓ …": "grüße, \"日本\" ✓ …",
	"":                  "",
}

func TestStrangersTextIsOnePrintableLine(t *testing.T) {
	t.Parallel()
	for s, want := range hostile {
		if got := String(s); got != want {
			t.Errorf("String(%q) = %q, want %q", s, got, want)
		}
		if got := Sprintf("\x1b[K%6.9s|%v|%d %*s\n", s, errors.New(s), 7, 3, "x"); got != fmt.Sprintf("\x1b[K%6.9s|%s|7   x\n", want, want) {
			t.Errorf("Sprintf of %q gives %q", s, got)
		}
		if got := Error(errors.New(s)).Error(); got != want {
			t.Errorf("Error of %q is %q", s, got)
		}
	}
	if got := Sprintf("%s", Block("a\x1b\n\tb\r\u2028")); got != "a?\n\tb??" {
		t.Errorf("a block is %q", got)
	}
	if err := Error(fmt.Errorf("\n%w", io.EOF)); !errors.Is(err, io.EOF) || Error(nil) != nil {
		t.Errorf("%v", err)
	}
}

func TestCutKeepsTheBound(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{"12345678": "12345678", "123456789": "12345...", "1234üöäabc": "1234...", "üöäüöä": "üö..."} {
		if got := Cut(s, 8); got != want {
			t.Errorf("Cut(%q) = %q, want %q", s, got, want)
		}
	}
}

// FuzzPrintable feeds any text in two pieces.
func FuzzPrintable(f *testing.F) {
	for s := range hostile {
		f.Add(s, 1)
	}
	f.Fuzz(func(t *testing.T, s string, at int) {
		check := func(got string, also string) {
			t.Helper()
			if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool {
				return r == utf8.RuneError || !unicode.IsPrint(r) && !strings.ContainsRune(also, r)
			}) {
				t.Fatalf("%q became %q", s, got)
			}
		}
		check(String(s), "")
		if n := utf8.RuneCountInString(s); utf8.RuneCountInString(String(s)) != n {
			t.Fatalf("%q became %q: not as many characters", s, String(s))
		}
		check(Cut(s, 10), "")
		if len(Cut(s, 10)) > 10+len("...") {
			t.Fatalf("%q became %q", s, Cut(s, 10))
		}
		pieces := func(w *Writer, b []byte) {
			cut := max(0, min(at, len(b)))
			for _, p := range [][]byte{b[:cut], b[cut:], []byte("\n")} {
				if n, err := w.Write(p); n != len(p) || err != nil {
					t.Fatal(n, err)
				}
			}
		}
		var text, again bytes.Buffer
		pieces(NewWriter(&text), []byte(s))
		check(text.String(), "\n\t")
		line, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		pieces(NewJSON(&again), line)
		check(again.String(), "\n")
		var want, got string
		if json.Unmarshal(line, &want) != nil || json.Unmarshal(again.Bytes(), &got) != nil || got != want {
			t.Fatalf("%q became %q in JSON, as %s", want, got, again.Bytes())
		}
	})
}
