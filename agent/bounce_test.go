package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// A stop does not wait for the time that failures wait for each other.
func TestStopReportsWhatIsHeld(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil,
		sink.Provider{Name: "strict", Domains: []string{"strict.test"}, Behaviour: sink.Behaviour{PermShare: 1}},
		sink.Provider{Name: "busy", Domains: []string{"busy.test"}, Behaviour: sink.Behaviour{TempShare: 1}},
	)
	s.config.General.Retry = []time.Duration{time.Hour}
	s.start()
	id := s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@strict.test", "b@busy.test")
	held := func() int {
		n, _ := s.agent.settler.Pending()
		return n
	}
	// The other recipient may be as late as it likes: a failure is held for seconds only.
	s.until("the failure is held", func() bool { return held() == 1 })
	if st := s.states(id); st[0].Status != spool.Queued {
		t.Errorf("the journal says %s before there is a report", st[0].Status)
	}
	s.stop()
	if st := s.states(id); st[0].Status != spool.Bounced || st[1].Status != spool.Queued {
		t.Errorf("the journal says %+v", st)
	}
	s.start()
	s.until("report", func() bool { return len(s.at("host")) == 1 })
	if r := s.at("host")[0].content; !strings.Contains(r, "X-Millrace-Bounce-Class: userunknown\r\n") || strings.Contains(r, "b@busy.test") {
		t.Errorf("report:\n%s", r)
	}
}

// states reads the journal beside the agent, as an admin would.
func (s *stage) states(id spool.ID) []spool.State {
	s.t.Helper()
	r, err := spool.OpenReader(s.config.Spool.Directory)
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Close()
	var found []spool.State
	if err := r.Messages(func(m *spool.Message) error {
		if m.ID == id {
			found = m.States
		}
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
	return found
}

// Whoever asks whether all mail has left is not told yes between a bounce and
// its report.
func TestQueueIsNotEmptyBeforeTheReportIsThere(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil,
		sink.Provider{Name: "strict", Domains: []string{"strict.test"}, Behaviour: sink.Behaviour{PermShare: 1}})
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@strict.test")
	seen := false
	s.until("the report", func() bool {
		for range 1000 { // looks, since what is looked for is short
			st := s.agent.backend().Status()
			left := st.Queued()
			if left == 0 && seen && len(s.at("host")) == 0 {
				t.Fatal("nothing is queued, and no report has come")
			}
			seen = seen || left > 0
		}
		return len(s.at("host")) == 1
	})
	s.until("all has left", s.empty)
}

// Without a durable report nothing is bounced.
func TestFailureIsNotFinalWithoutItsReport(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "strict", Domains: []string{"strict.test"}, Behaviour: sink.Behaviour{PermShare: 1}})
	s.start()
	if err := s.agent.writer.Close(); err != nil {
		t.Fatal(err)
	}
	id := s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@strict.test")
	s.until("it is deferred", func() bool { return s.status().Deferred == 1 })
	s.stopNow()
	if err := <-s.stopped; err == nil {
		t.Error("the agent stopped without an error, though its writer was closed under it")
	}
	s.stopNow = nil
	if st := s.states(id); st[0].Status != spool.Queued || st[0].Due.IsZero() {
		t.Errorf("the journal says %+v", st)
	}
	if !strings.Contains(s.log.String(), "cannot spool a delivery report; its recipients stay queued") {
		t.Errorf("log:\n%s", s.log)
	}
}

// TestOneReportReturnsAllOfAMessage has a receiver refuse one recipient after the other.
func TestOneReportReturnsAllOfAMessage(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) { c.General.MaxSessions, c.General.MaxRecipientsPerMessage = 1, 1 },
		sink.Provider{Name: "strict", Domains: []string{"strict.test"}, Behaviour: sink.Behaviour{PermShare: 1, RTT: 20 * time.Millisecond}})
	const n = 20
	var to []string
	for i := range n {
		to = append(to, fmt.Sprintf("a%d@strict.test", i))
	}
	s.send(spool.Envelope{Sender: "n@news.test", Args: []string{"RET=FULL"}}, letter, to...)
	s.start()
	s.until("all are told of", func() bool {
		s.agent.settler.Bounce() // as when the refusals are seconds apart
		return s.empty()
	})
	full, told := 0, 0
	for _, r := range s.at("host") {
		told += strings.Count(r.content, "Action: failed\r\n")
		if strings.Contains(r.content, "Content-Type: message/rfc822\r\n") && strings.Contains(r.content, ".leading dot") {
			full++
		} else if !strings.Contains(r.content, "List-Id: <n.test>") {
			t.Errorf("report without a header:\n%s", r.content)
		}
	}
	if full != 1 || told != n || len(s.at("host")) < 2 {
		t.Errorf("%d of %d reports return all of the message; of %d recipients %d are told", full, len(s.at("host")), n, told)
	}
}

// TestFirstReportReturnsAll counts no failure that nobody is told of, and those before a
// restart.
func TestFirstReportReturnsAll(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil)
	s.start()
	s.pause(control.Filter{All: true}, "for the test")
	s.send(spool.Envelope{Sender: "n@news.test", Args: []string{"RET=FULL"}, Recipients: []spool.Recipient{
		{Address: "silent@far.test", Args: []string{"NOTIFY=NEVER"}},
	}}, letter, "a@far.test", "b@far.test")
	for i, x := range []struct{ to, form string }{
		{"silent@far.test", ""}, {"a@far.test", "message/rfc822"}, {"b@far.test", "text/rfc822-headers"},
	} {
		s.until("queued", func() bool { return s.act(control.VerbExpire, control.Filter{State: "held", Recipient: x.to}) == 1 })
		s.until("told", func() bool { return len(s.at("host")) == i })
		if i > 0 && !strings.Contains(s.at("host")[i-1].content, "Content-Type: "+x.form+"\r\n") {
			t.Errorf("of %s:\n%s", x.to, s.at("host")[i-1].content)
		}
		s.stop()
		s.start()
	}
}

