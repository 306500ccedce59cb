package queue

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/spool"
)

type wake uint8

const (
	wakeNone wake = iota
	wakeJob
	wakeRetire
	wakeClosed
)

// Opened tells the queue that the connection is up. sig is the evidence from
// connecting: Up, and what failed before it.
func (q *Queue) Opened(s *Session, sig []elastic.Signal) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	d := s.dest
	d.slow = s.hangs
	q.tried(s)
	if d.site.reachable {
		q.attempt(s, nil)
	} // else it keeps its place until the receiver has worked: to answer EHLO costs nothing
	if d.site.live == 0 {
		d.site.answered = seconds(now)
	}
	s.up = true
	s.most, s.turnAt = spread(s.route.Queue.MaxMessagesPerConnection), now
	d.live++
	d.site.live++
	if d.live == 1 {
		q.warm(d)
	}
	d.reason, d.failed = "", 0
	s.idleSinceUp = true
	d.idleSinceUp++
	d.calls = 0
	q.tell(s, sig, false, false, now)
	if d.waiting > d.opening+d.idleSinceUp {
		d.site.wanting.push(d)
	}
	q.grow(d.site, now)
	q.grantSlots(now)
}

// started notes that a session that came up takes mail now, or will not.
func (s *Session) started() {
	if s.idleSinceUp {
		s.idleSinceUp = false
		s.dest.idleSinceUp--
	}
}

// tried notes that the session's connect is no longer under way.
func (q *Queue) tried(s *Session) {
	s.dest.opening--
	s.dest.site.opening--
}

// spread is after how many of so many messages a session ends: those that began together
// shall not end together.
func spread(most int) int { return most - rand.N(max(1, most/4)) }

// tell hands evidence of a session to its site's controller. own says that a message was
// too fast for reasons of its stream, vain that nothing of it was taken.
func (q *Queue) tell(s *Session, sig []elastic.Signal, own, vain bool, now time.Time) {
	site := s.dest.site
	control := q.control(site)
	for _, x := range sig {
		if takesNone(x) {
			site.refused++
		}
		if !s.holds {
			continue // the slot was refused: what comes after tells nothing of it
		}
		given := s.slot.Given
		if s.foreign && takesNone(x) {
			s.holds = false
			control.Foreign(&s.slot, now, x.Text)
			continue
		}
		switch x.Kind {
		case elastic.Up:
			control.CameUp(&s.slot, now)
		case elastic.Accepted:
			if vain {
				control.Vain(&s.slot, now, x.Began)
			} else {
				control.Accepted(&s.slot, now, x.Began)
			}
			if given && !s.slot.Given {
				site.claim = claimsAll
			}
		case elastic.Refused:
			s.holds = false
			if s.onTrial { // beside others of its site that work it is its own affair
				control.Failed(&s.slot, now, false)
				s.slot.Address.Because(x.How, x.Text)
			} else {
				control.Refused(&s.slot, now, x.Text)
				s.claims()
			}
		case elastic.RateRefused:
			if !s.onTrial && !own {
				control.TooFast(&s.slot, now, x.Began, x.Text)
			}
		case elastic.Failed:
			if !s.up && !s.untried {
				s.holds = false
				control.Failed(&s.slot, now, x.Connected)
				s.slot.Address.Because(x.How, x.Text)
			}
		}
	}
}

// Step settles the session's last transaction and returns the next one. With
// no mail to send it waits on the ready list. The error is ErrRetire or
// ErrClosed, after which the caller says QUIT and Leave, or ctx's.
func (q *Queue) Step(ctx context.Context, s *Session, done []Settled, sig []elastic.Signal) (Job, error) {
	now := time.Now()
	q.mu.Lock()
	s.started()
	q.finish(s, done, sig, now)
	site := s.dest.site
	if err := q.dismiss(s, now); err != nil {
		q.retire(s)
		q.mu.Unlock()
		return Job{}, err
	}
	if d := s.dest; d.waiting > 0 && len(d.ready) == 0 && !site.withholds(s) && q.control(site).MayBegin(&s.slot, now) == 0 {
		q.assign(s)
		q.passGates(now)
		q.grow(site, now) // the evidence may have raised what is wanted
		q.mu.Unlock()
		return s.job, nil
	}
	if q.outstays(s, true) {
		q.retire(s)
		q.mu.Unlock()
		return Job{}, ErrRetire
	}
	q.grow(site, now)
	s.dest.ready = append(s.dest.ready, s)
	site.ready++
	q.idle.push(s)
	q.passGates(now)
	if s.on && s.dest.waiting > 0 { // the pace holds it back, or those before it
		q.serveOne(s.dest, now)
	}
	q.mu.Unlock()
	return q.stand(ctx, s)
}

