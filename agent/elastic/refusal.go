package elastic

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// waits is how long to wait after so many refusals in a row, of a place, of the whole site, and
// of an address that takes none: short at first, for a slot that is freed late (together nearly
// slots.LagMax), and then, since each try at a door that is shut as a punishment shuts it for
// longer, growing much faster than penalties do.
var waits = [...]time.Duration{
	200 * time.Millisecond, 600 * time.Millisecond, 1400 * time.Millisecond, 2800 * time.Millisecond,
	15 * time.Second, time.Minute, 4 * time.Minute, 15 * time.Minute,
}

// busyMost is the longest wait at a door that is shut, but not as a punishment.
const busyMost = 4 * time.Minute

// lagTries is how many of the waits are for slots that are freed late.
const lagTries = 4

// wait is the wait after so many refusals, of the first most of them.
func wait(row, most int) time.Duration { return waits[min(max(row, 1), most)-1] }

// refusals are those of what was held before.
type refusals struct {
	last     time.Time     // of any kind
	row      int           // none was let in since the first of them; those that come together are one
	since    time.Time     // the first of the row
	held     int           // slots wanted then
	suspect  bool          // then growth or a probe had been refused, of which they may be the consequence
	bounded  int64         // when growth was refused, Unix time in nanoseconds
	counted  time.Duration // the lag with which what was held then is counted
	shut     int           // times in a row that no slot was free for slots.LagMax
	closed   time.Time     // the last of these
	opens    time.Time     // no connect before
	regain   int           // slots to come back to after a shut door
	punish   time.Time     // refusals are taken to be punished until then
	doubt    bool          // no session was proven since growth or a probe was refused: that may have had consequences
	atMail   bool          // sessions are let in and refused at their first MAIL
	regained bool          // let in again after a shut door, and no round of probes has come up since
}

// Void notes a connect that came to nothing in a way that tells nothing of limits, nor of
// whether the address answers.
func (s *Site) Void(x *slots.Slot, now time.Time) {
	s.run(now)
	s.leave(x, now)
	x.Void(now, now)
}

// Failed notes a connect that got no answer. Where the address takes others that is a refusal without a
// word, if the connection was there and broke, or if a port that sessions are up at was closed at once.
func (s *Site) Failed(x *slots.Slot, now time.Time, connected bool) {
	switch a := x.Address; {
	case connected && a.Accepted > 0:
		s.Refused(x, now, "connection reset")
		return
	case !connected && !x.Up() && a.Live > 0 && now.Sub(x.Began) < slots.HangAfter:
		s.Refused(x, now, "connection refused")
		return
	}
	s.run(now)
	s.leave(x, now)
	x.Void(now, now)
	x.Address.Failed(x.Began, now)
}

