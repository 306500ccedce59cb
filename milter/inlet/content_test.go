package inlet

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// takeData takes content of DATA in pieces of the sizes given, the last one again and again, as conn does.
func takeData(b []byte, sizes []byte) (m *content, rest []byte, ended bool, err error) {
	m = newContent("", 1<<20)
	var held []byte
	for i := 0; ; i++ {
		n := 1
		if len(sizes) > 0 {
			n += int(sizes[min(i, len(sizes)-1)])
		}
		n = min(n, len(b))
		held = append(held, b[:n]...)
		b = b[n:]
		used, ended, err := m.scan(held, true)
		if ended || err != nil || n == 0 {
			return m, append(held[used:], b...), ended, err
		}
		if held = held[used:]; len(held) > 2 {
			panic("more than two octets are held back")
		}
	}
}

// model is DATA, an octet at a time: RFC 5321 section 4.1.1.4, and no CR or LF by itself.
func model(b []byte) (content, rest []byte, ended bool, err error) {
	for start := true; len(b) > 0; {
		if start && bytes.HasPrefix(b, []byte(".\r\n")) {
			return content, b[3:], true, nil
		}
		if start && b[0] == '.' {
			if b = b[1:]; len(b) == 0 {
				break
			}
		}
		start = false
		switch {
		case b[0] == '\n':
			return nil, nil, false, endBareLF
		case bytes.HasPrefix(b, []byte("\r\n")):
			content, b, start = append(content, "\r\n"...), b[2:], true
		case b[0] == '\r' && len(b) > 1:
			return nil, nil, false, endBareCR
		case b[0] == '\r':
			return content, b, false, nil
		default:
			content, b = append(content, b[0]), b[1:]
		}
	}
	return content, nil, false, nil
}

func FuzzData(f *testing.F) {
	for _, s := range []string{
		"", ".", ".\r", ".\r\n", "..\r\n.\r\n", "a\r\n.\r\nQUIT\r\n", "\r\n.\r\n", "a\n.\r\n", "a\r.\r\n", "\r\n.\r\r\n", "\r\n\r\n.\r\n.\r\n", ".a\r\n..\r\n...\r\n.\r\n", "a\r\n.\n", "\r\r\n.\r\n", "a\r\n.\rb\r\n", "a.b..\r\n.\r\n", "..a.\r\n.\r\n",
	} {
		f.Add([]byte(s), []byte{0})
		f.Add([]byte(s), []byte{1, 2})
		f.Add([]byte(s), []byte{255})
	}
	f.Fuzz(func(t *testing.T, b, sizes []byte) {
		m, rest, ended, err := takeData(b, sizes)
		defer m.close()
		want, after, end, bad := model(b)
		if (err != nil) != (bad != nil) || ended != end {
			t.Fatalf("%q: ended %v, %v; want %v, %v", b, ended, err, end, bad)
		}
		if end && (!bytes.Equal(m.mem, want) || !bytes.Equal(rest, after)) {
			t.Fatalf("%q: %q and then %q; want %q and then %q", b, m.mem, rest, want, after)
		}
	})
}

func FuzzChunks(f *testing.F) {
	f.Add([]byte("a\r\n.\r\nb"), []byte{1, 0})
	f.Add([]byte("a\r\n"), []byte{1})
	f.Add([]byte("a\nb"), []byte{0})
	f.Add([]byte("a\r"), []byte{0})
	f.Fuzz(func(t *testing.T, b, sizes []byte) {
		m := newContent("", 1<<20)
		defer m.close()
		for rest, i := b, 0; len(rest) > 0; i++ {
			n := len(rest)
			if i < len(sizes) {
				n = min(n, int(sizes[i]))
			}
			m.piece(rest[:n])
			rest = rest[n:]
		}
		err := m.finish()
		plain := bytes.ReplaceAll(b, []byte("\r\n"), nil)
		if bare := bytes.ContainsAny(plain, "\r\n") || bytes.Count(b, []byte("\r\n"))*2+len(plain) != len(b); errors.Is(err, errBare) != bare {
			t.Fatalf("%q: %v", b, err)
		}
		if err != nil {
			return
		}
		want := b
		if len(b) > 0 && !bytes.HasSuffix(b, []byte("\r\n")) {
			want = append(bytes.Clone(b), "\r\n"...)
		}
		if got, _ := io.ReadAll(m.all()); !bytes.Equal(got, want) {
			t.Fatalf("%q became %q", b, got)
		}
	})
}

// A message that is larger than what is held in memory is the same again, wherever it was cut.
func TestLargeContentIsWhole(t *testing.T) {
	t.Parallel()
	want := bytes.Repeat([]byte("0123456789 0123456789\r\n"), 3*inMemory/23)
	for _, size := range []int{1, 7000, 64 << 10, len(want)} {
		m := newContent(t.TempDir(), 1<<30)
		for b := want; len(b) > 0; {
			n := min(size, len(b))
			m.piece(b[:n])
			b = b[n:]
		}
		if err := m.finish(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(m.all()); err != nil || !bytes.Equal(got, want) || m.size != int64(len(want)) || m.file == nil {
			t.Errorf("pieces of %d: %d octets, size %d, %v", size, len(got), m.size, err)
		}
		m.close()
	}
}
