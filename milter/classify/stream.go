package classify

import (
	"fmt"
	"strings"
)

// maxStream is the longest name of a stream, in octets.
const maxStream = 128

// template makes a stream's name out of a message: text and {placeholders}
// alternate. An empty template is the default (streamOf).
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

// stream names the stream of a message by the template of a rule, nil for none, and what
// the name was before ids of recipients were known as such, or "". recipients is how many
// are diverted.
func (c *Classifier) stream(t template, m *Message, h headers, recipients int) (name, formerly string) {
	if s := t.expand(m, h); s != "" {
		return s, ""
	}
	return c.volume.streamOf(m, h, recipients)
}

// streamOf is the default name of a stream: the List-Id, else the Feedback-ID, else the
// right-most part of that, which names the sender (Google's description of the field),
// else the sender's domain. Of these the first that is there, and is no id of a recipient
// or message. formerly is the first that is there if that is another; of an id that was
// never seen, it is the name without it.
func (v *Volume) streamOf(m *Message, h headers, recipients int) (name, formerly string) {
	domain := domainOf(m.Sender)
	feedback := h.first("feedback-id")
	candidates := [...]string{
		listIDField: listID(h), feedbackField: feedback, feedbackSenderField: feedback[strings.LastIndexByte(feedback, ':')+1:],
	}
	first, newest, wider := "", false, ""
	for f, id := range candidates {
		s := clean(id)
		if s == "" {
			continue
		}
		if first == "" {
			first = s
		}
		stable, fresh := v.ids.stable(domain, idField(f), s, recipients)
		if stable && name == "" {
			name, newest = s, fresh
		} else if stable {
			wider = s // the last of them names the sender
		}
	}
	if wider == "" {
		wider = clean(domain)
	}
	if name == "" {
		name = wider
	}
	if name == "" {
		name = "unnamed"
	}
	switch {
	case first != name:
		formerly = first
	case newest && wider != name:
		// It is not known yet whether this is an id of a recipient, as after a restart: what
		// was ordered under the name that the stream would have then holds, too.
		formerly = wider
	}
	return name, formerly
}

// expand gives the name by a template, or "" if it is empty or, because the message has
// none of the fields, nothing but its fixed text is left.
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
	return ""
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
