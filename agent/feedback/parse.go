package feedback

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"regexp"
	"strings"

	"github.com/millrace/millrace/agent/printable"
)

// What is read of a report, however much there is. Of real ones the most that was seen is
// five parts in a depth of three; a report on a message of 50 recipients has 50 groups.
const (
	maxParts      = 64
	maxDepth      = 4
	maxRecipients = 100
	maxFields     = 2000 // of one header
	maxReceived   = 100
	maxValue      = 2048 // octets of a field's value that are looked at; of Received and Content-Type
	maxText       = 512  // octets of a diagnostic, as of a reply
)

// ErrNone says that a message is no report.
var ErrNone = errors.New("not a delivery report or feedback report")

// Parse reads a report from a message, or its first MaxSize octets. ErrNone if it is none.
func Parse(b []byte) (*Report, error) {
	m := newMessage(b[:min(len(b), MaxSize)], "text/plain")
	r := &Report{From: fromAddress(m.get("From")), Ambiguous: m.times("From") > 1 || m.times("Content-Type") > 1}
	declared := ""
	if m.get("Content-Type") != "" {
		declared = m.media
	}
	if x := exceptionOf(declared, m.get); x != nil && x.read(m, r) {
		return r, nil
	}
	if m.media != "multipart/report" {
		return nil, ErrNone
	}
	found := false
	m.walk(0, func(p *message) bool {
		switch p.media {
		case "message/delivery-status", "message/global-delivery-status": // RFC 3464, 6533
			if !found {
				found = true
				r.deliveryStatus(p.decoded())
			}
		case "message/feedback-report": // RFC 5965
			if !found {
				found = true
				r.feedback(p.decoded())
			}
		case "message/rfc822", "message/global", "text/rfc822-headers", "message/rfc822-headers", "message/global-headers":
			r.returned(p.decoded())
		}
		return true
	})
	if !found {
		return nil, ErrNone
	}
	return r, nil
}

// deliveryStatus reads groups of fields: those of the message, then those of each recipient.
// Some leave out what should be between them, so a group begins with each Final-Recipient,
// too, that follows one.
func (r *Report) deliveryStatus(b []byte) {
	var x *Recipient
	end := func() {
		if x != nil && (x.Final != "" || x.Original != "" || x.Action != "") && len(r.Recipients) < maxRecipients {
			r.Recipients = append(r.Recipients, *x)
		}
		x = nil
	}
	group := func() *Recipient {
		if x == nil {
			x = new(Recipient)
		}
		return x
	}
	for range maxFields {
		name, value, rest, ok := cutField(b)
		if b = rest; !ok {
			if end(); len(b) == 0 {
				break
			}
			continue
		}
		switch name {
		case "reporting-mta":
			r.Reporter = typed(value)
		case "final-recipient":
			if x != nil && x.Final != "" {
				end()
			}
			group().Final = address(typed(value))
		case "original-recipient":
			if x != nil && x.Original != "" {
				end()
			}
			group().Original = address(typed(value))
		case "action":
			group().Action = strings.ToLower(firstWord(value))
		case "status":
			group().Status = status(firstWord(value))
		case "remote-mta":
			group().Remote = typed(value)
		case "diagnostic-code":
			kind, text, ok := strings.Cut(value, ";")
			if !ok {
				kind, text = "", value
			}
			x := group()
			x.diagnostic(strings.TrimSpace(text))
			if k := strings.TrimSpace(kind); !strings.EqualFold(k, "smtp") && k != "" {
				x.Code = 0 // what it begins with is no reply of SMTP
			}
		}
	}
	end()
	for i := range r.Recipients {
		if x := &r.Recipients[i]; x.vague() && x.Diagnostic != "" {
			if found := statusIn(x.Diagnostic); found != "" {
				x.Status = found
			}
		}
	}
}

// vague says whether the status tells less than what the host said may.
func (x *Recipient) vague() bool { return x.Status == "" || strings.HasSuffix(x.Status, ".0.0") }

// feedback reads the fields of a feedback report.
func (r *Report) feedback(b []byte) {
	r.Kind = Complaint
	h := header(b)
	r.Type = printable.Cut(strings.ToLower(firstWord(h.get("Feedback-Type"))), 40)
	r.Reporter = printable.Cut(h.get("User-Agent"), maxText)
	for _, f := range h {
		if f.name != "original-rcpt-to" && f.name != "removal-recipient" || len(r.Recipients) >= maxRecipients {
			continue
		}
		// What is no address was taken out (RFC 6590).
		if a := address(f.value); strings.Contains(a, "@") && (f.name == "original-rcpt-to" || len(r.Recipients) == 0) {
			r.Recipients = append(r.Recipients, Recipient{Final: a})
		}
	}
}

