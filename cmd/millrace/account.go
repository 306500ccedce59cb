package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/printable"
)

// heldBack says in one line why a site gets less than it could, "" if it does not: the
// reason first, the receiver's words last.
func heldBack(s *control.Site) string {
	h := s.HeldBack
	if h == nil {
		return ""
	}
	return h.InWords()
}

// heldBackSum counts sites by what holds them back, "held back: 2 dead, 1 refused, 1 paused"; "" if
// none is.
func heldBackSum(sites []control.Site) string {
	n := make(map[string]int)
	for i := range sites {
		if h := sites[i].HeldBack; h != nil {
			n[h.Reason]++
		} else if sites[i].Paused > 0 {
			n["paused"]++
		}
	}
	var parts []string
	for _, reason := range slices.SortedFunc(maps.Keys(n), func(a, b string) int { return cmp.Or(cmp.Compare(n[b], n[a]), cmp.Compare(a, b)) }) {
		parts = append(parts, thousands(n[reason])+" "+reason)
	}
	if parts == nil {
		return ""
	}
	return "held back: " + strings.Join(parts, ", ")
}

// printAccount prints how a site stands.
func printAccount(out io.Writer, a *control.Account) {
	held, paused := heldBack(&a.Site), a.PausedInWords()
	switch {
	case held == "" && a.Waiting == 0:
		held = cmp.Or(paused, "no: nothing waits")
	case held == "":
		held = cmp.Or(paused, "no")
	case paused != "":
		held += "; " + paused
	}
	printable.Fprintf(out, "held back  %s\n", held)
	waiting := count(a.Waiting, "recipient")
	if a.Paused > 0 {
		waiting += fmt.Sprintf(", and %d that are paused", a.Paused)
	}
	if a.Limited > 0 {
		waiting += fmt.Sprintf(", %d of them for limits of their streams (millrace streams)", a.Limited)
	}
	printable.Fprintf(out, "waiting    %s\n", waiting)
	slots := fmt.Sprintf("%d held of %d wanted: %d up, %d connecting, %d just ended", a.Held, a.Want, a.Sessions, a.Opening, a.Lagging)
	if a.Host > 0 {
		slots += fmt.Sprintf("; %d left to the host", a.Host)
	}
	printable.Fprintf(out, "slots      %s\n", slots)
	allowed := count(a.MaxSessions, "session")
	if a.MaxRate > 0 {
		allowed += fmt.Sprintf(" and %.3g messages/s", a.MaxRate)
	}
	allowed += " allowed: " + a.LimitsBy
	limit := "none was found; " + allowed
	if a.Whose != "" {
		limit = fmt.Sprintf("%d, of %s; %s", a.Want, a.Whose, allowed)
	}
	printable.Fprintf(out, "limit      %s (%s)\n", limit, a.State)
	if a.Lag > 0 {
		printable.Fprintf(out, "lag        a slot is free %.2g s after its session ended\n", a.Lag)
	}
	if a.Pace > 0 {
		printable.Fprintf(out, "pace       at most %.3g messages/s\n", a.Pace)
	}
	if a.Reply != "" {
		printable.Fprintf(out, "refused    %s\n", a.Reply)
	}
	now := time.Now()
	if a.Opens.After(now) {
		printable.Fprintf(out, "waits      no connect before %s\n", a.Opens.Local().Format(time.DateTime))
	}
	if a.Punished.After(now) {
		printable.Fprintf(out, "careful    refusals are punished there; one more is seldom tried until %s\n", a.Punished.Local().Format(time.DateTime))
	}
	if a.Warmup != "" {
		printable.Fprintf(out, "warm-up    %s\n", a.Warmup)
	}
	if a.Breaker != "" {
		printable.Fprintf(out, "breaker    %s\n", a.Breaker)
	}
	if len(a.Addresses) == 0 {
		return
	}
	// Nothing goes before an address where all are down: it is called when the first line says.
	allDown := a.HeldBack != nil && a.HeldBack.Next.After(now) && !slices.ContainsFunc(a.Addresses, func(x control.Address) bool { return x.Failing == nil })
	const row = "%5v %5v %7v  %v\n"
	printable.Fprintf(out, row, "HELD", "LIMIT", "PACE", "ADDRESS")
	silent, more := 0, 0
	for i := range a.Addresses {
		x := &a.Addresses[i]
		if x.Down && x.Sessions == 0 {
			if silent++; silent > shownOfSite {
				more++
				continue
			}
		}
		limit, pace, text := "-", "-", x.Address
		if x.Limited {
			limit = fmt.Sprint(x.Accepted)
		}
		if x.Pace > 0 {
			pace = rateOf(x.Pace) + "/s"
		}
		if allDown {
			alone, failing := *x, *x.Failing
			alone.Down, failing.Until, alone.Failing = false, time.Time{}, &failing
			x = &alone
		}
		if trouble := x.Trouble(now); trouble != "" {
			text += "  " + trouble
		}
		if x.Opens.After(now) {
			text += "  no connect before " + x.Opens.Local().Format(time.DateTime)
		}
		if x.Reply != "" {
			text += "  " + x.Reply
		}
		printable.Fprintf(out, row, x.Held, limit, pace, text)
	}
	if more > 0 {
		printable.Fprintf(out, "%22sand %d more that are down\n", "", more)
	}
}
