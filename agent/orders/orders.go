// Package orders is what admins, and rules about replies, have ordered of the mail that
// waits: pauses, limits, priorities. A Selection finds the recipients that a filter means.
//
// Orders owns what is in force (control.StandingOrders), the file that keeps it over restarts,
// and the count of what replies have said (rules.go). It promises that a change by an
// admin is durable before it returns, that the queue follows each change, and that no
// message slips by a pause while it is brought in.
//
// New puts into force what an earlier agent kept, before any mail is read. Mail comes into
// the queue by Add only. A session reports to ApplyRule what a host has said; once a
// second the agent calls Expire and SaveRulePauses; Run runs beside that; after the last
// session has ended SaveRulePauses is called once more. Change and Expire may take as long
// as the disk does, ApplyToQueued as long as a pass over the queue.
//
// The queue itself stops by queue, site, stream and domain. Sender, SASL user and client
// stand only in the envelope: of a message that comes in they are compared then (Add),
// and ApplyToQueued goes through those that are queued already. The terms are explained in
// agent/doc.go.
package orders

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/durable"
	"github.com/millrace/millrace/agent/fleet/order"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/spool"
)

// Orders is what admins, and rules about replies, have asked for, and what lasts
// over a restart: pauses, limits, priorities. Its methods may be called by many
// goroutines.
type Orders struct {
	log      *slog.Logger
	settings *settings.Source
	store    *spool.Store
	queue    *queue.Queue
	stop     context.Context

	mu    sync.Mutex // one change at a time, of the file too
	old   []string   // names of sites in orders that are those of an earlier version
	now   atomic.Pointer[control.StandingOrders]
	dirty bool      // the file lacks what rules about replies have changed, or what could not be written
	lost  bool      // it could not be written at the last try
	kept  time.Time // when the file was written last
	// full: no more is paused for rules, for good or for a time, or by the breaker, which was
	// told.
	full struct{ good, time, breaker bool }
	// arrivals is held to read while a message that was compared is brought into the
	// queue: ApplyToQueued misses none that came before a change.
	arrivals sync.RWMutex
	applying sync.Mutex
	ended    chan struct{} // capacity 1: pauses of envelopes have ended by themselves
	// hostStopped: the host MTA is stopped, and the configuration wants that to stop us.
	hostStopped atomic.Bool
	effects     ruleEffects
	unknown     outcome.Unknown
	common      *order.Log     // nil: this node is in no fleet
	shares      map[string]int // of streams, by common orders as they were followed last; guarded by mu
}

// Options are what Orders work with. None but Common may be missing.
type Options struct {
	Log      *slog.Logger
	Settings *settings.Source
	Store    *spool.Store
	Queue    *queue.Queue
	// Stop ends when work on the queue that is under way is to be given up.
	Stop context.Context
	// Common are the orders of the fleet (common.go); nil: this node is in none.
	Common *order.Log
}

// New returns the Orders that an earlier agent kept, in force.
func New(o Options) (*Orders, error) {
	x := &Orders{log: o.Log, settings: o.Settings, store: o.Store, queue: o.Queue, stop: o.Stop, common: o.Common, ended: make(chan struct{}, 1)}
	if err := x.load(); err != nil {
		return nil, err
	}
	if x.common != nil {
		if err := x.follow(); err != nil {
			return nil, err
		}
	}
	return x, nil
}

// StandingFile is the file in the state directory that keeps the orders: an admin's pause
// must not end because the agent did.
const StandingFile = "standing.json"

// Standing returns the orders in force.
func (o *Orders) Standing() control.StandingOrders {
	s := *o.now.Load()
	if o.hostStopped.Load() {
		s.Pauses = append(slices.Clone(s.Pauses), hostPause())
	}
	return s
}

// Change makes one change of what is in force, durable before it returns, and has the
// queue follow. An error of change leaves all as it was.
func (o *Orders) Change(change func(*control.StandingOrders) error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	old := *o.now.Load()
	next := control.StandingOrders{
		Pauses: slices.Clone(old.Pauses), Limits: slices.Clone(old.Limits), Priorities: maps.Clone(old.Priorities),
		Effects: slices.Clone(old.Effects), Released: slices.Clone(old.Released),
	}
	if err := change(&next); err != nil {
		return err
	}
	release(&old, &next, time.Now())
	if err := o.apply(old, next); err != nil {
		return err
	}
	return o.save(&next)
}

