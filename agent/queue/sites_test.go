package queue

import (
	"testing"
	"testing/synctest"
	"time"
)

// What is called by no address is told by its name: a relay's socket, the receiver inside the
// agent.
func TestSocketIsToldByItsPath(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		change func(*Route)
		want   string
	}{
		{func(r *Route) { r.Relay = "unix:/run/relay.sock" }, "unix:/run/relay.sock"},
		{func(r *Route) { r.Simulated = true }, "the receiver inside the agent"},
		{func(r *Route) { r.Relay, r.Places = "127.0.0.1:25", []Place{spot(1, 0)} }, "192.0.2.1:25"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(w *world) {
				w.way = func(domain string) (Route, bool) {
					r := w.to(domain)
					x.change(&r)
					return r, true
				}
			})
			w.add(1, "s", "a.example")
			pass(time.Second)
			a, _ := w.Explain("a.example")
			var list []string
			for _, p := range a.Snapshot.PerAddress {
				list = append(list, a.AddressOf(p.Address))
			}
			if len(list) != 1 || list[0] != x.want {
				t.Errorf("%q, want %q", list, x.want)
			}
		})
	}
}
