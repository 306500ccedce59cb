package queue

import (
	"net/netip"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/slots"
)

// Route is where a domain's mail goes: the answer to Options.Resolve. Domains
// with the same Key share a destination, destinations with the same Site their
// limits; Key and Site must differ between sources and TLS policies.
type Route struct {
	Queue     *config.Queue // policy
	Site      string        // key and display name of the site
	Key       string        // key of the destination
	Plan      *route.Plan   // hosts, for an MX route
	Relay     string        // "host:port" or "unix:/path", for a relay
	Handback  bool          // the relay is the host MTA: mail accepted there is handed back
	Simulated bool          // the receiver is that of [simulate], inside the agent
	Places    []Place       // where a connection may go, the best tier first; none: the relay's socket, or nowhere at present
	Sources   []netip.Addr  // where connections come from, one of a family at most, the favoured first; an address of no such family: the kernel's choice
	Receiver  string        // name of the site without its source, which it shares with those of other sources; "": there are none
	Warmup    *Warmup       // of the sources; nil: all are warm
	From      string        // what mail with this route leaves from, for the journal; "": the choice is not kept
	Expires   time.Time     // ask again then; zero: never
}

// Source is where a connection to an address comes from; the zero address: the kernel
// chooses.
func (r *Route) Source(to netip.Addr) netip.Addr {
	for _, a := range r.Sources {
		if a.Is4() == to.Is4() {
			return a
		}
	}
	return netip.Addr{}
}

// Place is an address that connections may go to, and where they come from. Those of a
// higher tier are for when all of the lower ones are down: worse MX preferences, and of
// a host the later protocols.
type Place struct {
	Addr   netip.AddrPort // the zero value: there is no address, as of a socket
	Source netip.Addr     // the zero value: the kernel's choice
	Tier   int
}

// site is the unit of limits.
type site struct {
	linked[*site]              // on line
	line          *ring[*site] // where the site waits to open a session; nil: nowhere
	key           string
	controller    *elastic.Site // nil: nothing is known of it; see control
	policy        *config.Queue
	wanting       ring[*destination] // with mail waiting and wanting a session
	waiting       int                // of mail behind a gate, the permits
	gated         int                // recipients behind gates, with permits or without
	permits       int
	live          int
	opening       int
	trying        int // sessions to destinations that have taken nothing yet, see trials
	retiring      int // of live, told to go and not yet gone
	incoming      int // sessions of other sites that were told to go in its favour, not yet gone
	dests         int32
	refused       int32  // signals that it was one session too many, or too fast; for listings alone
	no            uint32 // in Queue.siteByNo
	answered      uint32 // unix seconds: a transaction was tried, or the first session came up; zero: neither yet
	shut          uint32 // unix seconds: when it was last clamped again to no session, having taken nothing; zero: it may have mail
	ready         uint16 // of live, the sessions on ready lists
	suspended     bool   // has been clamped to no session
	took          bool   // has taken a message since
	reachable     bool   // it has worked since the last connect that failed with none up
	stranger      bool   // it is one where it waits in a crowd
	claim         claim  // of slots that other sources hold

	receiver *receiverSites // nil: there is one source alone
	loan     *loan          // nil: its limits are this node's own
	trouble  *trouble       // nil: there was none yet
	rates    *streamRates   // nil: no stream was accepted or refused lately
	connects *tokens        // for new connections; nil: their rate has no limit

	paced   []*destination // with mail and sessions ready, which the pace holds back
	crowd   *slots.Address // where it waits for a slot that another site holds; nil: nowhere
	planned time.Time      // when a timer will next look at the site
}

// tokens is a bucket that fills at a rate; what it holds may go at once.
type tokens struct {
	n      float64
	filled time.Time
}

// wait says how long it is until there is a token. A rate of 0 has no limit.
func (t *tokens) wait(now time.Time, rate, burst float64) time.Duration {
	if rate <= 0 {
		t.n, t.filled = 1, now
		return 0
	}
	t.n = min(burst, t.n+now.Sub(t.filled).Seconds()*rate)
	t.filled = now
	if t.n < 1 {
		return 1 + time.Duration((1-t.n)/rate*float64(time.Second)) // not a fraction too early, again and again
	}
	return 0
}

// take takes a token; wait said that there is one.
func (t *tokens) take() { t.n-- }

// connectWait says how long it is until the site's queue lets it make another connection, of whose
// rate this node has a part.
func (s *site) connectWait(now time.Time, part float64) time.Duration {
	rate := part * float64(s.policy.MaxConnectionRate)
	if rate == 0 {
		s.connects = nil
		return 0
	}
	if s.connects == nil {
		s.connects = &tokens{filled: now}
	}
	return s.connects.wait(now, rate, max(1, rate))
}

func (s *site) link() *linked[*site] { return &s.linked }