const (
	// maxRulePauses is how many streams rules about replies pause at a time, for good and
	// again for a time: receivers decide how many replies there are, and whoever sends how
	// many streams. More would be no help to an admin, who has to see to the cause.
	maxRulePauses = 100
	// MaxPauseReason bounds what is kept of a reply, in octets.
	MaxPauseReason = 300
	// SaveGap is the least time from one writing of the file for rules to the next. After a
	// crash what they had paused since goes on until its receivers have said it again.
	SaveGap = 10 * time.Second
)

// byRule begins the name of who paused, where a rule about replies did.
const byRule = "reply rule "

// pauseFor pauses from now on for a rule about replies or the breaker; the file follows. It returns
// false if the same, or the stream everywhere, is paused already, or an admin has resumed it, or
// as much is paused as may be.
func (o *Orders) pauseFor(b control.Pause) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	old := *o.now.Load()
	if pauseWith(&old, b.Filter) != nil || pauseWith(&old, control.Filter{Stream: b.Filter.Stream}) != nil ||
		b.Who == control.Breaker && isReleased(&old, b.Filter) {
		return false
	}
	paused := 0
	for _, x := range old.Pauses {
		if automatic(x.Who) == automatic(b.Who) && x.Until.IsZero() == b.Until.IsZero() {
			paused++
		}
	}
	full, told := paused >= maxRulePauses, &o.full.time
	switch {
	case b.Who == control.Breaker:
		told = &o.full.breaker
	case b.Until.IsZero():
		told = &o.full.good
	}
	if full && !*told {
		o.log.Error("no more is paused by "+automatic(b.Who)+", as so much is already; see to the cause, then millrace resume",
			"paused", paused, "next", b.Filter.String(), "who", b.Who)
	}
	if *told = full; full {
		return false
	}
	b.Since, b.Reason = time.Now(), printable.Shorten(b.Reason, MaxPauseReason)
	if o.common != nil && b.Until.IsZero() {
		id, err := o.common.Issue(b.Who, order.Pause, b, time.Time{})
		if err != nil {
			o.log.Error("paused by "+automatic(b.Who)+", on this node alone", "on", b.Filter.String(), "err", err)
		}
		if id.Number > 0 {
			b.Order = id.String()
		}
	}
	next := old
	next.Pauses = append(slices.Clone(old.Pauses), b)
	if err := o.apply(old, next); err != nil {
		o.log.Error("paused by "+automatic(b.Who), "on", b.Filter.String(), "err", err)
		return false
	}
	o.dirty = true
	return true
}

// SaveRulePauses writes what rules about replies have changed, and what could not be written
// before, if some time has passed or it must be now.
func (o *Orders) SaveRulePauses(now time.Time, must bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.dirty || !must && now.Sub(o.kept) < SaveGap {
		return
	}
	told := o.lost
	if err := o.save(o.now.Load()); err != nil && !told {
		o.log.Error("orders are not written; it is tried again", "err", err)
	}
}

// apply puts new orders into force. ApplyToQueued, for pauses of envelopes, is left to the
// caller: it takes long.
func (o *Orders) apply(old, next control.StandingOrders) error {
	for stream := range old.Priorities {
		if next.Priorities[stream] == 0 {
			if err := o.queue.SetPriority(stream, 0); err != nil {
				return err
			}
		}
	}
	for stream, n := range next.Priorities {
		if err := o.queue.SetPriority(stream, n); err != nil {
			return err
		}
	}
	o.Exclusively(func() { o.now.Store(&next) })
	o.settings.Now().Sites.Pin(siteNames(&next), receiverSites(&next)...)
	var pauses []queue.Pause
	for _, b := range next.Pauses {
		if f := b.Filter; !OfEnvelope(f) {
			pauses = append(pauses, queue.Pause{Queue: f.Queue, Site: f.Site, Stream: f.Stream, Domain: f.Domain, Reason: b.Reason})
		}
	}
	if o.hostStopped.Load() {
		pauses = append(pauses, queue.Pause{Reason: hostPause().Reason})
	}
	o.queue.SetPauses(pauses)
	o.moveBlocked(&next)
	if slices.Equal(old.Limits, next.Limits) {
		return nil
	}
	var limits []queue.Limit
	for _, l := range lowest(next.Limits) { // in a fleet there may be several of a name
		limits = append(limits, queue.Limit{Name: l.Name, Sessions: l.Sessions, Rate: l.Rate,
			Reason: fmt.Sprintf("set by %s until %s", l.Who, l.Until.UTC().Format(time.RFC3339))})
	}
	o.queue.SetLimits(limits)
	return nil
}

