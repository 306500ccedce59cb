// Package address says which mail addresses are plain: those that mean the same to
// everybody who reads them, so that Millrace may send to and for them in the host
// MTA's place. The milter diverts no mail that has another address in its envelope,
// and the agent says no other address to a receiver. An MTA takes much more, and
// knows what it means by it: Postfix takes "<<a@b.example>>", a comment, a source
// route or two dots in a row, and mends them when it sends (strict_rfc821_envelopes,
// RFC 5321 section 4.1.2).
//
// Who diverts and who sends use the same functions, and Plain implies International:
// what was diverted can be sent.
package address

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxLength bounds an address in octets: a path of 256 with its brackets (RFC 5321
// section 4.5.3.1.3).
const maxLength = 254

// Plain reports whether an address, without angle brackets, is a dot-atom in printable
// ASCII at a domain name of at least two labels, without a final dot, 254 octets in all
// at most. The null sender is not one.
func Plain(a string) bool {
	for i := range len(a) {
		if a[i] >= utf8.RuneSelf {
			return false
		}
	}
	return International(a)
}

// International reports whether an address is plain but for letters, digits and marks
// beyond ASCII, in the local part or the domain (RFC 6531 section 3.3).
func International(a string) bool {
	at := strings.LastIndexByte(a, '@')
	return len(a) <= maxLength && at > 0 && utf8.ValidString(a) &&
		dotted(a[:at], isAtom) && PlainDomain(a[at+1:])
}

// PlainDomain reports whether a domain can be looked up, and compared with others, as
// it stands: two labels or more with single dots between them; no address literal, no
// final dot. Underscores are in use. Labels may be beyond ASCII: see International.
func PlainDomain(d string) bool {
	return strings.Contains(d, ".") && dotted(d, func(r rune) bool {
		return isLetter(r) || r == '-' || r == '_'
	})
}

// dotted reports whether s is of one or more non-empty words with single dots between
// them, and every character fits.
func dotted(s string, fits func(rune) bool) bool {
	dot := true // the last character was a dot, or there is none
	for _, r := range s {
		if r == '.' {
			if dot {
				return false
			}
			dot = true
			continue
		}
		if !fits(r) {
			return false
		}
		dot = false
	}
	return !dot
}

// isAtom is atext of RFC 5322 section 3.2.3.
func isAtom(r rune) bool {
	return isLetter(r) || r < utf8.RuneSelf && strings.ContainsRune("!#$%&'*+-/=?^_`{|}~", r)
}

func isLetter(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
		return true
	case r < utf8.RuneSelf, r == utf8.RuneError:
		return false
	}
	return unicode.In(r, unicode.L, unicode.M, unicode.N, unicode.S)
}