// stand waits on the ready list.
func (q *Queue) stand(ctx context.Context, s *Session) (Job, error) {
	timer := time.NewTimer(q.o.Idle)
	defer timer.Stop()
	for {
		var w wake
		select {
		case w = <-s.wake:
		case <-timer.C:
			if w = q.sitDown(s, false); w == wakeNone {
				timer.Reset(q.o.Idle)
				continue
			}
		case <-ctx.Done():
			if w = q.sitDown(s, true); w == wakeRetire {
				return Job{}, ctx.Err()
			}
		}
		switch w {
		case wakeJob:
			return s.job, nil
		}
		if w == wakeClosed {
			return Job{}, ErrClosed
		}
		return Job{}, ErrRetire
	}
}

// sitDown takes the session off the ready list, unless something was handed to
// it in the same moment: then that counts. A session whose pace alone keeps it
// from its mail stays, unless it must go.
func (q *Queue) sitDown(s *Session, must bool) wake {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !s.on {
		return <-s.wake
	}
	site := s.dest.site
	if !must && s.dest.waiting > 0 && q.control(site).Surplus(time.Now()) <= site.retiring {
		return wakeNone
	}
	q.unready(s)
	q.retire(s)
	return wakeRetire
}

// retire counts a session as going, though its QUIT may take a while: else all
// sessions of a site that has one too many would go.
func (q *Queue) retire(s *Session) {
	s.retiring = true
	s.dest.site.retiring++
	q.retiring++
}

// unready takes a session off the ready list.
func (q *Queue) unready(s *Session) {
	q.idle.remove(s)
	r := s.dest.ready
	for i := len(r) - 1; i >= 0; i-- {
		if r[i] == s {
			s.dest.ready = append(r[:i], r[i+1:]...)
			s.dest.site.ready--
			return
		}
	}
}

// finish applies the outcomes of the session's transaction; what the caller did
// not settle goes back to the head of its lane.
func (q *Queue) finish(s *Session, done []Settled, sig []elastic.Signal, now time.Time) {
	tried, took := false, false
	for i := range sig {
		turnedAway(&sig[i], s)
	}
	s.foreign = s.foreign || slices.ContainsFunc(sig, takesNone) && !slices.ContainsFunc(done, gone) && s.isForeign()
	for _, x := range done {
		q.settle(x, now)
		tried = tried || x.How != Untried && x.How != FromElsewhere
		if gone(x) {
			took = true
			s.dest.site.took, s.dest.site.shut = true, 0
		}
	}
	if tried {
		s.tried++
		s.last = now
		s.dest.site.answered = seconds(now)
		d := s.dest
		if !s.foreign { // nor as soon as it is up: it may take nothing
			d.failures, d.holdoff = 0, time.Time{}
		}
		if p := &d.places[d.placeOf(s.slot.Address)]; p.Address == s.slot.Address && !s.second {
			p.times, p.until = 0, time.Time{}
			p.vain++
			if took {
				p.row, p.took, p.vain = 0, true, 0
			}
			q.estrange(s, p.stranger())
		}
		if took && d.site.streams().took(s.stream, now) {
			q.control(d.site).Unslow(now, "another stream is taken: the pace was lowered for one that is not")
		}
	}
	for i := len(s.job.Items) - 1; i >= 0; i-- {
		if !settled(done, s.job.Items[i].Handle) {
			q.settle(Settled{Handle: s.job.Items[i].Handle, How: Untried}, now)
		}
	}
	if s.permit != nil && s.permit.budgets != nil {
		s.permit.unwarm(untried(s.job.Items, done))
	}
	if s.permit != nil && s.permit.n > 0 {
		accepted := 0
		for _, x := range done {
			if x.State.Status == spool.Delivered {
				accepted++
			}
		}
		q.giveBack(s.gate, s.permit, min(len(s.job.Items), s.permit.n)-accepted, now)
	}
	s.permit, s.gate = nil, nil
	s.job, s.second = Job{}, false
	site := s.dest.site
	own := false
	if !s.foreign && slices.ContainsFunc(sig, tooFast) {
		if own = site.streams().ownAffair(s.stream, now); !own {
			site.streams().told(s.stream)
		}
	}
	q.tell(s, sig, own, tried && !took, now)
	q.judge(s, done, sig, now)
	q.serveChanged(now)
	if !s.foreign && slices.ContainsFunc(sig, worked) {
		s.endTrial()
		s.dest.proven = true
		q.attempt(s, nil)
		if !site.reachable {
			site.reachable = true
			q.grow(site, now)
			q.grantSlots(now)
		}
	}
}