// destination is the unit of connections.
type destination struct {
	linked[*destination]        // on site.hungry
	route                *Route // replaced, never changed: sessions read it unlocked
	site                 *site
	flows                []*flow     // by the numbers of their streams
	active               ring[*flow] // streams with mail waiting
	ready                []*Session  // the ready list; the last one was used last
	waiting              int
	live, opening        int
	idleSinceUp          int // of live, those that have not asked for work yet

	places    []placeState // of its route, or one for a socket
	allowance *allowance   // messages on one connection; nil: the receiver has ended none

	domains  int32
	calls    int32     // connects failed in this round, each at another address
	failures int32     // connects failed in a row, with none up; those count too of whose session no mail was tried
	no       uint32    // in Queue.destByNo
	failed   uint32    // unix seconds: when the last connect failed; zero when one is up
	proven   bool      // it has dealt with a transaction since its last connect that failed with none up
	slow     bool      // its last connect hung, with nothing of its site up
	paced    bool      // it is on site.paced
	holdoff  time.Time // no connect before this
	reason   string    // why the last connect failed; "" when one is up
	how      string    // the same in words of ours alone, as elastic.Signal has it
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
	if q.outdated(d) {
		return
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
	if d == nil || q.outdated(d) {
		return
	}
	d.resolving, d.reason, d.expires = false, reason, retry
	if !failed.IsZero() {
		d.failed = seconds(failed)
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
	q.o.MaxSessions = maxSessions
	q.mu.Unlock()
	q.RerouteAll()
}

// Asking says that the search for an answer to Options.Resolve begins now: what changed before
// is in it.
func (q *Queue) Asking(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if d := q.domains[name]; d != nil {
		d.outdated = false
	}
}

// RerouteAll asks for all routes again, as what they leave from may be another. An answer that
// has been searched for since before (Asking) may be of before: it is not used, and asked for
// once more.
func (q *Queue) RerouteAll() {
	walk(q, &q.domainByNo, func(d *domain) {
		d.outdated = d.resolving
		q.resolve(d)
	}, always)
}

// outdated asks for a domain's route once more if RerouteAll came between the beginning of the
// search and its answer.
func (q *Queue) outdated(d *domain) bool {
	if !d.outdated {
		return false
	}
	d.outdated, d.resolving = false, false
	q.resolve(d)
	return true
}

// destination returns the destination of a route, with the route's latest hosts and
// policy.
func (q *Queue) destination(w Route, now time.Time) *destination {
	d := q.dests[w.Key]
	if d == nil {
		s := q.sites[w.Site]
		if s == nil {
			s = &site{key: w.Site, policy: w.Queue}
			q.recall(s, now)
			q.sites[w.Site] = s
			s.no = q.siteByNo.add(s)
		}
		s.dests++
		d = &destination{site: s}
		q.dests[w.Key] = d
		d.no = q.destByNo.add(d)
	}
	q.aim(d, &w, now)
	old := d.route
	d.route = &w
	if old != nil && old.Warmup.key() != w.Warmup.key() {
		for _, f := range d.flows {
			q.regate(f)
		}
	} else if w.Warmup != nil {
		for _, f := range d.flows {
			if f.gate != nil {
				f.gate.warmup = w.Warmup // of the settings in force
			}
		}
	}
	if s := d.site; s.receiver.called() != w.Receiver { // there are several sources since, or no more
		q.part(s)
		q.join(s, w.Receiver)
	}
	if s := d.site; s.policy != w.Queue {
		s.policy = w.Queue
		if s.controller != nil {
			s.controller.SetLimits(now, q.limitsOf(s.key, w.Queue))
		}
	}
	q.borrow(d.site, q.sharedBy(&w))
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
	q.control(s).Clamp(now, cl)
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
		s.shut = seconds(now)
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
		q.control(s).Slow(now, until, reason)
	}
	return s != nil
}

// HostMail tells of recipients in a domain to whom the host MTA itself sends: the
// site leaves it the connections for that.
func (q *Queue) HostMail(name string, recipients int) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.eachFrom(name, func(d *domain) {
		if d.dest != nil {
			q.control(d.dest.site).HostMail(now, recipients)
		}
	})
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

// forget is how long an unused destination is kept. What was learned of its site is kept
// beyond it (Queue.preserve).
const forget = time.Hour

// moveWaiting counts mail in and out of a destination.
func (q *Queue) moveWaiting(d *destination, n int) {
	d.waiting += n
	d.site.waiting += n
	if d.waiting == 0 {
		d.site.wanting.remove(d)
		if d.site.wanting.n == 0 {
			d.site.leaveLine()
			q.leaveCrowd(d.site)
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
	q.passGates(now)
}

// serveOne hands one transaction to a ready session, or wants a new one. It
// reports whether a transaction was handed over.
func (q *Queue) serveOne(d *destination, now time.Time) bool {
	if d.waiting == 0 {
		return false
	}
	q.relent(d, now)
	if d.site.loan != nil {
		q.repay(d.site.loan)
	}
	if len(d.ready) > 0 {
		if d.site.withholds(d.ready[len(d.ready)-1]) {
			return false
		}
		s, wait := q.inTurn(d, now)
		if s == nil {
			q.hold(d, now.Add(wait), now)
			return false
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
	q.passGates(now)
}

// lookAgain plans a look at the site, unless an earlier one is planned.
func (q *Queue) lookAgain(s *site, at, now time.Time) {
	if !at.After(now) {
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
	q.servePaced(s, now)
	q.grow(s, now)
}

// fire probes a destination that was down, or forgets one long unused.
func (d *destination) fire(q *Queue, now time.Time) {
	if d.domains == 0 && d.live == 0 && d.opening == 0 && q.dests[d.route.Key] == d {
		delete(q.dests, d.route.Key)
		q.destByNo.free(d.no)
		q.aim(d, &Route{}, now)
		if d.site.dests--; d.site.dests == 0 {
			d.site.leaveLine()
			q.leaveCrowd(d.site)
			q.preserve(d.site, now)
			delete(q.sites, d.site.key)
			q.part(d.site)
			q.borrow(d.site, "")
			q.siteByNo.free(d.site.no)
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
