package queue

import (
	"net/netip"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/slots"
)

// Site is the state of one site, as listings show it.
type Site struct {
	Name     string
	Queue    string
	Hosts    int // addresses of its destinations
	Waiting  int
	Limited  int // of these, recipients that wait for limits of their streams
	Sessions int // up
	Opening  int
	Ready    int    // of the sessions, those without work
	Reason   string // why a destination with mail has no session up; "" if all have
	Target   elastic.Target
	Clamp    elastic.Clamp // in force from outside; none if Until is zero
	Latency  time.Duration // of a transaction, smoothed
	Refused  int           // connects and transactions that were one too many or too fast, since the site is known
	State    string        // what its controller is about, as elastic.Snapshot has it
	Want     int           // slots that the controller wants
	Held     int           // slots: up, being opened, or ended and maybe not noticed
	Lagging  int           // of these, the last
	HeldBack HeldBack      // why it gets less than it could
	Source   netip.Addr    // that its connections favour; zero: the kernel's choice
	Paused   int           // recipients that would be ready, but for pauses; Waiting is without them
	PausedBy []Pause       // one of the pauses that keep them; in an Account all, but mostPauses at most
	Called   string        // where all its connections go if that is no address: a socket; "" else
}

// AddressOf is an address of the site in words.
func (s *Site) AddressOf(a netip.AddrPort) string {
	if !a.IsValid() {
		return s.Called
	}
	return a.String()
}

// sums are what is told of a site's destinations together.
type sums struct {
	name         string // of the site, as its number may be another's since
	source       netip.Addr
	called       string // as Site.Called
	hosts, ready int
	reason       string
	down         down
	failing      []*slots.Address             // that are down, of one site alone
	passed       map[netip.AddrPort]time.Time // until when all destinations pass an address by, of one site alone; past: they do not
	paused       int
	pausedBy     []*Pause
	warmingUp    int // recipients that wait for room at an address that warms up; of one site alone
}

// Sites lists all sites that are known at the moment.
func (q *Queue) Sites() []Site {
	q.mu.Lock()
	n := len(q.sites)
	q.mu.Unlock()
	list := make([]Site, 0, n+pageSize)
	q.EachSite(func(page []Site) bool {
		list = append(list, page...)
		return true
	})
	return list
}

// EachSite calls yield with all sites that are known, some hundred at a time, without the
// mutex. A page is good until yield returns. What happens meanwhile is in those pages that
// come after it.
func (q *Queue) EachSite(yield func([]Site) bool) {
	all := q.sums(nil, time.Time{})
	found := make([]evidence, 0, pageSize)
	page := make([]Site, 0, pageSize)
	walk(q, &q.siteByNo, func(s *site) {
		var x sums
		if int(s.no) < len(all) && all[s.no].name == s.key {
			x = all[s.no]
		}
		list, e := q.look(s, &x, time.Now())
		page, found = append(page, list), append(found, e)
	}, func() bool {
		for i := range page {
			page[i].HeldBack = found[i].judge()
		}
		more := len(page) == 0 || yield(page)
		page, found = page[:0], found[:0]
		return more
	})
}

// sums adds up the destinations of each site, by its number; those of one site alone, if
// that is not nil.
func (q *Queue) sums(only *site, now time.Time) (all []sums) {
	q.mu.Lock()
	most, pausing := q.siteByNo.used, len(q.pauses) > 0
	q.mu.Unlock()
	all = make([]sums, most+1)
	walk(q, &q.destByNo, func(d *destination) {
		if only != nil && d.site != only || d.site.no > most {
			return
		}
		x := &all[d.site.no]
		if x.name != d.site.key {
			*x = sums{name: d.site.key}
		}
		x.add(d)
		if only != nil {
			x.warmingUp += d.warmingUp(now)
			x.look(d)
		}
	}, always)
	if !pausing {
		return all
	}
	walk(q, &q.laneByNo, func(l *lane) {
		d := l.domain.dest
		if !l.paused || l.n == 0 || d == nil || only != nil && d.site != only || d.site.no > most || all[d.site.no].name != d.site.key {
			return
		}
		x := &all[d.site.no]
		x.paused += l.n
		for i := range q.pauses {
			if only == nil && len(x.pausedBy) > 0 || len(x.pausedBy) == mostPauses {
				break
			}
			if b := &q.pauses[i]; q.holds(b, l) && !slices.Contains(x.pausedBy, b) {
				x.pausedBy = append(x.pausedBy, b)
			}
		}
	}, always)
	return all
}

// mostPauses is how many pauses are told of a site.
const mostPauses = 8

// mostFailing is how many addresses that are down are told of a site, beside those that its
// controller knows.
const mostFailing = 64

// look notes those of a destination's addresses that are down: the controller may not know of them
// any more, as they have not been called for long. It never knows of those that are passed by.
func (x *sums) look(d *destination) {
	for i := range d.places {
		p := &d.places[i]
		if a := p.Address; len(x.failing) < mostFailing && a.Failing().Times > 0 && !slices.Contains(x.failing, a) {
			x.failing = append(x.failing, a)
		}
		if t, known := x.passed[p.Key.Host]; !known || p.until.Before(t) {
			if x.passed == nil {
				x.passed = make(map[netip.AddrPort]time.Time)
			}
			x.passed[p.Key.Host] = p.until
		}
	}
}

