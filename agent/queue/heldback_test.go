package queue

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/spool"
)

func TestWhyASiteIsHeldBack(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	later := now.Add(time.Hour)
	// A site of 30 sessions at most, with mail, that grows over four sessions.
	grows := func(change func(*evidence)) evidence {
		e := evidence{
			now: now, waiting: 208, sessions: 4, answered: now,
			control: elastic.Brief{State: "growing", Limits: elastic.Limits{MaxSessions: 30, Why: "the configuration"}, Want: 4, Held: 4, Called: 3},
		}
		change(&e)
		return e
	}
	none := func(change func(*evidence)) evidence {
		return grows(func(e *evidence) {
			e.sessions, e.control.Held = 0, 0
			change(e)
		})
	}
	clamp := func(cl elastic.Clamp) func(*evidence) {
		return func(e *evidence) {
			cl.Until, cl.Reason = later, "421 slow down"
			e.clamp = cl
		}
	}
	for _, x := range []struct {
		name string
		e    evidence
		want string // reason: how (reply) until next
	}{
		{"grows", grows(func(*evidence) {}), ""},
		{"is on a plateau", grows(func(e *evidence) { e.control.State = "plateau" }), ""},
		{"has no mail", grows(func(e *evidence) { e.waiting, e.control.Next = 0, now }), ""},
		{"was not tried", none(func(*evidence) {}), ""},
		{"connects", none(func(e *evidence) { e.opening = 1 }), ""},
		{"suspended", grows(clamp(elastic.Clamp{})), "suspended: suspended (421 slow down) until 13:00"},
		{"suspended without mail", evidence{now: now, clamp: elastic.Clamp{Until: later, Reason: "x"}}, "suspended: suspended (x) until 13:00"},
		{"clamped", grows(clamp(elastic.Clamp{Sessions: 1})), "slowed: at most 1 session (421 slow down) until 13:00"},
		{"clamped above", grows(clamp(elastic.Clamp{Sessions: 20})), "slowed: at most 20 sessions (421 slow down) until 13:00"},
		{"clamped in pace", grows(func(e *evidence) {
			clamp(elastic.Clamp{Sessions: -1, Pace: 2.5})(e)
			e.ready, e.target = 2, elastic.Target{Pace: 2.5, Slowed: true}
		}), "slowed: at most 2.5 messages a second (421 slow down) until 13:00"},
		{"paced", grows(func(e *evidence) {
			e.ready, e.target, e.control.TooFast = 2, elastic.Target{Pace: 3, Slowed: true}, "450 too fast"
		}), "slowed: takes about 3 messages a second (450 too fast)"},
		{"has few sessions for its pace", grows(func(e *evidence) {
			e.control.Held, e.target = 2, elastic.Target{Pace: 3, Slowed: true}
		}), "slowed: takes about 3 messages a second"},
		{"has a pace that does not bind", grows(func(e *evidence) { e.target = elastic.Target{Pace: 300, Slowed: true} }), ""},
		{"max_message_rate", grows(func(e *evidence) {
			e.ready, e.target, e.control.Limits.MaxRate = 2, elastic.Target{Pace: 5}, 5
		}), "queue_limit: max_message_rate is 5 messages a second (the configuration)"},
		{"max_message_rate of few", grows(func(e *evidence) {
			e.ready, e.target, e.control.Limits.MaxRate = 2, elastic.Target{Pace: 1. / 3600}, 1./3600
		}), "queue_limit: max_message_rate is 1 messages an hour (the configuration)"},
		{"dead", none(func(e *evidence) {
			e.down = down{waiting: 208, reason: "connect to mx[192.0.2.1]: timed out", next: later}
		}), "dead: no answer (connect to mx[192.0.2.1]: timed out) next 13:00"},
		{"is dead in words", none(func(e *evidence) {
			e.down = down{waiting: 208, how: "answered 554", reason: "host mx[192.0.2.1] said: 554 go away"}
		}), "dead: answered 554 (host mx[192.0.2.1] said: 554 go away)"},
		{"hangs in its first connect", none(func(e *evidence) { e.opening, e.control.Hanging, e.control.Held = 1, 1, 1 }), "dead: no answer yet"},
		{"hangs in its transactions", grows(func(e *evidence) { e.answered = now.Add(-2 * time.Minute) }), "dead: 4 sessions are up, and no answer for 2m0s"},
		{"is slow", grows(func(e *evidence) { e.answered, e.latency = now.Add(-2*time.Minute), 40*time.Second }), ""},
		{"has one address of three that is dead", grows(func(e *evidence) { e.control.Want, e.control.Down = 6, 1 }), "dead: 1 of 3 addresses is down"},
		{"has all it wants, and one dead address", grows(func(e *evidence) { e.control.Down = 1 }), ""},
		{"has dead joiners", grows(func(e *evidence) { e.down = down{waiting: 3, reason: "refused port", next: later} }),
			"dead: 3 recipients wait for hosts that are down (refused port) next 13:00"},
		{"lets nobody in", none(func(e *evidence) {
			e.control.Refusing, e.control.Reply, e.control.Opens = 3, "421 too many", later
			e.down = down{waiting: 208, reason: "an older failure"}
		}), "refused: lets nobody in (421 too many) next 13:00"},
		{"is shut", none(func(e *evidence) { e.control.State, e.control.Reply, e.control.Opens = "shut", "421 too many", later }),
			"refused: lets nobody in (421 too many) next 13:00"},
		{"was cut from 30 to 7", grows(func(e *evidence) {
			e.sessions, e.control.State, e.control.Want, e.control.Held, e.control.Next, e.control.Reply = 7, "bounded", 7, 7, later, "421 too many"
		}), "refused: takes 7 sessions, 30 are allowed (421 too many) next 13:00"},
		{"waits for slots that are not free yet", none(func(e *evidence) {
			e.control.Want, e.control.Held, e.control.Lagging, e.control.Next, e.control.Reply = 5, 5, 5, later, "421 too many"
		}), "refused: takes 5 sessions, 30 are allowed; 5 slots are those of sessions that have just ended (421 too many) next 13:00"},
		{"waits for a slot that is not free yet, without a limit", none(func(e *evidence) { e.control.Want, e.control.Held, e.control.Lagging = 1, 1, 1 }),
			"refused: 1 slot is that of a session that has just ended"},
		{"has just ended a session and makes another", none(func(e *evidence) { e.control.Held, e.control.Lagging, e.opening = 2, 1, 1 }), ""},
		{"calls again where one is taken", none(func(e *evidence) { e.control.Want, e.control.Held, e.control.Next, e.opening = 1, 1, now, 1 }),
			"refused: takes 1 session, 30 are allowed"},
		{"has hosts that are not called since they failed", grows(func(e *evidence) { e.control.Next, e.control.Uncalled = now, 2 }),
			"refused: takes 4 sessions, 30 are allowed; 2 of 3 addresses not called since they failed"},
		{"may be tried any moment", grows(func(e *evidence) { e.control.Next = now }), "refused: takes 4 sessions, 30 are allowed"},
		{"is bounded, and has enough", grows(func(e *evidence) { e.control.Next, e.waiting, e.ready = now, 1, 1 }), ""},
		{"is refused at one address of three", grows(func(e *evidence) { e.control.Want, e.control.Refusing, e.control.Next = 6, 1, now }),
			"refused: 1 of 3 addresses let nobody in"},
		{"has all sessions", grows(func(e *evidence) { e.control.Limits.MaxSessions, e.control.Next = 4, now }), "queue_limit: max_sessions is 4 (the configuration)"},
		{"has an admin's limit", grows(func(e *evidence) { e.control.Limits = elastic.Limits{MaxSessions: 2, Why: "set by root"} }),
			"queue_limit: max_sessions is 2 (set by root)"},
		{"leaves places to the host", grows(func(e *evidence) { e.control.Limits.MaxSessions, e.control.Host, e.control.Held = 4, 1, 3 }),
			"queue_limit: max_sessions is 4; 1 of them left to the host's own mail (the configuration)"},
		{"max_connection_rate", grows(func(e *evidence) { e.control.Held, e.connectRate = 2, 1 }), "queue_limit: max_connection_rate is 1/s (the configuration)"},
		{"shares its address", none(func(e *evidence) { e.crowd = "192.0.2.1" }), "crowded: other sites have the connections that 192.0.2.1 takes"},
		{"shares it with some sessions", grows(func(e *evidence) { e.crowd = "192.0.2.1" }), "crowded: other sites have the connections that 192.0.2.1 takes"},
		{"waits for another session", grows(func(e *evidence) { e.inLine, e.control.Next = true, now }),
			"agent_limit: waits for another session: max_sessions of [agent] is reached"},
		{"waits for its first session", none(func(e *evidence) { e.inLine = true }),
			"agent_limit: waits for its turn: max_sessions of [agent] allows no more connects at a time"},
	} {
		h := x.e.judge()
		got := ""
		if h.Reason != "" {
			got = fmt.Sprintf("%s: %s", h.Reason, h.How)
		}
		if h.Reply != "" {
			got += " (" + h.Reply + ")"
		}
		if !h.Until.IsZero() {
			got += h.Until.Format(" until 15:04")
		}
		if !h.Next.IsZero() {
			got += h.Next.Format(" next 15:04")
		}
		if got != x.want {
			t.Errorf("a site that %s: %q, want %q", x.name, got, x.want)
		}
	}
}