// worked says whether a receiver dealt with a transaction, whatever its answer was.
func worked(x elastic.Signal) bool {
	return x.Kind == elastic.Accepted || takesNone(x)
}

func refused(x elastic.Signal) bool { return x.Kind == elastic.Refused }

func tooFast(x elastic.Signal) bool { return x.Kind == elastic.RateRefused }

func takesNone(x elastic.Signal) bool { return refused(x) || tooFast(x) }

// gone says whether the receiver, or the host, has the mail of a recipient now.
func gone(x Settled) bool {
	return x.State.Status == spool.Delivered || x.State.Status == spool.HandedBack
}

func settled(done []Settled, h Handle) bool {
	for i := range done {
		if done[i].Handle == h {
			return true
		}
	}
	return false
}

// dismiss says whether the session must go.
func (q *Queue) dismiss(s *Session, now time.Time) error {
	if q.closed {
		return ErrClosed
	}
	d := s.dest
	if most := d.allowance.most(now); s.jobs >= min(s.most, d.route.Queue.MaxMessagesPerConnection) ||
		s.messages > 0 && s.jobs >= s.messages || most > 0 && s.jobs >= most {
		return ErrRetire
	}
	if !s.holds || q.control(d.site).Surplus(now) > d.site.retiring || d.site.withholds(s) || q.outstays(s, d.waiting == 0) || d.site.overTotal() || q.overLoan(d.site) {
		return ErrRetire
	}
	if turn := s.hadTurn(now); d.waiting > 0 && !turn {
		return nil
	}
	// Others wait for room: give it up when idle, or after a fair turn.
	if s.successor = q.heirOfTotal(s); s.successor != nil {
		s.successor.incoming++
		return ErrRetire
	}
	if s.successor = q.heirAt(s, d.site.held(), now); s.successor != nil {
		q.leaveCrowd(s.successor)
		s.successor.incoming++
		return ErrRetire
	}
	if d.site.wanting.n > 0 && d.site.retiring == 0 && (q.control(d.site).Full() || q.lentOut(d.site)) && q.hungryElsewhere(d, now) {
		return ErrRetire
	}
	if q.sessions >= q.o.MaxSessions {
		if s.successor = q.neediest(d.site.held()); s.successor != nil {
			s.successor.incoming++
			return ErrRetire
		}
	}
	return nil
}

// held is how many sessions the site has, and will have when those of other sites
// have gone that were told to go for it.
func (s *site) held() int { return s.live - s.retiring + s.opening + s.incoming }

// neediest finds a starved site that has fewer sessions than one that holds so many,
// even after a session has passed from this to that (max-min fairness: what some do
// not want the others get in equal parts). A site that has none is neediest than one
// that has one: where there are more sites than sessions they take turns, who has
// waited longest first. It looks at a few, and turns the ring, so that all are seen
// in some calls.
func (q *Queue) neediest(than int) (least *site) {
	if s := q.nextUnproven(); s != nil {
		return s
	}
	for range min(q.waitingForSlot.n, 16) {
		s := q.waitingForSlot.head
		n := s.held()
		if n == 0 {
			return s
		}
		if n+1 < than && (least == nil || n < least.held()) {
			least = s
		}
		q.waitingForSlot.rotate()
	}
	return least
}

// turn is how many transactions a session sends before it makes room for a
// destination that has none.
const turn = 20

// hungryElsewhere reports whether another destination of the site waits for its
// first session, and may have one now.
func (q *Queue) hungryElsewhere(d *destination, now time.Time) bool {
	x, ok := d.site.wanting.first()
	if !ok || x == d || x.live+x.opening > 0 || x.holdoff.After(now) {
		return false
	}
	return !q.onTrial(x) || d.site.trying < q.trials(d.site)
}