func (x *sums) add(d *destination) {
	x.ready += len(d.ready)
	if list := d.route.Sources; len(list) > 0 {
		x.source = list[0]
	}
	switch {
	case d.route.Simulated:
		x.called = "the receiver inside the agent"
	case len(d.route.Places) == 0 && d.route.Relay != "":
		x.called = d.route.Relay
	}
	if d.waiting > 0 && d.reason != "" && (x.reason == "" || d.reason < x.reason) {
		x.reason = d.reason
	}
	if d.waiting > 0 && d.live == 0 && d.failures > 0 {
		x.down.waiting += d.waiting
		if x.down.reason == "" || d.reason < x.down.reason {
			x.down.reason, x.down.how = d.reason, d.how
		}
		if x.down.next.IsZero() || d.holdoff.Before(x.down.next) {
			x.down.next = d.holdoff
		}
	}
	if d.route.Plan == nil {
		x.hosts++
		return
	}
	for _, h := range d.route.Plan.Hosts {
		x.hosts += len(h.Addrs)
	}
}

// look is a site as listings show it, without a judgement, and the evidence for that.
func (q *Queue) look(s *site, sum *sums, now time.Time) (Site, evidence) {
	c := s.controller
	if c == nil {
		c = q.newcomer(s, now)
	}
	e := evidence{
		now: now, waiting: s.waiting, sessions: s.live, opening: s.opening, ready: min(sum.ready, s.live),
		answered: moment(s.answered), latency: c.Latency(), control: c.Brief(now), target: c.Target(now),
		inLine: s.line != nil, down: sum.down,
	}
	if cl, ok := c.Clamped(now); ok {
		e.clamp = cl
	}
	// A row may be full of this site's own slots.
	if s.crowd != nil && s.crowd.Held() > c.Held() {
		e.crowd = s.crowd.Key.Host.Addr().String()
	}
	if s.totalReached() {
		e.total, e.sources = s.policy.MaxSessionsTotal, len(s.ofReceiver())
	}
	if q.lentOut(s) {
		e.loan = loaned{q.mayUse(s.loan), s.loan.limit, q.o.Lender.Floor(s.loan.limit)}
	}
	if rate := q.portion(s) * float64(s.policy.MaxConnectionRate); rate > 0 && s.connects != nil && s.connects.n+now.Sub(s.connects.filled).Seconds()*rate < 1 {
		e.connectRate = rate
	}
	var pausedBy []Pause
	for _, b := range sum.pausedBy {
		pausedBy = append(pausedBy, *b)
	}
	return Site{
		Paused: sum.paused, PausedBy: pausedBy,
		Name: s.key, Queue: s.policy.Name, Hosts: sum.hosts, Waiting: s.waiting - s.permits + s.gated, Limited: s.gated - s.permits, Sessions: s.live, Opening: s.opening,
		Ready: e.ready, Reason: sum.reason, Target: e.target, Clamp: e.clamp, Latency: e.latency, Refused: int(s.refused),
		State: e.control.State, Want: e.control.Want, Held: e.control.Held, Lagging: e.control.Lagging,
		Source: sum.source, Called: sum.called,
	}, e
}

// Account is all that is told of one site.
type Account struct {
	Site
	Limits   elastic.Limits // in force
	Snapshot elastic.Snapshot
	// WarmingUp is how many recipients wait for room at an address that warms up.
	WarmingUp int
	Changes   []elastic.Change // the last ones, oldest first, each with the reply or measurement behind it; none is kept of a site long without mail
}

// Explain tells all of a site; false if it is not known.
func (q *Queue) Explain(name string) (Account, bool) {
	q.mu.Lock()
	s := q.sites[name]
	q.mu.Unlock()
	if s == nil {
		return Account{}, false
	}
	now := time.Now()
	all := q.sums(s, now)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.sites[name] != s {
		return Account{}, false // forgotten meanwhile
	}
	var x sums
	if int(s.no) < len(all) {
		x = all[s.no]
	}
	var a Account
	if s.controller == nil { // and gets none by a question, which would begin its history
		a.Snapshot = q.newcomer(s, now).Snapshot(now)
	} else {
		a.Snapshot, a.Changes = q.control(s).Snapshot(now), s.controller.History()
	}
	var e evidence
	a.Site, e = q.look(s, &x, now)
	a.HeldBack, a.Limits = e.judge(), e.control.Limits
	a.WarmingUp = x.warmingUp
	for i := range a.Snapshot.PerAddress {
		p := &a.Snapshot.PerAddress[i]
		p.Opens = later(p.Opens, x.passed[p.Address])
	}
	for _, row := range x.failing {
		if p := elastic.LookAt(row, now); !slices.ContainsFunc(a.Snapshot.PerAddress, func(x elastic.AddressSnapshot) bool { return x.Address == p.Address }) {
			a.Snapshot.PerAddress = append(a.Snapshot.PerAddress, p)
		}
	}
	return a, true
}
