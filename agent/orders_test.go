package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// arrivals are the local parts of those who got mail.
func (s *stage) arrivals(provider string) string {
	var list []string
	for _, a := range s.at(provider) {
		name, _, _ := strings.Cut(a.recipient, "@")
		list = append(list, name)
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// TestPauseByWhatOnlyEnvelopesTell pauses a SASL user, a sender and a client: mail
// that is queued, mail that comes, and mail that a restarted agent finds.
func TestPauseByWhatOnlyEnvelopesTell(t *testing.T) {
	t.Parallel()
	for name, filter := range map[string]control.Filter{
		"user":   {User: "hacked"},
		"sender": {Sender: "BAD@news.test"},
		"client": {Client: "192.0.2.66"},
		"both":   {User: "hacked", Client: "192.0.2.66"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}})
			s.start()
			bad := spool.Envelope{Sender: "bad@news.test", Stream: "s", AuthUser: "hacked", ClientAddr: "192.0.2.66"}
			good := spool.Envelope{Sender: "good@news.test", Stream: "s", AuthUser: "good", ClientAddr: "192.0.2.7"}
			s.pause(control.Filter{Stream: "s"}, "until all is there")
			s.send(bad, letter, "bad1@far.test", "bad2@far.test")
			s.send(good, letter, "good1@far.test")
			s.until("queued", func() bool { return s.status().Waiting == 3 })
			s.pause(filter, "account abused")
			s.resume(control.Filter{Stream: "s"})
			s.send(bad, letter, "bad3@far.test")
			s.send(good, letter, "good2@far.test")
			s.until("the good mail goes", func() bool { return s.arrivals("far") == "good1 good2" && s.status().Held == 3 })
			s.stop()
			s.send(bad, letter, "bad4@far.test")
			s.send(good, letter, "good3@far.test")
			s.start()
			s.until("the good mail goes, after a restart", func() bool { return s.arrivals("far") == "good1 good2 good3" && s.status().Held == 4 })
			var reasons []string
			if err := s.admin().Messages(t.Context(), control.Filter{State: "held"}, func(m *control.Message) error {
				for _, r := range m.Recipients {
					reasons = append(reasons, r.Reason)
				}
				return nil
			}); err != nil || len(reasons) != 4 || reasons[0] != "account abused" {
				t.Errorf("listed as %q, %v", reasons, err)
			}
			if n := s.act(control.VerbCancel, control.Filter{Recipient: "bad4@far.test"}); n != 1 {
				t.Errorf("%d cancelled of what is halted", n)
			}
			s.resume(filter)
			s.until("the rest goes", func() bool { return s.arrivals("far") == "bad1 bad2 bad3 good1 good2 good3" && s.empty() })
		})
	}
}

// TestPauseOfAllLeavesTheWayHomeOpen stops everything over a restart but reports.
func TestPauseOfAllLeavesTheWayHomeOpen(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.start()
	s.pause(control.Filter{All: true}, "maintenance")
	id := s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "b@far.test")
	s.stop()
	s.start()
	s.until("both wait", func() bool { return s.listed(control.Filter{State: "held"}) == "a b" })
	if n := s.act(control.VerbFlush, control.Filter{All: true}); n != 0 {
		t.Errorf("flush was about %d that are paused", n)
	}
	if n := s.act(control.VerbExpire, control.Filter{All: true}); n != 0 {
		t.Errorf("expire was about %d that are paused", n)
	}
	if n := s.act(control.VerbExpire, control.Filter{State: "held", ID: id.String()}); n != 1 {
		t.Errorf("expire was about %d, want 1", n)
	}
	s.until("the report goes home", func() bool { return len(s.at("host")) == 1 })
	if r := s.at("host")[0]; r.recipient != "n@news.test" || !strings.Contains(r.content, "expired by the admin") {
		t.Errorf("report to %s:\n%s", r.recipient, r.content)
	}
	if n := len(s.at("far")); n != 0 {
		t.Errorf("%d sent", n)
	}
	s.resume(control.Filter{All: true})
	s.until("the other one goes", func() bool { return s.arrivals("far") == "b" })
}

func TestPausesThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil)
	s.start()
	for says, f := range map[string]control.Filter{
		"say all":                      {},
		"remedy: hold is":              {ID: "M1-1000"},
		"leave out queue":              {User: "joe", Domain: "far.test"},
		"queue gogle: not known":       {Queue: "gogle"},
		"site nowhere.test: not known": {Site: "nowhere.test"},
	} {
		if err := s.admin().Pause(t.Context(), control.Pause{Filter: f}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v, want %q", f, err, says)
		}
	}
	if err := s.admin().Pause(t.Context(), control.Pause{Filter: control.Filter{All: true}, Until: time.Now().Add(-time.Second)}); err == nil {
		t.Error("a brake that is over was put on")
	}
	if _, err := s.admin().Resume(t.Context(), control.Filter{Stream: "one"}); err == nil || !strings.Contains(err.Error(), "no brake is on for stream one") {
		t.Errorf("resume of what is not paused: %v", err)
	}
	for says, l := range map[string]control.Limit{
		"not negative":         {Name: "general", Sessions: -1, Until: time.Now().Add(time.Hour)},
		"in the future":        {Name: "general", Sessions: 1},
		"site or queue gogle:": {Name: "gogle", Sessions: 1, Until: time.Now().Add(time.Hour)},
		"not known":            {Name: "general"},
	} {
		if err := s.admin().Limit(t.Context(), l); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v, want %q", l, err, says)
		}
	}
	if st, err := s.admin().Standing(t.Context()); err != nil || len(st.Pauses)+len(st.Limits) != 0 {
		t.Errorf("in force: %+v, %v", st, err)
	}
}

