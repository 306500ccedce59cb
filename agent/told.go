package agent

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/millrace/millrace/agent/maillog"
	"github.com/millrace/millrace/agent/outcome"
)

// What /readyz tells is for every local user: counts and the names of sites and rules, no
// mail address and nothing that a receiver said. Names of streams are whatever who sends
// chose, addresses too; an admin finds them in millrace brakes, with the reply behind each.

const (
	maxReasons = 20  // lines
	maxReason  = 500 // octets of a line
)

// public makes reasons fit to be told to everybody, and bounds them.
func public(reasons []string) []string {
	list := make([]string, 0, min(len(reasons), maxReasons+1))
	for i, r := range reasons {
		if i == maxReasons {
			return append(list, fmt.Sprintf("and %d more", len(reasons)-i))
		}
		list = append(list, cut(maillog.WithoutLocalParts(r), maxReason))
	}
	return list
}

// cut shortens a text to so many octets.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	const dots = "…"
	n := most - len(dots)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + dots
}

// paused counts the streams that rules about replies have paused, for who has to see to
// the cause.
func (a *Agent) paused() []string {
	type names map[string]bool // of streams
	type held struct{ good, time names }
	byName := make(map[string]*held)
	good, timed := 0, 0 // pauses
	for _, b := range a.standing.now.Load().Brakes {
		rule, ok := strings.CutPrefix(b.Who, byRule)
		if !ok || !a.tells(rule) {
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
func (a *Agent) tells(rule string) bool {
	for _, r := range a.now.Load().replies {
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
