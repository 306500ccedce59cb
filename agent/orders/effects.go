package orders

import (
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/outcome"
)

// What a reply rule does to a site is one of the orders in force (control.Effect): it is
// listed, lifted and kept over a restart with them. The site's controller has it as a
// clamp. After a restart a site is known only once a domain of its has a route, so an
// effect waits for that: until then a pause of the queue keeps the site from connecting.

// effectKinds are the kinds of outcome that are on sites, by their names in
// control.Effect, which are the actions of the configuration.
var effectKinds = map[outcome.EffectKind]string{outcome.Slow: "slow", outcome.Suspend: "suspend", outcome.Bound: "sessions"}

// maxEffects bounds the effects in force: more would be of no use in a listing. Beyond
// them a site is clamped all the same, and the agent's end is the clamp's.
const maxEffects = 1000

// clampFor clamps a site for a rule, at once; the file follows.
func (o *Orders) clampFor(e control.Effect, kind outcome.EffectKind) {
	switch kind {
	case outcome.Slow:
		o.queue.Slow(e.Site, e.Until, e.Reason)
		if cl, ok := o.queue.Clamped(e.Site); ok {
			e.Rate = cl.Pace
		}
	default:
		o.queue.Clamp(e.Site, clampOf(&e))
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	old := o.now.Load()
	next := *old
	next.Effects = slices.DeleteFunc(slices.Clone(old.Effects), func(x control.Effect) bool { return x.Site == e.Site && x.Rule == e.Rule })
	if len(next.Effects) >= maxEffects {
		return
	}
	next.Effects = append(next.Effects, e)
	o.Exclusively(func() { o.now.Store(&next) })
	o.dirty = true
}

// clampOf is an effect as the site's controller has it.
func clampOf(e *control.Effect) elastic.Clamp {
	cl := elastic.Clamp{Sessions: e.Sessions, Pace: e.Rate, Until: e.Until, Reason: e.Reason}
	if e.Action == effectKinds[outcome.Slow] {
		cl.Sessions = -1
	}
	return cl
}

// Routed is called when the queue has got to know a route to a site. What an earlier agent
// had in force there is so again, and the site may connect as far as that lets it.
func (o *Orders) Routed(site string) {
	if o.pending.Load() == nil {
		return // nearly always
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.pending.Load()
	if p == nil || !slices.Contains(*p, site) {
		return
	}
	s := o.now.Load()
	for i := range s.Effects {
		if e := &s.Effects[i]; e.Site == site {
			o.queue.Clamp(site, clampOf(e))
		}
	}
	o.setPending(slices.DeleteFunc(slices.Clone(*p), func(x string) bool { return x == site }))
	if err := o.apply(*s, *s); err != nil {
		o.log.Error("an effect of an earlier agent", "site", site, "err", err)
	}
}

// setPending sets the sites whose effects wait for a route. The caller holds mu.
func (o *Orders) setPending(sites []string) {
	if len(sites) == 0 {
		o.pending.Store(nil)
		return
	}
	o.pending.Store(&sites)
}

// recall takes the effects of an earlier agent over. They are part of s, which is not in
// force yet.
func (o *Orders) recall(s *control.StandingOrders, now time.Time) {
	s.Effects = slices.DeleteFunc(s.Effects, func(e control.Effect) bool { return !now.Before(e.Until) })
	var sites []string
	for _, e := range s.Effects {
		if !slices.Contains(sites, e.Site) {
			sites = append(sites, e.Site)
		}
		o.effects.tally.Last(&outcome.Effect{Rule: e.Rule}, placeOf("", e.Site), e.Until)
	}
	o.setPending(sites)
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
	if p := o.pending.Load(); p != nil {
		o.setPending(slices.DeleteFunc(slices.Clone(*p), func(x string) bool { return x == site }))
	}
	return n - len(s.Effects)
}

// placeOf is where the matches of a rule are counted: at a site, for a stream or for all.
func placeOf(stream, site string) string { return stream + "\x00at " + site }

// Unknown is what was said that no rule knew.
func (o *Orders) Unknown() *outcome.Unknown { return &o.unknown }
