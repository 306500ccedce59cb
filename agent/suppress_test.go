package agent

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/suppress"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// gone refuses all its users, as unknown.
var gone = sink.Provider{Name: "gone", Domains: []string{"gone.test"}, Behaviour: sink.Behaviour{
	PermShare: 1, Say: map[sink.Cause]string{sink.CausePerm: "550 5.1.1 no such user"},
}}

func dropping(after int) func(*config.Config) {
	return func(c *config.Config) {
		c.Suppression = config.Suppression{Mode: config.SuppressDrop, After: after, Within: time.Hour, Expire: time.Hour, Scope: config.SuppressStream, Notify: true}
	}
}

// statuses are those in the log, of one recipient.
func (s *stage) statuses(to string) (list []string) {
	for line := range strings.Lines(s.log.String()) {
		if !strings.Contains(line, "msg=delivery") || !strings.Contains(line, "to=<"+to+">") {
			continue
		}
		for _, f := range strings.Fields(line) {
			if v, ok := strings.CutPrefix(f, "status="); ok {
				list = append(list, v)
			}
		}
	}
	return list
}

// outcome is a condition: the message is done with, and the log tells of it.
func (s *stage) outcome(id spool.ID) func() bool {
	return func() bool { return strings.Contains(s.log.String(), "id="+id.String()+" to=") && s.empty() }
}

func TestSuppressedAddressIsNotTriedAndItsSenderIsTold(t *testing.T) {
	t.Parallel()
	s := newStage(t, dropping(2), gone, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.start()
	for range 2 {
		s.until("bounced", s.outcome(s.send(spool.Envelope{Sender: "n@news.test", Stream: "sale"}, letter, "x@gone.test")))
	}
	third := s.send(spool.Envelope{Sender: "n@news.test", Stream: "sale"}, letter, "X@gone.test", "y@gone.test")
	s.until("suppressed", s.outcome(third))
	other := s.send(spool.Envelope{Sender: "n@news.test", Stream: "other"}, letter, "x@gone.test")
	s.until("bounced", s.outcome(other))
	if got, want := s.statuses("x@gone.test"), []string{"bounced", "bounced", "bounced"}; !slices.Equal(got, want) {
		t.Errorf("x@gone.test: %q, want %q", got, want)
	}
	if got, want := s.statuses("X@gone.test"), []string{"suppressed"}; !slices.Equal(got, want) {
		t.Errorf("X@gone.test: %q, want %q", got, want)
	}
	if got, want := s.statuses("y@gone.test"), []string{"bounced"}; !slices.Equal(got, want) {
		t.Errorf("y@gone.test, in the same transaction: %q, want %q", got, want)
	}
	s.until("reports", func() bool {
		return slices.ContainsFunc(s.at("host"), func(a accepted) bool {
			return strings.Contains(a.content, "X@gone.test") && strings.Contains(a.content, "suppressed: has bounced 2 times in a row") &&
				strings.Contains(a.content, "Status: 5.1.1") && a.recipient == "n@news.test"
		})
	})
	s.stop()
	if got := s.journal(third); !slices.Contains(got, spool.Suppressed) || !slices.Contains(got, spool.Bounced) {
		t.Errorf("outcomes in the journal: %v", got)
	}
}

// journal reads the outcomes of a message from the spool.
func (s *stage) journal(id spool.ID) (list []spool.Status) {
	s.t.Helper()
	r, err := spool.OpenReader(s.config.Spool.Directory)
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Close()
	m, err := r.Message(id)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, st := range m.States {
		list = append(list, st.Status)
	}
	return list
}

// TestWithoutNotifyNobodyIsTold is of a stream with a mode of its own.
func TestWithoutNotifyNobodyIsTold(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) {
		dropping(1)(c)
		c.Suppression.Notify, c.Suppression.Mode = false, config.SuppressAdvise
		c.Suppression.Streams = []config.SuppressionStream{{Name: "sale", Mode: config.SuppressDrop}}
	}, gone)
	s.start()
	s.until("bounced", s.outcome(s.send(spool.Envelope{Sender: "n@news.test", Stream: "sale"}, letter, "x@gone.test")))
	s.until("the report of the bounce", func() bool { return len(s.at("host")) == 1 })
	s.until("suppressed", s.outcome(s.send(spool.Envelope{Sender: "n@news.test", Stream: "sale"}, letter, "x@gone.test")))
	s.stop()
	if got, want := s.statuses("x@gone.test"), []string{"bounced", "suppressed"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if n := len(s.at("host")); n != 1 {
		t.Errorf("%d reports", n)
	}
}

func TestAdviseSendsAllTheSame(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) { dropping(1)(c); c.Suppression.Mode = config.SuppressAdvise }, gone)
	s.start()
	for range 2 {
		s.until("bounced", s.outcome(s.send(spool.Envelope{Sender: "n@news.test", Stream: "sale"}, letter, "x@gone.test")))
	}
	s.stop()
	if got, want := s.statuses("x@gone.test"), []string{"bounced", "bounced"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if n := strings.Count(s.log.String(), "has bounced too often"); n != 1 {
		t.Errorf("%d lines tell of it", n)
	}
}

