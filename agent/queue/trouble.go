package queue

import (
	"slices"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/spool"
)

// A receiver in trouble answers every message with 4xx, at MAIL, RCPT or the final dot, for
// minutes or hours. Its backlog must not spend its tries on that, and wait for hours when
// all is well again. So after a few such answers in a row, with nothing accepted in
// between, the site is suspended but for a probe now and then, each on a connection of its
// own: some receivers take nothing on a client's first one. When one is accepted, what was
// deferred by the trouble is brought forward.
//
// A stream that alone is refused is no trouble of the site: while another one has mail
// that was not refused yet, nothing is suspended. Greylisting is none either: where that is
// not said (outcome.ClassGreylisted), it shows when what was accepted had been tried before
// and all that is new is refused again. At such a site nothing is suspended for a day.
//
// Of several hosts one may be in trouble alone. Elsewhere finds that out first.

// trouble is a site's trouble.
type trouble struct {
	row     int // transactions deferred in a row, with none accepted
	since   time.Time
	streams map[uint32]struct{} // in the row
	fresh   bool                // none of the row had been tried before

	until  time.Time // no transaction before this; zero: the site is not suspended
	probes int       // made
	probe  *Session  // may take mail all the same
	reason string    // of the clamp that shows it

	late    map[uint32][]late // by stream: what was deferred in the row
	lates   int
	ended   time.Time // when mail was accepted again, found to be better off elsewhere, or another stream's came
	revived bool      // that had been tried before

	greylists time.Time // nothing is suspended until then
}

// late is a recipient that was deferred by trouble. Its place may be another's by now.
type late struct {
	r  uint32
	at time.Time // of the try
}

const (
	// troubleRow is how many transactions in a row are trouble. For what reads as too fast
	// there is the pace: it is trouble only when nothing was accepted for troubleLong.
	troubleRow  = 3
	troubleLong = 30 * time.Second
	// troubleStreams is how many streams in a row are all.
	troubleStreams = 3
	maxLate        = 4096
	// bringFor is how long after its end what another stream has deferred is brought forward.
	bringFor = time.Hour
	// greylistAge is how old a try must be so that greylisting lets it in.
	greylistAge  = 5*time.Minute + 30*time.Second
	greylistsFor = 24 * time.Hour
)

// probeWaits are the times until the first probe and between the next ones; the last
// repeats. A probe costs one message a try, and the site's mail waits as long when it is well.
var probeWaits = [...]time.Duration{2 * time.Second, 5 * time.Second, 15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute}

// on says whether a site is suspended for its trouble.
func (t *trouble) on() bool { return t != nil && !t.until.IsZero() }

// troubles is what is known of the site's trouble.
func (s *site) troubles() *trouble {
	if s.trouble == nil {
		s.trouble = new(trouble)
	}
	return s.trouble
}

// withholds says whether a site in trouble gives a session no mail: all but its probe.
func (s *site) withholds(x *Session) bool {
	return s.trouble.on() && (x == nil || x != s.trouble.probe)
}

// mayProbe says whether a probe of a suspended site may be launched now.
func (s *site) mayProbe(now time.Time) bool {
	return s.trouble.probe == nil && !now.Before(s.trouble.until)
}

// judge takes in how a transaction of a session ended.
func (q *Queue) judge(s *Session, done []Settled, sig []elastic.Signal, now time.Time) {
	accepted := slices.ContainsFunc(done, func(x Settled) bool { return x.How == Decided && x.State.Status == spool.Delivered })
	troubled := slices.ContainsFunc(sig, func(x elastic.Signal) bool { return x.Trouble })
	fast := slices.ContainsFunc(sig, tooFast)
	switch {
	case s.dest.route.Handback, s.foreign:
	case accepted:
		q.recovered(s, now)
	case troubled || fast:
		text := ""
		for i := range done {
			if text = done[i].State.Reply; text != "" {
				break
			}
		}
		q.troubled(s, done, text, !troubled, now)
	case len(done) > 0 && s.dest.site.trouble != nil && !s.dest.site.trouble.on():
		s.dest.site.trouble.row = 0 // it has another word for it
	}
}

