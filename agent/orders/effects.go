package orders

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/pools"
	"github.com/millrace/millrace/agent/settings"
)

// What a reply rule does to a site is one of the orders in force (control.Effect): it is
// listed, lifted and kept over a restart with them. The site's controller has it as a
// clamp; after a restart the queue has it ready for when it gets to know the site.

// effectKinds are the kinds of outcome that are on sites, by their names in
// control.Effect, which are the actions of the configuration.
var effectKinds = map[outcome.EffectKind]string{outcome.Slow: "slow", outcome.Suspend: "suspend", outcome.Bound: "sessions"}

// maxEffects bounds the effects in force: more would be of no use in a listing. Beyond
// them a site is clamped all the same, and the agent's end is the clamp's.
const maxEffects = 1000

// clampFor clamps a site for a rule, at once; the file follows. No Forget comes between the
// clamp and its listing.
func (o *Orders) clampFor(e control.Effect, kind outcome.EffectKind) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch kind {
	case outcome.Slow:
		o.queue.Slow(e.Site, e.Until, e.Reason)
		if cl, ok := o.queue.Clamped(e.Site); ok {
			e.Rate = cl.Pace
		}
	default:
		if !o.queue.Clamp(e.Site, clampOf(&e)) {
			o.queue.RecallClamp(e.Site, clampOf(&e), e.Since) // another address of a network: no mail has gone there yet
		}
	}
	old := o.now.Load()
	next := *old
	next.Effects = slices.DeleteFunc(slices.Clone(old.Effects), func(x control.Effect) bool { return x.Site == e.Site && x.Rule == e.Rule })
	if len(next.Effects) >= maxEffects {
		return
	}
	next.Effects = append(next.Effects, e)
	o.Exclusively(func() { o.now.Store(&next) })
	o.dirty = true
	o.moveBlocked(&next)
}

// blocked completes the effect of a rule that suspends a site, where the reply says that the
// receiver distrusts the address that the mail came from. The other addresses of its /64 are
// suspended there with it. Where the pool says so, others take its mail at a provider meanwhile,
// but never that of the stream that earned the block, which is paused there. A block that is
// said at the banner was earned by nobody knows whom: then the mail waits as elsewhere, and so it
// does if the stream is paused there already, as it has earned one block after the other, or if as
// much is paused as rules may.
func (o *Orders) blocked(w *Reply, e *control.Effect) {
	set := o.settings.Now()
	from := w.Route.Source(w.Host.Addr.Addr())
	if w.Decision.Class != outcome.ClassReputation || !from.IsValid() {
		return
	}
	e.Address = from.String()
	if w.Route.Receiver == "" { // it is the only one
		return
	}
	for _, a := range set.SourceAddresses() {
		if a != from && pools.Same(a, from) {
			x := *e
			x.Address, x.Site = a.String(), w.Route.Receiver+":"+a.String()
			o.clampFor(x, outcome.Suspend)
		}
	}
	q := w.Route.Queue
	if set.OnBlock(from) != config.BlockOthers || len(q.MX) == 0 || w.Stream == "" {
		return
	}
	if o.PauseForRule(e.Rule, control.Filter{Queue: q.Name, Stream: w.Stream}, e.Reason, e.Until) {
		e.Queue, e.Stream = q.Name, w.Stream
	}
}

// moveBlocked has the mail of addresses that are blocked leave from others, or from its own again.
func (o *Orders) moveBlocked(s *control.StandingOrders) {
	var list []settings.Block
	for i := range s.Effects {
		if e := &s.Effects[i]; e.Queue != "" {
			if a, err := netip.ParseAddr(e.Address); err == nil {
				list = append(list, settings.Block{Queue: e.Queue, Address: a})
			}
		}
	}
	if o.settings.Now().Blocks.Set(list) {
		o.queue.RerouteAll()
	}
}

// Reloaded has a configuration that was read anew decide what becomes of the mail of addresses that
// are blocked: where its pools do not say "others" any more, it waits from now on. The stream that
// earned the block stays paused until that ends. What waits already goes on waiting, whatever
// they say now: which stream earned the block is not known of it.
func (o *Orders) Reloaded() {
	o.mu.Lock()
	defer o.mu.Unlock()
	next := *o.now.Load()
	if !o.withdraw(&next) {
		return
	}
	o.Exclusively(func() { o.now.Store(&next) })
	o.dirty = true
	o.moveBlocked(&next)
}

// withdraw ends the move of mail from addresses whose pools do not say "others", and says whether
// there was any.
func (o *Orders) withdraw(s *control.StandingOrders) (any bool) {
	s.Effects = slices.Clone(s.Effects)
	for i := range s.Effects {
		e := &s.Effects[i]
		if e.Queue == "" {
			continue
		}
		if a, err := netip.ParseAddr(e.Address); err != nil || o.settings.Now().OnBlock(a) != config.BlockOthers {
			e.Queue, e.Stream, any = "", "", true
		}
	}
	return any
}

// clampOf is an effect as the site's controller has it.
func clampOf(e *control.Effect) elastic.Clamp {
	cl := elastic.Clamp{Sessions: e.Sessions, Pace: e.Rate, Until: e.Until, Reason: e.Reason}
	if e.Action == effectKinds[outcome.Slow] {
		cl.Sessions = -1
	}
	return cl
}

// recall takes the effects of an earlier agent over. They are part of s, which is not in
// force yet.
func (o *Orders) recall(s *control.StandingOrders, now time.Time) {
	s.Effects = slices.DeleteFunc(s.Effects, func(e control.Effect) bool { return !now.Before(e.Until) })
	o.withdraw(s)
	for _, e := range s.Effects {
		o.queue.RecallClamp(e.Site, clampOf(&e), now)
		o.effects.tally.Last(&outcome.Effect{Rule: e.Rule}, placeOf("", e.Site), e.Until)
	}
}

// LiftEffects ends what rules have done to a site, within a Change, and says how many
// effects that were. It may come again: the next replies are counted anew.
func (o *Orders) LiftEffects(s *control.StandingOrders, site string) int {
	n := len(s.Effects)
	s.Effects = slices.DeleteFunc(s.Effects, func(e control.Effect) bool {
		if e.Site != site {
			return false
		}
		o.queue.Lift(site, e.Reason)
		o.effects.mu.Lock()
		o.effects.tally.Forget(e.Rule, placeOf("", site))
		o.effects.alerts = slices.DeleteFunc(o.effects.alerts, func(a alert) bool { return strings.HasPrefix(a.text, control.Filter{Site: site}.String()+" ") })
		o.effects.mu.Unlock()
		return true
	})
	return n - len(s.Effects)
}

// Forget ends what rules have done to some sites, and has the rest that is known of them
// forgotten. First the effects go from the file, or a restart would bring them back.
func (o *Orders) Forget(of func(site string) bool, rest func()) (err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	old := o.now.Load()
	next := *old
	for _, e := range old.Effects {
		if of(e.Site) {
			next.Effects = slices.Clone(next.Effects)
			o.LiftEffects(&next, e.Site)
		}
	}
	if len(next.Effects) < len(old.Effects) {
		if err = o.apply(*old, next); err == nil {
			err = o.save(&next)
		}
	}
	rest()
	return err
}

// placeOf is where the matches of a rule are counted: at a site, for a stream or for all.
func placeOf(stream, site string) string { return stream + "\x00at " + site }

// Unknown is what was said that no rule knew.
func (o *Orders) Unknown() *outcome.Unknown { return &o.unknown }
