package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// What every local user may read names no address: not of a sender or a recipient, not as
// the name of a stream, not in a receiver's words.
func TestWhatEverybodyReadsHasNoAddress(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) {
		c.Replies = append([]config.Reply{{
			Name: "busy-rule", Text: "come back later", Action: config.ReplySuspend, For: time.Hour, After: 1, Within: time.Hour, Tell: true,
		}}, shippedReplies(t)...)
		c.Agent.HTTP.Listen = config.Listeners{freePort(t), "unix:" + filepath.Join(t.TempDir(), "http.sock")}
	},
		provider("google", "aspmx.l.google.com", 9, sink.Behaviour{PermShare: 1, Say: map[sink.Cause]string{
			sink.CausePerm: "550 5.7.26 secret.name: <secret.name@google.test> not taken, the sender secret.from is unauthenticated."}}),
		sink.Provider{Name: "busy", Domains: []string{"busy.test"}, Behaviour: sink.Behaviour{
			TempShare: 1, Say: map[sink.Cause]string{"temp": "451 4.7.1 come back later, write to secret.name@busy.test"}}},
		sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.start()
	stream := "secret.stream@news.test"
	for range 20 {
		s.send(spool.Envelope{Sender: "secret.from@news.test", Stream: stream}, letter, "secret.name@google.test")
	}
	s.send(spool.Envelope{Sender: "secret.from@news.test", Stream: "other." + stream}, letter, "secret.name@busy.test", "secret.name@far.test")
	at := s.config.Agent.HTTP.Listen
	var text string
	s.until("both effects are told", func() bool {
		var code int
		code, text = get(t, at[0], "/readyz", "")
		return code == http.StatusServiceUnavailable && strings.Contains(text, "1 stream is held for reply rule google-") &&
			strings.Contains(text, "is suspended until") && strings.Contains(text, "busy-rule")
	})
	s.until("delivered", func() bool { return len(s.at("far")) == 1 })
	for _, at := range at {
		for _, path := range []string{"/readyz", "/metrics"} {
			code, body := get(t, at, path, "")
			if code == 0 || body == "" || strings.Contains(body, "secret") {
				t.Errorf("%s%s answers %d:\n%s", at, path, code, body)
			}
		}
	}
	if _, body := get(t, at[0], "/metrics", ""); !strings.Contains(body, `stream="…@news.test"`) {
		t.Errorf("streams have no series:\n%s", body)
	}
	// An admin finds which.
	st, err := s.admin().Standing(t.Context())
	if err != nil || len(st.Pauses) != 1 || st.Pauses[0].Filter.Stream != stream {
		t.Errorf("brakes %+v, %v", st.Pauses, err)
	}
}

// A page of another site whose name was made to point here reads nothing. A balancer that
// sends no Host, and who asks by address, is answered.
func TestStateIsToldUnderOurNamesOnly(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) {
		c.Agent.HTTP.Listen = config.Listeners{freePort(t)}
		c.Agent.HTTP.Hostnames = []string{"status.example.com"}
	})
	s.start()
	at := s.config.Agent.HTTP.Listen[0]
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		for host, want := range map[string]int{
			"": 200, "127.0.0.1": 200, "192.0.2.7:8891": 200, "[::1]:8891": 200, "localhost:8891": 200, "status.example.com": 200,
			"mail.lab.test:8891": 200, "evil.example": 421, "127.0.0.1.evil.example:8891": 421, "mail.lab.test.evil.example": 421,
		} {
			c, err := net.Dial("tcp", at)
			if err != nil {
				t.Fatal(err)
			}
			if host == "" {
				_, err = fmt.Fprintf(c, "GET %s HTTP/1.0\r\n\r\n", path)
			} else {
				_, err = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, host)
			}
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil || resp.StatusCode != want {
				t.Errorf("%s under %q: %+v, %v", path, host, resp, err)
			}
			c.Close()
		}
	}
	if log := s.log.String(); strings.Count(log, "a name that is not ours") != 1 || !strings.Contains(log, "remedy: use an address") {
		t.Errorf("log:\n%s", log)
	}
}

// Some who read the metrics slowly, or never, keep nobody else from them.
func TestReadersOfTheMetricsHoldUpNobody(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) { c.Agent.HTTP.Listen = config.Listeners{freePort(t)} })
	a := s.start()
	for i := range 5 { // some 6 MB, which a socket does not take
		a.metrics.Connect(fmt.Sprintf("queue %d %s", i, strings.Repeat("x", 20_000)), "site", time.Now(), 0)
	}
	at := s.config.Agent.HTTP.Listen[0]
	for range 5 { // one more than are collected at a time
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.(*net.TCPConn).SetReadBuffer(4096); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprint(c, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err != nil { // its answer has begun
			t.Fatal(err)
		}
	}
	if code, body := get(t, at, "/metrics", ""); code != http.StatusOK {
		t.Errorf("answered %d %.200s", code, body)
	}
}

