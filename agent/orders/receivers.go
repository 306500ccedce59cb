package orders

import (
	"slices"
	"time"

	"github.com/millrace/millrace/agent/control"
)

// A receiver has a site for each source address that its mail leaves from. An order that names the
// receiver, not one of these sites, is one for each of them (control.Pause.Receiver), and for each
// that comes later: the Book of sites tells Follow of it before it hands out the site's name, and so
// before its first mail may be sent.

// receiverSites are the sites with orders that are for all sources.
func receiverSites(s *control.StandingOrders) (list []string) {
	for i := range s.Pauses {
		if p := &s.Pauses[i]; p.Receiver != "" {
			list = append(list, p.Filter.Site)
		}
	}
	for i := range s.Limits {
		if l := &s.Limits[i]; l.Receiver != "" {
			list = append(list, l.Name)
		}
	}
	return list
}

// Follow has orders for all sources that are about one site of a receiver hold for another one, too.
// They are in force on return; the file follows. After a crash before that the Book tells of it
// again. What rules have done to a site is not carried over: a receiver may have said it of one source.
func (o *Orders) Follow(name, also string) {
	if _, any := followed(o.now.Load(), name, also); !any {
		return // as nearly always: every look-up asks
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	now := *o.now.Load()
	next, any := followed(&now, name, also)
	if !any {
		return
	}
	if err := o.apply(now, next); err != nil {
		o.log.Error("orders for all source addresses hold for another one", "site", name, "other", also, "err", err)
		return
	}
	o.dirty, o.kept = true, time.Time{} // written with the next heartbeat, before the Book is
	o.log.Info("orders for all source addresses hold for another one, which has its first mail there", "site", name, "other", also)
}

// followed is what Follow makes of orders, and whether that is anything new.
func followed(now *control.StandingOrders, name, also string) (next control.StandingOrders, any bool) {
	next = *now
	for _, p := range now.Pauses {
		if p.Receiver == "" || p.Filter.Site != name {
			continue
		}
		p.Filter.Site = also
		if !slices.ContainsFunc(now.Pauses, func(x control.Pause) bool {
			return x.Filter == p.Filter && x.Order == p.Order && lastsAsLong(x.Until, p.Until)
		}) {
			next.Pauses, any = append(slices.Clip(next.Pauses), p), true
		}
	}
	for _, l := range now.Limits {
		if l.Receiver == "" || l.Name != name {
			continue
		}
		l.Name = also
		if !slices.ContainsFunc(now.Limits, func(x control.Limit) bool {
			return x.Name == l.Name && x.Order == l.Order // one of the site's own stays
		}) {
			next.Limits, any = append(slices.Clip(next.Limits), l), true
		}
	}
	return next, any
}

// lastsAsLong says whether one order ends no earlier than another; zero is never.
func lastsAsLong(x, y time.Time) bool { return x.IsZero() || !y.IsZero() && !x.Before(y) }

// SamePause says whether two pauses are one order for a receiver, each at a site of its own.
func SamePause(x, y *control.Pause) bool {
	return x.Receiver != "" && x.Receiver == y.Receiver && x.Since.Equal(y.Since) && x.Who == y.Who && x.Filter.Stream == y.Filter.Stream
}

// SameLimit is SamePause of limits.
func SameLimit(x, y *control.Limit) bool {
	return x.Receiver != "" && x.Receiver == y.Receiver && x.Until.Equal(y.Until) && x.Who == y.Who
}
