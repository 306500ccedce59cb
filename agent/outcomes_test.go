package agent

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

func keepOutcomes(c *config.Config) {
	c.Outcomes = config.Outcomes{Keep: config.Age(7 * 24 * time.Hour), KeepTotals: config.Age(400 * 24 * time.Hour), MaxSize: 2 << 30}
}

func (s *stage) history(q control.OutcomeQuestion) (list []control.Outcome) {
	s.t.Helper()
	err := s.admin().Outcomes(s.t.Context(), q, func(o *control.Outcome) error { list = append(list, *o); return nil })
	if err != nil {
		s.t.Fatal(err)
	}
	return list
}

// Every attempt is told of by address, queue id and message, over a restart; what the
// database has, sqlite3(1) reads while the agent runs.
func TestHistoryOfAnAddressOverARestart(t *testing.T) {
	t.Parallel()
	s := newStage(t, keepOutcomes,
		sink.Provider{Name: "far", Domains: []string{"far.test"}},
		sink.Provider{Name: "grey", Domains: []string{"grey.test"}, Behaviour: sink.Behaviour{TempShare: 1, TempTimes: 1}},
		sink.Provider{Name: "gone", Domains: []string{"gone.test"}, Behaviour: sink.Behaviour{DNS: sink.NXDomain}},
	)
	s.start()
	id := s.send(spool.Envelope{Sender: "n@news.test", Stream: "news"}, letter, "a@far.test", "b@grey.test", "c@gone.test").String()
	s.until("all settled, and the report back", func() bool { return len(s.at("host")) == 1 && len(s.at("grey")) == 1 && s.empty() })
	s.stop()
	s.start()
	words := func(list []control.Outcome) string {
		var b strings.Builder
		for _, o := range list {
			b.WriteString(o.Recipient + " " + o.Event + "\n")
		}
		return b.String()
	}
	if got := words(s.history(control.OutcomeQuestion{Recipient: "B@grey.test"})); got != "b@grey.test deferred\nb@grey.test sent\n" {
		t.Errorf("of an address:\n%s", got)
	}
	for _, q := range []control.OutcomeQuestion{{QueueID: fmt.Sprint("4QID", len(letter))}, {ID: id}} {
		if got := s.history(q); len(got) != 4 {
			t.Errorf("%+v:\n%s", q, words(got))
		}
	}
	back := s.history(control.OutcomeQuestion{Recipient: "n@news.test"})
	if len(back) != 1 || back[0].Event != "handed_back" || back[0].Origin != "report" {
		t.Errorf("the report: %+v", back)
	}
	files, err := filepath.Glob(filepath.Join(s.config.Agent.StateDirectory, "outcomes", "outcomes-*.db"))
	if err != nil || len(files) == 0 || len(files) > 2 {
		t.Fatal(files, err)
	}
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "d@far.test") // its file is open for writing
	s.until("delivered, and taken in", func() bool { return len(s.history(control.OutcomeQuestion{Recipient: "d@far.test"})) == 1 })
	out, err := exec.Command("sqlite3", "-readonly", files[len(files)-1], "SELECT recipient, event, code, reply FROM outcomes WHERE recipient = 'd@far.test'; PRAGMA integrity_check").CombinedOutput()
	if err != nil || !bytes.HasPrefix(out, []byte("d@far.test|sent|250|250 ")) || !bytes.HasSuffix(out, []byte("\nok\n")) {
		t.Errorf("%s, %v", out, err)
	}
	done, err := s.admin().Erase(t.Context(), control.Erasure{Address: "b@grey.test"})
	if err != nil || done.Rows != 2 || done.Events != 2 {
		t.Errorf("%+v, %v", done, err)
	}
	if log := s.log.String(); !strings.Contains(log, "do=erase") || strings.Contains(log[strings.Index(log, "do=erase"):], "b@grey.test") {
		t.Errorf("the audit:\n%s", log)
	}
	if got := s.history(control.OutcomeQuestion{ID: id}); len(got) != 2 {
		t.Errorf("after forget:\n%s", words(got))
	}
}

// An upgrade keeps nothing that was not kept before.
func TestWithoutConfigurationNothingIsKept(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	s.until("delivered", func() bool { return len(s.at("far")) == 1 && s.empty() })
	err := s.admin().Outcomes(t.Context(), control.OutcomeQuestion{Recipient: "a@far.test"}, func(*control.Outcome) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "[outcomes]") {
		t.Errorf("%v", err)
	}
	s.stop()
	for _, name := range []string{"outcomes", "events"} {
		if _, err := os.Stat(filepath.Join(s.config.Agent.StateDirectory, name)); err == nil {
			t.Errorf("%s was made", name)
		}
	}
}

// With a state directory that takes no files mail goes on, and /readyz says 200 with a
// warning.
func TestOutcomesThatCannotBeKeptAreAWarning(t *testing.T) {
	t.Parallel()
	s := newStage(t, keepOutcomes, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.config.Agent.HTTP.Listen = config.Listeners{freePort(t)}
	if err := os.MkdirAll(s.config.Agent.StateDirectory, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"outcomes", "events"} { // files, where directories are to be
		if err := os.WriteFile(filepath.Join(s.config.Agent.StateDirectory, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	s.until("delivered", func() bool { return len(s.at("far")) == 1 && s.empty() })
	s.until("a warning", func() bool {
		code, body := get(t, s.config.Agent.HTTP.Listen[0], "/readyz", "")
		return code == http.StatusOK && strings.HasPrefix(body, "ok\nwarning: ")
	})
	if _, body := get(t, s.config.Agent.HTTP.Listen[0], "/metrics", ""); !strings.Contains(body, "millrace_outcomes_failing 1\n") || !strings.Contains(body, "millrace_ready 1\n") {
		t.Errorf("metrics:\n%s", body)
	}
	for _, name := range []string{"outcomes", "events"} {
		if err := os.Remove(filepath.Join(s.config.Agent.StateDirectory, name)); err != nil {
			t.Fatal(err)
		}
	}
	s.until("kept again", func() bool { return s.agent.outcomes.Trouble() == "" })
	s.until("it is in the history", func() bool { return len(s.history(control.OutcomeQuestion{Recipient: "a@far.test"})) == 1 })
}
