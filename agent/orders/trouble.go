package orders

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/outcome"
)

// Trouble is what an admin must look at: what rules about replies have paused or asked to
// be told. It has counts and the names of sites and rules, no names of streams: those are
// whatever the sender chose.
func (o *Orders) Trouble(now time.Time) []string {
	return append(o.paused(), o.effects.alertTexts(now)...)
}

// paused counts the streams that rules about replies have paused, for who has to see to
// the cause.
func (o *Orders) paused() []string {
	type names map[string]bool // of streams
	type held struct{ good, time names }
	byName := make(map[string]*held)
	good, timed := 0, 0 // pauses
	for _, b := range o.now.Load().Pauses {
		rule, ok := strings.CutPrefix(b.Who, byRule)
		if !ok || !o.tells(rule) {
			continue
		}
		if byName[rule] == nil {
			byName[rule] = &held{names{}, names{}}
		}
		if b.Until.IsZero() {
			byName[rule].good[b.Filter.Stream] = true
			good++
		} else {
			byName[rule].time[b.Filter.Stream] = true
			timed++
		}
	}
	var list []string
	for rule, n := range byName {
		if len(n.good) > 0 {
			list = append(list, fmt.Sprintf("%s held for reply rule %s; see to the cause, then millrace resume (millrace brakes lists them)", streams(len(n.good)), rule))
		}
		if len(n.time) > 0 {
			list = append(list, fmt.Sprintf("%s paused for a time for reply rule %s (millrace brakes lists them)", streams(len(n.time)), rule))
		}
	}
	slices.Sort(list)
	if max(good, timed) >= maxRulePauses {
		list = append(list, fmt.Sprintf("no more is paused for reply rules, as %d are the most", maxRulePauses))
	}
	return list
}

// tells reports whether an admin has to know what a rule has paused. Of a rule that is no
// longer in the configuration he has.
func (o *Orders) tells(rule string) bool {
	for _, r := range o.settings.Now().Rules {
		if r.Name == rule {
			return r.Effect.Tell || r.Effect.Kind == outcome.HoldStream
		}
	}
	return true
}

func streams(n int) string {
	if n == 1 {
		return "1 stream is"
	}
	return fmt.Sprintf("%d streams are", n)
}
