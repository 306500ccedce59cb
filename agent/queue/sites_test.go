package queue

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/elastic"
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

// A site of which no session comes up is told to be dead by what happened there.
func TestDeadSiteIsToldByWhatHappened(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		sig  []elastic.Signal
		want string
	}{
		{[]elastic.Signal{{Kind: elastic.Failed, How: "answered 554"}}, "answered 554"},
		{[]elastic.Signal{{Kind: elastic.Failed}}, "no answer"},
		{nil, "no session came up"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, func(w *world) {
				w.server = func(w *world, s *Session) {
					time.Sleep(time.Second)
					w.Leave(s, nil, x.sig, "why it failed")
				}
			})
			w.add(1, "s", "a.example")
			pass(time.Minute)
			a, _ := w.Explain("a.example")
			if h := a.HeldBack; h.Reason != Dead || h.How != x.want || h.Reply != "why it failed" || h.Next.IsZero() {
				t.Errorf("%+v, want %s", h, x.want)
			}
		})
	}
}
