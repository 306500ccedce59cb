package classify

import (
	"fmt"
	"strings"
)

// maxStream is the longest name of a stream, in octets.
const maxStream = 128

// template makes a stream's name out of a message: text and {placeholders}
// alternate. An empty template is the default: List-Id, else Feedback-ID, else
// the sender's domain.
type template []part

type part struct {
	text  string
	field func(*Message, headers) string // instead of text
}

// parseTemplate reads a template: {list_id}, {feedback_id}, {sender_domain}
// and {header:Name} are replaced, all else is kept.
func parseTemplate(s string) (template, error) {
	var t template
	for s != "" {
		text, rest, ok := strings.Cut(s, "{")
		if text != "" {
			t = append(t, part{text: text})
		}
		if !ok {
			break
		}
		name, after, ok := strings.Cut(rest, "}")
		if !ok {
			return nil, fmt.Errorf("%q has no closing brace", "{"+rest)
		}
		f := placeholder(name)
		if f == nil {
			return nil, fmt.Errorf("unknown placeholder {%s}", name)
		}
		t = append(t, part{field: f})
		s = after
	}
	return t, nil
}

func placeholder(name string) func(*Message, headers) string {
	switch name {
	case "list_id":
		return func(_ *Message, h headers) string { return listID(h) }
	case "feedback_id":
		return func(_ *Message, h headers) string { return h.first("feedback-id") }
	case "sender_domain":
		return func(m *Message, _ headers) string { return domainOf(m.Sender) }
	}
	if h, ok := strings.CutPrefix(name, "header:"); ok && h != "" {
		h = strings.ToLower(h)
		return func(_ *Message, hs headers) string { return hs.first(h) }
	}
	return nil
}

// expand gives the stream's name. A template of which nothing but its fixed
// text is left, because the message has none of the fields, gives the default.
func (t template) expand(m *Message, h headers) string {
	var b strings.Builder
	filled := false
	for _, p := range t {
		if p.field == nil {
			b.WriteString(p.text)
			filled = filled || len(t) == 1
			continue
		}
		v := p.field(m, h)
		filled = filled || v != ""
		b.WriteString(v[:min(len(v), maxStream)])
	}
	if filled {
		if s := clean(b.String()); s != "" {
			return s
		}
	}
	for _, v := range []string{listID(h), h.first("feedback-id"), domainOf(m.Sender)} {
		if s := clean(v); s != "" {
			return s
		}
	}
	return "unnamed"
}

// listID is the identifier of a List-Id field (RFC 2919), lower case: what
// stands in angle brackets, or else the whole value.
func listID(h headers) string {
	v := h.first("list-id")
	if open := strings.LastIndexByte(v, '<'); open >= 0 {
		if id, _, ok := strings.Cut(v[open+1:], ">"); ok {
			v = id
		}
	}
	return strings.ToLower(strings.TrimSpace(v))
}

// clean makes a name that stands in a log line, a metric's label and a file:
// printable ASCII without blanks and quotes.
func clean(s string) string {
	s = strings.TrimSpace(s)
	b := []byte(s[:min(len(s), maxStream)])
	for i, c := range b {
		if c <= ' ' || c > '~' || c == '"' || c == '\\' {
			b[i] = '_'
		}
	}
	return string(b)
}