// Of five receivers one gives no answer to a connect, one none to a message, one takes
// seven connections, one is suspended, and one is well: the listing tells them apart.
func TestListingTellsWhoHoldsMailBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := receiversAt(receiver{silent: 5 * time.Minute}, receiver{}, receiver{limit: 7}, receiver{}, receiver{})
		spots := map[string]int{"hung.example": 1, "mute.example": 2, "seven.example": 3, "shut.example": 4, "well.example": 5}
		w := worldOf(t, x, func(w *world, d string) Route { return w.toPlaces(d, d, spot(spots[d], 0)) }, func(w *world) {
			w.service, w.policy.MaxSessions, w.o.MaxSessions = 500*time.Millisecond, 30, 500
			w.server = func(w *world, s *Session) {
				if s.Place() != spot(2, 0) {
					x.serve(w, s)
					return
				}
				w.Opened(s, []elastic.Signal{{Kind: elastic.Up, Began: time.Now()}})
				if _, err := w.Step(context.Background(), s, nil, nil); err == nil {
					time.Sleep(10 * time.Minute) // as long as the end of DATA may take (RFC 5321, section 4.5.3.2.6)
				}
				w.Leave(s, nil, []elastic.Signal{{Kind: elastic.Lost}}, "timed out")
			}
		})
		id := spool.ID(0)
		for name := range spots {
			n := 208
			if name == "seven.example" {
				n = 20_000
			}
			for range n {
				id++
				w.add(id, "s", name)
			}
		}
		pass(time.Second)
		w.Clamp("shut.example", elastic.Clamp{Until: time.Now().Add(time.Hour), Reason: "421 go away"})
		pass(3 * time.Minute)
		want := map[string]Reason{"hung.example": Dead, "mute.example": Dead, "seven.example": Refused, "shut.example": Suspended, "well.example": ""}
		for _, s := range w.Sites() {
			if s.HeldBack.Reason != want[s.Name] {
				t.Errorf("%s: %+v, want %q; %+v", s.Name, s.HeldBack, want[s.Name], s)
			}
			a, ok := w.Explain(s.Name)
			if !ok || a.HeldBack.Reason != want[s.Name] || len(a.Changes) == 0 {
				t.Errorf("explained: %+v", a)
			}
			if s.Name != "seven.example" {
				continue
			}
			var n int // a probe, or a place given up, may be about
			if _, err := fmt.Sscanf(s.HeldBack.How, "takes %d sessions, 30 are allowed", &n); err != nil || n < 5 || n > 9 || s.HeldBack.Reply != "421 too many" || s.State != "bounded" {
				t.Errorf("%+v", s)
			}
			if p := a.Snapshot.PerAddress; len(p) != 1 || p[0].Accepted < 5 || p[0].Accepted > 9 || !p[0].Limited || a.Limits.MaxSessions != 30 {
				t.Errorf("%+v, limits %+v", p, a.Limits)
			}
		}
	})
}

