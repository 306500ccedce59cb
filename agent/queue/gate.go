package queue

import (
	"time"

	"github.com/millrace/millrace/agent/quotas"
)

// A [[stream]] bounds the mail of its streams: so many messages per time, so many recipients in
// an hour and a day, and when. Such mail passes a gate. What is behind it is in its lanes, in
// order, but is no reason for a session and is not among what a session may take, so it holds
// nobody up and costs the others nothing. The gate gives permits: one is good for one
// transaction of a flow (a stream's part of a destination), and counts as one recipient that waits
// there. It takes a token of the rate and, of each quota, as many recipients as the
// message at the head has; what these do not accept in the end goes back to the quotas. Flows
// take turns, by two lines: those whose destination has a session up get three permits of
// four, since nobody knows of the others whether they will ever use one. A flow has a permit more
// than its destination has sessions at most, so that sessions grow by doubling, and none that
// cannot be used now: where a connect fails, or nobody has used it for a while, it is taken
// back.
//
// What goes to the host MTA passes no gate: it has left its stream.

// gate is where flows wait for a permit.
type gate struct {
	linked[*gate]
	of       *limited
	counters []*quotas.Counter
	warmup   *Warmup        // nil: the addresses are warm
	cold     ring[*sleeper] // whose destinations have no session up
	warm     ring[*sleeper]
	mail     int       // recipients behind it, with permits or without
	until    time.Time // a quota is used up; zero: none is
	since    time.Time // when that was found

	forWarmup bool // it is the budget of an address that is used up
}

// shut says whether mail behind a gate waits for a window or a quota; none has any.
func (g *gate) shut(now time.Time) bool {
	return g != nil && (g.until.After(now) || !g.of.Window.Open(now))
}

// asleep is how many flows wait.
func (g *gate) asleep() int { return g.cold.n + g.warm.n }

// line is where a flow waits.
func (g *gate) line(f *flow) *ring[*sleeper] {
	if f.warm {
		return &g.warm
	}
	return &g.cold
}

func (g *gate) link() *linked[*gate] { return &g.linked }

// sleeper is a flow behind a gate.
type sleeper struct {
	linked[*sleeper]
	flow *flow
}

func (s *sleeper) link() *linked[*sleeper] { return &s.linked }

// permit is good for one transaction.
type permit struct {
	since time.Time
	n     int // recipients, if there are counters
	taken []quotas.Taken

	fresh   int // of them, those that are tried for the first time, if there are budgets
	budgets []Budget
	shares  []quotas.Taken // of each
}

const (
	// permitFor is how long a permit may be unused where no session is up.
	permitFor = 30 * time.Second
	// gateLooks bounds how many flows behind a gate are looked at for one permit; where none of
	// them can use one, the next are looked at after gateRest.
	gateLooks = 64
	gateRest  = 250 * time.Millisecond
	// coldTurn is the turn of those that have no session up: one of so many.
	coldTurn = 4
	// lookEvery is the longest time between two looks at a window or a quota: the host's clock
	// may be set, and that moves what goes by the clock on a wall.
	lookEvery = time.Minute
)

// setGate puts a flow without mail behind its gate, if it has one.
func (q *Queue) setGate(f *flow) {
	f.gate, f.priority, f.out = nil, 0, false
	l := q.limitsFor(f.stream)
	if l != nil {
		f.priority = l.Priority
	}
	if f.dest.route.Relay != "" && f.dest.route.Handback {
		return
	}
	w := f.dest.route.Warmup
	if l == nil || !l.bounds() {
		if w == nil {
			return
		}
		l = q.coldGates
	}
	var k gateKey
	if w != nil {
		k.warmup = w.Key
	}
	own := l.ByQueue[f.dest.route.Queue.Name]
	if own != nil {
		k.queue = f.dest.route.Queue.Name
	}
	f.gate = l.gates[k]
	if f.gate == nil {
		f.gate = &gate{of: l, counters: append(append([]*quotas.Counter(nil), l.Quotas...), own...)}
		l.gates[k] = f.gate
	}
	f.gate.warmup = w
}

