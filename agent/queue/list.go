package queue

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/spool"
)

// Entry is one waiting recipient, as listings show it.
type Entry struct {
	Handle  Handle // for Take
	ID      spool.ID
	Ordinal uint32
	Born    time.Time
	Size    int64
	Stream  string
	Domain  string // RelayDomain's form for mail to a relay
	Queue   string // "" while the domain has no route
	Site    string
	// State is "active"; else "held", on hold or paused; else "stuck", if the
	// host refused it; else "waiting" or "deferred".
	State   string
	Due     time.Time // of a deferred one, whatever its state
	Tries   int
	Reason  string // why it is not delivered yet; "" if it was not tried
	Pending int    // recipients of the message that are not done
	OnHold  bool   // until it is settled with Release
	Paused  bool   // its message is, see Queue.Pause
}

// List calls yield with every recipient that is not done, some thousand under
// the mutex at a time, so that a listing of millions does not hold up the
// sessions. What changes meanwhile is listed in its old or its new state.
func (q *Queue) List(yield func([]Entry) bool) {
	var page []Entry
	q.each(func(r uint32, rec *recipient) { page = append(page, q.entry(r, rec)) }, func() bool {
		more := len(page) == 0 || yield(page)
		page = page[:0]
		return more
	})
}

// each visits every recipient that is not done, a chunk of the slab under the mutex at a
// time; after each chunk, without the mutex, more says whether to go on.
func (q *Queue) each(visit func(r uint32, rec *recipient), more func() bool) {
	for chunk := 0; ; chunk++ {
		q.mu.Lock()
		if chunk >= len(q.recipients.chunks) {
			q.mu.Unlock()
			return
		}
		for i := range q.recipients.chunks[chunk] {
			if rec := &q.recipients.chunks[chunk][i]; rec.message != 0 {
				visit(uint32(chunk<<chunkBits|i), rec)
			}
		}
		q.mu.Unlock()
		if !more() {
			return
		}
	}
}

func (q *Queue) entry(r uint32, rec *recipient) Entry {
	m := q.messages.at(rec.message)
	l := *q.laneByNo.at(rec.lane)
	e := Entry{
		Handle: Handle(r), ID: m.id, Ordinal: rec.ordinal, Born: moment(m.born), Size: int64(m.size),
		Stream: q.streams.text(uint32(m.stream)), Domain: l.domain.domain(),
		Tries: int(rec.tries), Reason: q.reasons.text(rec.reason), Pending: int(m.pending), Paused: m.paused,
	}
	d := l.domain.dest
	if d != nil {
		e.Queue, e.Site = d.route.Queue.Name, d.site.key
	}
	switch rec.state {
	case taken:
		e.State = "active"
	case inBucket:
		e.State, e.Due = "deferred", moment(rec.due)
	case inLane:
		e.State = "waiting"
		if d == nil {
			e.Reason = l.domain.reason
		} else if d.reason != "" {
			e.Reason = d.reason
		} else if f := l.flow; f != nil && f.gate != nil {
			if why := f.gate.waitsFor(time.Now()); why != "" {
				e.Reason = why
			}
		}
	case onHold:
		e.State, e.OnHold = "held", true
	case parked:
		e.State = "held"
	}
	if rec.stuck && (rec.state == inLane || rec.state == inBucket) {
		e.State = "stuck"
	}
	if b := q.pauseOf(l); b != nil && rec.state != taken {
		e.State, e.Reason = "held", b.Reason
	}
	return e
}

// Shared reports whether the entry's stream is one past the limit of distinct ones:
// then Stream is the name that several share, and the envelope has its own.
func (e *Entry) Shared() bool { return strings.HasPrefix(e.Stream, sharedPrefix) }

// Counts returns how many recipients wait in lanes or are expected, are deferred, and are
// taken by sessions, and how many sessions there are.
func (q *Queue) Counts() (waiting, deferred, active, sessions int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting + len(q.expected), q.deferred, q.active, q.sessions
}

// Stuck returns how many recipients the hand-back relay refused for good, so that
// an admin must look at them.
func (q *Queue) Stuck() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stuck
}

// Reason says why mail for a domain waits: there is no route to it, or no session. It
// is "" if neither is known to be so.
func (q *Queue) Reason(name string) string {
	q.mu.Lock()
	defer q.mu.Unlock()
	reason := ""
	q.eachFrom(name, func(d *domain) {
		switch {
		case reason != "":
		case d.dest == nil:
			reason = d.reason
		default:
			reason = d.dest.reason
		}
	})
	return reason
}

// HasSite says whether a site of the name is known.
func (q *Queue) HasSite(name string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.sites[name] != nil
}

// SitesOf are the sites at which mail for a domain waits or is tried, by name: one, unless it
// leaves from several addresses.
func (q *Queue) SitesOf(name string) (list []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.eachFrom(name, func(d *domain) {
		if d.dest != nil && !slices.Contains(list, d.dest.site.key) {
			list = append(list, d.dest.site.key)
		}
	})
	slices.Sort(list)
	return list
}

// SitesAt are the sites that have an address of a host, of whatever preference, at a port, or at any
// for 0, by name.
func (q *Queue) SitesAt(host netip.AddrPort) []string {
	if !host.IsValid() {
		return nil // as that of a socket is
	}
	seen := make(map[string]bool)
	walk(q, &q.destByNo, func(d *destination) {
		for i := range d.places {
			x := d.places[i].Key.Host
			if x.Addr().Unmap() == host.Addr() && (host.Port() == 0 || host.Port() == x.Port()) {
				seen[d.site.key] = true
			}
		}
	}, always)
	return slices.Sorted(maps.Keys(seen))
}

// SitesOn are the sites that have a host of a name, of whatever preference, by name. Domains that
// share their sessions may call it otherwise: SitesAt its addresses has those, too.
func (q *Queue) SitesOn(host string) []string {
	seen := make(map[string]bool)
	walk(q, &q.destByNo, func(d *destination) {
		if p := d.route.Plan; p != nil && slices.ContainsFunc(p.Hosts, func(h route.Host) bool { return h.Name == host }) {
			seen[d.site.key] = true
		}
	}, always)
	return slices.Sorted(maps.Keys(seen))
}

// DomainsAt calls yield with the domains that have mail that waits or is tried at sites, once for
// each of our addresses that it leaves from. yield has the mutex held.
func (q *Queue) DomainsAt(sites []string, yield func(domain string)) {
	walk(q, &q.domainByNo, func(d *domain) {
		if d.dest != nil && slices.Contains(sites, d.dest.site.key) {
			yield(d.domain())
		}
	}, always)
}

// AtHost returns how many recipients wait for the hand-back relay, of domains too
// whose route it is, and how many more are in a transaction there or deferred.
func (q *Queue) AtHost() (waiting, others int) {
	walk(q, &q.domainByNo, func(d *domain) {
		if d.name != q.o.Relay && (d.dest == nil || d.dest.site.key != q.o.Relay) {
			return
		}
		for _, l := range d.lanes {
			waiting += l.n
			others += l.refs - l.n
		}
	}, always)
	return waiting, others
}

// Waiting returns how many recipients wait at a site.
func (q *Queue) Waiting(site string) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if s := q.sites[site]; s != nil {
		return s.waiting
	}
	return 0
}

// MaxSessions returns the bound of the sessions of all sites together.
func (q *Queue) MaxSessions() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.o.MaxSessions
}

// Held returns how many recipients are on hold or paused.
func (q *Queue) Held() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.held
}
