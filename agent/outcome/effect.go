package outcome

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/elastic"
)

// Rule reads what certain receivers say. Every condition that is given must hold.
type Rule struct {
	Name     string
	Hosts    []string // globs over the name of the host that spoke, lower case
	Stages   []Stage
	Codes    []string       // globs over the code: "421", "4??"
	Enhanced []string       // globs over the enhanced status code
	Text     *regexp.Regexp // over the text, without what it repeats of the recipient's address

	Class  Class // ClassNone: what the reply itself says
	Effect Effect
}

// EffectKind is what a rule does beyond the reading of the reply.
type EffectKind uint8

// The kinds of effects. A recipient is never bounced for a reply that Slow,
// Suspend, Bound or Pause answer: these say that later will do.
const (
	NoEffect   EffectKind = iota
	Slow                  // the site goes on at half its pace
	Suspend               // the site sees no connection
	Bound                 // the site gets at most Sessions sessions
	Learn                 // the connection has had its messages; it is no failure
	Alone                 // only this recipient waits
	Later                 // a 5xx that means "later"
	Never                 // a 4xx that means "never"
	Pause                 // the stream waits, for a time and at the site
	HoldStream            // likewise; everywhere and for an admin, if the word weighs enough
)

// Effect is what follows for a site or a stream once the rule has matched After times
// there Within a time.
type Effect struct {
	Rule     string // its name
	Names    bool   // the rule is for hosts that it names
	Kind     EffectKind
	For      time.Duration
	Sessions int // of Bound
	After    int
	Within   time.Duration
	Tell     bool // an admin must look at its cause
}

// OnStream says whether the effect is on the stream, at the site; else it is on all of
// the site.
func (e *Effect) OnStream() bool { return e.Kind == Pause || e.Kind == HoldStream }

// Lasting says whether the effect is more than a reading of the one reply.
func (e *Effect) Lasting() bool {
	return e.Kind == Slow || e.Kind == Suspend || e.Kind == Bound || e.OnStream()
}

// match finds the first rule that fits a reply, nil if none does.
func match(rules []Rule, a *Attempt, enhanced string) *Rule {
	if len(rules) == 0 {
		return nil
	}
	host, _, _ := strings.Cut(a.Peer, "[")
	host = strings.ToLower(host)
	code := string([]byte{byte('0' + a.Code/100%10), byte('0' + a.Code/10%10), byte('0' + a.Code%10)})
	// Who puts RL000001@comcast.net on a list must not choose what a rule finds in the
	// reply that repeats it.
	local, _, _ := strings.Cut(a.To, "@")
	text := without(without(a.Text, a.To), local)
	for i := range rules {
		r := &rules[i]
		if fitsAny(r.Hosts, host) && fitsAny(r.Codes, code) && fitsAny(r.Enhanced, enhanced) &&
			(len(r.Stages) == 0 || slices.Contains(r.Stages, a.Stage)) &&
			(r.Text == nil || r.Text.MatchString(text)) {
			return r
		}
	}
	return nil
}

func fitsAny(globs []string, s string) bool {
	for _, g := range globs {
		if ok, _ := path.Match(g, s); ok {
			return true
		}
	}
	return len(globs) == 0
}

// apply lets a rule have its say about a reading.
func (r *reading) apply(x *Rule, a *Attempt) {
	r.effect = &x.Effect
	late := r.end
	switch x.Effect.Kind {
	case Slow:
		late = temporary
		if a.Stage != Connect {
			r.sig = elastic.RateRefused
		}
	case Bound:
		r.sig, late = elastic.Refused, temporary
	case Learn:
		late = temporary
		if a.Stage != Connect {
			r.sig = elastic.Closed
		}
	case Alone:
		r.sig = elastic.Accepted
		if a.Code == 421 {
			r.sig = elastic.Lost // the server closes after it
		}
	case Suspend, Pause, Later:
		late = temporary
	case Never:
		late = permanent
	}
	r.end = late
}

// Tally counts the matches of rules. It is not safe for concurrent use.
type Tally struct {
	matches map[tallied][]matched
	n       int                   // of them
	lasting map[tallied]time.Time // effects in force, until when
}

type tallied struct{ rule, place string }

// matched is a match, and who said what matched; "": that does not matter.
type matched struct {
	at time.Time
	by string
}

// tallyMost bounds how many rules at how many places are remembered, of matches and of
// effects in force, and matchesMost how many matches, whatever After of a rule says; what is
// out of date goes then, and the rest if that is too little.
const (
	tallyMost   = 4096
	matchesMost = 2 * tallyMost
)

// Add counts a match of a rule at a site or stream. It is true if the effect is to
// take hold now: After matches have come Within its time, and it is not in force already.
func (t *Tally) Add(now time.Time, e *Effect, place string) bool { return t.AddBy(now, e, place, "") }

// AddBy is Add of matches of which only the last one of each speaker counts.
func (t *Tally) AddBy(now time.Time, e *Effect, place, by string) bool {
	if t.matches == nil {
		t.matches, t.lasting = make(map[tallied][]matched), make(map[tallied]time.Time)
	}
	k := tallied{e.Rule, place}
	if until, ok := t.lasting[k]; ok && now.Before(until) {
		return false
	}
	before := len(t.matches[k])
	recent := slices.DeleteFunc(t.matches[k], func(m matched) bool {
		return now.Sub(m.at) > e.Within || by != "" && m.by == by
	})
	if recent = append(recent, matched{now, by}); len(recent) < max(e.After, 1) {
		if len(t.matches) >= tallyMost || t.n >= matchesMost {
			t.forget(now)
			before = len(t.matches[k])
		}
		t.matches[k] = recent
		t.n += len(recent) - before
		return false
	}
	delete(t.matches, k)
	t.n -= before
	if len(t.lasting) >= tallyMost {
		t.forget(now)
	}
	t.lasting[k] = now.Add(e.For)
	return true
}

// Last has an effect in force at a place until a time, as an earlier tally had.
func (t *Tally) Last(e *Effect, place string, until time.Time) {
	if t.matches == nil {
		t.matches, t.lasting = make(map[tallied][]matched), make(map[tallied]time.Time)
	}
	t.lasting[tallied{e.Rule, place}] = until
}

// Forget ends an effect at a place: the next matches are counted anew.
func (t *Tally) Forget(rule, place string) {
	delete(t.lasting, tallied{rule, place})
	delete(t.matches, tallied{rule, place})
}

// longest is how old a match may be that still counts for any rule.
const longest = 24 * time.Hour

func (t *Tally) forget(now time.Time) {
	for k, at := range t.matches {
		if now.Sub(at[len(at)-1].at) > longest {
			t.n -= len(at)
			delete(t.matches, k)
		}
	}
	if len(t.matches) >= tallyMost || t.n >= matchesMost { // all of today: begin anew
		clear(t.matches)
		t.n = 0
	}
	for k, until := range t.lasting {
		if now.After(until) {
			delete(t.lasting, k)
		}
	}
	if len(t.lasting) >= tallyMost {
		// All are in force. The effect of one that is forgotten goes on as it is; a further
		// match begins it anew, as if it had ended.
		clear(t.lasting)
	}
}
