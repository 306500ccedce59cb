package queue

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/spool"
)

// What was learned of a receiver is there after a restart: its limit is met at once and
// without a refusal, also after a crash; a suspension holds, with the reply behind it.
func TestWhatWasLearnedOutlivesARestart(t *testing.T) {
	t.Parallel()
	for _, stopped := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			route := func(w *world, d string) Route { return w.toPlaces(d, d, spot(1, 0), spot(2, 0)) }
			mail := func(w *world) {
				for i := range 20_000 {
					w.add(spool.ID(i+1), "s", "a.example")
				}
			}
			x := receiversAt(receiver{limit: 15}, receiver{limit: 15})
			w := worldOf(t, x, route, func(w *world) { w.policy.MaxSessions, w.policy.MaxMessagesPerConnection = 100, 20 })
			mail(w)
			pass(time.Minute)
			was := x.met(1).up + x.met(2).up
			w.add(50_000, "s", "down.example")
			pass(time.Second)
			w.Clamp("down.example", elastic.Clamp{Until: time.Now().Add(time.Hour), Reason: "421 4.7.0 go away"})
			kept := w.Learned(time.Now())
			kept.Stopped = stopped
			b, err := json.Marshal(kept)
			if err != nil {
				t.Fatal(err)
			}
			w.empty()
			pass(time.Minute)

			var l Learned
			if err := json.Unmarshal(b, &l); err != nil {
				t.Fatal(err)
			}
			x = receiversAt(receiver{limit: 15}, receiver{limit: 15})
			w = worldOf(t, x, route, func(w *world) { w.policy.MaxSessions, w.policy.MaxMessagesPerConnection = 100, 20 })
			w.Recall(time.Now(), l)
			mail(w)
			w.add(50_001, "s", "down.example")
			pass(3 * time.Second)
			if up := x.met(1).up + x.met(2).up; up < was*8/10 {
				t.Errorf("stopped %t: %d sessions after three seconds, %d before the restart", stopped, up, was)
			}
			if n := x.met(1).refused + x.met(2).refused; n > 1 {
				t.Errorf("stopped %t: refused %d times", stopped, n)
			}
			for _, s := range w.Sites() {
				if s.Name == "down.example" && (s.Clamp.Reason != "421 4.7.0 go away" || s.Sessions+s.Opening > 0) {
					t.Errorf("stopped %t: %+v", stopped, s)
				}
			}
			if w.Forget("") != 2 {
				t.Error("not both sites were forgotten")
			}
			pass(time.Second)
			for _, s := range w.Sites() {
				if !s.Clamp.Until.IsZero() {
					t.Errorf("still clamped after it was forgotten: %+v", s.Clamp)
				}
			}
			w.empty()
		})
	}
}
