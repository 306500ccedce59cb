// Package printable makes fit for a terminal or a log what strangers wrote: senders'
// addresses, servers' replies, names in certificates and in DNS. Such text may hold
// escape sequences, line ends, and characters that turn the direction of what follows.
// As in Postfix's log, what is not printable becomes a question mark: control characters
// of ASCII and of ISO 8859-1 (U+0080 to U+009F), line and paragraph separators,
// bidirectional controls and all else that is no graphic character of Unicode, and what
// is not UTF-8.
//
// The command prints through Fprintf and its kin alone, which take formats for our own
// text and arguments for everybody's; the daemons' logs have Handler.
package printable

import (
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode"
	"unicode/utf8"
)

// String makes s one line of printable characters, as many as it had.
func String(s string) string {
	if fits(s) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if !printable(r) {
			return '?'
		}
		return r
	}, s)
}

// Cut is String, of at most n octets; what is cut ends in "...".
func Cut(s string, n int) string {
	if len(s) <= n {
		return String(s)
	}
	end := max(0, n-len("..."))
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return String(s[:end]) + "..."
}

// Error is err with a text of one printable line.
func Error(err error) error {
	if err == nil || fits(err.Error()) {
		return err
	}
	return cleaned{err}
}

type cleaned struct{ error }

func (c cleaned) Error() string { return String(c.error.Error()) }
func (c cleaned) Unwrap() error { return c.error }

// fits reports whether s is printable as it is; most is plain ASCII.
func fits(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' {
			return !strings.ContainsFunc(s[i:], func(r rune) bool { return !printable(r) })
		}
	}
	return true
}

func printable(r rune) bool { return r != utf8.RuneError && unicode.IsPrint(r) }

// Block is text of several lines: line ends and tabs stay.
type Block string

// Sprintf is fmt.Sprintf, with each argument made printable. The format is ours.
func Sprintf(format string, args ...any) string {
	if false {
		_ = fmt.Sprintf(format, args...) // so that go vet checks the callers' formats
	}
	return fmt.Sprintf(format, wrap(args)...)
}

// Fprintf is fmt.Fprintf, with each argument made printable. The format is ours.
func Fprintf(w io.Writer, format string, args ...any) (int, error) {
	return io.WriteString(w, Sprintf(format, args...))
}

// Fprintln is fmt.Fprintln, with each argument made printable.
func Fprintln(w io.Writer, args ...any) (int, error) { return fmt.Fprintln(w, wrap(args)...) }

// wrap leaves numbers as they are, which widths and precisions may be.
func wrap(args []any) []any {
	list := make([]any, len(args))
	for i, a := range args {
		if list[i] = a; !number(reflect.ValueOf(a).Kind()) {
			list[i] = argument{a}
		}
	}
	return list
}

// number reports whether values of a kind are numbers or truths, which hold no text.
func number(k reflect.Kind) bool {
	return k >= reflect.Bool && k <= reflect.Float64
}

// argument is formatted as what it holds, and then made printable.
type argument struct{ value any }

// Format implements fmt.Formatter.
func (a argument) Format(f fmt.State, verb rune) {
	s := fmt.Sprintf(fmt.FormatString(f, verb), a.value)
	if _, ok := a.value.(Block); ok {
		_, _ = io.WriteString(NewWriter(f), s)
		return
	}
	_, _ = io.WriteString(f, String(s))
}
