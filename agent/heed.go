package agent

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/outcome"
)

// replyRules are the rules of the configuration in the terms of package outcome.
func replyRules(list []config.Reply) ([]outcome.Rule, error) {
	rules := make([]outcome.Rule, 0, len(list))
	for _, r := range list {
		x := outcome.Rule{Name: r.Name, Codes: r.Code, Enhanced: r.Enhanced, Effect: outcome.Effect{
			Rule: r.Name, Kind: effects[r.Action], For: r.For, Sessions: r.Sessions, After: r.After, Within: r.Within, Tell: r.Tell,
		}}
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
	until time.Time // zero: for good
	still func() bool
}

// heed lets what a receiver has said take effect on its site, or on the stream of
// the message that it spoke of.
func (a *Agent) heed(site, stream string, d outcome.Decision) {
	e := d.Effect
	if e == nil || !e.Lasting() || e.OnStream() && stream == "" {
		return
	}
	place := "site " + site
	if e.OnStream() {
		place = "stream " + stream
	}
	now := time.Now()
	a.heeded.mu.Lock()
	due := a.heeded.tally.Add(now, e, place)
	a.heeded.mu.Unlock()
	if !due {
		return
	}
	until := now.Add(e.For)
	reason := e.Rule + ": " + d.Reason
	what := ""
	t := told{until: until}
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
	case outcome.Pause:
		what = "waits"
		if !a.pause(e.Rule, stream, reason, until) {
			return
		}
	case outcome.HoldStream:
		what = "is held; see to the cause, then millrace resume"
		if !a.pause(e.Rule, stream, reason, time.Time{}) {
			return
		}
		t.until = time.Time{}
		t.still = func() bool {
			st := a.Standing()
			b := brakeOn(&st, control.Filter{Stream: stream})
			return b != nil && b.Reason == reason
		}
	}
	line := fmt.Sprintf("%s %s", place, what)
	if t.until != (time.Time{}) {
		line += " until " + until.Format(time.RFC3339)
	}
	log := a.log.Warn
	if e.Tell || e.Kind == outcome.HoldStream {
		log = a.log.Error
		t.text = line + ": " + reason
		a.heeded.mu.Lock()
		a.heeded.told = append(a.heeded.told, t)
		a.heeded.mu.Unlock()
	}
	log(line, "rule", e.Rule, "reply", d.Reason)
}

// shown are the texts for the admin, as long as they are true.
func (h *heeded) shown(now time.Time) (list []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	kept := h.told[:0]
	for _, t := range h.told {
		if t.until.IsZero() && t.still() || now.Before(t.until) {
			kept = append(kept, t)
			list = append(list, t.text)
		}
	}
	clear(h.told[len(kept):])
	h.told = kept
	return list
}

// pause puts a brake on a stream for a rule, until then or for good. One that is
// paused already stays as it is.
func (a *Agent) pause(rule, stream, reason string, until time.Time) bool {
	b := control.Brake{Filter: control.Filter{Stream: stream}, Reason: reason, Since: time.Now(), Until: until, Who: "reply rule " + rule}
	err := a.order(func(s *control.Standing) error {
		if brakeOn(s, b.Filter) != nil {
			return errPaused
		}
		s.Brakes = append(s.Brakes, b)
		return nil
	})
	if errors.Is(err, errPaused) {
		return false
	}
	if err != nil {
		a.log.Error("stream paused", "stream", stream, "err", err)
	}
	return true
}

var errPaused = errors.New("it is paused already")

// brakeOn is the brake of a filter, or nil.
func brakeOn(s *control.Standing, f control.Filter) *control.Brake {
	for i := range s.Brakes {
		if s.Brakes[i].Filter == f {
			return &s.Brakes[i]
		}
	}
	return nil
}
