package watch

import (
	"fmt"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/fleet"
	"github.com/millrace/millrace/agent/metrics"
)

// milterReport is what the milter told last.
type milterReport struct {
	counts control.MilterCounts
	at     time.Time
}

// Milter takes the milter's report, and tells it of the host's settings.
func (w *Watch) Milter(r control.MilterReport) control.MilterAnswer {
	for domain, n := range r.HostMail {
		w.queue.HostMail(domain, n)
	}
	w.milter.Store(&milterReport{r.MilterCounts, time.Now()})
	var answer control.MilterAnswer
	var stops []string
	stops, answer.InletKnown = w.inletStops(time.Now())
	answer.InletBypassed = strings.Join(stops, "; ")
	return answer
}

// State is what a scrape of the metrics finds.
func (w *Watch) State() metrics.State {
	st := metrics.State{
		Ready: len(w.NotReady()) == 0, StalledSessions: w.settler.Stalled(),
		Sites: w.queue.Sites(), Damaged: len(w.store.Damaged()), DNS: w.dns.Counts(),
	}
	st.Waiting, st.Deferred, st.Active, st.Sessions = w.queue.Counts()
	st.MaxSessions, st.Limited = w.queue.MaxSessions(), w.queue.Limited()
	st.Outcomes, st.OutcomesFail = metrics.OutcomeStats(w.outcomes.Stats()), w.outcomes.Trouble() != ""
	for _, x := range w.webhooks.Status() {
		st.Webhooks = append(st.Webhooks, metrics.Webhook{
			Name: x.Name, Failing: x.Failing(time.Now()), Waiting: x.Waiting, Aside: uint64(len(x.Aside)), Taken: x.Taken, Lost: x.Lost,
		})
	}
	if x := w.fleet.Status(); x.Fleet != "" {
		st.Fleet = fleetOf(&x)
		st.Fleet.PeersRefused, st.Fleet.StoreRefuses = w.peersRefused(), w.storeRefuses()
		if common := w.orders.Common(); common != nil {
			st.Fleet.OrdersRefused = common.Refused()
		}
		for _, t := range w.transfers() {
			st.Fleet.Transfers++
			st.Fleet.Oldest = max(st.Fleet.Oldest, time.Since(t.Since).Seconds())
		}
	}
	st.Sources, st.Limits = w.Sources(), w.StreamLimits()
	st.Warmups, st.WarmingUp = w.Warmups(), w.queue.WarmingUp()
	st.BreakerHeld = make(map[string]int)
	for _, p := range w.orders.HeldByBreaker() {
		st.BreakerHeld[p.Filter.Queue]++
	}
	st.UnknownReplies = w.orders.Unknown().Total()
	paused := make(map[string]bool)
	for _, b := range w.orders.Standing().Pauses {
		if b.Filter.Stream != "" {
			paused[b.Filter.Stream] = true
		}
	}
	st.PausedStreams = len(paused)
	st.Reports = make(map[[2]string]uint64)
	for c, n := range w.assessor.Counts() {
		st.Reports[[2]string{string(c.Kind), string(c.Result)}] = n
	}
	// Without an answer of the file system the rest is still worth telling; what
	// fails here fails for the journal too, which is loud.
	st.Spool, _ = w.store.Usage()
	if r := w.milter.Load(); r != nil {
		st.Milter, st.MilterAt = r.counts, r.at
		if w.settings.Now().Config.Milter.Mode == config.Divert {
			stops, known := w.inletStops(time.Now())
			st.InletPassing = !known || len(stops) > 0
		}
	}
	return st
}

// unseenAfter is how long new mail may go unseen until the milter is to leave it
// with the host.
const unseenAfter = 30 * time.Second

// Unseen is the trouble that new mail is not seen, or nil. While a stop lets transactions
// finish nothing is looked for, and the next agent will.
func (w *Watch) Unseen() error {
	if _, looked := w.store.Progress(); looked > unseenAfter && w.opening.Err() == nil {
		return fmt.Errorf("new mail in the spool has not been seen for %s", looked.Round(time.Second))
	}
	return nil
}

// fleetOf is the leases' part of how this node stands with its fleet.
func fleetOf(x *fleet.Status) metrics.Fleet {
	return metrics.Fleet{
		On: true, Store: x.Away == nil, Recovery: x.State() == "recovery", Lease: x.Runs, Calls: uint64(x.Calls), Errors: uint64(x.Errors),
		Members: len(x.Table.Members), Lent: x.Limits, Wanting: x.Waiting, Differing: len(x.Less),
	}
}
