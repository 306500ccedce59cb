package elastic

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestHistoryKeepsTheLastChanges(t *testing.T) {
	t.Parallel()
	c := New(epoch, Limits{MaxSessions: 1000})
	for i := range 100 {
		c.SetLimits(at(time.Duration(i)*time.Second), Limits{MaxSessions: 1})
		c.Clamp(at(time.Duration(i)*time.Second), Clamp{Sessions: -1, Pace: 1, Until: at(time.Hour), Reason: "r"})
	}
	h := c.History()
	if len(h) != historySize || h[len(h)-1].At != at(99*time.Second) || h[0].At != at((100-historySize)*time.Second) {
		t.Errorf("%d changes from %v to %v", len(h), h[0].At, h[len(h)-1].At)
	}
}

func TestRefusalBegunBeforeTheCutOnlyDebits(t *testing.T) {
	t.Parallel()
	s := limited(t)
	before, credit, changes := s.c.want, s.c.credit, s.c.history.n
	s.c.Observe(s.now, Signal{Kind: Refused, Host: "a", Began: s.c.door.cut.Add(-time.Nanosecond)})
	s.c.Target(s.now, Load{Backlog: 100, Live: 10})
	if s.c.want != before || s.c.history.n != changes {
		t.Errorf("%d sessions wanted, were %d", s.c.want, before)
	}
	if s.c.credit != credit-1 {
		t.Errorf("credit %.2f, was %.2f", s.c.credit, credit)
	}
	// The same, begun after it, counts.
	s.c.Observe(s.now, Signal{Kind: Refused, Host: "a", Began: s.now})
	if target := s.c.Target(s.now, Load{Backlog: 100, Live: 9}); s.c.door.strikes != 1 || target.Unproven != 0 {
		t.Errorf("strikes %d, unproven %d after a refused replacement", s.c.door.strikes, target.Unproven)
	}
}

func TestCutsToWhatWasAccepted(t *testing.T) {
	t.Parallel()
	c := New(epoch, Limits{MaxSessions: 50})
	c.want, c.now = 16, level{n: 16}
	c.Target(at(0), Load{Backlog: 100, Live: 8, Opening: 8})
	c.Observe(at(100*time.Millisecond), Signal{Kind: Refused, Host: "a", Began: at(0)})
	c.Observe(at(100*time.Millisecond), Signal{Kind: Refused, Host: "a", Began: at(0)})
	if target := c.Target(at(100*time.Millisecond), Load{Backlog: 100, Live: 8, Opening: 6}); target.Sessions != 8 {
		t.Errorf("%d sessions after the refusal, 8 were up", target.Sessions)
	}
	// Those on their way that come up all the same were accepted, too.
	c.Observe(at(150*time.Millisecond), Signal{Kind: Up, Host: "a", Began: at(0)})
	if target := c.Target(at(150*time.Millisecond), Load{Backlog: 100, Live: 9, Opening: 5}); target.Sessions != 9 {
		t.Errorf("%d sessions, 9 are up", target.Sessions)
	}
}

func TestHostTroubleIsNoLimit(t *testing.T) {
	t.Parallel()
	s := limited(t)
	for range 20 {
		s.c.Observe(s.now, Signal{Kind: Failed, Host: "192.0.2.4", Began: s.now.Add(-time.Second)})
	}
	if target := s.c.Target(s.now, Load{Backlog: 100, Live: 10}); target.Sessions != 10 {
		t.Errorf("%d sessions after one host's failures", target.Sessions)
	}
	for range 10 {
		s.c.Observe(s.now, Signal{Kind: Lost, Host: "192.0.2.1", Began: s.now})
	}
	s.c.Observe(s.now, Signal{Kind: Failed, Host: "192.0.2.1", Began: s.now})
	if target := s.c.Target(s.now, Load{Backlog: 100}); target.Sessions > startSessions {
		t.Errorf("%d sessions for a site with nothing up", target.Sessions)
	}
}

