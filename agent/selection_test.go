package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// listed are the local parts of the recipients that a filter selects.
func (s *stage) listed(f control.Filter) string {
	s.t.Helper()
	var list []string
	err := s.admin().Messages(s.t.Context(), f, func(m *control.Message) error {
		for _, r := range m.Recipients {
			name, _, _ := strings.Cut(r.Address, "@")
			list = append(list, name)
		}
		return nil
	})
	if err != nil {
		s.t.Errorf("%+v: %v", f, err)
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func TestFilterSelectsByEachCondition(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) { c.General.Retry = []time.Duration{time.Hour} },
		sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: sink.Behaviour{TempShare: 1}})
	s.start()
	s.pause(control.Filter{Stream: "two"}, "wait for the test")
	id := s.send(spool.Envelope{Sender: "News@one.test", Stream: "one", AuthUser: "joe", ClientAddr: "192.0.2.7"}, letter, "a@far.test", "B@far.test")
	s.send(spool.Envelope{Stream: "two", AuthUser: "eve", ClientAddr: "IPv6:2001:db8::1", Arrived: time.Now().Add(-48 * time.Hour)},
		letter, "c@far.test", "d@else.test")
	s.until("deferred and held", func() bool { return s.listed(control.Filter{State: "deferred"}) == "B a" && s.status().Waiting == 2 })
	s.until("all have a way", func() bool { return s.listed(control.Filter{Queue: "general"}) == "B a c d" })
	var site string
	if err := s.admin().Messages(t.Context(), control.Filter{ID: id.String()}, func(m *control.Message) error {
		site = m.Recipients[0].Site
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		filter control.Filter
		want   string
	}{
		{control.Filter{}, "B a c d"},
		{control.Filter{All: true}, "B a c d"},
		{control.Filter{ID: strings.ToLower(id.String())}, "B a"},
		{control.Filter{Stream: "one"}, "B a"},
		{control.Filter{Queue: "general"}, "B a c d"},
		{control.Filter{Queue: "google"}, ""},
		{control.Filter{Site: site}, "B a c"},
		{control.Filter{Domain: "Else.test"}, "d"},
		{control.Filter{Sender: "news@ONE.test"}, "B a"},
		{control.Filter{Sender: "<>"}, "c d"},
		{control.Filter{Recipient: "b@FAR.test"}, "B"},
		{control.Filter{User: "eve"}, "c d"},
		{control.Filter{User: "EVE"}, ""},
		{control.Filter{Client: "192.0.2.7"}, "B a"},
		{control.Filter{Client: "2001:db8::1"}, "c d"},
		{control.Filter{State: "held"}, "c d"},
		{control.Filter{State: "active"}, ""},
		{control.Filter{OlderThan: control.Age(24 * time.Hour)}, "c d"},
		{control.Filter{OlderThan: control.Age(72 * time.Hour)}, ""},
		{control.Filter{User: "eve", Domain: "far.test"}, "c"},
		{control.Filter{Text: "B@far"}, "B"},
		{control.Filter{Text: "NEWS@"}, "B a"},
		{control.Filter{Text: "qid"}, "B a c d"},
		{control.Filter{Text: strings.ToLower(id.String())}, "B a"},
		{control.Filter{Text: id.String()[1:]}, ""},
		{control.Filter{Text: "else", User: "eve"}, "d"},
	} {
		if got := s.listed(x.filter); got != x.want {
			t.Errorf("%+v selects %q, want %q", x.filter, got, x.want)
		}
	}
}

// A stream past the limit of distinct ones, which listings show by a name that several
// share, is still selected by its own.
func TestFilterSelectsStreamsThatShareAName(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil)
	s.start()
	s.pause(control.Filter{All: true}, "wait for the test")
	id := s.send(spool.Envelope{Sender: "n@one.test", Stream: "newsletter"}, letter, "a@far.test")
	s.until("queued", func() bool { return s.listed(control.Filter{}) == "a" })
	e := queue.Entry{ID: id, Stream: "(other A)"}
	for stream, want := range map[string]bool{"newsletter": true, "other": false, "(other A)": true, "(other B)": false} {
		if got := orders.NewSelection(s.agent.store, control.Filter{Stream: stream}).Selects(&e); got != want {
			t.Errorf("%q: selected %v", stream, got)
		}
	}
}

// A pause that was said for a stream holds it where there is mail of 4,096 others, whether it
// was said before or after the mail came, over a restart, and until it is taken off.
func TestPauseHoldsAStreamAmongThousands(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, far(sink.Behaviour{}))
	s.start()
	flood, all := control.Filter{Domain: "flood.test"}, control.Filter{Domain: "far.test"}
	for _, f := range []control.Filter{flood, all, {Stream: "before"}} {
		s.pause(f, "wait for the test")
	}
	const others = 4096 + 64 // those after the 4,096th share 64 names; of the four here each has its own
	s.flood(others, func(i int) (spool.Envelope, string) {
		return spool.Envelope{Sender: "f@news.test", Stream: fmt.Sprint("flood", i)}, fmt.Sprintf("u%d@flood.test", i)
	})
	s.until("the others wait", func() bool { return s.status().Waiting == others })
	streams := []string{"before", "after", "unpaused"}
	for _, x := range streams {
		s.send(spool.Envelope{Sender: "n@news.test", Stream: x}, letter, x+"@far.test")
	}
	s.until("they wait, too", func() bool { return s.status().Waiting == others+len(streams) })
	s.pause(control.Filter{Stream: "after"}, "wait for the test")
	s.resume(all)
	s.until("the one without a pause is delivered", func() bool { return strings.Contains(s.arrivals("far"), "unpaused") })
	s.until("no try is under way", func() bool { st := s.status(); return st.Active == 0 && st.Waiting <= others+2 })
	if got := s.arrivals("far"); got != "unpaused" {
		t.Fatalf("%q were delivered", got)
	}
	for _, x := range streams[:2] {
		if got := s.listed(control.Filter{Stream: x}); got != x {
			t.Errorf("stream %s lists %q", x, got)
		}
	}
	s.stop()
	s.start()
	s.until("all is back", func() bool { return s.status().Waiting == others+2 })
	s.send(spool.Envelope{Sender: "n@news.test", Stream: "late"}, letter, "late@far.test")
	s.until("mail goes on", func() bool { return strings.Contains(s.arrivals("far"), "late") })
	if got := s.arrivals("far"); got != "late unpaused" {
		t.Errorf("after a restart %q were delivered", got)
	}
	s.resume(control.Filter{Stream: "after"})
	s.until("the pause has ended", func() bool { return s.arrivals("far") == "after late unpaused" })
	s.resume(control.Filter{Stream: "before"})
	s.until("the other has, too", func() bool { return s.arrivals("far") == "after before late unpaused" })
}