// troubled notes that all of a transaction was deferred, for what reads as trouble, or as
// too fast.
func (q *Queue) troubled(s *Session, done []Settled, text string, fast bool, now time.Time) {
	stream := s.stream
	site := s.dest.site
	t := site.troubles()
	if now.Before(t.greylists) {
		return
	}
	for i := range done {
		if t.lates < maxLate && done[i].How == Decided {
			if t.late == nil {
				t.late = make(map[uint32][]late)
			}
			t.late[stream] = append(t.late[stream], late{uint32(done[i].Handle), now})
			t.lates++
		}
	}
	if !t.until.IsZero() {
		if s == t.probe {
			site.shut = seconds(now) // as good as a connect that failed
			if len(t.streams) < troubleStreams {
				t.streams[stream] = struct{}{}
			}
			q.suspendFor(site, text, now)
			q.relent(s.dest, now)
		}
		return
	}
	if t.row == 0 {
		t.since, t.streams, t.fresh = now, make(map[uint32]struct{}, troubleStreams), true
	}
	t.row++
	t.fresh = t.fresh && s.before == 0
	if len(t.streams) < troubleStreams {
		t.streams[stream] = struct{}{}
	}
	if t.row < troubleRow || fast && now.Sub(t.since) < troubleLong || t.another(s.dest) {
		return
	}
	if t.fresh && t.revived && now.Sub(t.ended) < bringFor {
		*t = trouble{greylists: now.Add(greylistsFor)}
		return
	}
	t.probes = 0
	q.suspendFor(site, text, now)
	for q.retireIdle(func(x *Session) bool { return x.dest.site == site }) {
	}
}

// another says whether another stream than those of the row has mail waiting.
func (t *trouble) another(d *destination) bool {
	if len(t.streams) >= troubleStreams {
		return false
	}
	f := d.active.head
	for range d.active.n {
		if _, known := t.streams[f.stream]; !known {
			return true
		}
		f = f.next
	}
	return false
}

// relent ends a suspension that is for a few streams alone, once another one has mail: it may
// be taken.
func (q *Queue) relent(d *destination, now time.Time) {
	s := d.site
	if t := s.trouble; t.on() && t.another(d) {
		t.until, t.probe, t.row = time.Time{}, nil, 0
		t.ended, t.revived = now, false
		q.control(s).Lift(now, t.reason)
		q.grow(s, now)
	}
}

// suspendFor suspends a site until its next probe.
func (q *Queue) suspendFor(s *site, text string, now time.Time) {
	t := s.trouble
	t.probe = nil
	t.until = now.Add(probeWaits[min(t.probes, len(probeWaits)-1)])
	t.probes++
	t.reason = "all mail is deferred, which is tried with a message now and then: " + text
	q.control(s).Clamp(now, elastic.Clamp{Until: t.until, Reason: t.reason})
	q.lookAgain(s, t.until, now)
}

// launched makes a session of a suspended site its probe. Every second one takes mail that
// was tried before, if that is long ago: at a receiver that greylists no other is accepted.
func (q *Queue) launched(s *Session, now time.Time) {
	t := s.dest.site.trouble
	if !t.on() {
		return
	}
	t.probe = s
	if t.probes%2 != 0 {
		return
	}
	for stream, list := range t.late {
		for len(list) > 0 && now.Sub(list[0].at) >= greylistAge {
			r := list[0].r
			list = list[1:]
			t.late[stream], t.lates = list, t.lates-1
			if q.advance(s.dest.site, r, stream, true, now, now) {
				return
			}
		}
	}
}

// left notes the end of a session. A probe that told nothing is followed by another one.
func (q *Queue) leftProbe(s *Session, now time.Time) {
	if t := s.dest.site.trouble; t != nil && t.probe == s {
		q.suspendFor(s.dest.site, "no answer yet", now)
	}
}

// recovered notes that mail was accepted.
func (q *Queue) recovered(s *Session, now time.Time) {
	site, stream := s.dest.site, s.stream
	t := site.trouble
	if t == nil {
		return
	}
	t.row = 0
	suspended := !t.until.IsZero()
	if suspended {
		t.until, t.probe, t.revived, t.ended = time.Time{}, nil, s.before > 0, now
		q.control(site).Lift(now, t.reason)
	}
	if t.lates == 0 {
		return
	}
	list := t.late[stream]
	delete(t.late, stream)
	t.lates -= len(list)
	if now.Sub(t.ended) < bringFor {
		for _, x := range list {
			q.advance(site, x.r, stream, false, t.again(x), now)
		}
	}
	if suspended { // of other streams one shows whether they are taken, too
		for other, list := range t.late {
			if len(list) > 0 {
				t.late[other], t.lates = list[1:], t.lates-1
				q.advance(site, list[0].r, other, false, t.again(list[0]), now)
			}
		}
		q.serveChanged(now)
		q.grow(site, now)
	}
}

