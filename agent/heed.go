package agent

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
)

// replyRules are the rules of the configuration in the terms of package outcome.
func replyRules(list []config.Reply) ([]outcome.Rule, error) {
	rules := make([]outcome.Rule, 0, len(list))
	for _, r := range list {
		x := outcome.Rule{Name: r.Name, Codes: r.Code, Enhanced: r.Enhanced, Effect: outcome.Effect{
			Rule: r.Name, Kind: effects[r.Action], For: r.For, Sessions: r.Sessions, After: r.After, Within: r.Within, Tell: r.Tell,
			Names: len(naming(r.MX)) > 0,
		}}
		if r.Action == config.ReplyHold {
			x.Effect.For = cmp.Or(r.For, siteHold)
		}
		for _, glob := range r.MX {
			x.Hosts = append(x.Hosts, strings.ToLower(glob))
		}
		for _, s := range r.Stage {
			x.Stages = append(x.Stages, replyStages[s])
		}
		x.Class, _ = outcome.ParseClass(r.Class)
		if r.Text != "" {
			re, err := regexp.Compile("(?i)" + r.Text)
			if err != nil {
				return nil, fmt.Errorf("reply rule %q: %w", r.Name, err)
			}
			x.Text = re
		}
		rules = append(rules, x)
	}
	return rules, nil
}

var effects = map[config.ReplyAction]outcome.EffectKind{
	config.ReplySlow: outcome.Slow, config.ReplySuspend: outcome.Suspend, config.ReplySessions: outcome.Bound,
	config.ReplyLearn: outcome.Learn, config.ReplyRecipient: outcome.Alone, config.ReplyRetry: outcome.Later,
	config.ReplyBounce: outcome.Never, config.ReplyPause: outcome.Pause, config.ReplyHold: outcome.HoldStream,
}

var replyStages = map[string]outcome.Stage{
	"connect": outcome.Connect, "tls": outcome.TLS, "mail": outcome.Mail, "rcpt": outcome.Rcpt, "data": outcome.Data,
}

// heeded is what replies have brought about.
type heeded struct {
	mu    sync.Mutex
	tally outcome.Tally
	told  []told
}

// told is something an admin must look at.
type told struct {
	text  string
	until time.Time
}

// maxTold bounds what an admin is told of sites at a time.
const maxTold = 1000

func (h *heeded) tell(t told) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.told) >= maxTold {
		h.told = slices.Delete(h.told, 0, 1)
	}
	h.told = append(h.told, t)
}

const (
	// siteHold is how long the action "hold" keeps a stream from the site that said so,
	// unless the rule says how long. Then it is tried again.
	siteHold = time.Hour
	// severalNetworks, or as many as the rule's "after" says if that is more, must have
	// refused a stream within its time before it is held everywhere. Sites do not count,
	// as the owner of one host has as many as he wants, by domains and IPv6 addresses.
	// Five networks are more than one operator has by the way, and few for a stream that
	// lacks its signature: each of its receivers who looks refuses it.
	severalNetworks = 5
)

// word is what a host has said.
type word struct {
	decision outcome.Decision
	way      queue.Way
	peer     peer
	code     int    // of its reply
	stream   string // of the message that it spoke of; "" when it was of none
}

// listed says whether a provider spoke whom the rule, or the queue, names. The host has
// to have the name, as its domain's owner may be anybody, and its queue listed for another.
func (w *word) listed() bool {
	return w.decision.Effect.Names || config.MatchesAny(naming(w.way.Queue.MX), w.peer.name)
}

// naming are the patterns that name somebody, as "*" does not.
func naming(patterns []string) (list []string) {
	for _, p := range patterns {
		if strings.Trim(p, "*?.") != "" {
			list = append(list, p)
		}
	}
	return list
}

// network is the part of the internet where the host stands: a /16, or an IPv6 /32, which
// is what a provider has of the registry.
func (w *word) network() string {
	addr, bits := w.peer.addr.Addr(), 32
	if addr.Is4() {
		bits = 16
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return "none"
	}
	return p.String()
}

