// Package daily writes the report of a day for the admin: what was sent, deferred, bounced
// and complained about, by provider and stream, beside the same weekday of the week before,
// and what is held back as it is written.
//
// It is pure. The counts are those of totals.db (package outcomes), of days in UTC, as its
// buckets of a month ago are of UTC days too. Each number is of recipients, and of deferrals
// one a try. What is not counted is told: a count that is not kept, a part of the day, events
// that were lost.
package daily

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/printable"
)

// Report is what the text is made of.
type Report struct {
	Hostname string
	Day      time.Time // its begin, in UTC
	Now      time.Time // when the rest was asked for

	Counts    control.DayTotals
	CountsErr error // why there are none
	Before    control.DayTotals
	BeforeErr error

	Status   *control.Status // as it stands now; nil: see NowErr
	Standing *control.StandingOrders
	NowErr   error
}

// most is how many rows a table has; the others are added up.
const most = 20

// refusals are the classes of replies by which a receiver refuses us, not an address.
var refusals = map[string]bool{"reputation": true, "authentication": true, "policy": true, "content": true}

// sum is the counts of one provider or stream.
type sum struct{ sent, deferred, bounced, refused, returned, suppressed, cancelled, damaged, complaints, late int }

func (s *sum) add(t *control.DayTotal) {
	switch t.Event {
	case "sent":
		s.sent += t.N
	case "deferred":
		s.deferred += t.N
	case "bounced":
		s.bounced += t.N
	case "handed_back":
		s.returned += t.N
	case "suppressed":
		s.suppressed += t.N
	case "cancelled":
		s.cancelled += t.N
	case "damaged":
		s.damaged += t.N
	case "complaint":
		s.complaints += t.N
	case "late_bounce":
		s.late += t.N
	}
	if (t.Event == "deferred" || t.Event == "bounced") && refusals[t.Class] {
		s.refused += t.N
	}
}

func (s *sum) all() int { return s.sent + s.deferred + s.bounced + s.complaints + s.late }

// by adds up what has one key; rows of mail back to the host have the key "".
func by(d *control.DayTotals, key func(*control.DayTotal) string) map[string]*sum {
	m := make(map[string]*sum)
	for i := range d.Totals {
		t := &d.Totals[i]
		if t.Event == "gap" {
			continue
		}
		k := key(t)
		if m[k] == nil {
			m[k] = &sum{}
		}
		m[k].add(t)
	}
	return m
}

func total(d *control.DayTotals) *sum {
	if s := by(d, func(*control.DayTotal) string { return "" })[""]; s != nil {
		return s
	}
	return &sum{}
}

// Subject is the subject of the mail.
func (r *Report) Subject() string {
	if r.CountsErr != nil {
		return printable.Sprintf("Millrace on %s, %s: no counts", r.Hostname, r.Day.Format(time.DateOnly))
	}
	s := total(&r.Counts)
	return printable.Sprintf("Millrace on %s, %s: %s sent, %s bounced, %s complaints", r.Hostname, r.Day.Format(time.DateOnly),
		number(s.sent), number(s.bounced), number(s.complaints))
}

// Text is the report, of lines that end in LF.
func (r *Report) Text() string {
	var b strings.Builder
	p := func(format string, args ...any) { printable.Fprintf(&b, format, args...) }
	before := r.Day.AddDate(0, 0, -7)
	p("Millrace on %s, %s (UTC)\n", r.Hostname, r.Day.Format("Monday 2006-01-02"))
	if r.CountsErr != nil {
		p("\nNothing is known of the day: %v\n", r.CountsErr)
	} else {
		r.counts(p, before)
	}
	r.heldBack(p)
	return b.String()
}

// period says which part of a day is counted.
func period(d *control.DayTotals, err error) string {
	switch {
	case err != nil:
		return "nothing is known of it: " + err.Error()
	case d.From.IsZero():
		return "nothing happened, or nothing was kept"
	}
	until := d.Until.Format("15:04")
	if until == "00:00" {
		until = "24:00"
	}
	return "first and last count between " + d.From.Format("15:04") + " and " + until
}

func (r *Report) counts(p func(string, ...any), before time.Time) {
	p("%s: %s\n%s, for comparison: %s\n", r.Day.Format(time.DateOnly), period(&r.Counts, nil),
		before.Format(time.DateOnly), period(&r.Before, r.BeforeErr))
	if r.Counts.Trouble != "" {
		p("Counts may be missing: %s\n", r.Counts.Trouble)
	}
	for i := range r.Counts.Totals {
		if t := &r.Counts.Totals[i]; t.Event == "gap" {
			p("%s events were lost, and are in no count\n", number(t.N))
		}
	}
	now, was := total(&r.Counts), total(&r.Before)
	compared := r.BeforeErr == nil && !r.Before.From.IsZero()
	p("\nRecipients%30s%14s\n", "the day", "a week before")
	for _, x := range []struct {
		what     string
		now, was int
		always   bool
	}{
		{"sent", now.sent, was.sent, true},
		{"deferred (each try)", now.deferred, was.deferred, true},
		{"bounced", now.bounced, was.bounced, true},
		{"refused (*)", now.refused, was.refused, true},
		{"complaints", now.complaints, was.complaints, true},
		{"late bounces", now.late, was.late, false},
		{"not tried, suppressed", now.suppressed, was.suppressed, false},
		{"back to the host (**)", now.returned, was.returned, false},
		{"cancelled", now.cancelled, was.cancelled, false},
		{"damaged in the spool", now.damaged, was.damaged, false},
	} {
		if !x.always && x.now == 0 && x.was == 0 {
			continue
		}
		last, change := "-", ""
		if compared {
			last, change = number(x.was), difference(x.now, x.was)
		}
		p("%-24s%16s%14s  %s\n", x.what, number(x.now), last, change)
	}
	p("(*) of the deferred and bounced, those that a receiver refused for our reputation,\n    authentication, content or its policy\n")
	if now.returned+was.returned > 0 {
		p("(**) reports to senders are among them\n")
	}
	r.why(p, "Deferred, why", "deferred")
	r.why(p, "Bounced, why", "bounced")
	r.table(p, "By provider", compared, func(t *control.DayTotal) string {
		if t.Site == "" {
			return "(none was called)"
		}
		return t.Site
	})
	r.table(p, "By stream", compared, func(t *control.DayTotal) string { return cmp.Or(t.Stream, "(no name)") })
}

