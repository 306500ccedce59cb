package smtp

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"
)

func readAll(src io.Reader) (replies []Reply, lines []string, err error) {
	p := newReplyReader(src)
	for {
		if err = p.next(func(b []byte) { lines = append(lines, string(b)) }); err != nil {
			return replies, lines, err
		}
		replies = append(replies, p.reply())
	}
}

func TestReplyTextIsBounded(t *testing.T) {
	t.Parallel()
	long := "550-5.1.1 " + strings.Repeat("x", 9000) + "\r\n550 5.1.1 end\r\n250 next\r\n"
	got, _, err := readAll(strings.NewReader(long))
	if err != io.EOF || len(got) != 2 {
		t.Fatalf("%d replies, %v", len(got), err)
	}
	if got[0].Text != strings.Repeat("x", 1024) || got[0].Enhanced != "5.1.1" {
		t.Errorf("text of %d octets, enhanced %q", len(got[0].Text), got[0].Enhanced)
	}
	if got[1].String() != "250 next" {
		t.Errorf("after the long line came %q", got[1])
	}
}

func TestReplyIsBounded(t *testing.T) {
	t.Parallel()
	line := "220-" + strings.Repeat("x", 500) + "\r\n"
	for name, in := range map[string]struct {
		text string
		want error
	}{
		"many lines":    {strings.Repeat("220-\r\n", 10_000) + "220 x\r\n", io.EOF},
		"64 KiB":        {strings.Repeat(line, 129) + "220 " + strings.Repeat("x", 65536-129*506-6) + "\r\n", io.EOF},
		"64 KiB and 1":  {strings.Repeat(line, 129) + "220 " + strings.Repeat("x", 65536-129*506-5) + "\r\n", ErrReplyTooLong},
		"one long line": {"220 " + strings.Repeat("x", 70000) + "\r\n", ErrReplyTooLong},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, _, err := readAll(strings.NewReader(in.text)); !errors.Is(err, in.want) {
				t.Errorf("%v, want %v", err, in.want)
			}
		})
	}
}

func TestMalformedReplies(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"\r\n", "25\r\n", "2500\r\n", "150 x\r\n", "650 x\r\n", "25x x\r\n", "250\tx\r\n", "250_x\r\n", "250-x\r\n\r\n", " 250 x\r\n"} {
		if _, _, err := readAll(strings.NewReader(in)); err != ErrMalformedReply {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestEnhancedCode(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"5.1.1 x": "5.1.1", "5.123.456": "5.123.456", "5.1.1": "5.1.1", "4.1.1 x": "", "5.1 x": "", "5.1.": "",
		"5.1.1234 x": "", "5..1 x": "", "5.1.1x": "", "5": "", "": "", "#5.1.1 x": "", "5.1.1.1 x": "",
	} {
		if n := enhancedCode('5', []byte(in)); in[:n] != want {
			t.Errorf("%q: %q, want %q", in, in[:n], want)
		}
	}
	if enhancedCode('3', []byte("3.0.0 x")) != 0 {
		t.Error("there is no class 3")
	}
}

// However the octets arrive, the replies are the same; they keep their bounds
// and carry no control characters.
func FuzzReply(f *testing.F) {
	for _, s := range []string{
		"250 ok\r\n", "250-a\r\n250-b\r\n250 c\r\n", "550 5.1.1 no\n", "250", "250-\r\n", "450-x\r\n550 y\r\n", "\x00\xff\n",
		"250 \u009b31m\xc3(\r\n", "421-4.7.28 a\r\n421 4.7.28 b\r\n", "250 " + strings.Repeat("y", 5000) + "\r\n250 z\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		replies, lines, err := readAll(bytes.NewReader(in))
		again, lines2, err2 := readAll(oneByte{bytes.NewReader(in)})
		if err != err2 || len(replies) != len(again) || len(lines) != len(lines2) {
			t.Fatalf("at once %d replies, %v; by octets %d, %v", len(replies), err, len(again), err2)
		}
		for i, r := range replies {
			if r != again[i] {
				t.Fatalf("%+v, %+v", r, again[i])
			}
			if r.Code < 200 || r.Code > 599 || len(r.Text) > 1024 || !utf8.ValidString(r.Text) {
				t.Fatalf("%+v", r)
			}
			if strings.ContainsFunc(r.Text+r.Enhanced, func(c rune) bool { return c < ' ' || c >= 0x7f && c < 0xa0 }) {
				t.Fatalf("control characters in %q", r.Text)
			}
			if r.Enhanced != "" && int(r.Enhanced[0]-'0') != r.Code/100 {
				t.Fatalf("%+v", r)
			}
		}
	})
}
