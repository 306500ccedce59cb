package printable

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
)

// MaxLogged bounds the message and each value of a log line, in octets: a reply of a
// server (1,024 octets) with what is said about it has room, a certificate with
// thousands of names has not, and a line stays below the 8 KB at which syslog daemons
// cut.
const MaxLogged = 2048

// Handler makes the messages and values of records printable and bounds them, before the
// handler that it wraps writes them in its form. Numbers, times and Markers pass as they
// are.
type Handler struct{ slog.Handler }

var _ slog.Handler = Handler{}

// Handle implements slog.Handler.
func (h Handler) Handle(ctx context.Context, r slog.Record) error {
	changed := slog.NewRecord(r.Time, r.Level, Cut(r.Message, MaxLogged), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		changed.AddAttrs(logged(a))
		return true
	})
	return h.Handler.Handle(ctx, changed)
}

// WithAttrs implements slog.Handler.
func (h Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	list := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		list[i] = logged(a)
	}
	return Handler{h.Handler.WithAttrs(list)}
}

// WithGroup implements slog.Handler.
func (h Handler) WithGroup(name string) slog.Handler { return Handler{h.Handler.WithGroup(name)} }

// Marker is a value that means something to the handler of a record, and is not text.
type Marker interface{ LogMarker() }

func logged(a slog.Attr) slog.Attr {
	switch v := a.Value.Resolve(); v.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(Cut(v.String(), MaxLogged))
	case slog.KindGroup:
		list := make([]slog.Attr, 0, len(v.Group()))
		for _, x := range v.Group() {
			list = append(list, logged(x))
		}
		a.Value = slog.GroupValue(list...)
	case slog.KindAny:
		switch x := v.Any().(type) {
		case Marker, nil:
		case error:
			a.Value = slog.StringValue(Cut(x.Error(), MaxLogged))
		default:
			if t := reflect.TypeOf(x); !number(t.Kind()) && (t.Kind() != reflect.Slice || !number(t.Elem().Kind())) {
				a.Value = slog.StringValue(Cut(fmt.Sprint(x), MaxLogged))
			}
		}
	}
	return a
}