// TestPausesAndLimitsEndByThemselves has one of each kind that lasts a second, or as long as
// it takes to ask for all of them.
func TestPausesAndLimitsEndByThemselves(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.start()
	var soon time.Time
	for lasts := time.Second; ; lasts *= 2 {
		soon = time.Now().Add(lasts)
		err := errors.Join(
			s.admin().Pause(t.Context(), control.Pause{Filter: control.Filter{Stream: "s"}, Until: soon}),
			s.admin().Pause(t.Context(), control.Pause{Filter: control.Filter{User: "joe"}, Until: soon}),
			s.admin().Limit(t.Context(), control.Limit{Name: "general", Sessions: 1, Until: soon}))
		if err == nil {
			break
		}
		if time.Now().Before(soon) {
			t.Fatal(err)
		}
	}
	s.send(spool.Envelope{Sender: "n@news.test", Stream: "s"}, letter, "a@far.test")
	s.send(spool.Envelope{Sender: "n@news.test", AuthUser: "joe"}, letter, "b@far.test")
	s.until("delivered", func() bool { return s.arrivals("far") == "a b" })
	s.until("nothing is in force", func() bool {
		st, err := s.admin().Standing(t.Context())
		return err == nil && len(st.Pauses)+len(st.Limits) == 0
	})
	if time.Now().Before(soon) {
		t.Error("sent before its time")
	}
}

// TestTemporaryLimitOutlivesTheAgentAndIsExplained sets one for a queue.
func TestTemporaryLimitOutlivesTheAgentAndIsExplained(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: sink.Behaviour{RTT: 2 * time.Millisecond}})
	s.start()
	if err := s.admin().Limit(t.Context(), control.Limit{Name: "general", Sessions: 1, Rate: 1000, Until: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	s.stop()
	for i := range 200 {
		s.send(spool.Envelope{Sender: "n@news.test"}, letter, fmt.Sprintf("u%d@far.test", i))
	}
	s.start()
	most := 0
	s.until("delivered", func() bool {
		st := s.status()
		most = max(most, st.Sessions)
		return len(s.at("far")) == 200
	})
	if most > 1 {
		t.Errorf("%d sessions under a limit of 1", most)
	}
	site := s.status().Sites[0].Name
	if err := s.admin().Limit(t.Context(), control.Limit{Name: "general"}); err != nil {
		t.Fatal(err)
	}
	if err := s.admin().Limit(t.Context(), control.Limit{Name: site, Sessions: 3, Until: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	changes, err := s.admin().Why(t.Context(), site)
	if err != nil || !strings.HasPrefix(changes[len(changes)-1].Cause, "max_sessions is 3: set by ") {
		t.Errorf("why: %+v, %v", changes, err)
	}
}

// TestReaderThatStallsDoesNotHoldUpDelivery lists a large queue to somebody who does
// not read, while mail goes.
func TestReaderThatStallsDoesNotHoldUpDelivery(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.start()
	s.pause(control.Filter{Stream: "held"}, "for the list")
	const n = 5000
	s.flood(n, func(i int) (spool.Envelope, string) { // more than the buffers of a socket take
		return spool.Envelope{Sender: strings.Repeat("x", 200) + "@news.test", Stream: "held"}, fmt.Sprintf("u%d@else.test", i)
	})
	s.until("queued", func() bool { return s.status().Waiting == n })
	path := strings.TrimPrefix(s.config.Agent.Control, "unix:")
	ask := func(request string) *bufio.Reader {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if _, err := conn.Write([]byte(request)); err != nil {
			t.Fatal(err)
		}
		return bufio.NewReaderSize(conn, 16)
	}
	ask("POST /v1/act HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{") // and the rest never comes
	const patience = 25 * time.Second                                        // less than the time that the agent gives a reader
	for sent := 100; ; sent += 100 {
		began := time.Now()
		list := ask("GET /v1/queue HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if _, err := list.Peek(1); err != nil { // it has begun, and is not read on
			t.Fatal(err)
		}
		for i := range 100 {
			s.send(spool.Envelope{Sender: "n@news.test", Stream: "goes"}, letter, fmt.Sprintf("v%d.%d@far.test", sent, i))
		}
		s.until("the other stream's mail is delivered", func() bool { return len(s.at("far")) == sent })
		// The reader was not given up for that: it gets the rest.
		resp, err := http.ReadResponse(list, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if got := strings.Count(string(b), `"queue_id"`); err == nil && got >= n {
			return
		} else if time.Since(began) < patience { // else a slow machine had him given up
			t.Fatalf("%d of %d listed, %v", got, n, err)
		}
	}
}

// Orders that could not be written are in force, and are written as soon as that is possible.
func TestOrdersAreWrittenOnceTheyCanBe(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	a := s.start()
	path := filepath.Join(s.config.Agent.StateDirectory, orders.StandingFile)
	if err := os.MkdirAll(path, 0o700); err != nil { // no file takes its place
		t.Fatal(err)
	}
	filter := control.Filter{Stream: "s"}
	if err := s.admin().Pause(t.Context(), control.Pause{Filter: filter, Reason: "x"}); err == nil || !strings.Contains(err.Error(), "will not outlive") {
		t.Errorf("%v", err)
	}
	for i := range 2 { // is tried in vain, and told by the admin's error already
		a.orders.SaveRulePauses(time.Now().Add(time.Duration(i+1)*time.Minute), false)
	}
	if n := len(s.log.Lines("not written")); n != 0 {
		t.Errorf("told %d times", n)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	a.orders.SaveRulePauses(time.Now().Add(3*time.Minute), false)
	s.stop()
	a = s.start()
	if list := a.orders.Standing().Pauses; len(list) != 1 || list[0].Filter != filter {
		t.Errorf("after a restart: %+v", list)
	}
}