// regate brings a flow behind another gate, or before it.
func (q *Queue) regate(f *flow) {
	n := f.mail
	q.offer(f, -n)
	f.dest.active.remove(f)
	q.setGate(f)
	q.offer(f, n)
	if f.gate == nil && f.lanes.n > 0 {
		f.dest.active.push(f)
	}
}

// offer counts mail of a flow in and out, and has it wait at its gate, if there is one. What the
// gate gives comes with the next turn of passGates: recipients of a message come one by
// one, and go together.
func (q *Queue) offer(f *flow, n int) {
	f.mail += n
	if f.gate == nil {
		q.moveWaiting(f.dest, n)
		return
	}
	f.gate.mail += n
	f.dest.site.gated += n
	for len(f.permits) > f.mail {
		q.revoke(f, time.Now())
	}
	if f.mail == 0 {
		q.wakeUp(f)
	} else if n > 0 {
		q.sleep(f)
	}
}

// served says whether a flow is one of those that sessions take mail of.
func (f *flow) served() bool { return f.gate == nil || len(f.permits) > 0 }

// sleep has a flow wait for a permit.
func (q *Queue) sleep(f *flow) {
	if f.mail <= len(f.permits) {
		return
	}
	l := f.gate.of
	if !f.sleeper.on {
		f.sleeper.flow, f.warm = f, f.dest.live > 0
		f.gate.line(f).push(&f.sleeper)
	}
	if f.gate.until.IsZero() {
		l.open.push(f.gate)
	}
	if l.again = true; !l.granted {
		q.knocking = append(q.knocking, l)
	}
}

// passGates gives what may be given since flows came to gates.
func (q *Queue) passGates(now time.Time) {
	for n := len(q.knocking); n > 0; n = len(q.knocking) {
		l := q.knocking[n-1]
		q.knocking = q.knocking[:n-1]
		if l.again {
			q.grant(l, now)
		}
	}
}

func (q *Queue) wakeUp(f *flow) {
	g := f.gate
	g.line(f).remove(&f.sleeper)
	if g.asleep() == 0 {
		g.of.open.remove(g)
	}
}

// warm has the flows of a destination wait in the line that they belong in, when its first
// session has come up or the last one has gone.
func (q *Queue) warm(d *destination) {
	if len(q.limited) == 0 && d.route.Warmup == nil {
		return
	}
	for _, f := range d.flows {
		if f.gate != nil && f.sleeper.on && f.warm != (d.live > 0) {
			f.gate.line(f).remove(&f.sleeper)
			f.warm = d.live > 0
			f.gate.line(f).push(&f.sleeper)
		}
	}
}

// grant gives permits for as long as there is something to give.
func (q *Queue) grant(l *limited, now time.Time) {
	if l.granted {
		l.again = true
		return
	}
	l.granted, l.left = true, 0
	defer func() { l.granted = false }()
	for l.again = true; l.again; {
		l.again = false
		for q.grantOne(l, now) {
		}
	}
}

// grantOne gives a permit to the flow whose turn it is.
func (q *Queue) grantOne(l *limited, now time.Time) bool {
	if q.closed || l.open.n == 0 {
		return false
	}
	if !l.Window.Zero() {
		next := l.Window.Next(now)
		if !l.Window.Open(now) {
			q.lookAtStream(l, next, now)
			return false
		}
		if !next.Equal(l.closes) { // then what was permitted and not used by that time goes back
			l.closes = next
			q.schedule(next, l)
		}
	}
	rate, none := q.rateOf(l)
	if none {
		q.lookAtStream(l, now.Add(time.Second), now)
		return false
	}
	if wait := l.tokens.wait(now, rate, max(1, rate)); wait > 0 {
		q.lookAtStream(l, now.Add(wait), now)
		return false
	}
	first := l.turn%coldTurn == coldTurn-1
	for _, cold := range [...]bool{first, !first} {
		for n := l.open.n; n > 0 && l.open.n > 0; n-- {
			g := l.open.head
			l.open.rotate()
			line := &g.warm
			if cold {
				line = &g.cold
			}
			f := nextAsleep(line, now)
			if f == nil {
				continue
			}
			p, next, ok, over := q.ask(f, now)
			if over {
				if f.promised()+q.headCount(f) > f.mail {
					continue // it is what permits were given for
				}
				if l.left >= overflowAtOnce {
					q.lookAtStream(l, now.Add(soonest), now)
					return false
				}
				if q.overflow(f, now) {
					l.left++
					return true
				}
			}
			if !ok {
				q.shut(g, next, now)
				continue
			}
			l.tokens.take()
			l.turn++
			q.permit(f, p, now)
			return true
		}
	}
	if l.open.n > 0 { // they cannot use one: their receivers are down, or busy
		q.lookAtStream(l, now.Add(gateRest), now)
	}
	return false
}