// Where much of what was up ends, what is left may be within a limit that was
// lowered: a try then is not held against it. A shut door is left alone for the
// whole time.
func TestWaitEndsEarlyUnlessARefusalWasAnsweredByAnother(t *testing.T) {
	t.Parallel()
	for _, proved := range []bool{true, false} {
		s := limited(t)
		s.c.door.proved = proved
		refuse := func(live int) {
			s.now = s.now.Add(waits[waitPrompted])
			s.c.Observe(s.now, Signal{Kind: Refused, Host: "a", Began: s.now})
			s.c.Target(s.now, Load{Backlog: 100, Live: live})
		}
		refuse(9)
		for s.c.door.wait() < time.Minute {
			refuse(9)
		}
		s.now = s.now.Add(strikeWait)
		early := s.c.Target(s.now, Load{Backlog: 100, Live: 4}).Unproven > 0
		if early != proved {
			t.Errorf("proved %v: tries early %v", proved, early)
		}
		if strikes := s.c.door.strikes; early {
			s.c.Observe(s.now, Signal{Kind: Refused, Host: "a", Began: s.now})
			if s.c.door.strikes != strikes {
				t.Errorf("%d strikes after an early try, were %d", s.c.door.strikes, strikes)
			}
		}
	}
}

// What follows upon a refusal shows whether it is punished, and only if nothing we
// had was refused in between.
func TestPunishmentIsNotForgottenByWhatComesUpAfterIt(t *testing.T) {
	t.Parallel()
	s := limited(t)
	d := &s.c.door
	d.punish, d.tested, d.proved = s.now.Add(waryFor), true, false
	s.c.Observe(s.now, Signal{Kind: Refused, Host: "a", Began: s.now})
	s.c.Target(s.now, Load{Backlog: 100, Live: 9})
	for range 2 { // one ends the row of refusals, the next brings back all we had
		s.now = s.now.Add(time.Minute)
		s.c.Observe(s.now, Signal{Kind: Up, Host: "a", Began: s.now})
		s.c.Target(s.now, Load{Backlog: 100, Live: 10})
	}
	if !d.proved || !d.wary(s.now) {
		t.Errorf("proved %v, wary %v", d.proved, d.wary(s.now))
	}
}

func TestWantsNoMoreThanThereIsWorkFor(t *testing.T) {
	t.Parallel()
	s := limited(t)
	for _, x := range []struct {
		load Load
		want int
	}{
		{Load{Backlog: 1}, 1},
		{Load{Backlog: 3, Live: 2, Opening: 1}, 6},
		{Load{Live: 7}, 7},
		{Load{}, 0},
	} {
		if target := s.c.Target(s.now, x.load); target.Sessions != x.want {
			t.Errorf("%+v: %d sessions, want %d", x.load, target.Sessions, x.want)
		}
	}
}

func TestLetsGoOfSessionsWithoutBacklog(t *testing.T) {
	t.Parallel()
	s := limited(t)
	live, steps := 10, 0
	s.c.Target(s.now, Load{Live: live})
	for now := s.c.Next(); !now.IsZero() && steps < 20; now = s.c.Next() {
		live = s.c.Target(now, Load{Live: live}).Sessions
		steps++
	}
	if live != startSessions {
		t.Errorf("%d sessions after %d steps without backlog", live, steps)
	}
}

func TestLimitsAreObeyedAtOnce(t *testing.T) {
	t.Parallel()
	s := limited(t)
	s.c.SetLimits(s.now, Limits{MaxSessions: 3, MaxRate: 5})
	if target := s.c.Target(s.now, Load{Backlog: 100, Live: 10}); target.Sessions != 3 || target.Pace != 5 {
		t.Errorf("%+v after new limits", target)
	}
}