// Sites that wait for another's slots, or for a session of the agent, are told so.
func TestListingTellsOfCrowds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := receiversAt(receiver{limit: 3})
		w := worldOf(t, x, func(w *world, d string) Route { return w.toPlaces(d, d, spot(1, 0)) }, func(w *world) { w.service = 5 * time.Second })
		for i := range 400 {
			w.add(spool.ID(i+1), "s", fmt.Sprintf("d%d.example", i%8))
		}
		pass(2 * time.Minute)
		crowded := 0
		for _, s := range w.Sites() {
			if s.HeldBack.Reason == Crowded && strings.Contains(s.HeldBack.How, "192.0.2.1") {
				crowded++
			}
		}
		if crowded < 4 {
			t.Errorf("%d of 8 sites at an address that takes 3 are told to be crowded: %+v", crowded, w.Sites())
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) { w.o.MaxSessions, w.service = 4, 5*time.Second })
		for i := range 400 {
			w.add(spool.ID(i+1), "s", fmt.Sprintf("d%d.example", i%8))
		}
		pass(2 * time.Minute)
		inLine := 0
		for _, s := range w.Sites() {
			if s.HeldBack.Reason == AgentLimit {
				inLine++
			}
		}
		if inLine < 4 {
			t.Errorf("%d of 8 sites that share 4 sessions are told so: %+v", inLine, w.Sites())
		}
	})
}