// shut keeps a gate closed until a quota has room again; zero: until a block is written, of
// which QuotasGranted tells.
func (q *Queue) shut(g *gate, next, now time.Time) {
	g.of.open.remove(g)
	if next.IsZero() {
		next = now.Add(time.Second)
	}
	g.until, g.since = next, now
	q.lookAtStream(g.of, next, now)
}

// nextAsleep is the flow that has waited longest in a line, of those that can use a permit.
func nextAsleep(line *ring[*sleeper], now time.Time) *flow {
	for range min(line.n, gateLooks) {
		f := line.head.flow
		line.rotate()
		d := f.dest
		if len(f.permits) <= d.live && (d.live > 0 || !d.holdoff.After(now)) && f.mail > len(f.permits) {
			return f
		}
	}
	return nil
}

// ask takes from the quotas, and from the budgets of addresses that warm up, what the message at
// the head of a flow needs. Without room in one of them ok is false, and next is when there is
// some; zero: when a block is written. over says that the message is to leave the flow.
func (q *Queue) ask(f *flow, now time.Time) (p permit, next time.Time, ok, over bool) {
	p.since = now
	f.gate.forWarmup = false
	if len(f.gate.counters) == 0 && f.gate.warmup == nil {
		return p, next, true, false
	}
	p.n = q.headCount(f)
	for _, c := range f.gate.counters {
		room, at := c.Room(now)
		if room == 0 {
			return permit{}, at, false, false
		}
		p.n = min(p.n, room)
	}
	if f.gate.warmup != nil {
		if next, ok, over := q.askWarmup(f, &p, now); !ok {
			f.gate.forWarmup = true
			return permit{}, next, false, over
		}
	}
	for _, c := range f.gate.counters {
		_, from := c.Take(now, p.n) // there is room: nobody else takes, under this mutex
		p.taken = append(p.taken, from)
	}
	return p, next, true, false
}

// headCount is how many recipients the next transaction of a flow may have.
func (q *Queue) headCount(f *flow) (n int) {
	most := f.dest.route.Queue.MaxRecipientsPerMessage
	r := f.lanes.head.head
	message := q.recipients.at(r).message
	for ; r != 0 && n < most; r = q.recipients.at(r).next {
		if q.recipients.at(r).message != message {
			break
		}
		n++
	}
	return n
}

// permit gives a flow a permit.
func (q *Queue) permit(f *flow, p permit, now time.Time) {
	if !f.out {
		f.out = true
		f.gate.of.out = append(f.gate.of.out, f)
		q.lookAtStream(f.gate.of, now.Add(permitFor), now)
	}
	f.permits = append(f.permits, p)
	q.moveWaiting(f.dest, 1)
	f.dest.site.permits++
	f.dest.active.push(f)
	if f.mail <= len(f.permits) {
		q.wakeUp(f)
	}
	q.serveAll(f.dest, now)
}

// use takes the permit for a transaction off a flow; the caller fills it at once.
func (q *Queue) use(f *flow) *permit {
	if f.gate == nil {
		return nil
	}
	p := f.permits[0]
	f.permits = append(f.permits[:0], f.permits[1:]...)
	q.unpermit(f)
	return &p
}

