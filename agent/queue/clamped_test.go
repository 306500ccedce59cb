package queue

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/spool"
)

// Where an admin, a rule or the configuration wants less than the receiver takes, one more than
// it takes is not tried.
func TestNoProbesWhereLessIsWantedThanTheReceiverTakes(t *testing.T) {
	t.Parallel()
	later := time.Hour
	for name, bound := range map[string]func(w *world){
		"sessions of a clamp": func(w *world) {
			w.Clamp("a.example", elastic.Clamp{Sessions: 4, Until: time.Now().Add(later), Reason: "x"})
		},
		"as many as it takes": func(w *world) {
			w.Clamp("a.example", elastic.Clamp{Sessions: 10, Until: time.Now().Add(later), Reason: "x"})
		},
		"rate of a clamp": func(w *world) {
			w.Clamp("a.example", elastic.Clamp{Sessions: -1, Pace: 5, Until: time.Now().Add(later), Reason: "x"})
		},
		"sessions of a limit": func(w *world) {
			w.SetLimits([]Limit{{Name: "a.example", Sessions: 4}})
		},
		"rate of a limit": func(w *world) {
			w.SetLimits([]Limit{{Name: "a.example", Rate: 5}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				x := receiversAt(receiver{limit: 10, messages: 20})
				w := worldOf(t, x, func(w *world, d string) Route { return w.toPlaces(d, d, spot(1, 0)) }, func(w *world) { w.policy.MaxSessions = 200 })
				for i := range 100_000 {
					w.add(spool.ID(i+1), "s", "a.example")
				}
				pass(time.Minute)
				bound(w)
				pass(15 * time.Second)
				before := x.met(1)
				pass(10 * time.Minute)
				after := x.met(1)
				if n := after.refused - before.refused; n > 0 {
					t.Errorf("%d connects were refused in ten minutes", n)
				}
				if after.taken == before.taken {
					t.Error("no mail is taken")
				}
				t.Log(after.calls-before.calls, after.taken-before.taken)
			})
		})
	}
}
