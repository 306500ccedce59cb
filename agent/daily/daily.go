// Package daily writes the report of a day for the admin: what was sent, deferred, bounced
// and complained about, by provider and stream, beside the same weekday of the week before,
// and what is held back as it is written.
//
// Ask asks an agent; the rest is pure. The counts are those of totals.db (package outcomes), of
// days in UTC, as its buckets of a month ago are of UTC days too. Each number is of recipients,
// and of deferrals one a try. What is not counted is told: a count that is not kept, a part of
// the day, events that were lost.
package daily

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/printable"
)

// Report is what the text is made of.
type Report struct {
	Hostname string
	Day      time.Time // its begin, in UTC
	Now      time.Time // when the rest was asked for; its zone is that of the section about now

	Counts    control.DayTotals
	CountsErr error // why there are none
	Before    control.DayTotals
	BeforeErr error

	Status   *control.Status // as it stands now; nil: see NowErr
	Standing control.StandingOrders
	Paused   []int // recipients that wait for each of the first pauses of Standing
	NowErr   error
}

// most is how many rows a table has; the others are added up, or counted.
const most = 20

// The longest name of a row, and reply, in octets. The receiver's and the sender's words are
// in them, and a line of a mail has at most 998 octets (RFC 5322 2.1.1).
const (
	longestName  = 80
	longestReply = 300
)

// Ask asks the agent for all that the report has. What is not to be had it tells.
func Ask(ctx context.Context, c *control.Client, day, now time.Time) *Report {
	r := &Report{Day: day, Now: now}
	r.Counts, r.CountsErr = c.Day(ctx, day)
	r.Before, r.BeforeErr = c.Day(ctx, day.AddDate(0, 0, -7))
	if r.Status, r.NowErr = c.Status(ctx); r.NowErr == nil {
		r.Standing, r.NowErr = c.Standing(ctx)
	}
	for i := range r.Standing.Pauses[:min(len(r.Standing.Pauses), most)] {
		held := r.Standing.Pauses[i].Filter
		held.State = "held"
		n := 0
		rows, err := c.Shape(ctx, "queue", held)
		if err != nil {
			r.NowErr = err
			break
		}
		for _, row := range rows {
			n += row.Total
		}
		r.Paused = append(r.Paused, n)
	}
	return r
}

// refused is counted beside the events: of the deferred and bounced, those of the classes by
// which a receiver refuses us, not an address.
const refused = "refused"

var refusals = []string{"reputation", "authentication", "policy", "content"}

// uncounted is the class, and beside the events the count, of reports that came back and count
// for nothing (package outcomes).
const uncounted = "uncounted"

// sum is the counts of events by their names, and refused.
type sum map[string]int

// all is how much there is to tell in a row of a table.
func (s sum) all() int {
	return s["sent"] + s["deferred"] + s["bounced"] + s["complaint"] + s["late_bounce"]
}

// by adds up what has one key.
func by(d *control.DayTotals, key func(*control.DayTotal) string) map[string]sum {
	m := make(map[string]sum)
	for i := range d.Totals {
		t := &d.Totals[i]
		k := key(t)
		if m[k] == nil {
			m[k] = make(sum)
		}
		if t.Class == uncounted {
			if t.Event == "complaint" || t.Event == "late_bounce" {
				m[k][uncounted] += t.N
			}
			continue
		}
		m[k][t.Event] += t.N
		if (t.Event == "deferred" || t.Event == "bounced") && slices.Contains(refusals, t.Class) {
			m[k][refused] += t.N
		}
	}
	return m
}

// total adds up all.
func total(d *control.DayTotals) sum {
	return by(d, func(*control.DayTotal) string { return "" })[""]
}

// Subject is the subject of the mail.
func (r *Report) Subject() string {
	about := printable.Sprintf("Millrace on %s, %s: ", r.Hostname, r.Day.Format(time.DateOnly))
	if r.CountsErr != nil {
		return about + "no counts"
	}
	s := total(&r.Counts)
	return about + number(s["sent"]) + " sent, " + number(s["bounced"]) + " bounced, " + printable.Count(s["complaint"], "complaint")
}

