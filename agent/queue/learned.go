package queue

import (
	"net/netip"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/slots"
)

// Learned is what the controllers have learned of sites and addresses, to be kept over a
// restart.
type Learned struct {
	At        time.Time              `json:"at"`
	Stopped   bool                   `json:"stopped,omitempty"` // all connections had ended
	Sites     map[string]LearnedSite `json:"sites,omitempty"`
	Addresses []slots.Learned        `json:"addresses,omitempty"`
}

// LearnedSite is what is kept of a site.
type LearnedSite struct {
	elastic.Learned
	Queue string `json:"queue,omitempty"` // by whose rules its mail went; "": an earlier version kept it, or no mail has come yet
}

const (
	// learnedFor is how long what was learned of a site is kept that has no mail.
	learnedFor = 7 * 24 * time.Hour
	// stillCounted is how long receivers may count connections that ended without a
	// word: RFC 5321 section 4.5.3.2 has servers wait for a command for five minutes.
	stillCounted = 5 * time.Minute
	// mostRecalled bounds the sites of which something is kept, and that have no mail: some
	// 300 octets each. As many again that a bound from outside is on.
	mostRecalled = 1 << 16
	// recallLooks is how many of them are looked at for one that may go.
	recallLooks = 16
)

// Learned returns what is to be kept, and frees what is of no more use. It looks at some hundred sites at a time under the
// mutex.
func (q *Queue) Learned(now time.Time) Learned {
	l := Learned{At: now, Sites: make(map[string]LearnedSite)}
	each(q, q.recalled, func(name string, x LearnedSite) {
		if lapsed(&x, now) {
			delete(q.recalled, name)
		} else {
			l.Sites[name] = x
		}
	}, always)
	q.mu.Lock()
	rows := len(q.table.All())
	q.mu.Unlock()
	l.Addresses = make([]slots.Learned, 0, rows) // to make room for more takes long
	each(q, q.table.All(), func(_ slots.Key, a *slots.Address) {
		a.Look(now) // lets go of sessions that have ended, where no mail has come since
		if x, any := a.Learned(); any {
			l.Addresses = append(l.Addresses, x)
		}
	}, always)
	walk(q, &q.siteByNo, func(s *site) { // after the addresses, which have slots of theirs
		if s.rates != nil && s.rates.past(now) {
			s.rates = nil
		}
		if s.controller == nil {
			return
		}
		s.controller.Rest(now)
		if x, any := s.controller.Learned(now); any {
			l.Sites[s.key] = LearnedSite{x, s.policy.Name}
		} else if s.live+s.opening == 0 && s.controller.Spare(now) {
			s.controller = nil
		}
	}, always)
	return l
}

// Recall takes in what an earlier agent has learned. Called before mail comes in.
func (q *Queue) Recall(now time.Time, l Learned) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.table.Restore(now, l.Addresses)
	since := now.Sub(l.At)
	unsure := !l.Stopped && since > -stillCounted && since < stillCounted
	for name, x := range l.Sites {
		x.Unsure = unsure
		for _, cl := range q.recalled[name].Clamps { // bounds that are among the orders in force
			if !slices.ContainsFunc(x.Clamps, func(c elastic.Clamp) bool { return c.Reason == cl.Reason && c.Until.Equal(cl.Until) }) {
				x.Clamps = append(x.Clamps, cl)
			}
		}
		q.recalled[name] = x
	}
}

// recall gives a new site the controller that it had, if something is known of it.
func (q *Queue) recall(s *site, now time.Time) {
	if x, ok := q.recalled[s.key]; ok {
		delete(q.recalled, s.key)
		if !lapsed(&x, now) {
			s.controller = elastic.Restore(now, q.limitsOf(s.key, s.policy), x.Learned)
		}
	}
}

// control is a site's controller. Of most sites nothing is known most of the time: they wait
// for their first session, or have had a few that told nothing of limits. These have none,
// until there is something to ask it, or to tell it; Learned takes it from them.
func (q *Queue) control(s *site) *elastic.Site {
	if s.controller == nil {
		s.controller = elastic.NewSite(time.Now(), q.limitsOf(s.key, s.policy))
	}
	if s.loan != nil {
		s.controller.Share(q.portion(s))
	}
	return s.controller
}

