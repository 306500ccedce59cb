package queue

import (
	"net/netip"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/route"
)

// Route is where a domain's mail goes: the answer to Options.Resolve. Domains
// with the same Key share a destination, destinations with the same Site their
// limits; Key and Site must differ between sources and TLS policies.
type Route struct {
	Queue    *config.Queue // policy
	Site     string        // key and display name of the site
	Key      string        // key of the destination
	Plan     *route.Plan   // hosts, for an MX route
	Relay    string        // "host:port" or "unix:/path", for a relay
	Handback bool          // the relay is the host MTA: mail accepted there is handed back
	Sources  []netip.Addr  // where connections come from, one of a family at most, the favoured first; an address of no such family: the kernel's choice
	Expires  time.Time     // ask again then; zero: never
}

// site is the unit of limits.
type site struct {
	linked[*site]              // on line
	line          *ring[*site] // where the site waits to open a session; nil: nowhere
	key           string
	control       *elastic.Control
	policy        *config.Queue
	dests         int
	wanting       ring[*destination] // with mail waiting and wanting a session
	waiting       int
	live          int
	opening       int
	hanging       int  // of opening, those under way for HangAfter
	retiring      int  // of live, told to go and not yet gone
	incoming      int  // sessions of other sites that were told to go in its favour, not yet gone
	reachable     bool // it has worked since the last connect that failed with none up
	slow          bool // the last one hung
	refused       int  // signals that it was one session too many, or too fast; for listings alone

	suspended bool      // has been clamped to no session
	took      bool      // has taken a message since
	shut      time.Time // when it was last clamped so again, having taken nothing; zero: it may have mail

	pace     tokens    // for transactions
	connects tokens    // for new connections
	planned  time.Time // when a timer will next look at the site
}

// tokens is a bucket that fills at a rate; what it holds may go at once.
type tokens struct {
	n      float64
	filled time.Time
}

// take takes a token, or says how long it is until there is one. A rate of 0 has
// no limit.
func (t *tokens) take(now time.Time, rate, burst float64) (wait time.Duration) {
	if rate <= 0 {
		t.n, t.filled = 0, now // a limit that is found begins with nothing saved
		return 0
	}
	t.n = min(burst, t.n+now.Sub(t.filled).Seconds()*rate)
	t.filled = now
	if t.n < 1 {
		return 1 + time.Duration((1-t.n)/rate*float64(time.Second)) // not a fraction too early, again and again
	}
	t.n--
	return 0
}

func (s *site) link() *linked[*site] { return &s.linked }

// destination is the unit of connections.
type destination struct {
	linked[*destination]        // on site.hungry
	route                *Route // replaced, never changed: sessions read it unlocked
	site                 *site
	domains              int
	flows                map[uint32]*flow
	active               ring[*flow] // streams with mail waiting
	ready                []*Session  // the ready list; the last one was used last
	waiting              int
	live, opening        int
	idleSinceUp          int // of live, those that have not asked for work yet

	allowance allowance // messages on one connection, if the receiver has a limit

	failures int       // connects failed in a row, with none up; those count too of whose session no mail was tried
	holdoff  time.Time // no connect before this
	reason   string    // why the last connect failed; "" when one is up
	failed   time.Time // when it did; zero when one is up
}

func (d *destination) link() *linked[*destination] { return &d.linked }

// Routed answers Options.Resolve with a route.
func (q *Queue) Routed(name string, w Route) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	d := q.domains[name]
	if d == nil {
		return // its mail is gone meanwhile
	}
	d.resolving, d.reason, d.expires = false, "", w.Expires
	if !w.Expires.IsZero() {
		q.schedule(w.Expires, d)
	}
	old, dest := d.dest, q.destination(w, now)
	if old != dest {
		dest.domains++
		d.dest = dest
		for _, l := range d.lanes {
			q.detach(l)
			q.attach(l, dest, now)
		}
		q.abandon(old)
	}
	q.serveAll(dest, now)
}

// Unrouted answers Options.Resolve when there is no route at present: the
// domain's mail waits, and Resolve is called again at retry. An old route stays
// in use.
func (q *Queue) Unrouted(name, reason string, retry time.Time) {
	q.noWay(name, reason, retry, time.Now())
}

