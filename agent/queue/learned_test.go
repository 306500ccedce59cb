package queue

import (
	"encoding/json"
	"slices"
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

// What was learned of a site is kept while no mail comes for it, and a suspension holds, for
// as long as over a restart.
func TestWhatWasLearnedOutlivesIdleTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := receiversAt(receiver{limit: 15})
		w := worldOf(t, x, func(w *world, d string) Route { return w.toPlaces(d, d, spot(1, 0)) },
			func(w *world) { w.policy.MaxSessions = 100 })
		for i := range 2000 {
			w.add(spool.ID(i+1), "s", "a.example")
		}
		pass(10 * time.Minute)
		w.Clamp("a.example", elastic.Clamp{Until: time.Now().Add(24 * time.Hour), Reason: "421 4.7.0 go away"})
		pass(3 * time.Hour)
		if n := len(w.Sites()); n != 0 {
			t.Fatalf("%d sites are still known", n)
		}
		if l, ok := w.Learned(time.Now()).Sites["a.example"]; !ok || !l.Bound {
			t.Errorf("kept over a restart: %v, %+v", ok, l)
		}
		sent := len(w.delivered())
		w.add(5000, "s", "a.example")
		pass(time.Minute)
		if n := len(w.delivered()); n > sent {
			t.Error("sent while suspended")
		}
		if !w.Lift("a.example", "421 4.7.0 go away") {
			t.Error("no suspension")
		}
		refused := x.met(1).refused
		for i := range 1000 {
			w.add(spool.ID(i+6000), "s", "a.example")
		}
		pass(3 * time.Second)
		if n := x.met(1).refused - refused; n > 1 {
			t.Errorf("refused %d times", n)
		}
		w.empty()
		pass(8 * 24 * time.Hour)
		if l := w.Learned(time.Now()); len(l.Sites) != 0 {
			t.Errorf("kept after eight days: %+v", l.Sites)
		}
	})
}

// What is forgotten is so of sites, too, that have had no mail since the start, and of
// their addresses.
func TestForgetReachesAddressesWithoutMail(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := receiversAt(receiver{limit: 5}, receiver{limit: 5})
		change := func(w *world) { w.policy.MaxSessions = 100 }
		route := func(w *world, d string) Route {
			if d == "b.example" {
				return w.toPlaces(d, d, spot(2, 0))
			}
			return w.toPlaces(d, d, spot(1, 0))
		}
		w := worldOf(t, x, route, change)
		for i := range 500 {
			w.add(spool.ID(i+1), "s", "a.example")
			w.add(spool.ID(i+1001), "s", "b.example")
		}
		pass(10 * time.Minute)
		l := w.Learned(time.Now())
		w = worldOf(t, x, route, change)
		w.Recall(time.Now(), l)
		limited := func() (n int) {
			for _, a := range w.Learned(time.Now()).Addresses {
				if a.Limited {
					n++
				}
			}
			return n
		}
		if n := limited(); n != 2 {
			t.Fatalf("%d addresses with a limit", n)
		}
		if names := slices.Sorted(slices.Values(w.QueueSites(w.policy.Name))); !slices.Equal(names, []string{"a.example", "b.example"}) {
			t.Errorf("sites of the queue before mail: %q", names)
		}
		if n := w.Forget("a.example", spot(1, 0).Addr.Addr()); n != 1 || limited() != 1 {
			t.Errorf("%d sites are forgotten, %d limits are left", n, limited())
		}
		if n := w.Forget(w.policy.Name, spot(2, 0).Addr.Addr()); n != 1 || limited() != 0 {
			t.Errorf("%d sites are forgotten, %d limits are left", n, limited())
		}
		w.Recall(time.Now(), l)
		if n := w.Forget(""); n != 2 || limited() != 0 {
			t.Errorf("%d sites are forgotten, %d limits are left", n, limited())
		}
	})
}

// A site of which nothing is known has no controller. One that was refused, is bounded from
// outside, has mail of the host's own or a history of the last hour keeps what it has.
func TestControllerIsThereWhereSomethingIsKnown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := receiversAt(receiver{}, receiver{limit: 1}, receiver{}, receiver{}, receiver{})
		places := map[string]int{"new.example": 1, "full.example": 2, "bound.example": 3, "host.example": 4, "told.example": 5}
		route := func(w *world, d string) Route {
			r := w.toPlaces(d, d, spot(places[d], 0))
			r.Expires = time.Now().Add(24 * time.Hour)
			return r
		}
		w := worldOf(t, x, route, nil)
		send := func(id, n int, domains ...string) {
			for range n {
				for _, d := range domains {
					id++
					w.add(spool.ID(id), "s", d)
				}
			}
			pass(time.Minute)
		}
		send(0, 1, "new.example", "bound.example", "host.example", "told.example")
		send(100, 50, "full.example")
		w.Clamp("bound.example", elastic.Clamp{Until: time.Now().Add(2 * time.Hour), Reason: "421 go away"})
		w.HostMail("host.example", 5)
		w.Clamp("told.example", elastic.Clamp{Until: time.Now().Add(time.Second), Reason: "421 not now"})
		with := func(want ...string) {
			t.Helper()
			w.Learned(time.Now())
			var has []string
			for name, s := range w.sites {
				if s.controller != nil {
					has = append(has, name)
				}
			}
			if slices.Sort(has); !slices.Equal(has, want) {
				t.Errorf("%v have controllers, want %v", has, want)
			}
		}
		with("bound.example", "full.example", "host.example", "told.example")
		for _, s := range w.Sites() {
			if s.Name == "new.example" && (s.State != "growing" || s.Want != 2 || s.Held != 0 || s.HeldBack.Reason != "") {
				t.Errorf("%+v", s)
			}
		}
		w.SetLimits([]Limit{{Name: "new.example", Sessions: 1, Reason: "set by root"}})
		for _, s := range w.Sites() {
			if s.Name == "new.example" && s.Want != 1 {
				t.Errorf("with a limit: %+v", s)
			}
		}
		with("bound.example", "full.example", "host.example", "told.example")
		send(200, 1, "new.example")
		if n := len(w.delivered()); n != 55 {
			t.Errorf("%d are delivered", n)
		}
		pass(50 * time.Minute)
		with("bound.example", "full.example", "told.example")
		pass(10 * time.Minute)
		with("bound.example", "full.example")
	})
}