// again is when a recipient is tried again that was deferred by trouble which is over: at
// once, unless it may have been greylisting.
func (t *trouble) again(x late) time.Time {
	if t.revived {
		return x.at.Add(greylistAge)
	}
	return x.at
}

// advance makes a deferred recipient due by then, if it still is what was noted; first: now,
// before all others of its lane, where it may be again by now.
func (q *Queue) advance(s *site, r, stream uint32, first bool, by, now time.Time) bool {
	rec := q.recipients.at(r)
	if rec.message == 0 || rec.state != inBucket && !(first && rec.state == inLane) {
		return false
	}
	l := *q.laneByNo.at(rec.lane)
	if d := l.domain.dest; d == nil || d.site != s || l.key.stream != stream {
		return false
	}
	if !first && !moment(rec.due).After(by) {
		return false
	}
	h := uint32(q.takeOut(r).Handle)
	rec = q.recipients.at(h)
	rec.due = seconds(later(by, now))
	q.active--
	if first && !q.isPaused(rec) {
		q.pushFront(l, h, rec)
	} else {
		q.put(h, rec, by, now)
	}
	return true
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Elsewhere is asked about a transaction of which all was deferred or lost, for what reads
// as trouble of the host, before it is settled. It says whether another of the
// destination's addresses is to take it, in the same delivery as smtp(8) does it: the
// caller gives the recipients back untried and leaves. closing says that the host has
// said 421, and not why: where others of our slots are held there, and take mail, it is a
// limit.
//
// A host that has taken mail must fail some times in a row; one message does not make all
// others go elsewhere. Of one that has not the first go elsewhere, too, but it is passed by for
// as long as one that fails only when some did (pass).
func (q *Queue) Elsewhere(s *Session, closing bool) bool {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	d := s.dest
	i := d.placeOf(s.slot.Address)
	x := &d.places[i]
	if closing && s.slot.Address.Proven > 0 {
		return false
	}
	x.row++
	if x.took && x.row < troubleRow || !d.anotherThan(i, now) {
		return false
	}
	if x.took {
		x.row = 0
		t := d.site.troubles() // the first ones are deferred: they are as well off there
		t.ended, t.revived = now, false
	}
	s.moves = true
	return true
}

// Second is asked about a session whose host works and has deferred some recipients: it
// gives another of its destination's places, the best of those that are not known to be in
// trouble and have room. A connection there counts as the session's own, which is to end.
func (q *Queue) Second(s *Session) (Place, bool) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	d := s.dest
	if q.overLoan(d.site) {
		return Place{}, false
	}
	own := d.placeOf(s.slot.Address)
	for i := range d.places {
		if p := &d.places[i]; i != own && i < len(s.route.Places) && p.well(now) && p.Held() < p.Room() {
			s.second = true
			return s.route.Places[i], true
		}
	}
	return Place{}, false
}

// anotherThan says whether a connect may go to another address than that of a place, and
// none is known to be in trouble.
func (d *destination) anotherThan(i int, now time.Time) bool {
	for k := range d.places {
		if k != i && d.places[k].well(now) {
			return true
		}
	}
	return false
}

// turnedAway reads a connect that failed without words. A refusal: of one who holds slots there it
// is about their number, of others it is the host's trouble. No answer for long, where sessions are
// up: it is a refusal.
func turnedAway(x *elastic.Signal, s *Session) {
	switch a := s.slot.Address; {
	case x.Kind == elastic.Refused && x.Wordless && a.Held() <= 1:
		x.Kind = elastic.Failed
	case x.Kind == elastic.Failed && s.silent && !s.up:
		x.Kind, x.Text = elastic.Refused, "no answer beside sessions that are up"
	}
}

// MayKeepWaiting is asked about a session whose transaction takes long, from any goroutine:
// not if others wait for its place, be that one of max_sessions or of those for sites that
// have taken no mail yet.
func (q *Queue) MayKeepWaiting(s *Session) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if s.among != nil {
		return s.among.line.n == 0
	}
	return q.sessions < q.o.MaxSessions || q.quick.line.n+q.slow.line.n+q.waitingForSlot.n == 0
}
