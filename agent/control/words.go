package control

import (
	"fmt"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/printable"
)

// InWords tells of the pause in a line, as listings and reports have it.
func (p *Pause) InWords() string {
	s := p.Filter.String() + forReceiver(p.Receiver, p.Filter.Site)
	if !p.Until.IsZero() {
		s += " until " + p.Until.Local().Format(time.DateTime)
	}
	return fmt.Sprintf("%s: %s (%s%s, %s)", s, p.Reason, p.Who, onNode(p.Order), p.Since.Local().Format(time.DateTime))
}

// InWords tells of the limit in a line.
func (l *Limit) InWords() string {
	var at []string
	if l.Sessions > 0 {
		at = append(at, printable.Count(l.Sessions, "session"))
	}
	if l.Rate > 0 {
		at = append(at, fmt.Sprintf("%.3g/s", l.Rate))
	}
	return fmt.Sprintf("%s: at most %s until %s (%s)", l.Name+forReceiver(l.Receiver, l.Name), strings.Join(at, " and "), l.Until.Local().Format(time.DateTime), l.Who+onNode(l.Order))
}

// forReceiver tells that an order about a site, called with its source address, is for all of them.
func forReceiver(receiver, site string) string {
	if receiver == "" || !strings.Contains(site, ":") {
		return ""
	}
	return ", and for all source addresses"
}

// onNode tells where a common order was given.
func onNode(order string) string {
	node, _, common := strings.Cut(order, "/")
	if !common {
		return ""
	}
	return " on " + node + ", in the whole fleet"
}

// Does tells what the effect does to a site, to stand after the site's name.
func (e *Effect) Does() string {
	switch {
	case e.Action == "slow" && e.Rate > 0:
		return fmt.Sprintf("gets at most %.3g/s", e.Rate)
	case e.Action == "slow":
		return "goes on at half its pace"
	case e.Action == "sessions":
		return "gets at most " + printable.Count(e.Sessions, "session")
	}
	return "is suspended"
}

// InWords tells of the effect in a line; its reason names the rule.
func (e *Effect) InWords() string {
	if e.Address != "" {
		return fmt.Sprintf("address %s is %s; %s", e.Address, e.Blocks(), e.Reason)
	}
	return fmt.Sprintf("site %s %s until %s: %s", e.Site, e.Does(), e.Until.Local().Format(time.DateTime), e.Reason)
}

// InWords tells in a line what holds a site back.
func (h *HeldBack) InWords() string {
	text := h.Reason + ": " + h.How
	switch {
	case !h.Until.IsZero():
		text += " until " + h.Until.Local().Format(time.DateTime)
	case h.Next.After(time.Now()):
		text += ", tried again at " + h.Next.Local().Format(time.DateTime)
	}
	if h.Reply != "" {
		text += "; " + h.Reply
	}
	return text
}

// PausedInWords says in one line how many recipients pauses keep at the site, and which pauses:
// "paused: 150 recipients, by a pause of domain example.com (by the admin)". It is "" if none do.
func (s *Site) PausedInWords() string {
	if s.Paused == 0 {
		return ""
	}
	text := "paused: " + printable.Count(s.Paused, "recipient")
	for i := range s.PausedBy {
		by := ", by a pause of "
		if i > 0 {
			by = ", of "
		}
		text += by + s.PausedBy[i].Filter.String()
		if r := s.PausedBy[i].Reason; r != "" {
			text += " (" + r + ")"
		}
	}
	return text
}

// Trouble says in one line that an address is down, since when, until when others go before it,
// and why; "" if it is not down.
func (a *Address) Trouble(now time.Time) string {
	f := a.Failing
	switch {
	case f == nil && a.Down:
		return "no answer yet"
	case f == nil:
		return ""
	}
	text := "down"
	if !f.Since.IsZero() {
		text += " since " + f.Since.Local().Format(time.DateTime)
	}
	switch {
	case f.Until.After(now):
		text += ", passed by until " + f.Until.Local().Format(time.DateTime)
	case a.Down:
		text += ", called now"
	case !f.Until.IsZero():
		text += ", not called again, due since " + f.Until.Local().Format(time.DateTime)
	default:
		text += ", called next"
	}
	text += ": " + f.How
	if f.Why != "" {
		text += "; " + f.Why
	}
	return text
}
