package agent

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// anEvent is what the tests look at in a line of the event file.
type anEvent struct{ Event, ID, Recipient, Sender, Class, Origin string }

func (s *stage) events() (list []anEvent) {
	s.t.Helper()
	b, err := os.ReadFile(s.config.Events.File)
	if err != nil {
		s.t.Fatal(err)
	}
	for l := range bytes.Lines(b) {
		var e anEvent
		if err := json.Unmarshal(l, &e); err != nil {
			s.t.Fatalf("%v in %q", err, l)
		}
		list = append(list, e)
	}
	return list
}

func TestEveryOutcomeAndDeferralIsOneEvent(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil,
		sink.Provider{Name: "far", Domains: []string{"far.test"}},
		sink.Provider{Name: "grey", Domains: []string{"grey.test"}, Behaviour: sink.Behaviour{TempShare: 1, TempTimes: 1}},
		sink.Provider{Name: "gone", Domains: []string{"gone.test"}, Behaviour: sink.Behaviour{DNS: sink.NXDomain}},
	)
	s.config.Events = config.Events{File: filepath.Join(t.TempDir(), "events.jsonl"), MaxSize: 1 << 20, Keep: 1}
	s.start()
	id := s.send(spool.Envelope{Sender: "n+verp@news.test"}, letter, "a@far.test", "b@grey.test", "c@gone.test").String()
	s.until("all settled, and the report back", func() bool { return len(s.at("host")) == 1 && len(s.at("grey")) == 1 && s.empty() })
	s.stop() // writes what waits
	got := s.events()
	for _, want := range []anEvent{
		{"sent", id, "a@far.test", "n+verp@news.test", "none", "diverted"},
		{"deferred", id, "b@grey.test", "n+verp@news.test", "system", "diverted"},
		{"sent", id, "b@grey.test", "n+verp@news.test", "none", "diverted"},
		{"bounced", id, "c@gone.test", "n+verp@news.test", "hostunknown", "diverted"},
	} {
		if i := slices.Index(got, want); i >= 0 {
			got = slices.Delete(got, i, i+1)
		} else {
			t.Errorf("no event %+v", want)
		}
	}
	if len(got) != 1 || got[0].Event != "handed_back" || got[0].Origin != "report" || got[0].Recipient != "n+verp@news.test" {
		t.Errorf("beside these, the report's: %+v", got)
	}
}

func TestAnEventFileThatCannotBeWrittenStopsNoMail(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.config.Events = config.Events{File: filepath.Join(t.TempDir(), "missing", "events.jsonl")}
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	s.until("delivered", func() bool { return len(s.at("far")) == 1 && s.empty() })
}
