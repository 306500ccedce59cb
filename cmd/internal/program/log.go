package program

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/lmittmann/tint"
	"golang.org/x/term"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/maillog"
	"github.com/millrace/millrace/agent/printable"
)

// Logger is the log of a command: for people on a terminal, key=value elsewhere.
func (f Flags) Logger(w io.Writer) *slog.Logger {
	level := slog.LevelInfo
	if f.LogLevel != nil {
		level = *f.LogLevel
	}
	if isTerminal(w) {
		return slog.New(printable.Handler{Handler: forPeople(w, level)})
	}
	text := slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: without(inJournal(), false)})
	return slog.New(printable.Handler{Handler: text})
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

func forPeople(w io.Writer, level slog.Leveler) slog.Handler {
	return tint.NewTextHandler(w, &tint.Options{Level: level, TimeFormat: time.TimeOnly})
}

// inJournal reports whether the journal reads what we write: it has the time and the
// host already.
func inJournal() bool { return os.Getenv("JOURNAL_STREAM") != "" }

// without leaves out what whoever takes the lines adds by himself.
func without(stamp, level bool) func([]string, slog.Attr) slog.Attr {
	if !stamp && !level {
		return nil
	}
	return func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (stamp && a.Key == slog.TimeKey || level && a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}
}

// daemonLog is the log of a daemon, as [log] says.
type daemonLog struct {
	*slog.Logger
	flags  Flags
	config config.Log
	level  slog.LevelVar
}

// open begins the log of a daemon. Unless it goes to syslog it is written to w.
func (f Flags) open(name string, c config.Log, w io.Writer) (*daemonLog, error) {
	l := &daemonLog{flags: f, config: c}
	l.level.Set(f.level(c))
	h, err := l.handler(name, w)
	if err != nil {
		return nil, err
	}
	if c.Repeats > 0 {
		h = maillog.NewRepeats(h, int(c.Repeats), aboutMessage)
	}
	l.Logger = slog.New(printable.Handler{Handler: h})
	return l, nil
}

// aboutMessage names lines that are an account of one message, of which none is
// ever left out.
func aboutMessage(msg string) bool { return msg == "delivery" || strings.HasPrefix(msg, "verdict") }

func (l *daemonLog) handler(name string, w io.Writer) (slog.Handler, error) {
	c := l.config
	postfix := c.Format == config.LogPostfix
	if postfix {
		name = strings.Replace(name, "-", "/", 1) // millrace/milter, as postfix/cleanup
	}
	form := func(w io.Writer, stamp bool) slog.Handler {
		o := &slog.HandlerOptions{Level: &l.level, ReplaceAttr: without(!stamp, postfix)}
		if c.Format == config.LogJSON {
			return slog.NewJSONHandler(w, o)
		}
		return slog.NewTextHandler(w, o)
	}
	bare := func(b *bytes.Buffer) slog.Handler { return form(b, false) }
	switch {
	case c.Syslog:
		s, err := maillog.OpenSyslog(name)
		if err != nil {
			return nil, fmt.Errorf("[log] syslog: %w; is the host's syslog daemon running?", err)
		}
		return maillog.New(s, postfix, bare), nil
	case postfix:
		return maillog.New(&maillog.Plain{To: w, Daemon: name, Journal: inJournal()}, true, bare), nil
	case c.Format == config.LogLogfmt && isTerminal(w):
		return forPeople(w, &l.level), nil
	default:
		return form(w, !inJournal()), nil
	}
}

// level is that of the flag, or of the configuration.
func (f Flags) level(c config.Log) (level slog.Level) {
	if f.LogLevel != nil {
		return *f.LogLevel
	}
	_ = level.UnmarshalText([]byte(c.Level)) // config has checked it
	return level
}

// reload gives effect to a new [log], as far as it can change while we run.
func (l *daemonLog) reload(c config.Log) {
	l.level.Set(l.flags.level(c))
	c.Level = l.config.Level
	if c != l.config {
		l.Warn("changes of [log] but that of level take effect with a restart")
	}
}