// newcomer is the controller that a site would have which has none, for a look at it alone:
// nothing is told to it, as it is that of others, too.
func (q *Queue) newcomer(s *site, now time.Time) *elastic.Site {
	if limits := q.limitsOf(s.key, s.policy); q.likeAll == nil || q.likeAll.Limits() != limits {
		q.likeAll = elastic.NewSite(now, limits)
	}
	return q.likeAll
}

// lapsed says whether what was learned of a site is of no use any more. A bound from outside
// lasts as long as it was meant to.
func lapsed(x *LearnedSite, now time.Time) bool {
	return now.Sub(x.At) >= learnedFor && !slices.ContainsFunc(x.Clamps, func(cl elastic.Clamp) bool { return cl.Until.After(now) })
}

// preserve keeps what was learned of a site that had no mail for a while, for when it has
// some again. Where too much is kept another one goes that no bound is on.
func (q *Queue) preserve(s *site, now time.Time) {
	if s.controller == nil {
		return
	}
	x, any := s.controller.Learned(now)
	if !any {
		return
	}
	if len(q.recalled) >= mostRecalled {
		looks := recallLooks
		for name, other := range q.recalled {
			if len(other.Clamps) == 0 || lapsed(&other, now) {
				delete(q.recalled, name)
				break
			}
			if looks--; looks == 0 {
				break
			}
		}
	}
	if n := len(q.recalled); n < mostRecalled || n < 2*mostRecalled && len(x.Clamps) > 0 {
		q.recalled[s.key] = LearnedSite{x, s.policy.Name}
	}
}

// QueueSites are the names of a queue's sites, and of those without mail that were its when they last
// had some.
func (q *Queue) QueueSites(queue string) (names []string) {
	walk(q, &q.siteByNo, func(s *site) {
		if s.policy.Name == queue {
			names = append(names, s.key)
		}
	}, always)
	each(q, q.recalled, func(key string, x LearnedSite) {
		if x.Queue == queue {
			names = append(names, key)
		}
	}, always)
	return names
}

// Forget drops what was learned of a site, and of the addresses where its mail goes and
// those given; of all sites of a queue (QueueSites), if the name is that of one, and of all sites and
// addresses, if it is "". It returns the number of sites.
func (q *Queue) Forget(name string, addresses ...netip.Addr) (n int) {
	now := time.Now()
	fits := func(s *site) bool { return name == "" || s.key == name || s.policy.Name == name }
	walk(q, &q.destByNo, func(d *destination) {
		if fits(d.site) {
			for i, p := range d.places {
				p.Forget()
				d.places[i] = placeState{Candidate: p.Candidate, open: p.open}
			}
			d.failures, d.calls, d.holdoff, d.allowance = 0, 0, time.Time{}, nil
		}
	}, always)
	walk(q, &q.siteByNo, func(s *site) {
		if fits(s) {
			if n++; s.controller != nil {
				s.controller.Forget(now)
			}
			q.grow(s, now)
		}
	}, always)
	each(q, q.recalled, func(key string, x LearnedSite) {
		if name == "" || key == name || x.Queue == name {
			delete(q.recalled, key)
			n++
		}
	}, always)
	if name != "" && len(addresses) == 0 {
		return n
	}
	of := make(map[netip.Addr]bool, len(addresses))
	for _, a := range addresses {
		of[a] = true
	}
	each(q, q.table.All(), func(key slots.Key, a *slots.Address) {
		if name == "" || of[key.Host.Addr()] {
			a.Forget()
		}
	}, always)
	return n
}

// RecallClamp puts a bound on a site, now or when the queue gets to know it.
func (q *Queue) RecallClamp(name string, cl elastic.Clamp, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if s := q.sites[name]; s != nil {
		q.control(s).Clamp(now, cl)
		q.bound(s, now)
		return
	}
	x, known := q.recalled[name]
	if !known {
		x.At = now
	}
	x.Clamps = append(slices.Clip(x.Clamps), cl)
	q.recalled[name] = x
}
