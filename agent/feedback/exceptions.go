package feedback

import (
	"bytes"
	"strings"
)

// exception is a kind of report that is no multipart/report, and known by its sender and its
// subject.
type exception struct {
	name  string
	media []string // types; "" is no Content-Type at all
	from  string   // the address begins so, lower case
	// subject is how the subject begins, lower case.
	subject string
	read    func(m *message, r *Report) bool
}

var exceptions = []exception{
	// D. J. Bernstein's QSBMF (https://cr.yp.to/proto/qsbmf.txt), of qmail and its kin.
	{"qsbmf", []string{"", "text/plain"}, "mailer-daemon@", "failure notice", (*message).qsbmf},
	// Microsoft's Junk Mail Reporting Program in its older form: the message itself as an
	// attachment, and the recipient in a field of its own.
	{"jmrp", []string{"multipart/mixed"}, "staff@hotmail.com", "complaint about message from", (*message).jmrp},
}

// exceptionOf finds the exception that a message of a media type is, by its header.
func exceptionOf(t string, get func(string) string) *exception {
	for i := range exceptions {
		x := &exceptions[i]
		for _, m := range x.media {
			if m == t && begins(get("Subject"), x.subject) && strings.HasPrefix(fromAddress(get("From")), x.from) {
				return x
			}
		}
	}
	return nil
}

func begins(s, prefix string) bool {
	s = strings.TrimLeft(s, " \t\r\n")
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// qsbmf reads a QSBMF text: it begins with "Hi. This is the"; a paragraph for each recipient
// begins with the address in brackets and a colon; one that begins with a hyphen ends them,
// and the message follows.
func (m *message) qsbmf(r *Report) bool {
	body := bytes.TrimLeft(m.decoded(), "\r\n")
	if !bytes.HasPrefix(body, []byte("Hi. This is the")) {
		return false
	}
	for len(body) > 0 {
		paragraph, rest := cutParagraph(body)
		body = rest
		if paragraph[0] == '-' {
			r.returned(bytes.TrimLeft(body, "\r\n"))
			break
		}
		if paragraph[0] != '<' || len(r.Recipients) >= maxRecipients {
			continue
		}
		name, text, ok := bytes.Cut(paragraph, []byte(">:"))
		if !ok {
			continue
		}
		x := Recipient{Final: address(string(name[1:])), Action: "failed"}
		x.diagnostic(strings.Join(strings.Fields(string(text[:min(len(text), maxValue)])), " "))
		r.Recipients = append(r.Recipients, x)
	}
	return len(r.Recipients) > 0
}

// cutParagraph takes the lines up to an empty one off the front of a text that begins with a
// line that is not empty.
func cutParagraph(b []byte) (paragraph, rest []byte) {
	rest = b
	for len(rest) > 0 {
		line, next := cutLine(rest)
		if len(bytes.TrimSpace(line)) == 0 && len(rest) < len(b) {
			return b[:len(b)-len(rest)], bytes.TrimLeft(rest, "\r\n \t")
		}
		rest = next
	}
	return b, nil
}

// jmrp reads a complaint that is the message itself, attached.
func (m *message) jmrp(r *Report) bool {
	r.Kind, r.Type = Complaint, "abuse"
	found := false
	m.walk(0, func(p *message) bool {
		if found = p.media == "message/rfc822"; found {
			body := p.decoded()
			r.returned(body)
			if to := address(header(body).get("X-HmXmrOriginalRecipient")); to != "" {
				r.Recipients = append(r.Recipients, Recipient{Final: to})
			}
		}
		return !found
	})
	return found
}
