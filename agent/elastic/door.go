package elastic

import (
	"fmt"
	"math"
	"time"
)

// How connects that the receiver refuses are spaced and read.
const (
	strikeWait = 500 * time.Millisecond // the least between two connects after a refusal
	ownAffair  = 4                      // refusals in a row at one host while others let us in
	lagMax     = 5 * time.Second        // longest time we take a slot to be freed late
	lagNear    = time.Second            // a replacement so soon after a close may have met the old slot
	lagEase    = 0.98                   // per replacement that came up, at most one a second
)

// waits is how long no connect is begun after so many refusals in a row: short at
// first, for a slot that is freed late, and then, since each try at a door that
// is shut as a punishment shuts it for longer, growing much faster than penalties do.
var waits = [...]time.Duration{strikeWait, time.Second, 4 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute}

// waitPrompted is where a refusal that may be the answer to another begins in waits.
const waitPrompted = 2

func (d *door) wait() time.Duration {
	i := d.strikes - 1
	if d.prompted {
		i += waitPrompted
	}
	return waits[min(i, len(waits)-1)]
}

// door is what is known of getting in: when connects may begin, and how late the
// receiver frees the slot of a session that ended.
type door struct {
	cut      time.Time     // connects begun before it tell nothing new
	first    string        // the host that refused when nothing was up; none since
	cutting  string        // a cut to be made at the next Target, with the cause
	strikes  int           // refused in a row, none up since
	opens    time.Time     // no connect before
	live     int           // sessions at the last strike
	want     int           // sessions wanted before the first
	regain   int           // sessions to come back to after a row of strikes; 0: none
	struck   time.Time     // the last strike
	proved   bool          // all we had was up again, with a new connect, after a refusal of more
	prompted bool          // the first strike came before that was so, and not harmless
	answer   bool          // the strikes that made us wary were the answer to a refusal
	harmless bool          // that was so after some refusal
	tested   bool          // one more than we had was refused while wary
	waryGap  time.Duration // the last wait for climb
	climb    time.Time     // while wary, no try before it to come back to what was held
	was      time.Time     // punish before the first
	eased    time.Time     // when lag was last made shorter
	punish   time.Time     // refusals are taken to be punished until then
	lag      time.Duration // how late a slot is taken to be freed
	lagMost  time.Duration // what it was when last seen to suffice
	freed    time.Time     // when the slot ended that the first strike may have met; zero: none
	refused  time.Time     // the last refusal of any kind
	closes   [64]time.Time
	nclosed  int
	hosts    [8]host
	nhosts   int
}

// host is a server of the site that was met.
type host struct {
	name     string
	accepted bool
	row      int       // refusals since it last let us in
	refused  time.Time // the last
	own      bool      // that was its own affair
	up       time.Time // when it last let us in
}

func (d *door) wary(now time.Time) bool { return now.Before(d.punish) }

// closed notes the end of a session, unless that was refused: then it had no slot.
func (d *door) closed(now time.Time) {
	if now.Equal(d.refused) {
		return
	}
	d.closes[d.nclosed%len(d.closes)] = now
	d.nclosed++
}

// lastClose is the n-th newest close, zero if there is none.
func (d *door) lastClose(n int) time.Time {
	if n = max(1, n); n > min(d.nclosed, len(d.closes)) {
		return time.Time{}
	}
	return d.closes[(d.nclosed-n)%len(d.closes)]
}

// held is how many slots the receiver may not have freed yet, and when the first
// of them will be free.
func (d *door) held(now time.Time) (n int, free time.Time) {
	if d.lag == 0 {
		return 0, free
	}
	for i := d.nclosed - 1; i >= max(0, d.nclosed-len(d.closes)); i-- {
		at := d.closes[i%len(d.closes)].Add(d.lag)
		if !at.After(now) {
			break
		}
		n, free = n+1, at
	}
	return n, free
}

func (d *door) find(name string) *host {
	for i := range d.hosts[:min(d.nhosts, len(d.hosts))] {
		if d.hosts[i].name == name {
			return &d.hosts[i]
		}
	}
	h := &d.hosts[d.nhosts%len(d.hosts)]
	d.nhosts++
	*h = host{name: name}
	return h
}

// forgive says whether a refusal is this host's own affair: it never lets us in, or
// does no more, and another host has let us in since it last refused. The limit of
// a site makes every host refuse.
func (d *door) forgive(now, began time.Time, name string) bool {
	h := d.find(name)
	last := h.refused
	if began.Before(last) {
		return h.own // it met the same as the last one
	}
	h.refused, h.own = now, false
	h.row++
	if h.accepted && h.row < ownAffair {
		return false
	}
	for i := range d.hosts {
		if x := &d.hosts[i]; x != h && x.accepted && x.up.After(last) {
			h.own = true
			return true
		}
	}
	return false
}

