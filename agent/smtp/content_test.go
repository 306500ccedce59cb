package smtp

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
)

// sent gives what writeContent writes, and in how many writes.
func sent(t *testing.T, prefix []byte, content io.Reader) (string, int) {
	t.Helper()
	var out bytes.Buffer
	writes := 0
	_, err := writeContent(prefix, content, func(p []byte) (int, error) {
		writes++
		return out.Write(p)
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), writes
}

// received undoes the dot-stuffing as a receiver does that takes only CRLF as a
// line end (RFC 5321 4.5.2). rest is what came after the final dot.
func received(wire string) (content, rest string, ended bool) {
	var b strings.Builder
	for {
		line, after, ok := strings.Cut(wire, "\r\n")
		if !ok {
			return b.String(), wire, false
		}
		wire = after
		if line == "." {
			return b.String(), wire, true
		}
		b.WriteString(strings.TrimPrefix(line, ".") + "\r\n")
	}
}

// withEnd is content as it must arrive: ended by CRLF.
func withEnd(content string) string {
	if content == "" || strings.HasSuffix(content, "\r\n") {
		return content
	}
	return content + "\r\n"
}

func checkContent(t *testing.T, prefix, content string, r io.Reader) {
	t.Helper()
	wire, _ := sent(t, []byte(prefix), r)
	got, rest, ended := received(wire)
	if !ended || rest != "" {
		t.Fatalf("ended %v, %d octets after the dot", ended, len(rest))
	}
	if want := withEnd(prefix + content); got != want {
		t.Fatalf("received %d octets, want %d", len(got), len(want))
	}
	if i := strings.Index(wire, "\r\n.\r\n"); i >= 0 && i != len(wire)-5 {
		t.Fatalf("the dialogue ends at %d of %d octets", i, len(wire))
	}
	if want := stuffed(prefix + content); wire != want {
		t.Fatalf("wrote %d octets, want %d", len(wire), len(want))
	}
}

// stuffed is RFC 5321 4.5.2 word for word, with the whole message at hand.
func stuffed(content string) string {
	s := strings.ReplaceAll("\r\n"+withEnd(content), "\r\n.", "\r\n..")
	return s[2:] + ".\r\n"
}

func TestContentArrivesAsItWas(t *testing.T) {
	t.Parallel()
	var mixed strings.Builder
	rnd := rand.New(rand.NewPCG(1, 2))
	for mixed.Len() < 300_000 {
		mixed.WriteString([]string{"\r\n", ".", "\r", "\n", "\r\n.", "\r\n..", "\r\n.\r\n", "abc", "\xff\xfe"}[rnd.IntN(9)])
	}
	for name, content := range map[string]string{
		"empty":         "",
		"dot":           ".",
		"dots only":     strings.Repeat(".\r\n", 100_000),
		"CRLF only":     strings.Repeat("\r\n", 100_000),
		"no line":       strings.Repeat("x", 200_000),
		"mixed":         mixed.String(),
		"block less 1":  strings.Repeat("x", blockSize*3/4-1) + "\r\n.y",
		"bare LF dot":   "a\n.\r\nb\r\n",
		"bare CR dot":   "a\r.\r\nb\r\n",
		"dot then bare": "a\r\n.\nb\r\n.\rc",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkContent(t, "", content, strings.NewReader(content))
			checkContent(t, "Received: x\r\n", content, oneByte{strings.NewReader(content)})
			checkContent(t, content, "", strings.NewReader(""))
			checkContent(t, "", content, iotest.DataErrReader(strings.NewReader(content)))
			for shift := range 4 { // every place of CR, LF and dot at a block's edge
				s := strings.Repeat("x", blockSize*3/4-shift-1) + content
				checkContent(t, "", s, strings.NewReader(s))
			}
		})
	}
}

// The known ways to end a message early with other line ends than CRLF: none
// ends it for a receiver that goes by CRLF.
func TestSmuggledEndsDoNotEnd(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"\n.\n", "\n.\r\n", "\r.\r\n", "\r\n.\n", "\r\n.\r", "\r.\r", "\n.\r", "\r\n\x00.\r\n", "\r\r\n.\r\n", "\r\n.\r\r\n", "\r\n.\r\n"} {
		content := "Subject: x\r\n\r\na" + end + "MAIL FROM:<evil@a.example>\r\n"
		checkContent(t, "", content, strings.NewReader(content))
	}
}

func TestSmallContentIsOneWrite(t *testing.T) {
	t.Parallel()
	content := strings.Repeat(strings.Repeat("x", 76)+"\r\n.", 500)
	if _, n := sent(t, []byte("Received: x\r\n"), strings.NewReader(content)); n != 1 {
		t.Errorf("%d writes for %d octets", n, len(content))
	}
	const size = 1 << 20
	if _, n := sent(t, nil, strings.NewReader(strings.Repeat("x", size))); n > size/blockSize*5/4 {
		t.Errorf("%d writes for %d octets", n, size)
	}
}

// The final block is held back until the content has ended well.
func TestReadErrorLeavesTheDotOut(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 100, 100_000} {
		var out bytes.Buffer
		content := io.MultiReader(strings.NewReader(strings.Repeat("x\r\n", size)), failing{})
		stage, err := writeContent(nil, content, out.Write)
		if stage != StageContent || !errors.Is(err, ErrContent) || !errors.Is(err, errBroken) {
			t.Errorf("%v, %v", stage, err)
		}
		if _, _, ended := received(out.String()); ended {
			t.Error("a dot was written")
		}
	}
	if _, err := writeContent(nil, stuck{}, io.Discard.Write); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("%v", err)
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

// A failed write is doubtful only from the dot on.
func TestPartialWriteOfTheDot(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken pipe")
	const wire = "hello\r\n.\r\n"
	for n := range len(wire) {
		want := StageContent
		if n > len("hello\r\n") {
			want = StageDot
		}
		stage, err := writeContent(nil, strings.NewReader("hello\r\n"), func([]byte) (int, error) { return n, broken })
		if stage != want || err != broken {
			t.Errorf("%d octets: %v, %v", n, stage, err)
		}
	}
}

func FuzzContent(f *testing.F) {
	for _, s := range []string{"", ".", "\r\n.\r\n", "a\r\n..b", "\n.\r.\r\n.", "\r\r\n.\n", "x\r"} {
		f.Add(s, s, uint16(1))
	}
	f.Fuzz(func(t *testing.T, prefix, content string, pad uint16) {
		// The padding brings the input to a block's edge.
		prefix = strings.Repeat("x", int(pad)) + prefix
		checkContent(t, prefix, content, strings.NewReader(content))
		checkContent(t, prefix, content, oneByte{strings.NewReader(content)})
	})
}
