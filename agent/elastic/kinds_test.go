package elastic

import (
	"fmt"
	"testing"
	"time"
)

const testRTT = 50 * time.Millisecond

func always(n int) func(time.Duration) int { return func(time.Duration) int { return n } }

// steady is the goodput between two times, as a share of what is possible.
func (s *sim) steady(possible float64, from, to time.Duration) float64 {
	return float64(count(s.done, from, to)) / (to - from).Seconds() / possible
}

// annoyance is the refusals for each message delivered.
func (s *sim) annoyance(until time.Duration) float64 {
	return float64(count(s.refused, 0, until)) / float64(max(1, count(s.done, 0, until)))
}

// The figures that the controller has to reach.
const (
	wantGoodput      = 0.85
	wantRefusals     = 0.02
	wantRefusalsHurt = 0.001 // where refusals are punished
	wantStart        = 30    // transaction times to 90% of the possible
)

func TestFindsAConnectionLimit(t *testing.T) {
	t.Parallel()
	for _, r := range []receiver{{}, {noise: 1, lag: time.Second}} {
		for _, service := range []int{1, 4, 20} {
			for _, limit := range []int{1, 2, 5, 13, 40, 100} {
				t.Run(fmt.Sprintf("service %d RTT/limit %d/lag %v", service, limit, r.lag), func(t *testing.T) {
					t.Parallel()
					r := r
					r.rtt, r.service, r.limit = testRTT, time.Duration(service)*testRTT, always(limit)
					s := newSim(r, Limits{MaxSessions: 200}, 1)
					end := 10 * time.Minute
					if limit == 100 {
						end = 3 * time.Minute // a million messages would not tell more
					}
					s.run(end)
					possible := float64(limit) / (s.transaction() + r.lag/perConnection).Seconds()
					if g := s.steady(possible, time.Minute, end); g < wantGoodput {
						t.Errorf("goodput %.3f of the possible, want %v", g, wantGoodput)
					}
					if a := s.annoyance(end); a > wantRefusals {
						t.Errorf("%.2f%% refused, want at most %v", 100*a, wantRefusals)
					}
					if n := float64(s.reached(0.9*possible)) / float64(s.transaction()); n > wantStart {
						t.Errorf("90%% of the possible after %.1f transaction times, want %d", n, wantStart)
					}
					if s.bad != "" {
						t.Error(s.bad)
					}
				})
			}
		}
	}
}

func TestReceiversOfManyKinds(t *testing.T) {
	t.Parallel()
	const forget = 5 * time.Minute
	normal := receiver{rtt: testRTT, service: 4 * testRTT, noise: 0.5}
	with := func(change func(*receiver)) receiver {
		r := normal
		change(&r)
		return r
	}
	perSession := 1 / (5 * testRTT).Seconds()
	for name, k := range map[string]struct {
		r        receiver
		max      int
		possible float64
		learning time.Duration // not counted as steady
		refusals float64
	}{
		"limit at MAIL":         {with(func(r *receiver) { r.limit, r.atMail = always(5), true }), 200, 5 * perSession, time.Minute, wantRefusals},
		"slots freed late":      {with(func(r *receiver) { r.limit, r.lag = always(9), 3*time.Second }), 200, 9 / 0.28, time.Minute, wantRefusals},
		"refusal bans 1 s":      {with(func(r *receiver) { r.limit, r.ban, r.forget = always(20), time.Second, forget }), 200, 20 * perSession, 10 * time.Minute, wantRefusalsHurt},
		"refusal bans 5 s":      {with(func(r *receiver) { r.limit, r.ban, r.forget = always(10), 5*time.Second, forget }), 200, 10 * perSession, 10 * time.Minute, wantRefusalsHurt},
		"refusal shrinks":       {with(func(r *receiver) { r.limit, r.shrink, r.forget = always(10), 1, forget }), 200, 10 * perSession, 15 * time.Minute, wantRefusals},
		"refusal shrinks a lot": {with(func(r *receiver) { r.limit, r.shrink, r.forget = always(20), 3, forget }), 200, 20 * perSession, 15 * time.Minute, wantRefusals},
		"slower with load":      {with(func(r *receiver) { r.capacity = 10 }), 200, 10 / 0.2, time.Minute, 0},
		"one message at once":   {with(func(r *receiver) { r.capacity = 1 }), 200, 1 / 0.2, time.Minute, 0},
		"1 message a second":    {with(func(r *receiver) { r.rate = func(time.Duration) float64 { return 1 } }), 20, 1, time.Minute, wantRefusals},
		"20 messages a second":  {with(func(r *receiver) { r.rate = func(time.Duration) float64 { return 20 } }), 20, 20, time.Minute, wantRefusals},
		"100 messages a second": {with(func(r *receiver) { r.rate = func(time.Duration) float64 { return 100 } }), 200, 100, 2 * time.Minute, wantRefusals},
		"rate and connections": {with(func(r *receiver) {
			r.limit, r.rate = always(10), func(time.Duration) float64 { return 30 }
		}), 200, 30, time.Minute, wantRefusals},
		"3 of 4 hosts dead":   {with(func(r *receiver) { r.limit, r.dead = always(20), 3 }), 200, 20 * perSession, time.Minute, wantRefusals},
		"2 of 4 hosts refuse": {with(func(r *receiver) { r.limit, r.grumpy = always(20), 2 }), 200, 20 * perSession, 2 * time.Minute, wantRefusals},
		// The experiment of Postfix's SCHEDULER_README: 16.5% deferred at best.
		"client 20, server 5": {with(func(r *receiver) { r.limit = always(5) }), 20, 5 * perSession, time.Minute, 0.005},
		"our own ceiling":     {normal, 7, 7 * perSession, time.Minute, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSim(k.r, Limits{MaxSessions: k.max}, 7)
			s.run(30 * time.Minute)
			if g := s.steady(k.possible, k.learning, 30*time.Minute); g < wantGoodput {
				t.Errorf("goodput %.3f of the possible, want %v", g, wantGoodput)
			}
			if a := s.annoyance(10 * time.Minute); a > k.refusals {
				t.Errorf("%.3f%% refused in the first 10 minutes, want at most %.3f%%", 100*a, 100*k.refusals)
			}
			if k.r.ban+k.r.forget > 0 {
				late := float64(count(s.refused, k.learning, 30*time.Minute)) / float64(count(s.done, k.learning, 30*time.Minute))
				if late > wantRefusalsHurt {
					t.Errorf("%.3f%% refused by a receiver that punishes, want at most %.3f%%", 100*late, 100*wantRefusalsHurt)
				}
			}
			if s.bad != "" {
				t.Error(s.bad)
			}
			if t.Failed() {
				for _, c := range s.c.History() {
					t.Log(c.At.Sub(epoch), c.From, c.To, c.Pace, c.Cause)
				}
			}
		})
	}
}