// TestListOutlivesTheAgent also has the admin's word for an address that has never
// bounced, and then the admin's other word.
func TestListOutlivesTheAgent(t *testing.T) {
	t.Parallel()
	s := newStage(t, dropping(1), gone, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.start()
	s.until("bounced", s.outcome(s.send(spool.Envelope{Sender: "n@news.test", Stream: "sale"}, letter, "x@gone.test")))
	client, ctx := control.NewClient(s.config.Agent.Control), t.Context()
	defer client.Close()
	if n, err := client.Suppress(ctx, each("Never@far.test", "undone@far.test")); n != 2 || err != nil {
		t.Fatalf("%d added, %v", n, err)
	}
	if n, err := client.Unsuppress(ctx, control.SuppressionRemoval{Addresses: []string{"UNDONE@far.test"}}); n != 1 || err != nil {
		t.Fatalf("%d removed, %v", n, err)
	}
	s.stop()
	s.start()
	var list []string
	if err := client.Suppressions(ctx, func(x *control.Suppression) error {
		list = append(list, fmt.Sprint(x.Address, " ", x.Stream, " ", x.Bounces, " ", x.Class, " ", x.Suppressed))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"x@gone.test sale 1 userunknown true", "never@far.test  0 none true"}; !slices.Equal(list, want) {
		t.Errorf("the list is %q, want %q", list, want)
	}
	if st, err := client.SuppressionStats(ctx); err != nil || st.Mode != "drop" || st.Suppressed != 2 || st.Admin != 1 || st.Octets == 0 {
		t.Errorf("%+v, %v", st, err)
	}
	s.until("settled", s.outcome(s.send(spool.Envelope{Sender: "n@news.test", Stream: "sale"}, letter, "x@gone.test", "never@far.test", "undone@far.test")))
	s.until("delivered", func() bool { return len(s.at("far")) == 1 })
	s.stop()
	for to, want := range map[string]string{"x@gone.test": "[bounced suppressed]", "never@far.test": "[suppressed]", "undone@far.test": "[sent]"} {
		if got := fmt.Sprint(s.statuses(to)); got != want {
			t.Errorf("%s: %s, want %s", to, got, want)
		}
	}
}

// each gives addresses for all streams.
func each(addresses ...string) func(*control.Suppression) error {
	return func(s *control.Suppression) error {
		if len(addresses) == 0 {
			return io.EOF
		}
		*s = control.Suppression{Address: addresses[0]}
		addresses = addresses[1:]
		return nil
	}
}

func TestOnlyHardClassesAreImported(t *testing.T) {
	t.Parallel()
	s := newStage(t, dropping(1))
	a := s.start()
	for class, good := range map[string]bool{"": true, "none": true, "userunknown": true, "hostunknown": true, "hasmoved": true, "mailboxfull": false, "reputation": false, "?": false} {
		given := false
		n, err := a.backend().Suppress(t.Context(), func(s *control.Suppression) error {
			if given {
				return io.EOF
			}
			given = true
			*s = control.Suppression{Address: "a@b.test", Class: class, Bounces: 1}
			return nil
		})
		if (err == nil) != good || n == 1 != good {
			t.Errorf("class %q: %d added, %v", class, n, err)
		}
	}
}

// What is known by reports stays, when the list is moved to another host, over a delivery
// there: an address takes mail and bounces it later, or its owner has complained.
func TestWhatCameBackIsMovedWithTheList(t *testing.T) {
	t.Parallel()
	s := newStage(t, dropping(1))
	a := s.start()
	now := time.Now()
	a.bounced.Bounced("news", "direct@b.test", outcome.ClassUserUnknown, now)
	a.bounced.BouncedLate("news", "late@b.test", outcome.ClassUserUnknown, now)
	a.bounced.Complained("news", "complained@b.test", now)
	var list []control.Suppression
	if err := a.backend().Suppressions(t.Context(), func(x *control.Suppression) error { list = append(list, *x); return nil }); err != nil || len(list) != 3 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, x := range list { // what an earlier version exported says nothing of it
		if x.Address == "complained@b.test" {
			x.Address, x.Late = "exported-before@b.test", false
			list = append(list, x)
		}
	}
	other := newStage(t, dropping(1))
	b := other.start()
	n, err := b.backend().Suppress(t.Context(), func(x *control.Suppression) error {
		if len(list) == 0 {
			return io.EOF
		}
		*x, list = list[0], list[1:]
		return nil
	})
	if n != 4 || err != nil {
		t.Fatalf("%d added, %v", n, err)
	}
	for address, stays := range map[string]bool{"direct@b.test": false, "late@b.test": true, "complained@b.test": true, "exported-before@b.test": true} {
		b.bounced.Delivered("news", address, now)
		if _, is := b.bounced.Check("news", address, now); is != stays {
			t.Errorf("%s, after a delivery: suppressed %v", address, is)
		}
	}
}

// TestReportsReachASuppressedSender, for the list is about whom the host's users
// write to.
func TestReportsReachASuppressedSender(t *testing.T) {
	t.Parallel()
	s := newStage(t, dropping(1), gone)
	a := s.start()
	a.bounced.Put(suppress.Entry{Address: "n@news.test", Last: time.Now()})
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "x@gone.test")
	s.until("report", func() bool { return len(s.at("host")) == 1 && s.empty() })
}
