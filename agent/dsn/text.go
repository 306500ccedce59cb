package dsn

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds in octets. RFC 5322 wants lines of 78 and forbids more than 998.
const (
	lineWidth = 78
	maxWord   = 900   // of what cannot be folded
	maxText   = 2_000 // of a reply
)

// oneLine makes any text fit for one logical line: blanks of every kind become
// single blanks, what cannot be printed a question mark, and what is too long is
// cut. Letters outside ASCII are kept only if asked for.
func oneLine(s string, keepLetters bool) string {
	var b strings.Builder
	blank := false
	for _, r := range s {
		if b.Len() >= maxText {
			b.WriteString("...")
			break
		}
		if unicode.IsSpace(r) {
			blank = b.Len() > 0
			continue
		}
		if blank {
			b.WriteByte(' ')
			blank = false
		}
		switch {
		case r > ' ' && r < 0x7f:
			b.WriteRune(r)
		case keepLetters && r >= 0x80 && r != utf8.RuneError && unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			b.WriteByte('?')
		}
	}
	return b.String()
}

// wrap breaks text at blanks so that lines have at most lineWidth octets where
// words allow it, and never more than 998. The first line has column octets
// already; the others begin with indent.
func wrap(text string, column int, indent string) string {
	var b strings.Builder
	for word := range strings.FieldsSeq(text) {
		word = cut(word, maxWord)
		switch {
		case b.Len() == 0:
		case column+1+len(word) <= lineWidth:
			b.WriteByte(' ')
			column++
		default:
			b.WriteString("\r\n" + indent)
			column = len(indent)
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String()
}

// field writes a header field, folded. The value must be one line, not empty.
func field(b *strings.Builder, name, value string) {
	b.WriteString(name + ": " + wrap(value, len(name)+2, " ") + "\r\n")
}

// cut shortens s to at most n octets, not inside a letter.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for i := n; i > 0 && i > n-utf8.UTFMax; i-- {
		if utf8.RuneStart(s[i]) {
			return s[:i]
		}
	}
	return s[:n] // not UTF-8
}

// xtext decodes RFC 3461 section 4: "+3D" is "=". Text that is not valid xtext
// is returned as it is.
func xtext(s string) string {
	if !strings.Contains(s, "+") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '+' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) || hex(s[i+1]) < 0 || hex(s[i+2]) < 0 {
			return s
		}
		b.WriteByte(byte(hex(s[i+1])<<4 | hex(s[i+2])))
		i += 2
	}
	return b.String()
}

// hex returns the value of a digit; xtext knows upper case only, clients know less.
func hex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

func ascii[T string | []byte](s T) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
