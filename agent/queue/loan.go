package queue

import (
	"fmt"
	"slices"
	"time"
)

// In a fleet, nodes share limits: the sessions of sites, the rates of streams. Each has its part
// of every limit, the floor, for good, and what is lent to it beyond that for a time (package
// fleet/lease). What this node may use is one more gate to a connect, and to a transaction of a
// session that is up: those beyond it end at once if they are idle, else with their transaction.
// The controllers do not hear of it, as they do not of max_sessions_total: it says nothing of
// the receiver.

// Lender says what this node may use of limits that it shares with others. It is called with the
// mutex held: it must be quick, wait for nothing and not call the queue.
type Lender interface {
	// Sessions and Rate are how much of a limit may be used now; 0 is nothing.
	Sessions(key string, limit int) int
	Rate(key string, limit float64) float64
	// Floor and FloorRate are what is this node's own of a limit, without asking.
	Floor(limit int) int
	FloorRate(limit float64) float64
	// Ask tells that more than before is wanted of some limit (Queue.Wanted).
	Ask()
}

// loan is a limit of sessions that nodes share, and what this node does with it. Sites of one
// queue whose names begin alike have one loan: other nodes may know them by other names.
type loan struct {
	key   string
	limit int // of all nodes together
	sites []*site
	asks  bool // it is on Queue.borrowing: it wants, or has, more than its floor
	told  int  // what was wanted when Wanted told
	over  bool // more was in use at the last Lent than this node may use; the store is to hear of the end of that
}

// renewal is how soon a Lender takes other demands.
const renewal = 5 * time.Second

// Want is how much this node could use of a limit.
type Want struct {
	Key         string
	Limit, Want int
	Used        int // sessions up or opening, but for idle ones
}

// RateWant is the same of a rate, in messages per second.
type RateWant struct {
	Key         string
	Limit, Want float64
}

// sharedBy names the limit of sessions that a route's site shares with other nodes; "": none.
func (q *Queue) sharedBy(w *Route) string {
	if q.o.Lender == nil || q.o.Shared == nil {
		return ""
	}
	return q.o.Shared(w)
}

// borrow makes a site one of those of a shared limit, "": of none.
func (q *Queue) borrow(s *site, key string) {
	if q.o.Lender == nil {
		return // this host is of no fleet
	}
	limit := s.policy.MaxSessions
	if n := s.policy.MaxSessionsTotal; n > 0 {
		limit = n
	}
	if l := s.loan; l != nil {
		if l.limit = limit; l.key == key {
			return
		}
		l.sites = slices.DeleteFunc(l.sites, func(x *site) bool { return x == s })
		if s.loan = nil; len(l.sites) == 0 {
			delete(q.loans, l.key)
		}
	}
	if key == "" {
		return
	}
	l := q.loans[key]
	if l == nil {
		l = &loan{key: key}
		q.loans[key] = l
	}
	l.limit, s.loan = limit, l
	l.sites = append(l.sites, s)
}

// sessions are those of this node, opening, up or going, and how many of them are going.
func (l *loan) sessions() (n, going int) {
	for _, s := range l.sites {
		n += s.live + s.opening
		going += s.retiring
	}
	return n, going
}

// used is how many of them are not idle.
func (l *loan) used() (n int) {
	for _, s := range l.sites {
		n += s.live + s.opening - int(s.ready)
	}
	return n
}

// wants is how many sessions could be used now: those with work, and as many more as there is
// mail for, but not beyond what the receiver is known to take and one to try whether it takes
// more; where nothing is known to be up that is one alone. While the receiver lets nobody in for
// longer than a renewal takes, only what is up can be used: others are lent the rest meanwhile.
func (q *Queue) wants(l *loan, now time.Time) (n int) {
	for _, s := range l.sites {
		busy := s.live - s.retiring - int(s.ready) + s.opening
		most := q.control(s).Want() + 1
		if !s.reachable {
			most = 1
		}
		if cl, ok := q.control(s).Clamped(now); ok && cl.Sessions >= 0 {
			most = min(most, cl.Sessions)
		}
		if q.control(s).Shut(now.Add(renewal)) {
			most = min(most, s.live+s.opening)
		}
		n += max(busy, min(busy+s.waiting, most))
	}
	return min(n, l.limit)
}