// cameUp takes in a connection that came up. After refusals of replacements it
// tells which of their causes it was. A slot freed late, if it took no longer than
// that may: then all is as it was. Otherwise we go back, step by step, to what we
// had: if that comes up the door was only shut for a while, as a punishment; if
// not, the limit was lowered (notRegained), and we come back much later.
func (c *Control) cameUp(now time.Time, s Signal) {
	d := &c.door
	h := d.find(s.Host)
	h.accepted, h.row, h.up = true, 0, now
	if d.first != "" && d.first != s.Host && c.phase == hold && d.forgive(now, now, d.first) {
		c.phase, c.credit = grow, max(c.credit, 0)
		c.set(now, startSessions, s.Host+" lets us in: only "+d.first+" refuses")
		c.restart()
	}
	d.first = ""
	if s.Began.Before(d.cut) {
		return
	}
	if d.strikes == 0 {
		if !d.proved && c.load.Live >= c.want-c.host.kept {
			d.harmless = !d.cut.IsZero()
			d.proved = true
			if d.tested && d.wary(now) && c.want > 1 {
				// Refused again, without a consequence: it is not punished here.
				// (Not so with one session: a limit does not fall below that.)
				d.punish, d.tested = time.Time{}, false
				c.probeGap, c.probeAt = probeGapMin, now.Add(probeGapMin)
				c.record(now, c.want, "no punishment: a new session came up after a refusal")
			}
		}
		if d.lag > 0 && now.Sub(d.eased) >= time.Second {
			d.eased = now
			d.lag = time.Duration(lagEase * float64(d.lag))
			if d.lag < 10*time.Millisecond {
				d.lag, d.lagMost = 0, 0
			}
		}
		return
	}
	late := s.Began.Sub(d.freed)
	switch {
	case !d.freed.IsZero() && late <= lagMax:
		d.lag, d.eased = max(d.lag, late), now
		d.lagMost = d.lag
		d.punish = d.was
		if d.want > c.want {
			c.set(now, d.want, fmt.Sprintf("%s frees a slot only %.2g s after a session ended", s.Host, late.Seconds()))
		}
	case d.wary(now):
		d.regain = max(d.regain, d.want)
		if !now.Before(d.climb) {
			c.streak, c.probeAt = 0, now
			c.set(now, c.load.Live, fmt.Sprintf("%s lets us in again", s.Host))
		}
	}
	d.strikes, d.opens = 0, time.Time{}
}

// notRegained reads a refusal on the way back to what we had: the limit is lower
// than it was. If that followed upon a refusal it is the answer to it, and time
// will help; else it is the receiver's own affair, and it is probed as ever.
func (c *Control) notRegained(now time.Time) {
	d := &c.door
	if !d.answer {
		d.punish = time.Time{}
		return
	}
	d.tested = true
	d.waryGap = min(max(2*d.waryGap, waryGapMin), waryGapMax)
	d.climb = now.Add(d.waryGap)
}

// refused reads a refusal of a connect or of a transaction on a session.
func (c *Control) refused(now time.Time, s Signal) {
	d := &c.door
	d.refused = now
	if c.still(now) { // else it is not for us alone, and hostGapMin keeps it rare
		c.credit = max(creditMin, c.credit-1)
	}
	// One begun before the last cut met the crowd that the cut has thinned.
	if s.Began.Before(d.cut) || d.forgive(now, s.Began, s.Host) {
		return
	}
	d.cut = now
	switch c.phase {
	case probe:
		d.cutting = said(s)
		d.proved = false
	case grow, flat:
		c.phase, c.streak = hold, 0
		c.probeAt = now.Add(c.probeGap)
		d.cutting = said(s)
		d.proved = false
		if !c.still(now) { // this is what the host's connections left of the limit: once more
			d.proved = true
			c.credit, c.probeAt = max(c.credit, 1), now.Add(hostMoment)
		}
		if c.load.Live == 0 {
			d.first = s.Host
		}
	case hold:
		c.strike(now, s)
	}
}

// said names a signal's host and reply.
func said(s Signal) string {
	if s.Text == "" {
		return s.Host
	}
	return s.Host + " said " + s.Text
}

