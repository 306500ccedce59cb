package printable

import (
	"fmt"
	"io"
	"unicode/utf16"
	"unicode/utf8"
)

// Writer passes text of many lines on and makes it printable; line ends and tabs stay.
// Use NewWriter or NewJSON. A character may come in several pieces; one that is not
// complete when the writing ends is not passed on.
type Writer struct {
	w       io.Writer
	replace func(b []byte, r rune) []byte // appends what stands for a character
	part    []byte                        // the beginning of a character
	out     []byte
}

// NewWriter returns a Writer that writes question marks.
func NewWriter(w io.Writer) *Writer {
	return &Writer{w: w, replace: func(b []byte, _ rune) []byte { return append(b, '?') }}
}

// NewJSON returns a Writer for JSON (RFC 8259), where nothing beyond ASCII stands outside
// of strings: what is not printable is written as \uXXXX, and so is not lost.
func NewJSON(w io.Writer) *Writer {
	return &Writer{w: w, replace: func(b []byte, r rune) []byte {
		if r > 0xffff {
			high, low := utf16.EncodeRune(r)
			return fmt.Appendf(b, `\u%04x\u%04x`, high, low)
		}
		return fmt.Appendf(b, `\u%04x`, r)
	}}
}

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) {
	b := p
	if len(w.part) > 0 {
		b = append(w.part, p...)
	}
	w.out = w.out[:0]
	for len(b) > 0 && utf8.FullRune(b) {
		r, n := utf8.DecodeRune(b)
		if r == '\n' || r == '\t' || printable(r) {
			w.out = append(w.out, b[:n]...)
		} else {
			w.out = w.replace(w.out, r)
		}
		b = b[n:]
	}
	w.part = append([]byte(nil), b...)
	if _, err := w.w.Write(w.out); err != nil {
		return 0, err
	}
	return len(p), nil
}
