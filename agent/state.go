package agent

import (
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/metrics"
)

// milterReport is what the milter told last.
type milterReport struct {
	counts control.MilterCounts
	at     time.Time
}

// Milter implements control.Backend.
func (a *Agent) Milter(r control.MilterReport) {
	for domain, n := range r.HostMail {
		a.queue.HostMail(domain, n)
	}
	a.milter.Store(&milterReport{r.MilterCounts, time.Now()})
}

// state is what a scrape of the metrics finds.
func (a *Agent) state() metrics.State {
	st := metrics.State{
		Ready: len(a.notReady()) == 0, StalledSessions: int(a.stalled.Load()),
		Sites: a.queue.Sites(), Damaged: len(a.store.Damaged()), DNS: a.dns.Counts(),
	}
	st.Waiting, st.Deferred, st.Active, st.Sessions = a.queue.Counts()
	st.MaxSessions = a.queue.MaxSessions()
	paused := make(map[string]bool)
	for _, b := range a.Standing().Brakes {
		if b.Filter.Stream != "" {
			paused[b.Filter.Stream] = true
		}
	}
	st.PausedStreams = len(paused)
	// Without an answer of the file system the rest is still worth telling; what
	// fails here fails for the journal too, which is loud.
	st.Spool, _ = a.store.Usage()
	if r := a.milter.Load(); r != nil {
		st.Milter, st.MilterAt = r.counts, r.at
	}
	return st
}