// Receivers and senders decide how much rules would pause, not what it costs: the number
// is bounded, the file is written now and then, and /readyz stays short.
func TestPausesByRulesAreBounded(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) { c.Replies = shippedReplies(t) })
	a, err := New(s.config, s.log.Logger(), "test")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.config.Agent.StateDirectory, orders.StandingFile)
	size := func() int64 {
		st, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return 0
		}
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	on := 0
	for i := range 600 {
		for _, until := range []time.Time{{}, time.Now().Add(time.Hour)} {
			if a.orders.PauseForRule("google-unauthenticated", control.Filter{Stream: fmt.Sprintf("stream%d@x until %v", i, until.IsZero())}, strings.Repeat("word ", 1000), until) {
				on++
			}
		}
	}
	if n := len(a.orders.Standing().Pauses); n != 200 || on != n {
		t.Errorf("%d are paused, %d were told to be", n, on)
	}
	if size() != 0 {
		t.Errorf("%d octets were written at once", size())
	}
	now := time.Now()
	a.orders.SaveRulePauses(now, false)
	if n := size(); n == 0 || n > 200*(orders.MaxPauseReason+500) {
		t.Errorf("the file has %d octets", n)
	}
	if list := a.watch.NotReady(); len(strings.Join(list, "\n")) > 2000 || !strings.Contains(strings.Join(list, "\n"), "100 streams are held for reply rule google-unauthenticated") {
		t.Errorf("/readyz:\n%s", strings.Join(list, "\n"))
	}
	if n := strings.Count(s.log.String(), "no more is paused"); n != 2 { // for good, and for a time
		t.Errorf("told %d times that no more is paused", n)
	}

	// An admin's own pauses are no matter of the bound; where he has resumed one there is
	// room again; the file follows within some seconds, and at the end.
	if err := a.backend().Pause(t.Context(), control.Pause{Filter: control.Filter{Stream: "his own"}}); err != nil {
		t.Error(err)
	}
	if _, err := a.backend().Resume(t.Context(), control.Filter{Stream: "stream0@x until true"}); err != nil {
		t.Error(err)
	}
	before := size()
	if !a.orders.PauseForRule("google-unauthenticated", control.Filter{Stream: "next"}, "x", time.Time{}) {
		t.Error("there is room, and it is not paused")
	}
	a.orders.SaveRulePauses(time.Now().Add(orders.SaveGap/2), false)
	if size() != before {
		t.Error("the file was written too soon")
	}
	a.orders.SaveRulePauses(time.Now().Add(orders.SaveGap), false)
	if size() == before {
		t.Error("the file was not written")
	}
	want := len(a.orders.Standing().Pauses)
	a.closeEvents()
	if err := errors.Join(a.writer.Close(), a.store.Close()); err != nil {
		t.Fatal(err)
	}
	if a = s.start(); len(a.orders.Standing().Pauses) != want {
		t.Errorf("%d pauses after a restart, want %d", len(a.orders.Standing().Pauses), want)
	}
	if _, err := a.backend().Resume(t.Context(), control.Filter{Stream: "next"}); err != nil {
		t.Error(err)
	}
	a.orders.PauseForRule("google-unauthenticated", control.Filter{Stream: "last"}, "x", time.Time{})
	s.stop()
	if b, err := os.ReadFile(path); err != nil || !strings.Contains(string(b), `"last"`) {
		t.Errorf("after the stop: %s, %v", b, err)
	}
}

// A state directory that cannot be written endangers no mail: /readyz says so and stays well.
func TestReadyzWarnsOfAStateDirectoryThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) { c.Agent.HTTP.Listen = config.Listeners{freePort(t)} })
	in := filepath.Join(s.config.Agent.StateDirectory, learnedFile, "in its place")
	if err := os.MkdirAll(in, 0o700); err != nil { // root may write to whatever the mode is
		t.Fatal(err)
	}
	s.start()
	s.until("a warning", func() bool {
		code, text := get(t, s.config.Agent.HTTP.Listen[0], "/readyz", "")
		return code == http.StatusOK && strings.HasPrefix(text, "ok\nwarning: what is learned of receivers, and orders, will not outlive this run: ")
	})
	if err := os.RemoveAll(filepath.Dir(in)); err != nil {
		t.Fatal(err)
	}
	ctx, done := context.WithTimeout(t.Context(), learnedEvery/2)
	defer done()
	s.until("none, soon after", func() bool {
		code, text := get(t, s.config.Agent.HTTP.Listen[0], "/readyz", "")
		return code == http.StatusOK && text == "ok\n" || ctx.Err() != nil
	})
	if ctx.Err() != nil {
		t.Error("the warning stays though the directory may be written again")
	}
}

// A state directory that is none has nothing in it, and can have nothing: the agent starts
// without, delivers mail, and says so.
func TestStateDirectoryThatIsAFile(t *testing.T) {
	t.Parallel()
	s := newStage(t, keepOutcomes, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.config.Agent.HTTP.Listen = config.Listeners{freePort(t)}
	if err := os.WriteFile(s.config.Agent.StateDirectory, []byte("not ours"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	s.until("delivered", func() bool { return len(s.at("far")) == 1 && s.empty() })
	s.until("a warning", func() bool {
		code, text := get(t, s.config.Agent.HTTP.Listen[0], "/readyz", "")
		return code == http.StatusOK && strings.HasPrefix(text, "ok\nwarning: what is learned of receivers, and orders, will not outlive this run: ")
	})
	other := *s.config // which some would follow at once, and others not
	other.Agent.StateDirectory = t.TempDir()
	if err := s.agent.Reload(&other); err != nil {
		t.Error(err)
	}
	if dir := s.agent.settings.Now().Config.Agent.StateDirectory; dir != s.config.Agent.StateDirectory {
		t.Errorf("after a reload %s", dir)
	}
	s.stop()
	if b, err := os.ReadFile(s.config.Agent.StateDirectory); err != nil || string(b) != "not ours" {
		t.Errorf("%q, %v", b, err)
	}
}