// everywhere says whether a stream is to be held towards all, until an admin comes. For that
// it takes a 5xx: of a listed provider, as often as the rule wants, or from several networks.
// What anybody else says holds at most at his own site, for a time.
func (h *heeded) everywhere(now time.Time, w *word) bool {
	e := *w.decision.Effect
	if e.Kind != outcome.HoldStream || w.code/100 != 5 {
		return false
	}
	e.For = 0 // not held twice: the brake sees to that
	if w.listed() {
		return h.tally.Add(now, &e, w.stream+"\x00listed")
	}
	e.After = max(e.After, severalNetworks)
	return h.tally.AddBy(now, &e, w.stream+"\x00", w.network())
}

// heed lets what a host has said take effect on its site, or on the stream of
// the message that it spoke of.
func (a *Agent) heed(w word) {
	e, site := w.decision.Effect, w.way.Site
	if e == nil || !e.Lasting() || e.OnStream() && w.stream == "" {
		return
	}
	filter := control.Filter{Site: site}
	if e.OnStream() {
		filter.Stream = w.stream
	}
	now := time.Now()
	a.heeded.mu.Lock()
	everywhere := a.heeded.everywhere(now, &w)
	due := everywhere || a.heeded.tally.Add(now, e, filter.Stream+"\x00at "+site)
	a.heeded.mu.Unlock()
	if !due {
		return
	}
	until := now.Add(e.For)
	if everywhere {
		filter.Site, until = "", time.Time{}
	}
	reason := e.Rule + ": " + w.decision.Reason
	what := ""
	switch e.Kind {
	case outcome.Slow:
		what = "goes on at half its pace"
		a.queue.Slow(site, until, reason)
	case outcome.Suspend:
		what = "is suspended"
		a.queue.Clamp(site, elastic.Clamp{Until: until, Reason: reason})
	case outcome.Bound:
		what = fmt.Sprintf("gets at most %d sessions", e.Sessions)
		a.queue.Clamp(site, elastic.Clamp{Sessions: e.Sessions, Until: until, Reason: reason})
	case outcome.Pause, outcome.HoldStream:
		what = "waits"
		if e.Kind == outcome.HoldStream {
			what = "is held"
		}
		if !a.pause(e.Rule, filter, reason, until) {
			return
		}
	}
	line := filter.String() + " " + what
	if everywhere {
		line += "; see to the cause, then millrace resume"
	} else {
		line += " until " + until.Format(time.RFC3339)
	}
	log := a.log.Warn
	if e.Tell || e.Kind == outcome.HoldStream {
		log = a.log.Error
		if !e.OnStream() { // what is on streams stands in standing
			a.heeded.tell(told{line + ": " + e.Rule, until})
		}
	}
	log(line, "rule", e.Rule, "reply", w.decision.Reason)
}

// shown are the texts for the admin, as long as they are true.
func (h *heeded) shown(now time.Time) (list []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	kept := h.told[:0]
	for _, t := range h.told {
		if now.Before(t.until) {
			kept = append(kept, t)
			list = append(list, t.text)
		}
	}
	clear(h.told[len(kept):])
	h.told = kept
	return list
}

// pause puts a brake on a stream for a rule, until then or for good. One that is
// paused there already, or everywhere, stays as it is, and one too many is not paused.
func (a *Agent) pause(rule string, f control.Filter, reason string, until time.Time) bool {
	return a.pauseFor(control.Brake{Filter: f, Reason: reason, Since: time.Now(), Until: until, Who: byRule + rule})
}

// brakeOn is the brake of a filter, or nil.
func brakeOn(s *control.Standing, f control.Filter) *control.Brake {
	for i := range s.Brakes {
		if s.Brakes[i].Filter == f {
			return &s.Brakes[i]
		}
	}
	return nil
}