// Refused notes a connect, or a session's first transaction, that was refused for being
// one too many.
func (s *Site) Refused(x *slots.Slot, now time.Time, reply string) {
	s.run(now)
	a := x.Address
	s.leave(x, now)
	s.refusals.atMail = s.refusals.atMail || x.Up()
	proven := x.Proven()
	up, _ := x.Met()
	moved := x.Waited() == 0 && a.Accepted > 0 && up >= a.Accepted // a place of another address: none lags here in its stead
	again := now
	switch {
	case x.Why == slots.Early:
		again = x.After.Add(s.late.lag)
	case x.Why == slots.Replace && !proven:
		x.Tries++
		again = now.Add(wait(x.Tries, lagTries))
	}
	tells := !x.Began.Before(a.Cut) && !x.Began.Before(s.refusals.closed)
	// What may be the consequence of another refusal, or the host's place, has no vote.
	votes := tells && !proven && !s.refusals.doubt && s.refusals.shut == 0 && !s.wary(now) && !s.hostBusy(now)
	if votes {
		s.met(now, x, false)
	}
	x.Void(now, again)
	a.Answered()
	a.Reply, s.reply = reply, reply
	s.window = max(1, min(s.window, s.under()+1)/2)
	if !tells { // it met the crowd that the last refusal told of
		if x.Why == slots.Grow || x.Why == slots.Probe {
			s.most(now)
			s.history[len(s.history)-1].To = s.want
		}
		return
	}
	a.Cut = now
	crowd := now.Sub(s.refusals.last).Seconds() <= s.latency
	alone := !x.Began.Before(s.refusals.last)
	s.refusals.last = now
	ours := s.others() == 0             // else what others hold may be what was refused for
	if s.Live == 0 && ours && !proven { // nothing up earns nothing: one test may follow
		s.credit = min(s.credit, max(1, s.credit-1))
	} else {
		s.credit = max(owed, s.credit-1)
	}
	switch {
	case proven && crowd: // as many as had a message under way are refused with the first
		s.credit--
	case proven: // told late: what is left fits, and what a connect met was not judged
		s.late.votes, s.late.lag = nil, 0
		a.Limited, a.Accepted = true, max(1, min(a.Accepted, a.Held()))
		s.state, s.probe.trial = bounded, 0
		s.probe.gap = min(2*s.probe.gap, gapMax)
		s.probe.streak, s.probe.at = 0, now.Add(s.probe.gap)
		s.set(now, min(s.want, s.Held()), fmt.Sprintf("%s refused a message with %d up: %s", a.Key.Host.Addr(), a.Live+1, reply))
	case x.Why == slots.Early:
	case (x.Why == slots.Replace && s.state == bounded || s.emptied(now) && (x.Why == slots.Replace || ours)) && !(s.Live == 0 && s.foreign(a)):
		if x.Why == slots.Grow {
			leaveAlone(a, now)
		}
		s.strike(x, now, alone, x.Why == slots.Grow || !moved && x.Waited() <= s.late.votes.most())
	case x.Why == slots.Probe:
		s.probe.streak, s.probe.round, s.refusals.doubt, s.probe.refused = 0, 0, true, true
		a.Limited, a.Probed = true, now
		most := gapMax
		if s.wary(now) {
			most = waryMax
		}
		s.probe.gap = min(2*s.probe.gap, most)
		s.probe.at = now.Add(s.probe.gap)
		if s.host.kept > 0 && !x.Over && !s.hostBusy(now) {
			s.want--
		}
		s.record(now, s.want, fmt.Sprintf("%s refused one more than %d: %s", a.Key.Host.Addr(), a.Accepted, reply))
	default:
		a.Limited, a.Probed = true, now
		a.Accepted += s.hostHolds(now) / max(1, len(s.addresses))
		s.refusals.doubt, s.probe.at = true, now.Add(gapMin)
		if a.Live == 0 {
			leaveAlone(a, now)
			if a.Accepted == 0 && s.Live > 0 || s.foreign(a) { // this host takes none: its own affair
				return
			}
		}
		if s.state != bounded {
			s.state, s.refusals.bounded, s.refusals.counted = bounded, now.UnixNano(), s.late.lag
			s.probe.streak, s.window = 0, 1 // the first replacement shows whether slots are freed late
		}
		from := s.want
		s.most(now)
		s.record(now, from, fmt.Sprintf("refused with %d up: %s said %s", s.Live, a.Key.Host.Addr(), reply))
	}
}

// most takes what is held for what is accepted, but for connects that seem to hang: the
// receiver may not even know of them. Places that are left to the host count as held by it.
func (s *Site) most(now time.Time) {
	if s.state == bounded {
		if n := max(1, s.Held()+s.others()-s.Hanging+s.Vacant+s.Waiting-s.probe.open+max(s.hostHolds(now), s.host.kept)); n < s.want {
			s.want = n
			s.now = level{n: n}
		}
	}
}

// emptied says whether nothing is up, nor was for as long as slots are freed late: what is
// refused then is not one too many.
func (s *Site) emptied(now time.Time) bool {
	last := s.ends[(s.nends-1)%uint32(len(s.ends))] // 0 if none ended yet
	return s.Live == 0 && now.UnixNano()-last > int64(slots.LagMax)
}

// foreign says whether nothing was ever taken at an address, and something elsewhere: who joins a
// provider by the names of his hosts may refuse all.
func (s *Site) foreign(a *slots.Address) bool { return a.Accepted == 0 && s.latency > 0 }

// Foreign notes a connect, or a session's first transaction, that was refused, for the rate too, where nothing was
// ever taken, and that is its address's own affair: it waits, longer each time, and the site learns nothing.
func (s *Site) Foreign(x *slots.Slot, now time.Time, reply string) {
	s.run(now)
	s.leave(x, now)
	x.Void(now, now)
	a := x.Address
	a.Answered()
	if a.Reply = reply; s.latency == 0 { // nor was anything taken elsewhere
		s.reply = reply
	}
	if x.Began.Before(a.Cut) { // it met what the last refusal told of
		return
	}
	a.Cut = now
	leaveAlone(a, now)
}

// others is how many slots other sites hold at the addresses of this one: they count in the
// limit that a refusal shows, and may be this site's another time.
func (s *Site) others() int {
	n := -s.Held()
	for _, a := range s.addresses {
		n += a.Held()
	}
	return max(0, n)
}