// Leave ends a session: it could not connect, its connection is gone, or it was
// told to retire. done and sig are what Step would have taken; why says why a
// session that never came up did not, or why its connection is gone.
//
// One that came up, was given mail and is gone before any of it was tried is as good as a
// connect that failed: else who closes behind his EHLO is called again at once, for ever,
// and no mail to him expires.
func (q *Queue) Leave(s *Session, done []Settled, sig []elastic.Signal, why string) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	d := s.dest
	s.started()
	q.finish(s, done, sig, now)
	q.sessions--
	ours := s.retiring
	if ours {
		d.site.retiring--
		q.retiring--
	}
	heir := s.successor
	if heir != nil {
		heir.incoming--
	}
	q.attempt(s, nil)
	s.endTrial()
	if s.up {
		d.live--
		d.site.live--
		if d.live == 0 {
			q.warm(d)
		}
		if n := len(sig); n > 0 && sig[n-1].Kind == elastic.Closed && !ours && now.Sub(s.last) < allowanceNear {
			if d.allowance == nil {
				d.allowance = new(allowance)
			}
			d.allowance.closed(now, s.tried)
		}
	} else {
		q.tried(s)
	}
	q.farewell(s, now)
	if p := &d.places[d.placeOf(s.slot.Address)]; p.Address == s.slot.Address && p.open > 0 {
		p.open--
	}
	if s.holds {
		s.holds = false
		if s.up {
			q.control(d.site).Ended(&s.slot, now)
			q.pass(s, now)
		} else {
			q.control(d.site).Void(&s.slot, now)
			if !s.untried {
				d.pass(s, now)
			}
		}
	} else if s.up && !ours && !s.stalls {
		ours = true // it was one too many: a word about our number, not a failure
	}
	q.leftProbe(s, now)
	if s.moves {
		if n := len(sig); n > 0 {
			s.slot.Address.Reply = sig[n-1].Text
		}
		if s.tried > 0 {
			d.pass(s, now)
		}
	}
	if !s.up || s.foreign || s.jobs > 0 && s.tried == 0 && !ours {
		if s.up && !s.foreign {
			d.pass(s, now)
		}
		refused := s.foreign || len(sig) > 0 && refused(sig[len(sig)-1])
		if d.live == 0 {
			d.how = failedHow(s, sig)
		}
		q.failedConnect(d, why, refused && !s.onTrial, now)
		// One too many beside others of ours: that is our doing.
		if d.live == 0 && !s.untried && !(refused && !s.foreign && d.site.live > 0) {
			d.failed = seconds(now)
		}
	}
	if q.closed {
		if q.sessions == 0 {
			close(q.drained)
		}
		return
	}
	if d.domains == 0 && d.live+d.opening == 0 {
		q.schedule(now.Add(forget), d)
	}
	// First the one that it went for, or one that has less; then the site itself.
	if heir == nil && s.up {
		heir = q.heirAt(s, d.site.held()+1, now)
	}
	if heir == nil {
		heir = q.neediest(d.site.held() + 1)
	}
	if heir != nil {
		heir.leaveLine()
		q.grow(heir, now)
	}
	q.serveOne(d, now)
	q.passGates(now)
	q.grow(d.site, now)
	q.freed(s.slot.Address, now)
	q.roomInTotal(d.site, now)
	q.roomInLoan(d.site, now)
	q.grantSlots(now)
}

// allowance is how many messages a receiver takes on one connection, learned from
// where it closes them.
type allowance struct {
	n     int  // messages before the last close
	again bool // the one before that was after as many
	until time.Time
}

const (
	// allowanceNear: a close later than that after a message is for idleness.
	allowanceNear = 2 * time.Second
	// allowanceFor is how long what was learned is held, then it is tried again.
	allowanceFor = time.Hour
)

// closed notes that the peer closed a session after n messages.
func (a *allowance) closed(now time.Time, n int) {
	a.again = n > 0 && a.n == n
	a.n, a.until = n, now.Add(allowanceFor)
}

// most is the limit, 0 if none is known: two closes at the same place are one.
func (a *allowance) most(now time.Time) int {
	if a == nil || !a.again || now.After(a.until) {
		return 0
	}
	return a.n
}

// failedHow says how a connect failed, or a session that took nothing, as elastic.Signal has it.
func failedHow(s *Session, sig []elastic.Signal) string {
	switch n := len(sig); {
	case s.up:
		return "ended the session before any mail"
	case n == 0: // for want of TLS, say
		return "no session came up"
	default:
		return sig[n-1].How
	}
}

// failedConnect notes that a connect failed. With others up, the destination is left alone
// for a moment. With none up, the next of its addresses is called at once, and when there
// is no other, it is held off: longer each time. When the next connect may be made after a
// refusal is up to the controller.
func (q *Queue) failedConnect(d *destination, why string, refused bool, now time.Time) {
	wait := time.Second
	if d.live == 0 {
		d.proven = false
		d.reason = why
		d.site.reachable = d.site.reachable && d.site.live > 0
		if d.calls++; !refused && d.calls < MaxCalls && d.another(now) {
			return
		}
		d.calls = 0
		if refused {
			return
		}
		if !d.holdoff.After(now) { // several connects failing together count once
			d.failures++
		}
		wait = holdoffs[min(max(int(d.failures), 1), len(holdoffs))-1]
	}
	if until := now.Add(wait); !refused && until.After(d.holdoff) {
		d.holdoff = until
		q.schedule(until, d)
	}
	if d.live == 0 {
		q.revokeAll(d, now)
	}
}