// Reports of success are made where the next server does not make them, and only
// for who asked.
func TestRelayedMailIsReportedWhereAsked(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil,
		sink.Provider{Name: "plain", Domains: []string{"plain.test"}, Behaviour: sink.Behaviour{Hide: []string{"DSN"}}},
		sink.Provider{Name: "dsn", Domains: []string{"dsn.test"}},
	)
	s.start()
	e := spool.Envelope{Sender: "n@news.test", Args: []string{"RET=FULL"}}
	for _, to := range []string{"asked@plain.test", "asked@dsn.test"} {
		e.Recipients = append(e.Recipients, spool.Recipient{Address: to, Args: []string{"NOTIFY=SUCCESS,FAILURE"}})
	}
	s.send(e, letter, "silent@plain.test")
	s.until("report", func() bool { return len(s.at("host")) == 1 && s.empty() })
	r := s.at("host")[0]
	for _, want := range []string{"Final-Recipient: rfc822; asked@plain.test\r\n", "Action: relayed\r\n", "Status: 2.0.0\r\n", "text/rfc822-headers", "<asked@plain.test>: relayed to a mail system"} {
		if !strings.Contains(r.content, want) {
			t.Errorf("no %q in\n%s", want, r.content)
		}
	}
	if strings.Count(r.content, "Action:") != 1 || strings.Contains(r.content, "X-Millrace-Bounce-Class") {
		t.Errorf("report:\n%s", r.content)
	}
}

// What the host refuses for good is stuck: it stays, also over a restart, it is
// shown, and nothing is reported about it.
func TestRefusedReportIsStuck(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "strict", Domains: []string{"strict.test"}, Behaviour: sink.Behaviour{PermShare: 1}})
	change := func(f func(*sink.Behaviour)) {
		if err := s.net.Change("host", f); err != nil {
			t.Fatal(err)
		}
	}
	change(func(b *sink.Behaviour) { b.PermShare = 1 })
	s.start()
	const n = 5
	for i := range n {
		s.send(spool.Envelope{Sender: "n@news.test"}, letter, fmt.Sprintf("a%d@strict.test", i))
	}
	stuck := func() (list []queue.Entry) {
		s.agent.queue.List(func(page []queue.Entry) bool {
			for _, e := range page {
				if e.State == "stuck" {
					list = append(list, e)
				}
			}
			return true
		})
		return list
	}
	ready := func() string {
		return strings.Join(s.agent.watch.NotReady(), "\n")
	}
	s.until("all are stuck", func() bool { return len(stuck()) == n })
	for _, e := range stuck() {
		if wait := time.Until(e.Due); wait < 50*time.Minute || !strings.Contains(e.Reason, "550 5.1.1") {
			t.Errorf("%+v", e)
		}
	}
	if got := ready(); !strings.Contains(got, "refuses bounces or returned mail for 5 recipients") || !strings.Contains(got, "millrace queue: stuck") {
		t.Errorf("/readyz: %s", got)
	}
	if log := s.log.String(); strings.Count(log, "sender non-delivery notification") != n || strings.Count(log, "level=WARN msg=delivery") != n {
		t.Errorf("log:\n%s", log)
	}
	s.until("it is told in the log", func() bool {
		return strings.Contains(s.log.String(), "level=ERROR msg=\"the host MTA at "+s.config.Handback.Relay+" refuses bounces")
	})
	s.stop()
	change(func(b *sink.Behaviour) { b.PermShare = 0 })
	s.start()
	if got := stuck(); len(got) != n || !strings.Contains(ready(), "refuses bounces or returned mail for 5 recipients") {
		t.Errorf("after a restart: %+v, %s", got, ready())
	}
	// An admin has it tried again.
	for _, j := range s.agent.queue.Take(stuck()) {
		s.agent.queue.Settle([]queue.Settled{{Handle: j.Items[0].Handle, State: spool.State{Stuck: true, Due: time.Now()}}})
	}
	s.until("the host has them all", func() bool { return len(s.at("host")) == n && s.empty() })
	if got := ready(); got != "" {
		t.Errorf("/readyz: %s", got)
	}
}

// However many there are, reports reach the host over few connections.
func TestManyBouncesComeOverFewSessions(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "strict", Domains: []string{"strict.test"}, Hosts: 3, Behaviour: sink.Behaviour{PermShare: 1}})
	const n = 1000
	for i := range n {
		s.send(spool.Envelope{Sender: fmt.Sprintf("n+%d@news.test", i)}, letter, fmt.Sprintf("a%d@strict.test", i))
	}
	s.start()
	most := 0
	s.until("the host has them all", func() bool {
		for _, x := range s.status().Sites {
			if x.Queue == settings.HandbackQueue {
				most = max(most, x.Sessions+x.Opening)
			}
		}
		return len(s.at("host")) >= n && s.empty()
	})
	told := make(map[string]int)
	for _, a := range s.at("host") {
		told[a.recipient]++
	}
	if len(told) != n || len(s.at("host")) != n {
		t.Errorf("%d reports to %d senders, want one for each of %d", len(s.at("host")), len(told), n)
	}
	// The host counts a connection until it has read its end, and may be slow to: how many
	// there are at a time is the agent's to tell.
	if most == 0 || most > settings.HandbackSessions {
		t.Errorf("%d sessions at a time, want at most %d", most, settings.HandbackSessions)
	}
	if k := connections(s.net.Stats(), "host"); k > n/20 {
		t.Errorf("%d connections for %d reports", k, n)
	}
}