// strike reads a refusal though we asked for no more than was held before: the
// old session's slot may not be free yet, the limit may have been lowered, or the
// receiver punishes an earlier refusal. Waiting is right in all three.
func (c *Control) strike(now time.Time, s Signal) {
	d := &c.door
	first := d.strikes == 0
	if !s.Began.Before(d.opens) { // one that came early, since much had ended, proves nothing more
		d.strikes++
	}
	punished := d.tested // a refusal of what was held is a consequence
	d.tested = false
	d.live, d.struck = c.load.Live, now
	lower := first && c.explain(s)
	d.opens = now.Add(d.wait())
	switch {
	case d.wary(now):
		if d.climb.After(now) { // not even what was left is accepted
			d.climb = now.Add(d.waryGap)
		}
		if punished {
			d.answer, d.harmless = true, false
		}
	case lower:
		c.beWary(now)
		d.regain, d.waryGap = c.want, waryGapMin
		d.climb = now.Add(d.waryGap)
	case d.strikes >= 3 || d.prompted && d.strikes >= 2:
		c.beWary(now)
	}
	if d.freed.IsZero() || d.strikes >= 3 || punished {
		d.cutting = said(s)
		c.streak = 0
		if at := now.Add(c.probeGap); c.probeAt.Before(at) {
			c.probeAt = at
		}
	}
}

// explain reads the first of a row of strikes. The slot that the connect was to take
// had been freed by a session that ended just before, and may have been late: then
// nothing else is known. It says whether the refusal is the answer to an earlier one
// that lowered the limit: the wait was as long as the receiver's slots are known to
// take, and still there was none.
func (c *Control) explain(s Signal) (lower bool) {
	d := &c.door
	d.want, d.was, d.prompted = c.want, d.punish, !d.proved && !d.harmless
	d.freed = d.lastClose(c.want - c.host.kept - c.load.Live - c.load.Opening + 1)
	if s.Began.Sub(d.freed) <= max(lagNear, d.lagMost*9/10) {
		return false
	}
	d.freed = time.Time{}
	return d.prompted && d.lag > 0
}

// beWary takes refusals to be punished. All that was held may be tried as soon as
// the door is seen to be open: a ban is over then.
func (c *Control) beWary(now time.Time) {
	d := &c.door
	d.punish, d.tested = now.Add(waryFor), false
	d.regain, d.climb, d.waryGap = 0, now, 0
	d.answer = d.prompted
}

// settle makes a cut, now that the number of accepted sessions is known, and
// counts in those that were on their way when it was made.
func (c *Control) settle(now time.Time) {
	d := &c.door
	if d.cutting != "" {
		cause := fmt.Sprintf("refused with %d up: %s", c.load.Live, d.cutting)
		d.cutting = ""
		if c.phase == probe {
			c.endProbe(now, cause)
			if d.wary(now) {
				c.notRegained(now)
			}
			return
		}
		to := c.load.Live
		if d.wary(now) { // each refusal may take more off the limit: what is up may be past it
			to -= (to + 3) / 4
		}
		if to < c.want {
			c.set(now, to, cause)
		}
		return
	}
	if c.phase == hold && !d.wary(now) && c.load.Live > c.want && c.want < c.limits.MaxSessions && now.Sub(d.cut) < settleFor {
		c.set(now, c.load.Live, fmt.Sprintf("%d up", c.load.Live))
	}
}

// unproven is how many connects may be under way: so many that a doubling takes
// about as long as a transaction, since each one under way may turn out to be
// one too many; never more than half of what is up, or two.
func (c *Control) unproven(now time.Time, sessions int) int {
	d := &c.door
	live := c.load.Live
	n := max(2, live/2)
	if c.latency > 0 && c.connect > 0 {
		n = min(n, max(2, int(math.Ceil(float64(live)*c.connect/c.latency))))
	}
	if c.phase == probe { // what was held before may be opened at once
		n = max(n, c.base-live+1)
	}
	if d.strikes > 0 {
		n = 1
		// Waiting for a lower limit ends early when much of what was up has ended
		// meanwhile. A punishment does not end by that: to try only makes it longer.
		if now.Before(d.opens) && (live == 0 || d.prompted || 2*live > d.live || now.Sub(d.struck) < strikeWait) {
			return 0
		}
	} else if d.wary(now) || !d.proved && !d.cut.IsZero() {
		n = 1
	}
	held, _ := d.held(now)
	return max(0, min(n+c.hanging, sessions-held-live))
}

func (d *door) wake(now time.Time, l Load, sooner func(time.Time)) {
	if d.strikes > 0 {
		sooner(d.struck.Add(strikeWait))
		sooner(d.opens)
	}
	if _, free := d.held(now); !free.IsZero() {
		sooner(free)
	}
}
