package elastic

import (
	"cmp"
	"fmt"
	"math"
	"time"

	"github.com/millrace/millrace/agent/slots"
)

const (
	// halfLife is the time without mail after which half as many slots are wanted.
	halfLife = time.Hour
	// idleLong is the time without a look that counts as one without mail.
	idleLong = time.Minute
)

// awake ages what was learned by the time for which nobody asked for a connect. What is
// still wanted counts as proven: half of it is opened at once, the rest as that comes up.
func (s *Site) awake(now time.Time) {
	idle := now.Sub(s.asked)
	if s.asked.IsZero() || idle < idleLong || s.Held() > 0 {
		s.asked = now
		return
	}
	what := "without mail"
	if s.refusals.opens.After(s.asked) { // there may have been some, and what was learned is as old
		what = "with no connect allowed"
	}
	s.asked = now
	s.age(now, idle, what)
}

// age lets what was learned fade.
func (s *Site) age(now time.Time, idle time.Duration, what string) {
	left := math.Exp2(-float64(idle) / float64(halfLife))
	n := startSessions + int(math.Round(float64(s.want-startSessions)*left))
	s.window = max(startSessions, n/2)
	s.now, s.growth.ref = level{}, level{}
	s.set(now, n, fmt.Sprintf("%v %s", idle.Round(time.Second), what))
}

// Rest frees memory that nothing is done with any more; called now and then. A site without
// mail is left with some 1,200 octets, its addresses apart.
func (s *Site) Rest(now time.Time) { s.late.rest(now) }

// Spare says of a Site that has learned nothing whether a new one would do as well: it has no
// slots, the host sends no mail there, and its history tells nothing, or nothing of the last hour.
func (s *Site) Spare(now time.Time) bool {
	s.host.age(now)
	told := len(s.history) > 1 && now.Sub(s.history[len(s.history)-1].At) < time.Hour
	return s.Held()+s.Waiting+s.Vacant == 0 && s.host.messages < hostLeast && !told
}

// Limits are the ceilings in force.
func (s *Site) Limits() Limits { return s.limits }

// Learned is what a Site has learned, to be kept over a restart. The addresses' part is
// slots.Learned.
type Learned struct {
	At     time.Time     `json:"at"`
	Want   int           `json:"want"`            // slots accepted, or grown to
	Bound  bool          `json:"bound,omitempty"` // one more was refused
	Lag    time.Duration `json:"lag,omitempty"`
	Pace   float64       `json:"pace,omitempty"`   // messages per second at each address
	Rate   float64       `json:"rate,omitempty"`   // accepted lately at each address, messages per second, where no pace is known
	Punish time.Time     `json:"punish,omitzero"`  // refusals are punished until then
	Opens  time.Time     `json:"opens,omitzero"`   // no connect before
	Clamps []Clamp       `json:"clamps,omitempty"` // suspensions and slowdowns, each with its reply
	Reply  string        `json:"reply,omitempty"`  // the last refusal

	Unsure bool `json:"-"` // the receivers may still count the connections of before
}

// Learned returns what is to be kept; false if nothing is known that a new site would not
// begin with.
func (s *Site) Learned(now time.Time) (Learned, bool) {
	at := s.asked
	if at.IsZero() || s.Held() > 0 {
		at = now
	}
	l := Learned{
		At: at, Want: s.unbound(), Bound: s.state == bounded, Lag: s.late.lag,
		Pace: s.pace.Value, Punish: s.refusals.punish, Opens: s.refusals.opens, Reply: s.reply,
	}
	if l.Pace == 0 {
		l.Rate = s.pace.Rate(now, s.active())
	}
	if s.clamps != nil {
		for _, c := range s.clamps {
			if c.Until.After(now) {
				l.Clamps = append(l.Clamps, c)
			}
		}
	}
	any := l.Bound || l.Lag > 0 || l.Pace > 0 || l.Want > startSessions || len(l.Clamps) > 0 || l.Punish.After(now) || l.Opens.After(now)
	return l, any
}

// Restore returns the controller of a site of which so much was learned. A clock that has
// stepped back since makes nothing last longer than it could have.
func Restore(now time.Time, limits Limits, l Learned) *Site {
	s := NewSite(now, limits)
	if l.Bound {
		s.state = bounded
		s.probe.at = now.Add(gapMin)
	}
	s.late.lag = min(max(l.Lag, 0), slots.LagMax)
	s.pace.Value, s.pace.Known = max(l.Pace, 0), max(l.Pace, l.Rate, 0)
	s.refusals.punish = earlier(l.Punish, now.Add(waryLong))
	s.refusals.opens = earlier(l.Opens, now.Add(waits[len(waits)-1]))
	for _, c := range l.Clamps {
		s.Clamp(now, c)
	}
	s.reply = l.Reply
	s.free = max(1, cmp.Or(l.Want, startSessions))
	s.want = min(s.free, s.limits.MaxSessions)
	s.age(now, max(0, now.Sub(l.At)), "after that was noted")
	if l.Unsure {
		s.window = 1 // one connect shows whether they do
	}
	return s
}

// Forget drops what was learned, but not the slots that are held. The addresses' part is
// slots.Address.Forget.
func (s *Site) Forget(now time.Time) {
	for i := range s.addresses {
		a := &s.addresses[i]
		a.Forget()
		a.whose, a.paced = unknown, nil
	}
	from := s.want
	*s = Site{
		limits: s.limits, history: s.history, Count: s.Count, addresses: s.addresses, host: s.host,
		want: min(max(startSessions, s.Held()), s.limits.MaxSessions), window: startSessions, credit: saved, probe: probing{gap: gapMin},
	}
	s.now = level{n: s.want}
	s.record(now, from, "forgotten")
}