// Text is the report, of lines that end in LF.
func (r *Report) Text() string {
	b := &page{}
	b.line("Millrace on %s, %s (UTC)", r.Hostname, r.Day.Format("Monday 2006-01-02"))
	if r.CountsErr != nil {
		b.line("\nNothing is known of the day: %v", r.CountsErr)
	} else {
		r.counts(b)
	}
	r.heldBack(b)
	return b.String()
}

// page is what is written so far.
type page struct{ strings.Builder }

func (b *page) line(format string, args ...any) {
	_, _ = printable.Fprintf(b, format+"\n", args...)
}

// period says which part of a day is counted, and what of it is not.
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
	said := "first and last count between " + d.From.Format("15:04") + " and " + until
	if n := total(d)["gap"]; n > 0 {
		said += "; " + printable.Count(n, "event") + " lost, and in no count"
	}
	return said
}

func (r *Report) counts(b *page) {
	before := r.Day.AddDate(0, 0, -7)
	b.line("%s: %s", r.Day.Format(time.DateOnly), period(&r.Counts, nil))
	b.line("%s, for comparison: %s", before.Format(time.DateOnly), period(&r.Before, r.BeforeErr))
	if r.Counts.Trouble != "" {
		b.line("What is wrong with the outcomes now, so that counts may be missing: %s", r.Counts.Trouble)
	}
	now, was := total(&r.Counts), total(&r.Before)
	compared := r.BeforeErr == nil && !r.Before.From.IsZero()
	b.line("\nRecipients%30s%14s", "the day", "a week before")
	for _, x := range []struct {
		what, event string
		always      bool
	}{
		{"sent", "sent", true},
		{"deferred (each try)", "deferred", true},
		{"bounced", "bounced", true},
		{"refused (*)", refused, true},
		{"complaints", "complaint", true},
		{"late bounces", "late_bounce", false},
		{"not counted (***)", uncounted, false},
		{"not tried, suppressed", "suppressed", false},
		{"back to the host (**)", "handed_back", false},
		{"cancelled", "cancelled", false},
		{"moved to other nodes", "moved", false},
		{"damaged in the spool", "damaged", false},
	} {
		n, m := now[x.event], was[x.event]
		if !x.always && n == 0 && m == 0 {
			continue
		}
		last, change := "-", ""
		if compared {
			last, change = number(m), "  "+difference(n, m)
		}
		b.line("%-24s%16s%14s%s", x.what, number(n), last, change)
	}
	b.line("(*) of the deferred and bounced, those that a receiver refused for our reputation,")
	b.line("    authentication, content or its policy")
	if now["handed_back"]+was["handed_back"] > 0 {
		b.line("(**) reports to senders count there, too")
	}
	if now[uncounted]+was[uncounted] > 0 {
		b.line("(***) complaints and late bounces that anybody could have written, or that are too old:")
		b.line("    they suppress and hold nothing, and are in no other count")
	}
	r.why(b, "Deferred, why", "deferred")
	r.why(b, "Bounced, why", "bounced")
	r.table(b, "By provider", compared, func(t *control.DayTotal) string { return cmp.Or(t.Site, "(no site)") })
	r.table(b, "By stream", compared, func(t *control.DayTotal) string { return cmp.Or(t.Stream, "(no name)") })
}

// why lists the classes of an event, each with what a receiver says.
func (r *Report) why(b *page, title, event string) {
	m := make(map[string]int)
	for i := range r.Counts.Totals {
		if t := &r.Counts.Totals[i]; t.Event == event {
			m[t.Class] += t.N
		}
	}
	if len(m) == 0 {
		return
	}
	b.line("\n%s", title)
	for _, class := range slices.SortedFunc(maps.Keys(m), func(a, b string) int { return cmp.Or(m[b]-m[a], cmp.Compare(a, b)) }) {
		b.line("%10s  %s", number(m[class]), class)
		for _, x := range r.Counts.Examples {
			if x.Event == event && x.Class == class {
				b.line("            such as: %s", printable.Shorten(x.Reply, longestReply))
			}
		}
	}
}