// FilterOf is what a pause of the queue is on for, as orders have it.
func FilterOf(p *queue.Pause) control.Filter {
	f := control.Filter{Queue: p.Queue, Site: p.Site, Stream: p.Stream, Domain: p.Domain}
	f.All = f.Empty()
	return f
}

// Exclusively calls f while no message that was compared is on its way into the queue.
func (o *Orders) Exclusively(f func()) {
	o.arrivals.Lock()
	defer o.arrivals.Unlock()
	f()
}

// OfEnvelope says whether a pause is about what only the envelope tells.
func OfEnvelope(f control.Filter) bool { return f.Sender != "" || f.User != "" || f.Client != "" }

// isPaused says whether a pause is on for a message by what its envelope tells.
func (o *Orders) isPaused(e *spool.Envelope) bool { return o.PauseOf(e) != nil }

// PauseOf is the pause that is on for a message by what its envelope tells, or nil.
func (o *Orders) PauseOf(e *spool.Envelope) *control.Pause {
	list := o.now.Load().Pauses
	for i := range list {
		if f := &list[i].Filter; OfEnvelope(*f) && fits(f, e) {
			return &list[i]
		}
	}
	return nil
}

// Add brings a message into the queue, paused or not.
func (o *Orders) Add(id spool.ID, e *spool.Envelope, st []spool.State) {
	o.arrivals.RLock()
	defer o.arrivals.RUnlock()
	paused := o.isPaused(e)
	if e.Formerly != "" && o.isOrderedOn(e.Formerly) {
		named := *e
		named.Stream = e.Formerly
		e = &named
	}
	o.queue.Add(id, e, settings.Domains(e), st, paused)
}

// isOrderedOn says whether a pause or priority stands for a stream of that name. Mail
// whose stream had it keeps it while one does: what was paused before an upgrade is paused
// after it.
func (o *Orders) isOrderedOn(stream string) bool {
	s := o.now.Load()
	return s.Priorities[stream] != 0 ||
		slices.ContainsFunc(s.Pauses, func(b control.Pause) bool { return b.Filter.Stream == stream })
}

// ApplyToQueued parks the queued messages that a pause is on for by what their envelopes
// tell, and lets the others go. One that comes after a change sees it.
func (o *Orders) ApplyToQueued() {
	o.applying.Lock()
	defer o.applying.Unlock()
	s := NewSelection(o.store, control.Filter{})
	var park, free []queue.Entry
	o.queue.List(func(page []queue.Entry) bool {
		park, free = park[:0], free[:0]
		any := slices.ContainsFunc(o.Standing().Pauses, func(b control.Pause) bool { return OfEnvelope(b.Filter) })
		for _, e := range page {
			if !any && !e.Paused {
				continue
			}
			env := s.Envelope(e.ID)
			switch on := env != nil && o.isPaused(env); {
			case on && !e.Paused:
				park = append(park, e)
			case !on && e.Paused:
				free = append(free, e)
			}
		}
		o.queue.Pause(park)
		o.queue.Resume(free)
		return o.stop.Err() == nil
	})
}

