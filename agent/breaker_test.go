package agent

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/feedback"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

func (s *stage) orders() control.StandingOrders {
	s.t.Helper()
	st, err := s.admin().Standing(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

// breaking is a stage with a provider whose addresses are gone, where the breaker holds.
func breaking(t *testing.T) *stage {
	s := newStage(t, func(c *config.Config) {
		c.Agent.HTTP.Listen = config.Listeners{freePort(t)}
		c.Breaker = config.Breaker{HardBounces: 0.05, Complaints: 0.003, Notify: "postmaster"}
		q := c.General
		q.Name, q.MX = "gone", []string{"*.gone.test"}
		c.Queues = append(c.Queues, q)
	}, gone, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.start()
	return s
}

// news is mail of the stream that is held there.
var news = spool.Envelope{Sender: "n@news.test", Stream: "news"}

// breaks sends as much of it as is enough, and waits until it is held: in the queue, too, when
// that is logged.
func (s *stage) breaks() {
	s.t.Helper()
	for i := range 100 {
		s.send(news, letter, fmt.Sprintf("x%d@gone.test", i))
	}
	s.until("held", func() bool { return strings.Contains(s.log.String(), "a stream is held at a provider") })
	if !s.held() {
		s.t.Fatal("not as it should be")
	}
}

// goneNews is what the breaker holds.
var goneNews = control.Filter{Queue: "gone", Stream: "news"}

func (s *stage) held() bool {
	return slices.ContainsFunc(s.orders().Pauses, func(p control.Pause) bool { return p.Filter == goneNews && p.Who == control.Breaker })
}

// goesOn sends more of it, and fails if that is held.
func (s *stage) goesOn(to ...string) {
	s.t.Helper()
	var done []func() bool
	for _, x := range to {
		done = append(done, s.outcome(s.send(news, letter, x)))
	}
	s.until("bounced, or held", func() bool {
		return s.held() || !slices.ContainsFunc(done, func(f func() bool) bool { return !f() })
	})
	if s.held() {
		s.t.Fatal("held again")
	}
}

// A stream whose addresses are gone is held at that provider; the same stream elsewhere and
// another stream there go on. The admin is told by a mail through the host, and everywhere else
// where he may look. It is held over a restart, and what he has resumed is not held again.
func TestBreakerHoldsAStreamAtOneProvider(t *testing.T) {
	t.Parallel()
	s := breaking(t)
	s.breaks()
	waits := s.send(news, letter, "late@gone.test")
	s.send(news, letter, "a@far.test")
	s.send(spool.Envelope{Sender: "n@news.test", Stream: "other"}, letter, "y@gone.test")
	s.until("others go on", func() bool { return len(s.statuses("y@gone.test")) == 1 })
	s.until("so it does elsewhere", func() bool { return s.arrivals("far") == "a" })
	s.until("the admin's mail", func() bool {
		return slices.ContainsFunc(s.at("host"), func(a accepted) bool { return a.recipient == "postmaster" })
	})
	for _, a := range s.at("host") {
		if a.recipient == "postmaster" && (a.sender != "" || !strings.Contains(a.content, "Auto-Submitted: auto-generated\r\n") || !strings.Contains(a.content, "millrace resume --queue gone STREAM\r\n")) {
			t.Errorf("the mail, from %q: %s", a.sender, a.content)
		}
	}
	if list, err := s.admin().Streams(t.Context()); err != nil || !slices.ContainsFunc(list, func(x control.Stream) bool {
		return x.Name == "news" && strings.HasPrefix(x.Waits, "held at gone, breaker: ")
	}) {
		t.Errorf("streams: %+v", list)
	}
	if code, body := s.ready(); code != http.StatusOK || !strings.Contains(body, "warning: 1 stream is held by the breaker") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if body := s.exposition(); !strings.Contains(body, `millrace_breaker_streams_held{queue="gone"} 1`) {
		t.Error("no metric tells of it")
	}
	why, err := s.admin().Why(t.Context(), "gone.test")
	if err != nil || !strings.Contains(why[len(why)-1].Now.Breaker, "no complaint was ever reported by this provider") {
		t.Errorf("why: %+v, %v", why, err)
	}

	s.stop()
	s.start()
	if !s.held() {
		t.Fatal("not held after a restart")
	}
	if list := s.statuses("late@gone.test"); len(list) != 0 {
		t.Errorf("what is held is %s", list)
	}
	s.resume(goneNews)
	s.until("resumed", s.outcome(waits))
	s.goesOn("z0@gone.test", "z1@gone.test", "z2@gone.test")
	if len(s.orders().Released) != 1 {
		t.Errorf("resumed: %+v", s.orders())
	}
	s.stop()
	s.start()
	s.goesOn("z3@gone.test", "z4@gone.test")
}

// A queue that gets another name is another provider: what was held there goes on, and what an
// admin reads of it he can still resume.
func TestBreakerHoldsByTheNameOfTheQueue(t *testing.T) {
	t.Parallel()
	s := breaking(t)
	s.breaks()
	waits := s.send(news, letter, "late@gone.test")
	s.until("it waits", func() bool { return s.listed(control.Filter{Stream: "news"}) == "late" })
	next := *s.config
	next.Queues = slices.Clone(next.Queues)
	next.Queues[len(next.Queues)-1].Name = "left"
	if err := s.agent.Reload(&next); err != nil {
		t.Fatal(err)
	}
	s.until("it goes on", s.outcome(waits))
	if !s.held() {
		t.Error("the order is gone")
	}
	s.resume(goneNews)
	if st := s.orders(); len(st.Pauses) != 0 || len(st.Released) != 1 {
		t.Errorf("%+v", st)
	}
}

// A complaint is one of the provider that the mail went to, also where only its MX hosts tell who
// that is.
func TestComplaintIsCountedAtTheProviderOfItsMail(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) {
		c.Breaker = config.Breaker{Complaints: 0.003}
		q := c.General
		q.Name, q.MX = "big", []string{"*.far.test"}
		c.Queues = append(c.Queues, q)
	}, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.start()
	s.send(news, letter, "a@far.test")
	s.until("delivered", func() bool { return s.arrivals("far") == "a" })
	judged := func() string {
		s.t.Helper()
		why, err := s.admin().Why(t.Context(), "far.test")
		if err != nil {
			t.Fatal(err)
		}
		return why[len(why)-1].Now.Breaker
	}
	if got := judged(); !strings.Contains(got, "no complaint was ever reported") {
		t.Errorf("before: %q", got)
	}
	head, _, _ := strings.Cut(s.at("far")[0].content, "Subject:")
	report := "From: fbl@far.test\r\nContent-Type: multipart/report; report-type=feedback-report; boundary=b\r\n\r\n" +
		"--b\r\nContent-Type: message/feedback-report\r\n\r\nFeedback-Type: abuse\r\nUser-Agent: x\r\nVersion: 1\r\n\r\n" +
		"--b\r\nContent-Type: text/rfc822-headers\r\n\r\n" + head + "\r\n--b--\r\n"
	if _, err := feedback.NewBox(s.config.Spool.Directory).Put([]byte(report), 1, time.Now()); err != nil {
		t.Fatal(err)
	}
	s.until("the complaint is taken", func() bool { return strings.Contains(s.log.String(), "msg=report") })
	if got := judged(); got != "streams are held above 0.3% complaints" {
		t.Errorf("after: %q", got)
	}
	s.stop()
	text, err := os.ReadFile(filepath.Join(s.config.Agent.StateDirectory, breakerFile))
	if err != nil || !strings.Contains(string(text), `"recipients":1,"complaints":1}`) { // of the day on which it arrived
		t.Errorf("counted: %s, %v", text, err)
	}
}