// table lists the sums of a key, the busiest first.
func (r *Report) table(b *page, title string, compared bool, key func(*control.DayTotal) string) {
	// What a bucket has no room for is counted under this name (package outcomes).
	shown := func(t *control.DayTotal) string {
		if t.Stream == "other" && t.Site == "other" {
			return "(of too many to count apart)"
		}
		return key(t)
	}
	now, was := by(&r.Counts, shown), by(&r.Before, shown)
	var names []string
	for k := range maps.Keys(now) {
		if now[k].all() > 0 {
			names = append(names, k)
		}
	}
	for k := range maps.Keys(was) { // what had mail a week before, and none now
		if now[k].all() == 0 && was[k].all() > 0 {
			names = append(names, k)
		}
	}
	if names == nil {
		return
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(now[b].all()-now[a].all(), cmp.Compare(a, b)) })
	b.line("\n%s\n%10s%9s%10s%9s%9s%11s%6s", title, "sent", "change", "deferred", "bounced", "refused", "complaints", "late")
	row := func(s sum, change, key string) {
		b.line("%10s%9s%10s%9s%9s%11s%6s  %s", number(s["sent"]), change, number(s["deferred"]), number(s["bounced"]), number(s[refused]),
			number(s["complaint"]), number(s["late_bounce"]), key)
	}
	others := make(sum)
	for i, k := range names {
		if i >= most {
			for event, n := range now[k] {
				others[event] += n
			}
			continue
		}
		change := "-"
		if compared {
			change = difference(now[k]["sent"], was[k]["sent"])
		}
		row(now[k], change, name(k))
	}
	if n := len(names) - most; n > 0 {
		row(others, "", "("+number(n)+" more)")
	}
}

// heldBack lists what waits and why, now: of the day only its outcomes are kept.
func (r *Report) heldBack(b *page) {
	b.line("\nHeld back, as it stands at %s", r.Now.Format("2006-01-02 15:04 MST"))
	if r.NowErr != nil {
		b.line("not known: %v", r.NowErr)
		return
	}
	b.line("%s queued; of these %s deferred, %s on hold or of a paused sender", printable.Count(r.Status.Queued(), "recipient"), number(r.Status.Deferred), number(r.Status.Held))
	if r.Status.Loading {
		b.line("the spool is still being read: there may be more")
	}
	var list []string
	for i := range r.Standing.Pauses {
		line := "paused"
		if i < len(r.Paused) {
			line += ", " + printable.Count(r.Paused[i], "recipient") + " held"
		}
		list = append(list, line+": "+r.Standing.Pauses[i].InWords())
	}
	for i := range r.Standing.Limits {
		list = append(list, "limited: "+r.Standing.Limits[i].InWords())
	}
	for i := range r.Standing.Effects {
		list = append(list, "by rule: "+r.Standing.Effects[i].InWords())
	}
	for i := range r.Status.Limits {
		list = append(list, "stream "+r.Status.Limits[i].Name+": "+r.Status.Limits[i].InWords())
	}
	sites := slices.DeleteFunc(slices.Clone(r.Status.Sites), func(s control.Site) bool { return s.HeldBack == nil })
	slices.SortStableFunc(sites, func(a, b control.Site) int { return b.Waiting - a.Waiting })
	for i := range sites {
		list = append(list, "site "+sites[i].Name+", "+printable.Count(sites[i].Waiting, "recipient")+" waiting: "+sites[i].HeldBack.InWords())
	}
	if list == nil {
		b.line("nothing is paused or limited, and no site gets less than it could")
	}
	for _, line := range list[:min(len(list), 2*most)] {
		b.line("%s", printable.Shorten(line, longestReply+longestName))
	}
	if n := len(list) - 2*most; n > 0 {
		b.line("and %s more: millrace brakes, millrace streams, millrace top", number(n))
	}
}

func number(n int) string { return printable.Thousands(n) }

// name is a name as a row has it.
func name(s string) string { return printable.Shorten(s, longestName) }

// difference is a change in percent, or what there is without a number to compare with.
func difference(now, was int) string {
	switch {
	case now == was:
		return "="
	case was == 0:
		return "new"
	}
	if percent := 100 * float64(now-was) / float64(was); math.Abs(percent) >= 1 {
		return fmt.Sprintf("%+.0f%%", percent)
	}
	return "<1%"
}