func TestTightestClampCounts(t *testing.T) {
	t.Parallel()
	s := limited(t)
	now, load := s.now, Load{Backlog: 100, Live: 10}
	s.c.SetLimits(now, Limits{MaxSessions: 10})
	s.c.Clamp(now, Clamp{Sessions: 1, Until: now.Add(time.Hour), Reason: "too many connections"})
	s.c.Clamp(now, Clamp{Sessions: 0, Until: now.Add(time.Minute), Reason: "blocked"})
	s.c.Clamp(now, Clamp{Sessions: -1, Pace: 2, Until: now.Add(2 * time.Hour), Reason: "slower"})
	s.c.Clamp(now, Clamp{Sessions: 0, Until: now.Add(-time.Minute), Reason: "long over"})
	for _, x := range []struct {
		after    time.Duration
		sessions int
		pace     float64
		reason   string
		until    time.Duration
	}{
		{0, 0, 2, "blocked", time.Minute}, {time.Minute, 1, 2, "too many connections", time.Hour},
		{time.Hour, 10, 2, "slower", 2 * time.Hour}, {2 * time.Hour, 10, 0, "", 0},
	} {
		target := s.c.Target(now.Add(x.after), load)
		if target.Sessions != x.sessions || target.Pace != x.pace {
			t.Errorf("after %v: %+v, want %d sessions at %v/s", x.after, target, x.sessions, x.pace)
		}
		cl, clamped := s.c.Clamped(now.Add(x.after))
		if clamped != (x.reason != "") || cl.Reason != x.reason || clamped && !cl.Until.Equal(now.Add(x.until)) {
			t.Errorf("after %v: clamped %v: %+v, want %q until %v", x.after, clamped, cl, x.reason, x.until)
		}
		if target.Slowed {
			t.Errorf("after %v: a clamp counts as the receiver's own pace", x.after)
		}
		if x.sessions == 0 && (target.Unproven != 0 || !s.c.Next().Equal(now.Add(time.Minute))) {
			t.Errorf("suspended, yet unproven %d, next %v", target.Unproven, s.c.Next())
		}
	}
}

func TestSlowedTellsTheReceiversPaceFromOurs(t *testing.T) {
	t.Parallel()
	s := limited(t)
	target := func() Target { return s.c.Target(s.now, Load{Backlog: 100, Live: 10}) }
	s.c.SetLimits(s.now, Limits{MaxSessions: 10, MaxRate: 1000})
	if x := target(); x.Slowed || x.Pace != 1000 {
		t.Errorf("only configured: %+v", x)
	}
	s.c.Observe(s.now, Signal{Kind: RateRefused, Host: "192.0.2.1", Began: s.now})
	if x := target(); !x.Slowed || x.Pace >= 1000 {
		t.Errorf("the receiver says too fast: %+v", x)
	}
	s.c.SetLimits(s.now, Limits{MaxSessions: 10, MaxRate: 0.01})
	if x := target(); x.Slowed || x.Pace != 0.01 {
		t.Errorf("configured below that: %+v", x)
	}
}

