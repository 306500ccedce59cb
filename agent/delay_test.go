package agent

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// lateStage has a receiver that defers, one that cannot be reached and one that
// takes mail; a warning is due after a minute, by the time that the message says it
// arrived.
func lateStage(t *testing.T) *stage {
	path := filepath.Join(t.TempDir(), "millrace.toml")
	if err := os.WriteFile(path, []byte(`
hostname = "mail.lab.test"
[general]
retry = ["1h"]
delay_warning_time = "1m"
[[queue]]
name = "patient"
domains = ["patient.test"]
delay_warning_time = "1h"
[[queue]]
name = "quiet"
domains = ["quiet.test"]
delay_warning_time = ""
`), 0o600); err != nil {
		t.Fatal(err)
	}
	loaded, _, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return newStage(t, func(c *config.Config) {
		loaded.Spool, loaded.Agent, loaded.Handback = c.Spool, c.Agent, c.Handback
		*c = *loaded
	},
		sink.Provider{Name: "busy", Domains: []string{"busy.test", "patient.test", "quiet.test"}, Behaviour: sink.Behaviour{TempShare: 1}},
		sink.Provider{Name: "down", Domains: []string{"down.test"}, Behaviour: sink.Behaviour{Down: true}},
		sink.Provider{Name: "far", Domains: []string{"far.test"}},
	)
}

func wants(notify string, to ...string) (list []spool.Recipient) {
	for _, r := range to {
		list = append(list, spool.Recipient{Address: r, Args: []string{"NOTIFY=" + notify}})
	}
	return list
}

func TestLateMailIsReportedOnceWhereAsked(t *testing.T) {
	t.Parallel()
	// All are to be tried before it is late, which takes a slow machine its time.
	for within := 20 * time.Second; !reportsLateMail(t, within); within *= 2 {
		t.Logf("not all was tried within %v", within)
	}
}

// reportsLateMail has mail get late after some time; false: not all had been tried by then.
func reportsLateMail(t *testing.T, within time.Duration) bool {
	s := lateStage(t)
	s.start()
	arrived := time.Now().Add(within - time.Minute)
	e := spool.Envelope{Sender: "n@news.test", Arrived: arrived, Args: []string{"ENVID=seven"}}
	e.Recipients = append(wants("FAILURE,DELAY", "late@busy.test", "late@patient.test", "late@quiet.test", "late@down.test", "there@far.test"), wants("FAILURE", "silent@busy.test")...)
	id := s.send(e, letter, "plain@busy.test")
	// The null sender is never told.
	s.send(spool.Envelope{Arrived: arrived, Recipients: wants("DELAY", "late@busy.test")}, letter)
	s.until("all are tried", func() bool {
		tried := 0
		if err := s.admin().Messages(t.Context(), control.Filter{}, func(m *control.Message) error {
			for _, r := range m.Recipients {
				if strings.Contains(r.Reason, "450 4.2.1") || strings.Contains(r.Reason, "connection refused") {
					tried++
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return tried == 7
	})
	if time.Since(arrived) > time.Minute {
		s.stop()
		return false
	}
	s.until("report", func() bool { return len(s.at("host")) == 1 })
	r := s.at("host")[0]
	until := arrived.Add(s.config.General.Expire).Format(time.RFC1123Z)
	for _, want := range []string{
		"Subject: Delayed Mail", "Original-Envelope-Id: seven\r\n", "Final-Recipient: rfc822; late@busy.test\r\n", "Final-Recipient: rfc822; late@down.test\r\n",
		"Action: delayed\r\n", "450 4.2.1", "connection refused", "Will-Retry-Until: " + until + "\r\n",
	} {
		if !strings.Contains(r.content, want) {
			t.Errorf("no %q in\n%s", want, r.content)
		}
	}
	if r.recipient != "n@news.test" || strings.Count(r.content, "Action:") != 2 {
		t.Errorf("to %s:\n%s", r.recipient, r.content)
	}
	queued := func() int { st := s.status(); return st.Queued() }
	s.until("the report is settled here too", func() bool { return queued() <= 7 })
	if n := queued(); n != 7 {
		t.Errorf("a warning ended something: %d are queued", n)
	}
	left := func() map[spool.ID]int64 {
		_, list := s.agent.settler.Pending()
		at := make(map[spool.ID]int64)
		for id, t := range list {
			at[id] = t.UnixNano()
		}
		return at
	}
	patient := map[spool.ID]int64{id: arrived.Add(time.Hour).UnixNano()}
	if got := left(); !maps.Equal(got, patient) {
		t.Errorf("left: %+v, want the patient queue's, %+v", got, patient)
	}
	// A restart repeats nothing and forgets nothing.
	s.stop()
	s.start()
	if got := left(); !maps.Equal(got, patient) {
		t.Errorf("left after a restart: %+v, want the patient queue's, %+v", got, patient)
	}
	return true
}

// What gets late while there is no agent is told by the next one.
func TestMailThatGotLateWithoutAnAgentIsReported(t *testing.T) {
	t.Parallel()
	s := lateStage(t)
	s.start()
	s.stop()
	s.send(spool.Envelope{Sender: "n@news.test", Arrived: time.Now().Add(-time.Minute), Recipients: wants("DELAY", "late@busy.test")}, letter)
	late := time.Now().Add(time.Second)
	s.until("it is late", func() bool { return time.Now().After(late) })
	s.start()
	s.until("report", func() bool { return len(s.at("host")) == 1 })
}