// why lists the classes of an event.
func (r *Report) why(p func(string, ...any), title, event string) {
	m := make(map[string]int)
	for i := range r.Counts.Totals {
		if t := &r.Counts.Totals[i]; t.Event == event {
			m[cmp.Or(t.Class, "undefined")] += t.N
		}
	}
	if len(m) == 0 {
		return
	}
	p("\n%s\n", title)
	for _, class := range slices.SortedFunc(maps.Keys(m), func(a, b string) int { return cmp.Or(m[b]-m[a], cmp.Compare(a, b)) }) {
		p("%16s  %s\n", number(m[class]), class)
	}
}

// table lists the sums of a key, the busiest first.
func (r *Report) table(p func(string, ...any), title string, compared bool, key func(*control.DayTotal) string) {
	now, was := by(&r.Counts, key), by(&r.Before, key)
	var names []string
	for name, s := range was { // what had mail a week before, and none now
		if now[name] == nil && s.all() > 0 {
			now[name] = &sum{}
			names = append(names, name)
		}
	}
	for name, s := range now {
		if s.all() > 0 {
			names = append(names, name)
		}
	}
	if names == nil {
		return
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(now[b].all()-now[a].all(), cmp.Compare(a, b)) })
	p("\n%s\n%10s%9s%10s%9s%9s%11s%6s\n", title, "sent", "change", "deferred", "bounced", "refused", "complaints", "late")
	row := func(s *sum, change, name string) {
		p("%10s%9s%10s%9s%9s%11s%6s  %s\n", number(s.sent), change, number(s.deferred), number(s.bounced), number(s.refused), number(s.complaints), number(s.late), name)
	}
	var others sum
	for i, name := range names {
		s := now[name]
		if i >= most {
			others.sent, others.deferred, others.bounced = others.sent+s.sent, others.deferred+s.deferred, others.bounced+s.bounced
			others.refused, others.complaints, others.late = others.refused+s.refused, others.complaints+s.complaints, others.late+s.late
			continue
		}
		change := "-"
		if compared {
			w := was[name]
			if w == nil {
				w = &sum{}
			}
			change = difference(s.sent, w.sent)
		}
		row(s, change, name)
	}
	if len(names) > most {
		row(&others, "", fmt.Sprintf("(%d others)", len(names)-most))
	}
}

// heldBack lists what waits and why, now: of the day only its outcomes are kept.
func (r *Report) heldBack(p func(string, ...any)) {
	p("\nHeld back, as it stands at %s UTC\n", r.Now.UTC().Format("2006-01-02 15:04"))
	if r.NowErr != nil {
		p("not known: %v\n", r.NowErr)
		return
	}
	p("%16s  recipients queued; of these deferred %s, on hold or of a paused sender %s\n", number(r.Status.Queued()), number(r.Status.Deferred), number(r.Status.Held))
	n := 0
	line := func(format string, args ...any) {
		if n++; n <= 2*most {
			p(format, args...)
		}
	}
	for i := range r.Standing.Pauses {
		x := &r.Standing.Pauses[i]
		text := x.Filter.String()
		if !x.Until.IsZero() {
			text += " until " + x.Until.UTC().Format("2006-01-02 15:04")
		}
		line("paused: %s: %s (%s, %s)\n", text, x.Reason, x.Who, x.Since.UTC().Format("2006-01-02 15:04"))
	}
	for i := range r.Status.Limits {
		line("stream %s: %s\n", r.Status.Limits[i].Name, r.Status.Limits[i].InWords())
	}
	held := slices.DeleteFunc(slices.Clone(r.Status.Sites), func(s control.Site) bool { return s.HeldBack == nil })
	slices.SortStableFunc(held, func(a, b control.Site) int { return b.Waiting - a.Waiting })
	for i := range held {
		h := held[i].HeldBack
		text := h.Reason + ": " + h.How
		if h.Reply != "" {
			text += "; " + h.Reply
		}
		line("%16s  wait for %s: %s\n", number(held[i].Waiting), held[i].Name, printable.Shorten(text, 300))
	}
	switch {
	case n == 0:
		p("nothing is paused, and no site gets less than it could\n")
	case n > 2*most:
		p("and %s more: millrace brakes, millrace top\n", number(n-2*most))
	}
}

// number writes a number with a comma between groups of three digits.
func number(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// difference is a change in percent, or what there is without a number to compare with.
func difference(now, was int) string {
	switch {
	case now == was:
		return "="
	case was == 0:
		return "new"
	}
	return fmt.Sprintf("%+.0f%%", 100*float64(now-was)/float64(was))
}