func TestClampedSiteIsNotProbed(t *testing.T) {
	t.Parallel()
	s := limited(t)
	s.c.Clamp(s.now, Clamp{Sessions: 50, Until: s.now.Add(time.Hour), Reason: "r"})
	refused := s.refused
	s.run(time.Hour)
	if s.refused > refused {
		t.Errorf("%d refusals of a clamped site", s.refused-refused)
	}
	s.run(5 * time.Minute)
	if s.refused == refused {
		t.Error("no probe after the clamp ended")
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) { // AllocsPerRun counts all goroutines: not parallel
	s := limited(t)
	s.c.Observe(s.now, Signal{Kind: RateRefused, Host: "192.0.2.1", Began: s.now})
	now, load := s.now, Load{Backlog: 1000, Live: 10}
	s.c.SetLimits(now, Limits{MaxSessions: s.c.want})
	n := testing.AllocsPerRun(1000, func() {
		now = now.Add(time.Millisecond)
		s.c.Observe(now, Signal{Kind: Closed, Host: "192.0.2.1", Began: now})
		s.c.Observe(now, Signal{Kind: Up, Host: "192.0.2.1", Began: now})
		s.c.Observe(now, Signal{Kind: Accepted, Host: "192.0.2.1", Began: now.Add(-time.Second)})
		s.c.Target(now, load)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Whatever the evidence, the target keeps its bounds.
func TestTargetKeepsItsBounds(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 2))
		limits := Limits{MaxSessions: 1 + r.IntN(30), MaxRate: float64(r.IntN(3)) * 10}
		now := epoch
		c := New(now, limits)
		suspended := time.Time{}
		load := Load{}
		for range 2000 {
			now = now.Add(time.Duration(r.ExpFloat64() * float64(time.Second)))
			if next := c.Next(); r.IntN(4) == 0 && next.After(now) {
				now = next
			}
			switch r.IntN(40) {
			case 0:
				limits.MaxSessions = 1 + r.IntN(30)
				c.SetLimits(now, limits)
			case 1:
				cl := Clamp{Sessions: r.IntN(4) - 1, Pace: r.Float64(), Until: now.Add(time.Duration(r.IntN(100)) * time.Second)}
				c.Clamp(now, cl)
				if cl.Sessions == 0 && cl.Until.After(suspended) {
					suspended = cl.Until
				}
			default:
				c.Observe(now, Signal{Kind: Kind(r.IntN(7)), Host: string(rune('a' + r.IntN(10))), Began: now.Add(-time.Duration(r.IntN(2000)) * time.Millisecond)})
			}
			load = Load{Backlog: r.IntN(3) * 1000, Live: r.IntN(limits.MaxSessions + 3), Opening: r.IntN(5)}
			target := c.Target(now, load)
			switch {
			case target.Sessions < 0 || target.Unproven < 0 || target.Sessions > limits.MaxSessions:
				t.Fatalf("seed %d: %+v with %+v", seed, target, limits)
			case load.Backlog > 0 && target.Sessions < 1 && !now.Before(suspended):
				t.Fatalf("seed %d: no session for a backlog", seed)
			case target.Pace < 0 || limits.MaxRate > 0 && (target.Pace == 0 || target.Pace > limits.MaxRate):
				t.Fatalf("seed %d: pace %v with %+v", seed, target.Pace, limits)
			case target.Cause == "":
				t.Fatalf("seed %d: no cause", seed)
			case !c.Next().IsZero() && !c.Next().After(now):
				t.Fatalf("seed %d: next is %v, now %v", seed, c.Next(), now)
			case load.Backlog > 0 && target.Unproven == 0 && load.Live < target.Sessions && c.Next().IsZero():
				t.Fatalf("seed %d: waits for nothing: %+v with %+v", seed, target, load)
			}
		}
	}
}

// Where a refusal took something off the limit, what is up is past it: part of that
// is let go, and nothing more is tried until the receiver will have forgotten.
func TestReceiverThatTakesOffItsLimitIsLeftAlone(t *testing.T) {
	t.Parallel()
	s := limited(t)
	d := &s.c.door
	d.lag, d.lagMost = 4*time.Second, 4*time.Second // the first refusal was put down to a late slot
	d.proved, d.harmless = false, false
	for range 3 { // their slots have long been free
		s.c.Observe(s.now, Signal{Kind: Closed, Host: "a"})
	}
	s.now = s.now.Add(5 * time.Second)
	load := Load{Backlog: 100, Live: 7, Opening: 1}
	s.c.Target(s.now, load)
	s.c.Observe(s.now, Signal{Kind: Refused, Host: "a", Began: s.now})
	load.Opening = 0
	if target := s.c.Target(s.now, load); target.Sessions != 5 {
		t.Errorf("%d sessions, 7 are up and the 8th was refused", target.Sessions)
	}
	began := s.now
	for load.Live = 5; s.c.want <= 5 && s.now.Sub(began) < time.Hour; s.now = s.now.Add(time.Second) {
		for range load.Live {
			s.c.Observe(s.now, Signal{Kind: Accepted, Host: "a", Began: s.now.Add(-time.Second)})
		}
		s.c.Target(s.now, load)
	}
	if waited := s.now.Sub(began); waited < waryGapMin || waited > waryGapMin+time.Minute {
		t.Errorf("tries more after %v", waited)
	}
}

// A session that is refused its message had no slot to free: what is refused next
// did not come too early for one.
func TestRefusedSessionFreesNoSlot(t *testing.T) {
	t.Parallel()
	s := limited(t)
	before := s.c.door.nclosed
	s.c.Observe(s.now, Signal{Kind: Refused, Host: "a", Began: s.now.Add(-time.Second)})
	s.c.Observe(s.now, Signal{Kind: Closed, Host: "a"})
	if s.c.door.nclosed != before {
		t.Error("a slot was freed")
	}
	s.c.Observe(s.now.Add(time.Second), Signal{Kind: Closed, Host: "a"})
	if s.c.door.nclosed != before+1 {
		t.Error("no slot was freed by a session that ended by itself")
	}
}

// What a refusal says while the host's own connections are there, is not what the
// receiver allows: growth goes on when they are not.
func TestRefusalBesideTheHostsConnectionsSaysLittle(t *testing.T) {
	t.Parallel()
	for _, mail := range []bool{false, true} {
		c := New(epoch, Limits{MaxSessions: 50})
		c.want, c.now = 8, level{n: 8}
		c.Target(at(0), Load{Backlog: 100, Live: 4, Opening: 2})
		c.Observe(at(0), Signal{Kind: Accepted, Host: "a", Began: at(-time.Second)})
		if mail {
			c.HostMail(at(0), 1)
		}
		for range 2 {
			c.Observe(at(time.Millisecond), Signal{Kind: Refused, Host: "a", Began: at(0)})
		}
		c.Target(at(time.Millisecond), Load{Backlog: 100, Live: 4})
		c.Target(at(2*time.Second), Load{Backlog: 100, Live: 4})
		if more := c.want > 4; more != mail {
			t.Errorf("mail %v: %d sessions wanted two seconds after 4 were up", mail, c.want)
		}
	}
}

// The first pace may hold what the receiver had let run up, and is then cut to what
// was accepted since, once; refusals begun before that only debit.
func TestPaceIsCutToWhatWasAccepted(t *testing.T) {
	t.Parallel()
	c := New(epoch, Limits{MaxSessions: 50})
	now := epoch
	send := func(n int, answer func(i int) Signal) {
		for i := range n {
			now = now.Add(2 * time.Millisecond)
			s := answer(i)
			s.Began = now
			c.Observe(now, s)
		}
	}
	from := func(host string) Signal { return Signal{Kind: Accepted, Host: host} }
	too := func(host string) Signal { return Signal{Kind: RateRefused, Host: host} }
	hosts := [...]string{"a", "b", "c", "d"}
	send(200, func(i int) Signal { return from(hosts[i%4]) })
	send(1, func(int) Signal { return too("a") })
	first := c.pace.value // 0.9 of 500/s
	if first < 440 || first > 460 {
		t.Fatalf("the first pace is %.0f, 500/s were accepted", first)
	}
	for range 20 {
		c.Observe(now, Signal{Kind: RateRefused, Host: "a", Began: now.Add(-time.Second)})
	}
	if c.pace.value != first {
		t.Errorf("%.0f/s after refusals begun before the cut", c.pace.value)
	}
	send(20, func(i int) Signal { // at first a row, of which too much should not be made
		if i < 4 || i == 12 {
			return too(hosts[i%4])
		}
		return from(hosts[i%4])
	})
	if got := c.pace.value / first; got < 0.53 || got > 0.58 {
		t.Errorf("%.2f of the first pace, 8 of 13 were accepted", got)
	}

	// One host of four that takes every other message sets the pace for all; one
	// that takes none does not.
	for _, takes := range []bool{true, false} {
		c = New(epoch, Limits{MaxSessions: 50})
		send(200, func(i int) Signal { return from(hosts[i%4]) })
		send(1, func(int) Signal { return too("a") })
		first = c.pace.value
		send(30, func(i int) Signal {
			if i%4 == 0 && (!takes || i%8 == 0) {
				return too("a")
			}
			return from(hosts[i%4])
		})
		if cut := c.pace.value < 0.6*first; cut != takes {
			t.Errorf("it takes some: %v; %.2f of the first pace", takes, c.pace.value/first)
		}
	}
}
