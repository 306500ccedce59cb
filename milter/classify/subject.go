package classify

import (
	"mime"
	"strings"
	"unicode"
)

// maxSubject is how much of a subject tells one campaign from another, in octets.
const maxSubject = 200

// subjectKey is a message's subject without what a campaign writes anew for each of its
// recipients: words of the recipient's name and address, * in their place. Numbers stay.
// They are what differs between one customer's order, code or ticket and the next one's.
func subjectKey(m *Message, h headers) string {
	s := h.first("subject")
	if strings.Contains(s, "=?") { // RFC 2047
		if d, err := new(mime.WordDecoder).DecodeHeader(s[:min(len(s), 4*maxSubject)]); err == nil {
			s = d
		}
	}
	s = strings.ToLower(s[:min(len(s), maxSubject)])
	personal := personalWords(m, h)
	var b strings.Builder
	folded := false
	for word := range strings.FieldsFuncSeq(s, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		if personal[word] {
			if !folded {
				b.WriteString(" *")
			}
			folded = true
			continue
		}
		folded = false
		b.WriteByte(' ')
		b.WriteString(word)
	}
	return b.String()
}

// personalWords are the words of the recipient's name in To and of his local part, of a
// message to one recipient alone.
func personalWords(m *Message, h headers) map[string]bool {
	if len(m.Recipients) != 1 {
		return nil
	}
	words := map[string]bool{}
	add := func(s string, shortest int) {
		s = strings.ToLower(s[:min(len(s), maxSubject)])
		for w := range strings.FieldsFuncSeq(s, func(r rune) bool { return !unicode.IsLetter(r) }) {
			if len(w) >= shortest {
				words[w] = true
			}
		}
	}
	local, _, _ := strings.Cut(m.Recipients[0].Address, "@")
	add(local, 3)
	if name, _, ok := strings.Cut(h.first("to"), "<"); ok {
		if strings.Contains(name, "=?") {
			if d, err := new(mime.WordDecoder).DecodeHeader(name[:min(len(name), 4*maxSubject)]); err == nil {
				name = d
			}
		}
		add(name, 2)
	}
	return words
}
