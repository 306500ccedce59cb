package program

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/lmittmann/tint"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/maillog"
	"github.com/millrace/millrace/agent/printable"
)

func opened(t *testing.T, f Flags, c config.Log) (*daemonLog, *bytes.Buffer) {
	t.Helper()
	var b bytes.Buffer
	log, err := f.open("millrace-milld", c, &b)
	if err != nil {
		t.Fatal(err)
	}
	return log, &b
}

func TestLogHasTheConfiguredForm(t *testing.T) {
	t.Setenv("JOURNAL_STREAM", "")
	log, b := opened(t, Flags{}, config.Log{Format: config.LogLogfmt, Level: config.LevelWarn})
	log.Info("not this")
	log.Warn("this", "key", "a b")
	if got := b.String(); !regexp.MustCompile(`^time=\S+ level=WARN msg=this key="a b"\n$`).MatchString(got) {
		t.Errorf("logfmt: %q", got)
	}

	log, b = opened(t, Flags{}, config.Log{Format: config.LogJSON, Level: config.LevelInfo})
	log.Info("this", "key", 1)
	var line map[string]any
	if err := json.Unmarshal(b.Bytes(), &line); err != nil || line["msg"] != "this" || line["key"] != 1.0 || line["time"] == nil {
		t.Errorf("JSON: %q, %v", b, err)
	}

	log, b = opened(t, Flags{}, config.Log{Format: config.LogPostfix, Level: config.LevelInfo})
	log.Warn("this", "key", 1)
	maillog.Line(t.Context(), log.Logger, slog.LevelInfo, maillog.Qmgr, "Q", "removed")
	if got := b.String(); !regexp.MustCompile(`^\w{3} .{11} \S+ millrace/milld\[\d+\]: warning: msg=this key=1\n\w{3} .* millrace/qmgr\[\d+\]: Q: removed\n$`).MatchString(got) {
		t.Errorf("Postfix's: %q", got)
	}

	level := slog.LevelError
	log, b = opened(t, Flags{LogLevel: &level}, config.Log{Format: config.LogLogfmt, Level: config.LevelDebug})
	log.Warn("not this")
	if b.Len() > 0 {
		t.Errorf("the flag is for errors: %q", b)
	}
}

// Whatever strangers wrote, a line of the log is one line, printable and bounded, in
// each form.
func TestLogLinesArePrintableAndBounded(t *testing.T) {
	t.Parallel()
	hostile := "\x1b[2J\u009b2J\x9b\u202e\u2028\x7f\r\nFORGED " + strings.Repeat("san.example ", 5000)
	forms := map[string]func(*bytes.Buffer) *slog.Logger{
		"terminal": func(b *bytes.Buffer) *slog.Logger {
			return slog.New(printable.Handler{Handler: tint.NewTextHandler(b, &tint.Options{NoColor: true})})
		},
	}
	for _, form := range []config.LogFormat{config.LogLogfmt, config.LogJSON, config.LogPostfix} {
		forms[string(form)] = func(b *bytes.Buffer) *slog.Logger {
			l, err := Flags{}.open("millrace-milld", config.Log{Format: form, Level: config.LevelInfo}, b)
			if err != nil {
				t.Fatal(err)
			}
			return l.Logger
		}
	}
	for form, open := range forms {
		var b bytes.Buffer
		log := open(&b)
		log.Info("delivery", "to", hostile, "err", errors.New(hostile), "any", struct{ Name string }{hostile}, "n", []uint32{1, 2})
		log.Warn(hostile)
		log.With("from", hostile).WithGroup("g").Info("news", slog.Group("h", "reply", hostile))
		maillog.Line(t.Context(), log, slog.LevelInfo, maillog.SMTP, "Q", "status=bounced ("+hostile+")")
		lines := strings.SplitAfter(b.String(), "\n")
		if len(lines) != 5 || lines[4] != "" {
			t.Errorf("%s: %d lines of 4 records", form, len(lines)-1)
		}
		for _, l := range lines {
			if !utf8.ValidString(l) || strings.ContainsFunc(strings.TrimSuffix(l, "\n"), func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%s: %.200q", form, l)
			}
			if len(l) > 3*printable.MaxLogged+300 {
				t.Errorf("%s: a line of %d octets: %.200q", form, len(l), l)
			}
		}
	}
}

func TestLogLimitsRepeatsButNoAccountOfAMessage(t *testing.T) {
	t.Parallel()
	log, b := opened(t, Flags{}, config.Log{Format: config.LogLogfmt, Level: config.LevelInfo, Repeats: 2})
	for range 4 {
		log.Warn("careful")
		log.Warn("delivery")
		log.Warn("verdict lost")
	}
	for text, want := range map[string]int{"careful": 2, "delivery": 4, "verdict": 4} {
		if n := strings.Count(b.String(), text); n != want {
			t.Errorf("%s is there %d times, want %d", text, n, want)
		}
	}
}

func TestReloadChangesTheLevel(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "millrace.toml")
	write(t, file, "hostname = \"one.example.com\"\n")
	p := begin(t, "runs", []string{"JOURNAL_STREAM="}, "--config", file)
	p.expect("msg=ready")
	write(t, file, "hostname = \"two.example.com\"\n[log]\nformat = \"json\"\nlevel = \"error\"\n")
	p.signal(syscall.SIGHUP)
	p.expect("hostname=two.example.com") // by Reload, with the old level
	write(t, file, "hostname = \"three.example.com\"\n[log]\nformat = \"json\"\nlevel = \"info\"\n")
	p.signal(syscall.SIGHUP)
	if line := p.expect("level="); !strings.Contains(line, "changes of [log] but that of level take effect with a restart") {
		t.Errorf("between the reloads it said %q", line)
	}
	p.expect("configuration reloaded")
	p.signal(syscall.SIGTERM)
	p.expect("msg=stopped")
	if code := p.end(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
