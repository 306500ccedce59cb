package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/windows"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// Over sockets and a restart: a quota lets as many go as it says, a closed window none, a rate as
// many as it says, and what has no limit goes at once.
func TestStreamsKeepTheirLimitsOverARestart(t *testing.T) {
	t.Parallel()
	// A window on another day than today's, wherever it is read.
	closed, err := windows.Parse(time.Now().UTC().AddDate(0, 0, 3).Weekday().String()[:3]+" 00:00-24:00", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	s := newStage(t, func(c *config.Config) {
		c.Streams = []config.Stream{
			{Name: "few", Streams: []string{"few-*"}, Quotas: []config.Quota{{N: 30}, {N: 40, Day: true}}, Location: time.UTC},
			{Name: "night", Streams: []string{"night"}, Open: closed},
			{Name: "slow", Streams: []string{"slow"}, MaxMessageRate: 20},
		}
	}, sink.Provider{Name: "far", Domains: []string{"d*.test"}})
	s.start()
	sent := func(user string) (n int) {
		for _, a := range s.at("far") {
			if a.recipient[:1] == user {
				n++
			}
		}
		return n
	}
	send := func(user, stream string, n int) {
		for i := range n {
			s.send(spool.Envelope{Sender: "n@news.test", Stream: stream}, letter, fmt.Sprintf("%s%d@d%d.test", user, i, i%5))
		}
	}
	began := time.Now()
	send("f", "few-1", 25)
	send("n", "night", 10)
	send("s", "slow", 60)
	send("o", "other", 100)
	s.until("the unlimited and the quota's first", func() bool { return sent("o") == 100 && sent("f") == 25 })
	for _, l := range s.status().Limits {
		switch {
		case l.Name == "few" && len(l.Quotas) == 2 && l.Quotas[0].Used == 25 && l.Quotas[1].Used == 25 && l.Quotas[1].Day:
		case l.Name == "night" && l.Closed && l.Window != "" && l.Changes.After(began):
		case l.Name == "slow" && l.Rate == 20:
		default:
			t.Errorf("%+v", l)
		}
	}
	s.stop()
	if _, err := os.Stat(filepath.Join(s.config.Agent.StateDirectory, quotasFile)); err != nil {
		t.Error(err)
	}
	s.start()
	send("g", "few-2", 25) // of the same quota
	s.until("the quota's rest, and all that is slow", func() bool { return sent("g") >= 5 && sent("s") == 60 })
	if took := time.Since(began); took < time.Second { // the restart has a second burst
		t.Errorf("60 messages at 20/s, of which a second's worth may go at once, took %v", took)
	}
	send("p", "other", 50)
	s.until("the unlimited go on", func() bool { return sent("p") == 50 })
	if f, g, n := sent("f"), sent("g"), sent("n"); f != 25 || g != 5 || n != 0 {
		t.Errorf("%d and %d of a quota of 30, %d outside the window", f, g, n)
	}
	if w, d, _, _ := s.agent.queue.Counts(); w+d != 30 || s.agent.queue.Limited() != 30 {
		t.Errorf("%d wait, %d are deferred, %d are limited", w, d, s.agent.queue.Limited())
	}
}
