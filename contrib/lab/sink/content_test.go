package sink

import (
	"bytes"
	"strings"
	"testing"
)

// take runs content through in the given pieces, as a session does, and gives
// what was passed on and what was left after the final dot.
func take(maxLine int, pieces ...string) (c *content, passed, rest string, done bool) {
	var to, buf bytes.Buffer
	c = &content{to: &to}
	c.reset(maxLine)
	for _, p := range pieces {
		buf.WriteString(p)
		if done {
			continue
		}
		var n int
		n, done = c.feed(buf.Bytes())
		buf.Next(n)
	}
	return c, to.String(), buf.String(), done
}

func TestContentIsUnstuffed(t *testing.T) {
	t.Parallel()
	wire := "..\r\n..a\r\n.b\r\na.b\r\n...\r\n\r\n.\r\nMAIL"
	want := ".\r\n.a\r\nb\r\na.b\r\n..\r\n\r\n"
	for cut := range len(wire) {
		c, passed, rest, done := take(0, wire[:cut], wire[cut:])
		if passed != want || rest != "MAIL" || !done || c.bare || c.size != int64(len(want)) {
			t.Errorf("cut at %d: %q, rest %q, done %v, bare %v", cut, passed, rest, done, c.bare)
		}
	}
}

func TestContentMarksBareLineEnds(t *testing.T) {
	t.Parallel()
	for wire, bare := range map[string]bool{
		"a\r\n.\r\n":            false,
		"a\n\r\n.\r\n":          true,
		"\n\r\n.\r\n":           true,
		"a\rb\r\n.\r\n":         true,
		"a\r\r\n.\r\n":          true,
		"\ra\r\n.\r\n":          true,
		"a\n.\r\nb\r\n.\r\n":    true, // the first dot is content
		"a\r\n.\nb\r\n.\r\n":    true,
		"a\r\n.\rb\r\n.\r\n":    true,
		"a\r\n.\r\r\n\r\n.\r\n": true,
	} {
		for cut := range len(wire) {
			c, _, rest, done := take(0, wire[:cut], wire[cut:])
			if !done || rest != "" || c.bare != bare {
				t.Errorf("%q cut at %d: done %v, rest %q, bare %v", wire, cut, done, rest, c.bare)
			}
		}
	}
}

func TestContentMeasuresLines(t *testing.T) {
	t.Parallel()
	line := strings.Repeat("x", 998) + "\r\n"
	for wire, long := range map[string]bool{
		line + ".\r\n":                false,
		"x" + line + ".\r\n":          true,
		"." + line + ".\r\n":          false, // the stuffed dot does not count
		"..x" + line + line + ".\r\n": true,
		line + line + ".\r\n":         false,
	} {
		for _, cut := range []int{0, 1, 500, 999, 1000, 1001} {
			if c, _, _, _ := take(1000, wire[:cut], wire[cut:]); c.long != long {
				t.Errorf("%.5q... of %d cut at %d: long %v", wire, len(wire), cut, c.long)
			}
		}
	}
}

// However the octets arrive, content sees the same.
func FuzzContentPieces(f *testing.F) {
	f.Add("a\r\n..\r\n.\r\n", uint16(3), uint16(6))
	f.Add("a\n.\r\n.\r\n.\r\nRSET\r\n", uint16(1), uint16(8))
	f.Add("\r.\r\r\n\n..", uint16(1), uint16(2))
	f.Fuzz(func(t *testing.T, s string, a, b uint16) {
		i, j := int(a)%(len(s)+1), int(b)%(len(s)+1)
		i, j = min(i, j), max(i, j)
		c1, passed1, rest1, done1 := take(9, s)
		c2, passed2, rest2, done2 := take(9, s[:i], s[i:j], s[j:])
		if done1 != done2 || rest1 != rest2 || passed1 != passed2 || c1.bare != c2.bare || c1.long != c2.long || c1.size != c2.size {
			t.Errorf("whole: %q %q %v %v %v; in pieces: %q %q %v %v %v", passed1, rest1, done1, c1.bare, c1.long, passed2, rest2, done2, c2.bare, c2.long)
		}
		if end := strings.Index("\r\n"+s, "\r\n.\r\n"); done1 != (end >= 0) || done1 && rest1 != s[end+3:] {
			t.Errorf("ended %v with rest %q", done1, rest1)
		}
	})
}
