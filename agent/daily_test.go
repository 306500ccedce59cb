package agent

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/daily"
	"github.com/millrace/millrace/agent/deliver"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// The numbers of the daily report are those of what receivers took and refused, attempt by
// attempt; it is given to the host's own port.
func TestDailyReportOfALivelyDay(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) { keepOutcomes(c); c.General.Retry = []time.Duration{100 * time.Millisecond} },
		sink.Provider{Name: "far", Domains: []string{"far.test"}},
		sink.Provider{Name: "strict", Domains: []string{"strict.test"}, Behaviour: sink.Behaviour{PermShare: 1}},
		sink.Provider{Name: "grey", Domains: []string{"grey.test"}, Behaviour: sink.Behaviour{TempShare: 1, TempTimes: 2}},
	)
	s.start()
	if err := s.admin().Pause(t.Context(), control.Pause{Filter: control.Filter{Stream: "held"}, Reason: "a wrong price"}); err != nil {
		t.Fatal(err)
	}
	s.send(spool.Envelope{Sender: "n@news.test", Stream: "news"}, letter, "a@far.test", "b@far.test", "a@strict.test", "b@strict.test", "a@grey.test")
	s.send(spool.Envelope{Sender: "n@news.test", Stream: "offers"}, letter, "c@far.test", "c@strict.test")
	s.send(spool.Envelope{Sender: "n@news.test", Stream: "held"}, letter, "d@far.test")
	ledger := func() map[string]int { // of the attempts, each as it was journalled
		n := make(map[string]int)
		for _, stream := range []string{"news", "offers", "held"} {
			for _, o := range s.history(control.OutcomeQuestion{Stream: &stream}) {
				if o.Origin == "diverted" {
					n[o.Event]++
				}
			}
		}
		return n
	}
	s.until("all is tried", func() bool {
		n := ledger()
		return n["sent"] == len(s.at("far"))+len(s.at("grey")) && n["sent"] == 4 && n["bounced"] == 3 && n["deferred"] == 2
	})
	day := time.Now().UTC().Truncate(24 * time.Hour)
	r := daily.Report{Hostname: "mail.lab.test", Day: day, Now: time.Now(), Status: s.status()}
	s.until("all is counted", func() bool {
		r.Counts, r.CountsErr = s.admin().Day(t.Context(), day)
		n := 0
		for _, x := range r.Counts.Totals {
			if x.Event == "sent" || x.Event == "bounced" || x.Event == "deferred" {
				n += x.N
			}
		}
		return n == 9
	})
	r.Before, r.BeforeErr = s.admin().Day(t.Context(), day.AddDate(0, 0, -7))
	standing, err := s.admin().Standing(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.Status, r.Standing = s.status(), &standing
	text := r.Text()
	for _, want := range []string{
		`sent +4 +-`, `deferred \(each try\) +2 +-`, `bounced +3 +-`, `complaints +0 +-`,
		`Deferred, why\n +2  \w+\n`, `Bounced, why\n +3  userunknown\n`,
		` 3 +- +0 +0 +0 +0 +0  far\.test\n`, ` 0 +- +0 +3 +0 +0 +0  strict\.test\n`, ` 1 +- +2 +0 +0 +0 +0  grey\.test\n`,
		` 3 +- +2 +2 +0 +0 +0  news\n`, ` 1 +- +0 +1 +0 +0 +0  offers\n`,
		` 1  recipients queued; of these deferred 0, on hold or of a paused sender 0\n`, `paused: stream held: a wrong price \(`,
		`for comparison: nothing happened, or nothing was kept`,
	} {
		if !regexp.MustCompile(`(?m)` + want).MatchString(text) {
			t.Errorf("no %q", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
	before := len(s.at("host"))
	if err := deliver.ToHost(t.Context(), s.config, "admin@lab.test", []byte("Subject: x\r\n\r\ngrüße\r\n")); err != nil {
		t.Fatal(err)
	}
	got := s.at("host")
	if len(got) <= before || got[len(got)-1].recipient != "admin@lab.test" || got[len(got)-1].sender != "" || !strings.Contains(got[len(got)-1].content, "grüße") {
		t.Errorf("at the host: %+v", got)
	}
}