// mayUse is how many sessions of a limit this node may use now.
func (q *Queue) mayUse(l *loan) int { return q.o.Lender.Sessions(l.key, l.limit) }

// lentOut says whether a site's next connect would pass what this node may use.
func (q *Queue) lentOut(s *site) bool {
	if s.loan == nil {
		return false
	}
	n, _ := s.loan.sessions()
	return n >= q.mayUse(s.loan)
}

// portion is this node's of the rates of a site: that which it may use of the sessions. Nodes need no
// leases of them then, and all of them together keep within the rates, but for turns of limits
// below the number of nodes. Without a session to use there is a part all the same, as 0 is no bound.
func (q *Queue) portion(s *site) float64 {
	if s.loan == nil || s.loan.limit == 0 {
		return 1
	}
	return float64(max(1, q.mayUse(s.loan))) / float64(s.loan.limit)
}

// overLoan says whether a site has more sessions than this node may use, without those that
// are going.
func (q *Queue) overLoan(s *site) bool {
	if s.loan == nil {
		return false
	}
	n, going := s.loan.sessions()
	return n-going > q.mayUse(s.loan)
}

// enlist has Wanted tell of a limit.
func (q *Queue) enlist(l *loan) {
	if !l.asks {
		l.asks = true
		q.borrowing = append(q.borrowing, l)
	}
}

// waitForLoan asks for more, and has an idle session of the same limit make room.
func (q *Queue) waitForLoan(s *site, now time.Time) {
	l := s.loan
	q.enlist(l)
	if n := q.wants(l, now); n > l.told && n > q.o.Lender.Floor(l.limit) {
		l.told = n // at once, and not again before it is told
		q.o.Lender.Ask()
	}
	q.retireIdle(func(x *Session) bool { return x.dest.site.loan == l && x.dest.waiting == 0 })
	q.lookAgain(s, now.Add(lookEvery), now) // Lent comes before, and the end of a session of another site
}

// repay ends idle sessions beyond what this node may use.
func (q *Queue) repay(l *loan) {
	for len(l.sites) > 0 && q.overLoan(l.sites[0]) && q.retireIdle(func(x *Session) bool { return x.dest.site.loan == l }) {
	}
}

// roomInLoan lets other sites of a shared limit go on, when a session of one has ended.
func (q *Queue) roomInLoan(s *site, now time.Time) {
	if s.loan == nil {
		return
	}
	if s.loan.over && s.loan.used() <= q.mayUse(s.loan) {
		s.loan.over = false
		q.o.Lender.Ask() // others wait for what has ended
	}
	for _, x := range s.loan.sites {
		if x != s && x.wanting.n > 0 && !q.lentOut(x) {
			q.grow(x, now)
		}
	}
}

// Wanted is what this node could use of the limits of which it wants more than its floor. The
// others are not looked at: most sites of a fleet never need more.
func (q *Queue) Wanted() (list []Want, rates []RateWant) {
	now := time.Now()
	q.mu.Lock()
	all := q.borrowing
	q.borrowing = nil
	for _, l := range q.limited {
		if w, ok := q.wantedRate(l, now); ok {
			rates = append(rates, w)
		}
	}
	q.mu.Unlock()
	eachPage(q, all, func(page []*loan) {
		for _, l := range page {
			floor := q.o.Lender.Floor(l.limit)
			n, _ := l.sessions()
			used := l.used()
			l.told = q.wants(l, now)
			switch {
			case max(l.told, used) > floor:
				list = append(list, Want{l.key, l.limit, l.told, used})
				fallthrough
			case n > floor: // until those that it has more are gone
				q.borrowing = append(q.borrowing, l)
			default:
				l.asks = false
			}
		}
	})
	return list, rates
}

