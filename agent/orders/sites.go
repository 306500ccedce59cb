package orders

import (
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/queue"
)

// siteNaming is the kind of names that sites have in orders: short ones (package sites).
// Files without it are of versions that named a site by all its MX hosts.
const siteNaming = 1

// kept is what the file has. Earlier versions read it, too, and know no sites by these names.
type kept struct {
	control.StandingOrders
	SiteNaming int      `json:"site_naming"`
	OldSites   []string `json:"old_sites,omitempty"` // of earlier versions, of which no mail has come yet
}

// siteNames are the sites that orders are about, and the queues that have limits.
func siteNames(s *control.StandingOrders) (list []string) {
	for i := range s.Pauses {
		if name := s.Pauses[i].Filter.Site; name != "" {
			list = append(list, name)
		}
	}
	for i := range s.Limits {
		list = append(list, s.Limits[i].Name)
	}
	return list
}

// expectOld sees to the sites that a file calls by names of an earlier version: with the
// first answer of the DNS for one of its domains Moved is called, before that mail may be
// sent.
func (o *Orders) expectOld(s *kept) {
	o.old = s.OldSites
	set := o.settings.Now()
	if s.SiteNaming == 0 {
		o.old = slices.DeleteFunc(siteNames(&s.StandingOrders), func(name string) bool {
			// A relay's is what it was. A limit of this name may be a queue's.
			return strings.HasPrefix(name, queue.RelayDomain("")) || set.IsQueue(name)
		})
		slices.Sort(o.old)
		o.old = slices.Compact(o.old)
	}
	set.Sites.Expect(o.old, o)
}

// Moved has orders about a site that an earlier version called otherwise hold under the name
// that it has now. They are in force on return; the file follows.
func (o *Orders) Moved(old, name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := *o.now.Load()
	next := now
	next.Pauses, next.Limits, next.Effects = slices.Clone(now.Pauses), slices.Clone(now.Limits), slices.Clone(now.Effects)
	for i := range next.Pauses {
		if next.Pauses[i].Filter.Site == old {
			next.Pauses[i].Filter.Site = name
		}
	}
	for i := range next.Limits {
		if next.Limits[i].Name == old {
			next.Limits[i].Name = name
		}
	}
	next.Pauses, next.Limits = strictest(next.Pauses), lowest(next.Limits)
	if !slices.Contains(o.old, old) {
		return // it was done meanwhile
	}
	if err := o.apply(now, next); err != nil {
		o.log.Error("orders about a site go over to its new name", "was", old, "site", name, "err", err)
		return
	}
	o.old = slices.DeleteFunc(slices.Clone(o.old), func(x string) bool { return x == old })
	o.dirty, o.kept = true, time.Time{} // written with the next heartbeat, before the Book is
	if old == name {
		return
	}
	o.log.Warn("orders about a site go over to its new name; several sites of before may be one now", "was", old, "site", name)
}

// Split has orders about a site hold for a part of it, too, that has got a name of its own.
// They are in force on return; the file follows.
func (o *Orders) Split(name, also string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := *o.now.Load()
	next := now
	next.Pauses, next.Limits, next.Effects = slices.Clone(now.Pauses), slices.Clone(now.Limits), slices.Clone(now.Effects)
	for _, p := range now.Pauses {
		if p.Filter.Site == name {
			p.Filter.Site = also
			if p.Receiver != "" {
				p.Receiver = also // which is resumed by itself
			}
			next.Pauses = append(next.Pauses, p)
		}
	}
	for _, l := range now.Limits {
		if l.Name == name {
			l.Name = also
			if l.Receiver != "" {
				l.Receiver = also
			}
			next.Limits = append(next.Limits, l)
		}
	}
	for _, e := range now.Effects {
		held := func(x control.Effect) bool { return x.Site == also && x.Rule == e.Rule }
		if e.Site == name && !slices.ContainsFunc(now.Effects, held) {
			e.Site = also
			next.Effects = append(next.Effects, e)
			o.queue.RecallClamp(also, clampOf(&e), time.Now())
		}
	}
	next.Pauses, next.Limits = strictest(next.Pauses), lowest(next.Limits)
	if slices.Equal(next.Pauses, now.Pauses) && slices.Equal(next.Limits, now.Limits) && len(next.Effects) == len(now.Effects) {
		return // it was done meanwhile
	}
	if err := o.apply(now, next); err != nil {
		o.log.Error("orders about a site hold for a part of it", "site", name, "part", also, "err", err)
		return
	}
	o.dirty, o.kept = true, time.Time{} // written with the next heartbeat, before the Book is
	o.log.Warn("orders about a site hold for a part of it that has other addresses, of hosts or of ours, now", "site", name, "part", also)
}

// strictest keeps of pauses of the same filter the one that lasts longest.
func strictest(list []control.Pause) (left []control.Pause) {
	for _, p := range list {
		i := slices.IndexFunc(left, func(x control.Pause) bool { return x.Filter == p.Filter })
		switch {
		case i < 0:
			left = append(left, p)
		case !left[i].Until.IsZero() && (p.Until.IsZero() || p.Until.After(left[i].Until)):
			left[i] = p
		}
	}
	return left
}

// lowest keeps of limits of the same name what is least of each, until the later time.
func lowest(list []control.Limit) (left []control.Limit) {
	least := func(a, b int) int {
		if a == 0 || b == 0 {
			return max(a, b)
		}
		return min(a, b)
	}
	for _, l := range list {
		i := slices.IndexFunc(left, func(x control.Limit) bool { return x.Name == l.Name })
		if i < 0 {
			left = append(left, l)
			continue
		}
		x := &left[i]
		x.Sessions = least(x.Sessions, l.Sessions)
		if x.Rate == 0 || l.Rate > 0 && l.Rate < x.Rate {
			x.Rate = l.Rate
		}
		if l.Until.After(x.Until) {
			x.Until = l.Until
		}
	}
	return left
}
