package deliver

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/settle"
	"github.com/millrace/millrace/agent/smtp"
)

// A host that takes nearly all mail may defer some of it each time, and another host of the
// same domain take that: one cannot look a few recipients up, or cannot store what the other
// can. smtp(8) offers each recipient that was deferred to a second host in the same
// delivery (smtp_trouble.c). Here too, where the reply reads as trouble of the host, and that
// works for others: if it works for none, its mail moves (Queue.Elsewhere).
//
// The connection takes the place of the session's own, which ends, so that no limit is passed.
// As that costs two connects, a site has one of these at a time until a second host has had a
// better word, and where it has none, longer and longer no more.
type seconds struct {
	mu    sync.Mutex
	sites map[string]*second
}

// second is what is known of second hosts at a site.
type second struct {
	busy   bool
	better bool      // it had a better word the last time
	vain   int       // times in a row that it had none
	until  time.Time // none before
}

const (
	leastSecond = time.Minute // doubles
	mostSecond  = time.Hour
	maxSeconds  = 10_000 // sites; past these the others are forgotten
	// partWait is how long the session's own connection has to end first.
	partWait = time.Second
	// secondConnect is how long a second host has to answer.
	secondConnect = 30 * time.Second
)

// begin says whether a second host of a site may be asked now. The caller calls end.
func (x *seconds) begin(site string, now time.Time) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.sites[site]
	if s == nil {
		if x.sites == nil || len(x.sites) >= maxSeconds {
			x.sites = make(map[string]*second)
		}
		s = &second{}
		x.sites[site] = s
	}
	if !s.better && (s.busy || now.Before(s.until)) {
		return false
	}
	s.busy = true
	return true
}

// end notes whether it had a better word.
func (x *seconds) end(site string, better bool, now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.sites[site]
	if s == nil {
		return
	}
	s.busy, s.better = false, better
	if better {
		s.vain = 0
		return
	}
	s.until = now.Add(min(mostSecond, leastSecond<<min(s.vain, 10)))
	s.vain++
}

// askSecond offers the recipients of a transaction that were deferred to a second host, and
// returns the settlement of those of which that had the last word; r keeps the others. asked
// says that it did, and that the session's own connection has ended for it.
func (w *worker) askSecond(ctx context.Context, set *settings.Settings, r *settle.Settlement, result smtp.Result) (other *settle.Settlement, asked bool) {
	d := w.deliverer
	var deferred []int
	for i := range r.Results {
		f := &r.Results[i]
		if !f.Untried && f.Decision.Action == outcome.Retry &&
			result.Recipients[i].Fate == smtp.Refused && slices.Contains(ofHost, f.Decision.Class) {
			deferred = append(deferred, i)
		}
	}
	if len(deferred) == 0 || r.Route.Plan == nil || r.Route.Handback || len(r.Route.Places) < 2 || !d.seconds.begin(r.Route.Site, time.Now()) {
		return nil, false
	}
	at, ok := d.queue.Second(w.session)
	if !ok {
		d.seconds.end(r.Route.Site, false, time.Now())
		return nil, false
	}
	w.conn.Part(ctx, partWait)
	other = d.sendSecond(ctx, set, at, r, deferred)
	better := other != nil && len(other.Results) > 0
	d.seconds.end(r.Route.Site, better, time.Now())
	if !better {
		return nil, true
	}
	r.Results = slices.DeleteFunc(r.Results, func(f settle.Result) bool {
		return slices.ContainsFunc(other.Results, func(x settle.Result) bool { return x.Item.Handle == f.Item.Handle })
	})
	return other, true
}

// sendSecond sends the message of a settlement to some of its recipients by a second host.
// What comes back are the results that are no deferral; nil: there are none.
func (d *Deliverer) sendSecond(ctx context.Context, set *settings.Settings, at queue.Place, r *settle.Settlement, which []int) *settle.Settlement {
	p, err := set.Host(r.Route, at)
	if err != nil {
		return nil
	}
	began := time.Now()
	opening, cancel := context.WithTimeout(d.opening, secondConnect)
	defer cancel()
	said := d.dialogues.Session(r.Route.Site)
	conn, err := d.dial(opening, set, r.Route, p, said)
	if err != nil {
		said.Close(err)
		d.log.Info("connect", "relay", p.Relay(), "site", r.Route.Site, "status", "failed", "reason", err)
		return nil
	}
	defer said.Close(nil)
	defer conn.Quit(ctx)
	job := r.Job
	job.Items = make([]queue.Item, 0, len(which))
	for _, i := range which {
		job.Items = append(job.Items, r.Results[i].Item)
	}
	e, content, err := d.store.Message(job.ID)
	if err != nil {
		return nil // the next try tells
	}
	defer content.Close()
	var tx smtp.Tx
	d.prepare(&tx, e, content, job, r.Route, set.Config)
	connected := time.Now()
	stalled := time.AfterFunc(stallAfter, func() { conn.Abandon() })
	said.Begin(job.ID, e, tx.Recipients)
	result, err := conn.Send(ctx, &tx)
	said.End(err)
	stalled.Stop()

	other := d.settler.Begin(e, job, r.Route)
	other.Host, other.Source, other.Names, other.Reuse = p, conn.LocalAddr(), p.Names(), 1
	other.Connect, other.Transmit = connected.Sub(began), time.Since(connected)
	for i, item := range job.Items {
		d.read(set, &other, item, result.Recipients[i], err)
	}
	other.Results = slices.DeleteFunc(other.Results, func(f settle.Result) bool {
		return f.Untried || f.Decision.Action == outcome.Retry
	})
	return &other
}