// Expire ends what ends by itself by now. Mail that a pause of envelopes had parked is let go
// by Run.
func (o *Orders) Expire(now time.Time) {
	over := func(until time.Time) bool { return !until.IsZero() && !now.Before(until) }
	st := o.Standing()
	if !slices.ContainsFunc(st.Pauses, func(b control.Pause) bool { return over(b.Until) }) &&
		!slices.ContainsFunc(st.Limits, func(l control.Limit) bool { return over(l.Until) }) &&
		!slices.ContainsFunc(st.Effects, func(e control.Effect) bool { return over(e.Until) }) &&
		!slices.ContainsFunc(st.Released, func(r control.Release) bool { return over(r.Until) }) {
		return
	}
	requeue := false
	err := o.Change(func(s *control.StandingOrders) error {
		s.Pauses = slices.DeleteFunc(s.Pauses, func(b control.Pause) bool {
			if !over(b.Until) {
				return false
			}
			o.log.Info("brake comes off, its time is over", "on", b.Filter.String(), "reason", b.Reason)
			requeue = requeue || OfEnvelope(b.Filter)
			return true
		})
		s.Effects = slices.DeleteFunc(s.Effects, func(e control.Effect) bool { return over(e.Until) }) // the clamp ends by itself
		s.Released = slices.DeleteFunc(s.Released, func(r control.Release) bool { return over(r.Until) })
		s.Limits = slices.DeleteFunc(s.Limits, func(l control.Limit) bool {
			if over(l.Until) {
				o.log.Info("temporary limit ends", "of", l.Name)
			}
			return over(l.Until)
		})
		return nil
	})
	if err != nil {
		o.log.Error("brake comes off", "err", err)
	}
	if requeue {
		o.passAgain()
	}
}

// passAgain has Run go over what is queued.
func (o *Orders) passAgain() {
	select {
	case o.ended <- struct{}{}:
	default: // a pass is to begin that will see this
	}
}

// Run lets go what was parked by pauses that ended by themselves, and parks what others of
// the fleet have paused, until ctx ends. Each
// pass reads envelopes of all that is queued, so no other work waits for it.
func (o *Orders) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.ended:
			o.ApplyToQueued()
		}
	}
}

// save writes what is in force; on return it will outlive a crash. The caller holds
// mu.
func (o *Orders) save(s *control.StandingOrders) error {
	o.dirty, o.kept = false, time.Now()
	dir := o.settings.Now().Config.Agent.StateDirectory
	if dir == "" {
		return nil
	}
	names := siteNames(s)
	o.old = slices.DeleteFunc(slices.Clone(o.old), func(x string) bool { return !slices.Contains(names, x) })
	// The names first, see sites.Book.Keep.
	for i := range s.Effects {
		names = append(names, s.Effects[i].Site)
	}
	err := o.settings.Now().Sites.Keep(o.kept, names)
	var b []byte
	if err == nil {
		b, err = json.MarshalIndent(kept{*s, siteNaming, o.old}, "", "\t")
	}
	if err == nil {
		err = durable.Replace(filepath.Join(dir, StandingFile), append(b, '\n'))
	}
	o.lost = err != nil
	if err != nil {
		o.dirty = true
		return fmt.Errorf("this is in force, but will not outlive the agent while it cannot be written: %w", err)
	}
	return nil
}

// load puts into force what an earlier agent kept.
func (o *Orders) load() error {
	o.now.Store(&control.StandingOrders{})
	o.settings.Now().Sites.Expect(nil, o)
	dir := o.settings.Now().Config.Agent.StateDirectory
	if dir == "" {
		return nil
	}
	path := filepath.Join(dir, StandingFile)
	b, err := os.ReadFile(path)
	if durable.Missing(err) {
		return nil
	}
	var s kept
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err == nil {
		o.expectOld(&s)
		o.recall(&s.StandingOrders, time.Now())
		err = o.apply(control.StandingOrders{}, s.StandingOrders)
	}
	if err != nil {
		// To send what somebody has paused is worse than not to start.
		return fmt.Errorf("the brakes that are on cannot be read: %w; remedy: mend %s, or remove it to let all mail go on", err, path)
	}
	return nil
}

// sameAddress compares envelope addresses as a filter names them.
func sameAddress(filter, address string) bool {
	return strings.EqualFold(filter, address) || filter == nullSender && address == ""
}

// nullSender is how a filter names the sender of reports.
const nullSender = "<>"

// SetHostStopped says whether the host MTA is stopped, and that is to stop us, and
// returns whether that is new. It is in force with the next Change.
func (o *Orders) SetHostStopped(stopped bool) bool { return o.hostStopped.Swap(stopped) != stopped }

// hostPause is the pause that is on while the host MTA is stopped.
func hostPause() control.Pause {
	return control.Pause{Filter: control.Filter{All: true}, Reason: "the host MTA is stopped", Who: "[agent] stop_with_host"}
}