// unpermit counts a permit out of what waits.
func (q *Queue) unpermit(f *flow) {
	f.dest.site.permits--
	q.moveWaiting(f.dest, -1)
	if len(f.permits) == 0 {
		f.dest.active.remove(f)
	}
}

// revoke takes an unused permit back.
func (q *Queue) revoke(f *flow, now time.Time) {
	last := len(f.permits) - 1
	p := f.permits[last]
	f.permits = f.permits[:last]
	q.unpermit(f)
	l := f.gate.of
	l.tokens.n = min(l.tokens.n+1, max(1, l.Rate))
	p.unwarm(p.fresh)
	q.giveBack(f.gate, &p, p.n, now)
}

// revokeAll takes back all permits at a destination where no session comes up.
func (q *Queue) revokeAll(d *destination, now time.Time) {
	if len(q.limited) == 0 && d.route.Warmup == nil {
		return
	}
	for _, f := range d.flows {
		for f.gate != nil && len(f.permits) > 0 {
			q.revoke(f, now)
			q.sleep(f)
			q.lookAtStream(f.gate.of, now.Add(soonest), now)
		}
	}
}

// giveBack returns to the quotas what was taken of them and not accepted.
func (q *Queue) giveBack(g *gate, p *permit, n int, now time.Time) {
	if n <= 0 {
		return
	}
	for i, c := range g.counters {
		if i < len(p.taken) {
			c.Return(p.taken[i], n)
		}
	}
	if at := now.Add(time.Second); g.until.After(at) && g.asleep() > 0 { // others come with it
		g.until = at
		q.lookAtStream(g.of, at, now)
	}
}

// QuotasGranted tells that counts were reserved that Room had to ask for.
func (q *Queue) QuotasGranted() {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range append([]*limited{q.coldGates}, q.limited...) {
		for _, g := range l.gates {
			q.reopen(g)
		}
		q.grant(l, now)
	}
}

// reopen has the quotas of a gate asked again.
func (q *Queue) reopen(g *gate) {
	g.until = time.Time{}
	if g.asleep() > 0 {
		g.of.open.push(g)
	}
}

// lookAtStream plans a look at what is behind the gates of a stream, unless an earlier one is
// planned.
func (q *Queue) lookAtStream(l *limited, at, now time.Time) {
	if soon, late := now.Add(soonest), now.Add(lookEvery); at.Before(soon) {
		at = soon
	} else if at.After(late) {
		at = late
	}
	if l.planned.After(now) && !at.Before(l.planned) {
		return
	}
	l.planned = at
	q.schedule(at, l)
}

// fire gives what may be given by now.
func (l *limited) fire(q *Queue, now time.Time) {
	current := l == q.coldGates
	for _, x := range q.limited {
		current = current || x == l
	}
	closed := !l.Window.Open(now)
	if !current || l.planned.After(now) && !closed {
		return
	}
	if !l.planned.After(now) {
		l.planned = time.Time{}
	}
	out := l.out
	l.out = nil
	for _, f := range out {
		for f.gate != nil && f.gate.of == l && len(f.permits) > 0 && (closed || f.dest.live == 0 && now.Sub(f.permits[0].since) >= permitFor) {
			q.revoke(f, now)
			q.sleep(f)
		}
		if f.gate == nil || f.gate.of != l {
			continue // behind another gate by now
		}
		if f.out = len(f.permits) > 0; f.out {
			l.out = append(l.out, f)
		}
	}
	shut := false
	for _, g := range l.gates {
		if !g.until.IsZero() && (!g.until.After(now) || now.Sub(g.since) >= lookEvery) {
			q.reopen(g)
		}
		shut = shut || !g.until.IsZero()
	}
	q.grant(l, now)
	switch {
	case len(l.out) > 0:
		q.lookAtStream(l, now.Add(permitFor), now)
	case shut:
		q.lookAtStream(l, now.Add(lookEvery), now)
	}
}