// Lent tells that this node may use more or less than before of what it asked for; all: of
// any limit, as its floors have changed.
func (q *Queue) Lent(all bool) {
	now := time.Now()
	q.mu.Lock()
	list := slices.Clone(q.borrowing)
	if all {
		list = list[:0]
		for _, l := range q.loans {
			list = append(list, l)
		}
	}
	for _, l := range q.limited {
		if l.Shared {
			q.grant(l, now)
		}
	}
	q.mu.Unlock()
	eachPage(q, list, func(page []*loan) {
		for _, l := range page {
			q.repay(l)
			l.over = l.used() > q.mayUse(l)
			if n, _ := l.sessions(); n > q.o.Lender.Floor(l.limit) {
				q.enlist(l)
			}
			for _, s := range l.sites {
				if s.wanting.n > 0 {
					q.grow(s, now)
				}
			}
		}
	})
}

// rateKey names the limit of a stream's rate among nodes.
func rateKey(stream string) string { return "stream/" + stream }

// rateOf is how many messages a second may be let go of a stream; none says that nothing may.
func (q *Queue) rateOf(l *limited) (rate float64, none bool) {
	if rate = l.Rate; l.Shared && rate > 0 && q.o.Lender != nil {
		rate = q.o.Lender.Rate(rateKey(l.Name), l.Rate)
		l.lent = rate
		return rate, rate <= 0
	}
	return rate, false
}

// wantedRate is the rate that a stream could use, if that is more than its floor: all of it
// while mail waits for it, else what was let go of late.
func (q *Queue) wantedRate(l *limited, now time.Time) (RateWant, bool) {
	if !l.Shared || l.Rate <= 0 || q.o.Lender == nil {
		return RateWant{}, false
	}
	want := l.Rate
	if rate, none := q.rateOf(l); l.open.n == 0 || !none && l.tokens.wait(now, rate, max(1, rate)) == 0 {
		want = 0
		if s := now.Sub(l.toldAt).Seconds(); s > 0 {
			want = min(l.Rate, 1.25*float64(l.turn-l.toldTurn)/s)
		}
	}
	l.toldTurn, l.toldAt = l.turn, now
	return RateWant{rateKey(l.Name), l.Rate, want}, want > q.o.Lender.FloorRate(l.Rate)
}

// onLoan tells of what the fleet has lent.
func (e *evidence) onLoan() HeldBack {
	return HeldBack{Reason: FleetLimit, How: fmt.Sprintf("the fleet has lent %d of %d, floor %d", e.loan.may, e.loan.limit, e.loan.floor)}
}

// Loan is a shared limit of which this node has or wants more than its floor, as listings show it.
type Loan struct {
	Key                     string
	Limit, Floor, May, Want float64 // sessions, or messages a second of a stream
	Has                     int     // sessions
}

// Loans lists those, so many at most, and says how many more there are.
func (q *Queue) Loans(most int) (list []Loan, more int) {
	if q.o.Lender == nil {
		return nil, 0
	}
	now := time.Now()
	q.mu.Lock()
	all := slices.Clone(q.borrowing)
	for _, l := range q.limited {
		if l.Shared && l.Rate > 0 {
			may, _ := q.rateOf(l)
			list = append(list, Loan{Key: rateKey(l.Name), Limit: l.Rate, Floor: q.o.Lender.FloorRate(l.Rate), May: may})
		}
	}
	q.mu.Unlock()
	if n := max(0, most-len(list)); len(all) > n {
		all, more = all[:n], len(all)-n
	}
	eachPage(q, all, func(page []*loan) {
		for _, l := range page {
			n, _ := l.sessions()
			list = append(list, Loan{
				Key: l.key, Limit: float64(l.limit), Floor: float64(q.o.Lender.Floor(l.limit)),
				May: float64(q.mayUse(l)), Want: float64(q.wants(l, now)), Has: n,
			})
		}
	})
	return list, more
}
