package orders

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/settings"
)

// ruleEffects counts the replies that rules matched, and keeps the alerts that follow.
type ruleEffects struct {
	mu     sync.Mutex
	tally  outcome.Tally
	alerts []alert
}

// alert is something an admin must look at.
type alert struct {
	text  string
	until time.Time
}

// maxAlerts bounds the alerts at a time.
const maxAlerts = 1000

func (h *ruleEffects) alert(t alert) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.alerts) >= maxAlerts {
		h.alerts = slices.Delete(h.alerts, 0, 1)
	}
	h.alerts = append(h.alerts, t)
}

const (
	// severalNetworks, or as many as the rule's "after" says if that is more, must have
	// refused a stream within its time before it is held everywhere. Sites do not count,
	// as the owner of one host has as many as he wants, by domains and IPv6 addresses.
	// Five networks are more than one operator usually has, and few for a stream that
	// lacks its signature: every receiver that checks refuses it.
	severalNetworks = 5
)

// Reply is a reply or failure of a host, with the decision on it.
type Reply struct {
	Decision outcome.Decision
	Route    queue.Route
	Host     settings.Host
	Code     int    // SMTP reply code; 0 for a failure
	Stream   string // of the message; "" for a connect
}

// listed says whether the reply is of a provider that the rule, or the queue, names. The
// name of the host counts: the owner of a domain may be anybody, and its queue be listed
// for another.
func (w *Reply) listed() bool {
	return w.Decision.Effect.Names || config.MatchesAny(settings.Naming(w.Route.Queue.MX), w.Host.Name)
}

// network is the part of the internet where the host stands: a /16, or an IPv6 /32, which
// is what a provider has of the registry.
func (w *Reply) network() string {
	addr, bits := w.Host.Addr.Addr(), 32
	if addr.Is4() {
		bits = 16
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return "none"
	}
	return p.String()
}

// everywhere says whether a stream is to be held towards all receivers until an admin
// resumes it. That takes a 5xx: of a listed provider, as often as the rule wants, or from
// several networks. The reply of any other host holds at most at its own site, for a time.
func (h *ruleEffects) everywhere(now time.Time, w *Reply) bool {
	e := *w.Decision.Effect
	if e.Kind != outcome.HoldStream || w.Code/100 != 5 {
		return false
	}
	e.For = 0 // not held twice: the pause sees to that
	if w.listed() {
		return h.tally.Add(now, &e, w.Stream+"\x00listed")
	}
	e.After = max(e.After, severalNetworks)
	return h.tally.AddBy(now, &e, w.Stream+"\x00", w.network())
}

// ApplyRule keeps a reply that no rule knew, and has the rule that matched a reply take effect on the site of the host, or on
// the stream of the message. A reply without an effect that lasts changes nothing.
func (o *Orders) ApplyRule(w Reply) {
	now := time.Now()
	if w.Decision.Rule == outcome.NoRule {
		o.unknown.Add(now, w.Route.Site, w.Decision.Reason)
	}
	e, site := w.Decision.Effect, w.Route.Site
	if e == nil || !e.Lasting() || e.OnStream() && w.Stream == "" {
		return
	}
	filter := control.Filter{Site: site}
	if e.OnStream() {
		filter.Stream = w.Stream
	}
	o.effects.mu.Lock()
	everywhere := o.effects.everywhere(now, &w)
	due := everywhere || o.effects.tally.Add(now, e, placeOf(filter.Stream, site))
	o.effects.mu.Unlock()
	if !due {
		return
	}
	until := now.Add(e.For)
	if everywhere {
		filter.Site, until = "", time.Time{}
	}
	reason := e.Rule + ": " + w.Decision.Reason
	what := ""
	switch e.Kind {
	case outcome.Slow:
		what = "goes on at half its pace"
	case outcome.Suspend:
		what = "is suspended"
	case outcome.Bound:
		what = fmt.Sprintf("gets at most %d sessions", e.Sessions)
	case outcome.Pause, outcome.HoldStream:
		what = "waits"
		if e.Kind == outcome.HoldStream {
			what = "is held"
		}
		if !o.PauseForRule(e.Rule, filter, reason, until) {
			return
		}
	}
	if !e.OnStream() {
		x := control.Effect{
			Site: site, Rule: e.Rule, Action: effectKinds[e.Kind], Sessions: e.Sessions, Since: now, Until: until,
			Reason: printable.Shorten(reason, MaxPauseReason),
		}
		if e.Kind == outcome.Suspend {
			o.blocked(&w, &x)
		}
		o.clampFor(x, e.Kind)
	}
	line := filter.String() + " " + what
	if everywhere {
		line += "; see to the cause, then millrace resume"
	} else {
		line += " until " + until.Format(time.RFC3339)
	}
	log := o.log.Warn
	if e.Tell || e.Kind == outcome.HoldStream {
		log = o.log.Error
		if !e.OnStream() { // what is on streams is in Standing
			o.effects.alert(alert{line + ": " + e.Rule, until})
		}
	}
	log(line, "rule", e.Rule, "reply", w.Decision.Reason)
}

// alertTexts are the texts for the admin, as long as they are true.
func (h *ruleEffects) alertTexts(now time.Time) (list []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	kept := h.alerts[:0]
	for _, t := range h.alerts {
		if now.Before(t.until) {
			kept = append(kept, t)
			list = append(list, t.text)
		}
	}
	clear(h.alerts[len(kept):])
	h.alerts = kept
	return list
}

// PauseForRule pauses a stream for a rule, until a time or, for the zero time, for good.
// It returns false if the stream is paused already, there or everywhere, or as much is as
// rules may pause.
func (o *Orders) PauseForRule(rule string, f control.Filter, reason string, until time.Time) bool {
	return o.pauseFor(control.Pause{Filter: f, Reason: reason, Until: until, Who: byRule + rule})
}

// pauseWith is the pause of a filter, or nil.
func pauseWith(s *control.StandingOrders, f control.Filter) *control.Pause {
	for i := range s.Pauses {
		if s.Pauses[i].Filter == f {
			return &s.Pauses[i]
		}
	}
	return nil
}