func TestFindsALoweredAndALiftedLimit(t *testing.T) {
	t.Parallel()
	// Not right after a probe, before a session was replaced: that would look like
	// its punishment.
	const lowered, lifted = 5*time.Minute + 12*time.Second, 10 * time.Minute
	for _, limit := range []int{8, 20, 80} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			t.Parallel()
			r := receiver{rtt: testRTT, service: 4 * testRTT, noise: 0.5, limit: func(at time.Duration) int {
				if at >= lowered && at < lifted {
					return limit / 4
				}
				return limit
			}}
			s := newSim(r, Limits{MaxSessions: 200}, 3)
			s.run(15 * time.Minute)
			possible := float64(limit) / s.transaction().Seconds()
			if g := s.steady(possible/4, lowered+2*time.Minute, lifted); g < wantGoodput {
				t.Errorf("after the limit fell: %.3f of the possible", g)
			}
			// A minute, or 200 messages if they take longer.
			found := lifted + max(time.Minute, time.Duration(200/(possible/4)*float64(time.Second)))
			if g := s.steady(possible, found, found+time.Minute); g < wantGoodput {
				t.Errorf("after the limit was lifted: %.3f of the possible", g)
			}
			if a := s.annoyance(15 * time.Minute); a > wantRefusals {
				t.Errorf("%.2f%% refused", 100*a)
			}
		})
	}
}

func TestRateLimitLifted(t *testing.T) {
	t.Parallel()
	r := receiver{rtt: testRTT, service: 4 * testRTT, rate: func(at time.Duration) float64 {
		if at < 5*time.Minute {
			return 10
		}
		return 1e6
	}}
	s := newSim(r, Limits{MaxSessions: 10}, 3)
	s.run(10 * time.Minute)
	if g := s.steady(40, 7*time.Minute, 10*time.Minute); g < wantGoodput {
		t.Errorf("two minutes after the limit was lifted: %.3f of the possible", g)
	}
}

func TestSuspendedSiteSeesNoConnect(t *testing.T) {
	t.Parallel()
	s := newSim(receiver{rtt: testRTT, service: 4 * testRTT, limit: always(10)}, Limits{MaxSessions: 20}, 1)
	s.run(time.Minute)
	s.c.Clamp(s.clock(), Clamp{Sessions: 0, Until: s.clock().Add(time.Hour), Reason: "421 4.7.0 blocked"})
	s.suspended = 61 * time.Minute
	s.act()
	s.run(s.now + 5*time.Second) // what is in flight ends
	connects, done := s.connects, len(s.done)
	s.run(61*time.Minute - time.Millisecond)
	if s.connects != connects || len(s.done) != done || s.live != 0 {
		t.Errorf("%d connects, %d messages during the suspension, %d still up", s.connects-connects, len(s.done)-done, s.live)
	}
	s.run(65 * time.Minute)
	if g := s.steady(40, 62*time.Minute, 65*time.Minute); g < wantGoodput {
		t.Errorf("%.3f of the possible after the suspension", g)
	}
	if s.bad != "" {
		t.Error(s.bad)
	}
}