// Unasked is Unrouted for reasons of our own: nothing is known of the domain, and its
// mail does not expire by it.
func (q *Queue) Unasked(name, reason string, retry time.Time) {
	q.noWay(name, reason, retry, time.Time{})
}

func (q *Queue) noWay(name, reason string, retry, failed time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	d := q.domains[name]
	if d == nil {
		return
	}
	d.resolving, d.reason, d.expires = false, reason, retry
	if !failed.IsZero() {
		d.failed = failed
	}
	q.schedule(retry, d)
}

// fire asks for the route again; for a domain whose mail is all deferred, only
// when some of it comes due. A domain without mail is forgotten.
func (d *domain) fire(q *Queue, now time.Time) {
	if q.domains[d.name] != d || d.expires.After(now) {
		return
	}
	if len(d.lanes) == 0 {
		q.forgetDomain(d)
		return
	}
	for _, l := range d.lanes {
		if l.n > 0 {
			q.resolve(d)
			return
		}
	}
	d.stale = true
}

// Claim takes up to limit recipients of one message that wait for a domain, so
// that the owner can settle mail that will never have a route. ok is false when none waits.
func (q *Queue) Claim(name string, limit int) (job Job, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	d := q.domains[name]
	if d == nil {
		return Job{}, false
	}
	for _, l := range d.lanes {
		if l.n > 0 && !q.lanePaused(l) {
			return q.fill(l, limit, nil), true
		}
	}
	return Job{}, false
}

// Reload asks for the route to every domain again: queues, limits and policies may
// have changed. The old routes stay in use until the answers come.
func (q *Queue) Reload(maxSessions int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.o.MaxSessions = maxSessions
	for _, d := range q.domains {
		q.resolve(d)
	}
}

// destination returns the destination of a route, with the route's latest hosts and
// policy.
func (q *Queue) destination(w Route, now time.Time) *destination {
	d := q.dests[w.Key]
	if d == nil {
		s := q.sites[w.Site]
		if s == nil {
			s = &site{key: w.Site, policy: w.Queue, control: elastic.New(now, q.limitsOf(w.Site, w.Queue))}
			s.pace.filled, s.connects.filled = now, now
			q.sites[w.Site] = s
		}
		s.dests++
		d = &destination{site: s, flows: make(map[uint32]*flow)}
		q.dests[w.Key] = d
	}
	d.route = &w
	if s := d.site; s.policy != w.Queue {
		s.policy = w.Queue
		s.control.SetLimits(now, q.limitsOf(s.key, w.Queue))
	}
	return d
}

// Clamp bounds a site for a time: a rule about its provider, or an admin, says
// so. Sessions that stand ready above the bound are sent away at once, the
// others when their transaction is settled. It is false if the site is not known.
func (q *Queue) Clamp(name string, cl elastic.Clamp) bool {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.sites[name]
	if s == nil {
		return false
	}
	s.control.Clamp(now, cl)
	if cl.Sessions == 0 {
		s.suspend(now)
	}
	q.bound(s, now)
	return true
}

// suspend notes that the site is clamped to no session. When it has taken nothing
// since it was so before, that is as good as a connect that failed (Overdue).
func (s *site) suspend(now time.Time) {
	if s.suspended && !s.took {
		s.shut = now
	}
	s.suspended, s.took = true, false
}

// Slow makes a site go on at half its pace until then. It is false if the site is
// not known.
func (q *Queue) Slow(name string, until time.Time, reason string) bool {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.sites[name]
	if s != nil {
		s.control.Slow(now, until, reason)
	}
	return s != nil
}

// HostMail tells of recipients in a domain to whom the host MTA itself sends: the
// site leaves it the connections for that.
func (q *Queue) HostMail(domain string, recipients int) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	if d := q.domains[domain]; d != nil && d.dest != nil {
		d.dest.site.control.HostMail(now, recipients)
	}
}

// Why returns the last changes of what the site's controller wants, oldest first,
// each with the reply or measurement behind it; nil if the site is not known.
func (q *Queue) Why(name string) []elastic.Change {
	q.mu.Lock()
	defer q.mu.Unlock()
	if s := q.sites[name]; s != nil {
		return s.control.History()
	}
	return nil
}