// returned notes the Received fields of a message that came back, or of its header.
func (r *Report) returned(b []byte) {
	for range maxFields {
		name, value, rest, ok := cutField(b)
		if !ok || len(r.Received) >= maxReceived {
			return
		}
		if b = rest; name == "received" {
			r.Received = append(r.Received, value)
		}
	}
}

// diagnostic notes what a host said: a reply of SMTP in most cases, of one or more lines.
func (x *Recipient) diagnostic(text string) {
	x.Diagnostic = printable.Cut(strings.ToValidUTF8(text, "?"), maxText)
	if code := text[:min(len(text), 3)]; len(code) == 3 && (code[0] == '4' || code[0] == '5') && digits(code[1:]) && (len(text) == 3 || text[3] == ' ' || text[3] == '-' || text[3] == ':') {
		x.Code = int(code[0]-'0')*100 + int(code[1]-'0')*10 + int(code[2]-'0')
		x.Diagnostic = printable.Cut(strings.ToValidUTF8(strings.TrimLeft(text[3:], " -:"), "?"), maxText)
	}
	if x.Status == "" {
		x.Status = statusIn(x.Diagnostic)
	}
	if x.Status != "" && x.Code != 0 {
		// The status stands by itself, and not once more in the text.
		if rest, ok := strings.CutPrefix(x.Diagnostic, x.Status); ok && (rest == "" || rest[0] == ' ') {
			x.Diagnostic = strings.TrimLeft(rest, " ")
		}
	}
}

// status is an enhanced status code (RFC 3463), or "".
func status(s string) string {
	class, rest, _ := strings.Cut(s, ".")
	subject, detail, ok := strings.Cut(rest, ".")
	if !ok || len(class) != 1 || strings.IndexByte("245", class[0]) < 0 || !digits(subject) || !digits(detail) || len(subject) > 3 || len(detail) > 3 {
		return ""
	}
	return s
}