// strike reads a refusal though no more was asked for than was held before: its place lags, or
// is given up. If nothing is let in for slots.LagMax, the limit was lowered, or an earlier refusal
// is being punished: waiting is right in both.
//
// The refusal is alone where its connect was begun after the last one; the place lags where it has
// waited no longer than slots can be freed late.
func (s *Site) strike(x *slots.Slot, now time.Time, alone, lags bool) {
	a, r := x.Address, &s.refusals
	switch {
	case r.row == 0:
		r.row, r.since, r.held, r.suspect = 1, now, s.want, r.doubt
	case alone: // of a crowd, one tells what all do
		r.opens = now.Add(wait(r.row, lagTries))
		r.row++
	}
	if s.host.kept > 0 && s.probe.trial == 0 && s.hostBusy(now) {
		return // the host's own connection has the place for a moment
	}
	cause := fmt.Sprintf("%s refused a replacement with %d up: %s", a.Key.Host.Addr(), a.Live, s.reply)
	// A place that became vacant a moment ago may lag, whatever became of others before.
	none := s.Live == 0 || s.Live < s.want-max(2, s.want/4) && x.Waited() > slots.LagMax
	switch {
	case s.wary(now) || r.shut > 0 || none && now.Sub(r.since) > slots.LagMax:
		s.close(now, cause)
	case s.probe.trial > 0: // what was won were others' places
		s.probe.gap = min(2*s.probe.gap, gapMax)
		s.probe.at, s.probe.streak = now.Add(s.probe.gap), 0
		s.set(now, s.want-s.probe.trial, cause)
		s.probe.trial = 0
	case lags: // it may not be free yet
	default:
		if a.GiveUp(x); a.Live == 0 && s.Live > 0 { // its own affair
			leaveAlone(a, now)
		}
		s.probe.gap, s.probe.at = gapMin, earlier(s.probe.at, now.Add(gapMin)) // it may be had again soon
		s.set(now, max(s.Held(), s.want-1), cause)
	}
}

// close reads that no slot was free for slots.LagMax: the limit was lowered, or an earlier
// refusal is being punished.
func (s *Site) close(now time.Time, cause string) {
	s.refusals.shut++
	s.refusals.closed = now
	s.refusals.opens = now.Add(s.refusals.shutFor())
	n := s.Held() + s.Vacant - 1
	if s.refusals.suspect && (s.refusals.shut > 1 && s.Live == 0 || s.wary(now)) { // of what is up, part may be past the limit
		n -= n / 4
		s.refusals.punish = now.Add(waryLong)
		s.probe.gap = max(s.probe.gap, waryMin)
		s.probe.at = now.Add(s.probe.gap)
		cause = "refusals are punished: " + cause
	}
	if s.refusals.shut == 2 && s.others() == 0 { // what was refused were no slots that are freed late
		s.late.votes, s.late.lag = nil, 0
	}
	if s.refusals.shut == 1 {
		before := s.refusals.held
		if s.others() > 0 {
			before = s.want
		}
		s.refusals.regain = before - before/8
		if s.refusals.regained { // that was too much
			s.refusals.regain = n
		}
	}
	s.set(now, n, cause)
}

// leaveAlone has an address that was refused with none up there wait, longer each time.
func leaveAlone(a *slots.Address, now time.Time) {
	a.Strikes++
	a.Opens = now.Add(wait(a.Strikes+1, len(waits)))
}

// shutFor is how long a door is left alone that was found shut so many times: much longer each time
// where that may be a punishment, which a try makes longer, and else twice as long, for the receiver
// has too much to do, or counts what is begun in a minute.
func (r *refusals) shutFor() time.Duration {
	if r.suspect {
		return wait(lagTries+r.shut, len(waits))
	}
	return min(waits[lagTries]<<min(r.shut-1, 8), busyMost)
}

func (s *Site) wary(now time.Time) bool { return now.Before(s.refusals.punish) }

// letIn ends a row of refusals. If it was a punishment, all that was held may be had again.
func (s *Site) letIn(x *slots.Slot, now time.Time) {
	if x.Began.Before(s.refusals.closed) { // that does not show that a door is open which was shut since
		return
	}
	if s.refusals.shut > 0 {
		s.refusals.regained = true
		s.set(now, max(s.want, s.refusals.regain), "we are let in again")
	}
	s.refusals.row, s.refusals.shut, s.refusals.opens = 0, 0, time.Time{}
}