// abandon takes one domain from a destination. The last one does not end it:
// its sessions and what its controller learned serve the next mail. The
// timer ends it when it has been unused for a while.
func (q *Queue) abandon(d *destination) {
	if d == nil {
		return
	}
	if d.domains--; d.domains == 0 {
		q.schedule(time.Now().Add(forget), d)
	}
}

// forget is how long what was learned about an unused destination is kept.
const forget = time.Hour

// moveWaiting counts mail in and out of a destination.
func (q *Queue) moveWaiting(d *destination, n int) {
	d.waiting += n
	d.site.waiting += n
	if d.waiting == 0 {
		d.site.wanting.remove(d)
		if d.site.wanting.n == 0 {
			d.site.leaveLine()
		}
	}
}

// markChanged notes a lane that got mail; serveTouched serves them all when the
// recipients of a message stand together, so that they go in one transaction.
func (q *Queue) markChanged(l *lane) {
	if n := len(q.changed); n == 0 || q.changed[n-1] != l {
		q.changed = append(q.changed, l)
	}
}

func (q *Queue) serveChanged(now time.Time) {
	for _, l := range q.changed {
		if l.flow != nil {
			q.serveAll(l.flow.dest, now)
		}
	}
	clear(q.changed)
	q.changed = q.changed[:0]
}

// serveOne hands one transaction to a ready session, or wants a new one. It
// reports whether a transaction was handed over.
func (q *Queue) serveOne(d *destination, now time.Time) bool {
	if d.waiting == 0 {
		return false
	}
	if n := len(d.ready); n > 0 {
		t := d.site.control.Target(now, d.site.load())
		if !q.paced(d.site, t, now) {
			return false
		}
		// The last used one, so that those not needed time out; but under a pace
		// they take turns, or one host would get more than its part of the rate.
		s := d.ready[n-1]
		if t.Pace > 0 {
			s = d.ready[0]
		}
		q.unready(s)
		q.assign(s)
		s.wake <- wakeJob
		return true
	}
	if d.waiting > d.opening {
		d.site.wanting.push(d)
		q.grow(d.site, now)
	}
	return false
}

func (q *Queue) serveAll(d *destination, now time.Time) {
	for q.serveOne(d, now) {
	}
}

// load is what the controller needs to know.
func (s *site) load() elastic.Load {
	return elastic.Load{Backlog: s.waiting, Live: s.live, Opening: s.opening, Hanging: s.hanging}
}

// grow opens sessions while the site wants more. The gates to a connect, in this order:
//
//  1. the queue is not closing, and a destination of the site has more mail waiting than
//     sessions that are opening or idle (wanting);
//  2. the controller lets one more be opened before one is up (Target.Unproven);
//  3. the destination is not held off after a failure, and no probe of it is under way
//     (holdoff, failures);
//  4. the controller's sessions (Target.Sessions), with limits and clamps in it;
//  5. the budget of connects to sites where nothing is up (overBudget, probing.go);
//  6. max_sessions of the agent;
//  7. max_connection_rate of the queue (connects).
//
// At 4 and 6 an idle session elsewhere makes room if there is one. A lane that is paused
// is not among those that wait. Past the gates a session calls hosts in the order of
// package hosts; once it is up, each transaction waits for the pace (paced).
func (q *Queue) grow(s *site, now time.Time) {
	if q.closed || s.wanting.n == 0 {
		return
	}
	t := s.control.Target(now, s.load())
	for tries := s.wanting.n; tries > 0 && s.wanting.n > 0; tries-- {
		if s.opening >= t.Unproven {
			break
		}
		d := s.wanting.head
		if d.waiting <= d.opening+d.idleSinceUp+len(d.ready) {
			s.wanting.remove(d)
			continue
		}
		// Before any budget: for one that would not connect now nobody makes room.
		if d.holdoff.After(now) || d.failures > 0 && d.opening > 0 {
			s.wanting.rotate() // its probe is among the timers, or under way
			continue
		}
		// At a limit, a session that stands idle at another destination makes
		// room; its Leave brings us back here.
		if s.live+s.opening >= t.Sessions {
			if s.live+s.opening-s.retiring >= t.Sessions {
				q.retireIdle(func(d *destination) bool { return d.site == s })
			}
			break
		}
		if q.overBudget(s) {
			q.waitForSlot(s)
			break
		}
		if q.sessions >= q.o.MaxSessions {
			if q.sessions-q.retiring >= q.o.MaxSessions {
				q.retireIdle(func(*destination) bool { return true })
			}
			q.waitForSlot(s)
			break
		}
		s.wanting.rotate()
		if wait := s.connects.take(now, float64(s.policy.MaxConnectionRate), max(1, float64(s.policy.MaxConnectionRate))); wait > 0 {
			q.lookAgain(s, now.Add(wait), now)
			break
		}
		q.launch(d)
		tries = s.wanting.n + 1 // it may want another one
	}
	q.lookAgain(s, s.control.Next(), now)
}