// statusIn finds an enhanced status code of a failure in a text.
func statusIn(text string) string {
	for w := range strings.FieldsSeq(text) {
		w = strings.Trim(w, "()[]<>#,;:'\"")
		if s := status(w); s != "" && s[0] != '2' && !strings.HasSuffix(s, ".0.0") {
			return s
		}
	}
	return ""
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

func firstWord(s string) string {
	s = strings.TrimSpace(s)
	if i := strings.IndexAny(s, " \t;("); i >= 0 {
		s = s[:i]
	}
	return s
}

// typed is a value without its type: "rfc822; a@b" is "a@b".
func typed(s string) string {
	if _, after, ok := strings.Cut(s, ";"); ok {
		s = after
	}
	return printable.Cut(strings.TrimSpace(s), maxText)
}

// address takes brackets and blanks off an address.
func address(s string) string {
	s = strings.TrimSpace(s)
	if i := strings.IndexByte(s, '<'); i >= 0 {
		s = s[i+1:]
		if i = strings.IndexByte(s, '>'); i >= 0 {
			s = s[:i]
		}
	}
	if len(s) > 254 || strings.ContainsAny(s, " \t\r\n\x00") {
		return ""
	}
	return s
}

// fromAddress is the address in a From field, lower case; "" if there is not just one. Of a
// field longer than maxValue the beginning is read, as everywhere.
func fromAddress(v string) string {
	v = v[:min(len(v), maxValue)]
	if list, err := mail.ParseAddressList(v); err == nil {
		if len(list) != 1 {
			return ""
		}
		return strings.ToLower(list[0].Address)
	}
	return strings.ToLower(address(v))
}

// field is one header field, its name in lower case, its value unfolded.
type field struct{ name, value string }

// fields are those of a header.
type fields []field

func (h fields) get(name string) string {
	for _, f := range h {
		if strings.EqualFold(f.name, name) {
			return f.value
		}
	}
	return ""
}

// times is how often a field is there.
func (h fields) times(name string) (n int) {
	for _, f := range h {
		if strings.EqualFold(f.name, name) {
			n++
		}
	}
	return n
}

// header reads the fields at the beginning of a text, up to an empty line. A line that is
// none, as a mailbox's "From ", is passed over.
func header(b []byte) fields {
	var h fields
	for len(b) > 0 && len(h) < maxFields {
		name, value, rest, ok := cutField(b)
		if !ok {
			break
		}
		b = rest
		if name != "" {
			h = append(h, field{name, value})
		}
	}
	return h
}

// cutField takes a field off the front; ok is false if an empty line stands there, which is
// taken, or nothing. The name is in lower case, "" if the line is no field.
func cutField(b []byte) (name, value string, rest []byte, ok bool) {
	line, rest := cutLine(b)
	if len(line) == 0 {
		return "", "", rest, false
	}
	colon := bytes.IndexByte(line, ':')
	if colon > 0 {
		name = strings.ToLower(string(bytes.TrimRight(line[:min(colon, 100)], " \t")))
		if strings.ContainsAny(name, " \t") {
			name = ""
		}
	}
	v := append([]byte(nil), line[colon+1:min(len(line), colon+1+maxValue)]...)
	for len(rest) > 0 && (rest[0] == ' ' || rest[0] == '\t') {
		next, after := cutLine(rest)
		if len(bytes.TrimSpace(next)) == 0 && name == "" {
			break
		}
		if len(v) < maxValue {
			v = append(v, next[:min(len(next), maxValue)]...)
		}
		rest = after
	}
	return name, string(bytes.TrimSpace(v)), rest, true
}

// cutLine takes a line off the front, and its end, LF or CRLF.
func cutLine(b []byte) (line, rest []byte) {
	line, rest, _ = bytes.Cut(b, []byte{'\n'})
	return bytes.TrimSuffix(line, []byte{'\r'}), rest
}

// message is a message or a part of one.
type message struct {
	fields
	media string
	body  []byte
	parts *int // of all, counted
}

// newMessage reads the header of a message; the media type is that of one without a type.
func newMessage(b []byte, media string) *message {
	m := &message{fields: header(b), parts: new(int)}
	m.body = body(b)
	m.setMedia(media)
	return m
}

func (m *message) setMedia(without string) {
	if m.media = media(m.get("Content-Type")); m.media == "" {
		m.media = without
	}
}

// body is what follows the header.
func body(b []byte) []byte {
	for len(b) > 0 {
		_, _, rest, ok := cutField(b)
		if b = rest; !ok {
			break
		}
	}
	return b
}

// decoded is the body without its transfer encoding, as far as it can be read.
func (m *message) decoded() []byte {
	var r io.Reader
	switch strings.ToLower(strings.TrimSpace(m.get("Content-Transfer-Encoding"))) {
	case "base64":
		r = base64.NewDecoder(base64.StdEncoding, bytes.NewReader(m.body))
	case "quoted-printable":
		r = quotedprintable.NewReader(bytes.NewReader(m.body))
	default:
		return m.body
	}
	b, _ := io.ReadAll(r) // what could be read before an error
	return b
}

// walk calls visit for each part that is none of a multipart type, in order, until it
// returns false.
func (m *message) walk(depth int, visit func(*message) bool) bool {
	if !strings.HasPrefix(m.media, "multipart/") {
		return visit(m)
	}
	if depth >= maxDepth {
		return true
	}
	_, params, err := mime.ParseMediaType(m.get("Content-Type"))
	boundary := params["boundary"]
	if err != nil || boundary == "" {
		boundary = looseBoundary(m.get("Content-Type"))
	}
	if boundary == "" {
		return true
	}
	rest := m.body
	for first := true; ; first = false {
		part, after, last := cutPart(rest, boundary)
		if !first {
			if *m.parts++; *m.parts > maxParts {
				return false
			}
			p := &message{fields: header(part), body: body(part), parts: m.parts}
			p.setMedia("text/plain")
			if !p.walk(depth+1, visit) {
				return false
			}
		}
		if last {
			return true
		}
		rest = after
	}
}

// cutPart takes a part off the front, up to a line of the boundary; last says that no other
// follows: it was the closing one, or the message ends here.
func cutPart(b []byte, boundary string) (part, rest []byte, last bool) {
	delimiter := []byte("--" + boundary)
	for at := 0; at < len(b); {
		line, after := cutLine(b[at:])
		if bytes.HasPrefix(line, delimiter) {
			switch end := bytes.TrimRight(line[len(delimiter):], " \t"); string(end) {
			case "":
				return b[:at], after, false
			case "--":
				return b[:at], nil, true
			}
		}
		at = len(b) - len(after)
	}
	return b, nil, true
}

// boundaryIs finds its place in the field as it came: in lower case, octets that are no UTF-8
// become longer.
var boundaryIs = regexp.MustCompile(`(?i)boundary=`)

// looseBoundary finds the boundary in a field that cannot be parsed.
func looseBoundary(v string) string {
	at := boundaryIs.FindStringIndex(v)
	if at == nil {
		return ""
	}
	v = strings.TrimLeft(v[at[1]:], " \t")
	if strings.HasPrefix(v, `"`) {
		v, _, _ = strings.Cut(v[1:], `"`)
		return v
	}
	v, _, _ = strings.Cut(v, ";")
	return strings.TrimSpace(v)
}
