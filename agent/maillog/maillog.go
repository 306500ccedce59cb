// Package maillog writes the log of a daemon where, and in the form in which, the
// tools of a mail host look for it: Postfix's lines and syslog.
//
// # Postfix's form
//
// With [log] format = "postfix" everything about a message is a line as one of
// Postfix's programs writes it, under the name of that program:
//
//	millrace/qmgr[12]: QID: from=<s>, size=N, nrcpt=N (queue active)
//	millrace/smtp[12]: QID: to=<r>, relay=host[ip]:25, delay=d, delays=a/b/c/d, dsn=2.0.0, status=sent (text)
//	millrace/qmgr[12]: QID: from=<s>, status=expired, returned to sender
//	millrace/bounce[12]: QID: sender non-delivery notification: NEWQID
//	millrace/qmgr[12]: QID: removed
//
// QID is the host MTA's queue id, for it is the same message: Postfix has logged its
// client under that id, and its size where it got to the queue. So a tool that
// reads both logs as one counts the message once as received, and once for each
// recipient as delivered, and one grep follows it through. Mail that began with us
// (reports) has its spool id. What goes back to the host is "forwarded as" the
// queue id there, which is how Postfix says that the delivery is counted under
// another id.
//
// Line makes such a line of a slog.Record; the Handler knows it by its Program. All
// other records are key=value after Postfix's "warning: " or "error: ".
package maillog

import (
	"bytes"
	"context"
	"log/slog"
	"regexp"
	"strings"
	"sync"

	"github.com/millrace/millrace/agent/printable"
)

// Program names the program of Postfix that would write a line.
type Program string

var _ printable.Marker = SMTP

// LogMarker implements printable.Marker.
func (Program) LogMarker() {}

// The programs.
const (
	SMTP   Program = "smtp"
	Qmgr   Program = "qmgr"
	Bounce Program = "bounce"
)

// Line logs a line about a message in Postfix's form.
func Line(ctx context.Context, log *slog.Logger, level slog.Level, p Program, qid, text string) {
	log.LogAttrs(ctx, level, qid+": "+text, slog.Any("", p))
}

// program returns the Program of a record that Line made.
func program(r *slog.Record) (p Program, ok bool) {
	if r.NumAttrs() == 1 {
		r.Attrs(func(a slog.Attr) bool {
			p, ok = a.Value.Any().(Program)
			return false
		})
	}
	return p, ok
}

// Writer takes finished lines. name is "PROGRAM" of Postfix, or "" for the daemon.
type Writer interface {
	WriteLine(name Program, level slog.Level, text string) error
}

// Handler writes records to a Writer. Use New.
type Handler struct {
	*output
	inner slog.Handler // writes to output.text
}

// output is shared by a handler and those made of it.
type output struct {
	to      Writer
	postfix bool

	mu   sync.Mutex
	text bytes.Buffer
}

var _ slog.Handler = (*Handler)(nil)

// New returns a handler. form makes the handler that writes records as text; with
// postfix those that Line made are written by themselves, and others say how severe
// they are first.
func New(to Writer, postfix bool, form func(w *bytes.Buffer) slog.Handler) *Handler {
	o := &output{to: to, postfix: postfix}
	return &Handler{o, form(&o.text)}
}

// Enabled implements slog.Handler.
func (h *Handler) Enabled(ctx context.Context, l slog.Level) bool { return h.inner.Enabled(ctx, l) }

// Handle implements slog.Handler.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	if h.postfix {
		if p, ok := program(&r); ok {
			return h.to.WriteLine(p, r.Level, printable.String(r.Message))
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.text.Reset()
	if h.postfix {
		switch {
		case r.Level >= slog.LevelError:
			h.text.WriteString("error: ")
		case r.Level >= slog.LevelWarn:
			h.text.WriteString("warning: ")
		}
	}
	if err := h.inner.Handle(ctx, r); err != nil {
		return err
	}
	return h.to.WriteLine("", r.Level, strings.TrimSuffix(h.text.String(), "\n"))
}

// WithAttrs implements slog.Handler.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &Handler{h.output, h.inner.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h *Handler) WithGroup(name string) slog.Handler {
	return &Handler{h.output, h.inner.WithGroup(name)}
}

// localPart is what stands before the @ of something like an address.
var localPart = regexp.MustCompile(`(?:"[^"]*"|[^\s<>()",:;\[\]\\]+)@`)

// WithoutLocalParts leaves out the local parts of whatever in a text looks like an
// address: "…@example.com".
func WithoutLocalParts(text string) string {
	if strings.IndexByte(text, '@') < 0 {
		return text
	}
	return localPart.ReplaceAllString(text, "…@")
}

// Hidden is a recipient's address without its local part: "…@example.com".
func Hidden(address string) string {
	if at := strings.LastIndexByte(address, '@'); at > 0 {
		return "…" + address[at:]
	}
	return "…"
}

// HiddenSender leaves a recipient's local part out of a sender's address that has
// it in it (VERP): "list-bounces+…=example.com@lists.example".
func HiddenSender(address string) string {
	at := strings.LastIndexByte(address, '@')
	eq := strings.LastIndexByte(address[:max(at, 0)], '=')
	if eq < 0 {
		return address
	}
	return address[:strings.LastIndexAny(address[:eq], "+-")+1] + "…" + address[eq:]
}

// HiddenIn leaves a recipient's address, and its local part by itself, out of a
// text that may repeat it, as replies do.
func HiddenIn(text, address string) string {
	text = replaceFold(text, address, Hidden(address))
	// Shorter ones are found by chance in other words.
	if local := address[:max(strings.LastIndexByte(address, '@'), 0)]; len(local) >= 4 {
		text = replaceFold(text, local, "…")
	}
	return text
}

// replaceFold replaces what is old in any case of ASCII letters.
func replaceFold(text, old, with string) string {
	if old == "" {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		if len(text)-i >= len(old) && strings.EqualFold(text[i:i+len(old)], old) {
			b.WriteString(with)
			i += len(old)
			continue
		}
		b.WriteByte(text[i])
		i++
	}
	return b.String()
}

// tag is "millrace/smtp", or the daemon's own.
func tag(daemon string, p Program) string {
	if p == "" {
		return daemon
	}
	return "millrace/" + string(p)
}