// launch opens one session.
func (q *Queue) launch(d *destination) {
	s := &Session{dest: d, route: d.route, wake: make(chan wake, 1)}
	d.opening++
	d.site.opening++
	q.sessions++
	if !d.site.reachable {
		q.attempt(s, q.budgetOf(d.site))
	}
	q.o.Launch(s)
}

// retireIdle sends away the session that has been ready longest of those that
// fit, if there is one.
func (q *Queue) retireIdle(fits func(*destination) bool) bool {
	for s, ok := q.idle.first(); ok; s, ok = s.next, s.next != nil {
		if fits(s.dest) {
			q.unready(s)
			q.retire(s)
			s.wake <- wakeRetire
			return true
		}
	}
	return false
}

// paced takes a token for one transaction, or plans a look at the site for when
// there will be one.
func (q *Queue) paced(s *site, t elastic.Target, now time.Time) bool {
	wait := s.pace.take(now, t.Pace, max(1, t.Pace/10))
	if wait > 0 {
		q.lookAgain(s, now.Add(wait), now)
	}
	return wait == 0
}

// lookAgain plans a look at the site, unless an earlier one is planned.
func (q *Queue) lookAgain(s *site, at, now time.Time) {
	if at.IsZero() {
		return
	}
	if soon := now.Add(soonest); at.Before(soon) {
		at = soon // the controller may wait for something that is up to us
	}
	if s.planned.After(now) && !at.Before(s.planned) {
		return
	}
	s.planned = at
	q.schedule(at, s)
}

// soonest keeps looks at one site apart.
const soonest = 5 * time.Millisecond

// fire serves a site whose pace, suspension or controller's state let it go on.
func (s *site) fire(q *Queue, now time.Time) {
	if s.planned.After(now) {
		return // an entry left behind
	}
	s.planned = time.Time{}
	for s.waiting > 0 {
		sess, ok := q.readyWithMail(s)
		if !ok || !q.serveOne(sess.dest, now) {
			break
		}
	}
	q.grow(s, now)
}

// readyWithMail finds a ready session of the site whose destination has mail.
func (q *Queue) readyWithMail(s *site) (*Session, bool) {
	for x, ok := q.idle.first(); ok; x, ok = x.next, x.next != nil {
		if x.dest.site == s && x.dest.waiting > 0 {
			return x, true
		}
	}
	return nil, false
}

// fire probes a destination that was down, or forgets one long unused.
func (d *destination) fire(q *Queue, now time.Time) {
	if d.domains == 0 && d.live == 0 && d.opening == 0 && q.dests[d.route.Key] == d {
		delete(q.dests, d.route.Key)
		if d.site.dests--; d.site.dests == 0 {
			d.site.leaveLine()
			delete(q.sites, d.site.key)
		}
		return
	}
	if d.waiting > 0 {
		d.site.wanting.push(d)
		q.grow(d.site, now)
	}
}

// holdoffs is how long a destination is left alone after its first, second ...
// connect failed in a row; the last one repeats. Its mail waits meanwhile: a
// host that is down gets probes, not its backlog.
var holdoffs = [...]time.Duration{
	5 * time.Second, 15 * time.Second, 45 * time.Second, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute,
}
