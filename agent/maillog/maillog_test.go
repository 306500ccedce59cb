package maillog

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/contrib/lab/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

func text(b *bytes.Buffer) slog.Handler {
	return slog.NewTextHandler(b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}})
}

func TestLinesHaveTheHeaderOfASyslogFile(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.Local)
	log := slog.New(New(&Plain{To: &b, Daemon: "millrace-agent", Now: func() time.Time { return at }}, true, text))
	Line(t.Context(), log, slog.LevelInfo, SMTP, "4fKz", "to=<a@b.test>, status=sent (one\ntwo)")
	log.With("site", "x").Warn("careful", "why", "a b")
	log.Error("worse")
	log.Info("verdict", "qid", "4fKz")
	name, _ := os.Hostname()
	name, _, _ = strings.Cut(name, ".")
	want := fmt.Sprintf(`Mar  4 05:06:07 %[1]s millrace/smtp[%[2]d]: 4fKz: to=<a@b.test>, status=sent (one?two)
Mar  4 05:06:07 %[1]s millrace-agent[%[2]d]: warning: msg=careful site=x why="a b"
Mar  4 05:06:07 %[1]s millrace-agent[%[2]d]: error: msg=worse
Mar  4 05:06:07 %[1]s millrace-agent[%[2]d]: msg=verdict qid=4fKz
`, name, os.Getpid())
	if b.String() != want {
		t.Errorf("wrote\n%swant\n%s", b.String(), want)
	}
	b.Reset()
	log = slog.New(New(&Plain{To: &b, Daemon: "millrace-agent", Journal: true}, true, text))
	log.Info("hello")
	if want := fmt.Sprintf("millrace-agent[%d]: msg=hello\n", os.Getpid()); b.String() != want {
		t.Errorf("for the journal: %q, want %q", b.String(), want)
	}
}

func TestSyslogGetsFacilitySeverityAndTag(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.SetReadDeadline(time.Now().Add(5 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	s, err := openSyslog("millrace-agent", "unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	log := slog.New(New(s, true, text))
	Line(t.Context(), log, slog.LevelInfo, Qmgr, "4fKz", "removed")
	log.Warn("careful")
	log.Error("worse")
	for _, want := range []string{ // mail is 2: 2*8 + 6 (info), 4 (warning), 3 (error)
		`^<22>\w{3} [ \d]\d \d\d:\d\d:\d\d millrace/qmgr\[\d+\]: 4fKz: removed\n$`,
		`^<20>.* millrace-agent\[\d+\]: warning: msg=careful\n$`,
		`^<19>.* millrace-agent\[\d+\]: error: msg=worse\n$`,
	} {
		b := make([]byte, 1024)
		n, err := l.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(want).Match(b[:n]) {
			t.Errorf("%q does not fit %s", b[:n], want)
		}
	}
	if _, err := openSyslog("x", "unixgram", path+".none"); err == nil {
		t.Error("a socket that is not there was opened")
	}
}

func TestRecipientsAreHidden(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"joe@b.test": "…@b.test", `"a@b"@c.test`: "…@c.test", "nobody": "…", "": "…",
	} {
		if got := Hidden(address); got != want {
			t.Errorf("Hidden(%s) = %s, want %s", address, got, want)
		}
	}
	for sender, want := range map[string]string{
		"news@b.test": "news@b.test", "": "", "list-bounces+joe=c.test@b.test": "list-bounces+…=c.test@b.test",
		"list-return-12-joe=c.test@b.test": "list-return-12-…=c.test@b.test", "joe=c.test@b.test": "…=c.test@b.test",
		"news@b=c.test": "news@b=c.test",
	} {
		if got := HiddenSender(sender); got != want {
			t.Errorf("HiddenSender(%s) = %s, want %s", sender, got, want)
		}
	}
	const said = "host mx[192.0.2.1] said: 550 5.1.1 <JOE.bloggs@b.test>: joe.bloggs unknown"
	if got := HiddenIn(said, "joe.bloggs@b.test"); got != "host mx[192.0.2.1] said: 550 5.1.1 <…@b.test>: … unknown" {
		t.Error(got)
	}
	if got := HiddenIn("550 no such user", "no@b.test"); got != "550 no such user" {
		t.Error(got)
	}
}

func TestRepeatsAreLimitedAndCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		log := slog.New(NewRepeats(text(&b), 2, func(msg string) bool { return msg == "delivery" }))
		lines := func() string {
			defer b.Reset()
			return b.String()
		}
		for range 5 {
			log.Warn("careful", "site", "a")
			log.Warn("careful", "site", "b")
			log.With("site", "a").Warn("careful")
		}
		if got := lines(); strings.Count(got, "site=a") != 4 || strings.Count(got, "site=b") != 2 || strings.Contains(got, "suppressed") {
			t.Errorf("within the minute:\n%s", got)
		}
		for range 5 {
			log.Info("news")
			log.Warn("delivery")
			Line(t.Context(), log, slog.LevelError, SMTP, "Q", "to=<>")
		}
		if got := lines(); strings.Count(got, "\n") != 15 {
			t.Errorf("what is never limited:\n%s", got)
		}
		time.Sleep(time.Minute)
		log.Warn("careful", "site", "a")
		log.Warn("careful", "site", "a")
		log.Warn("careful", "site", "a")
		if got := lines(); got != "msg=careful site=a suppressed=3\nmsg=careful site=a\n" {
			t.Errorf("after the minute:\n%s", got)
		}
		for i := range 3 * maxRepeats {
			log.Warn("careful", "site", i)
		}
		if got := lines(); strings.Count(got, "\n") != 3*maxRepeats {
			t.Error("many different warnings are no repeats")
		}
		if n := len(log.Handler().(*Repeats).seen); n > maxRepeats {
			t.Errorf("%d remembered", n)
		}
	})
}
