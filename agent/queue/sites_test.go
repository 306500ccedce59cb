package queue

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/spool"
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

// An address that is down is told with the failure behind it: while all are, when one came
// back, and when the controller does not know of it any more.
func TestAddressesThatAreDownAreTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := receiversAt(receiver{silent: time.Second}, receiver{silent: time.Second})
		w := worldOf(t, x, func(w *world, d string) Route { return w.toPlaces(d, d, spot(1, 0), spot(2, 0)) }, nil)
		began := time.Now()
		w.add(1, "s", "a.example")
		told := func(when string, down ...int) {
			t.Helper()
			a, _ := w.Explain("a.example")
			var got []int
			for _, p := range a.Snapshot.PerAddress {
				f := p.Failing
				if f.Times == 0 {
					continue
				}
				got = append(got, int(p.Address.Addr().As4()[3]))
				if f.Why != "timed out" || f.Since.Before(began) || f.Since.After(began.Add(time.Minute)) || !f.Until.After(f.Since) || p.Down != time.Now().Before(f.Until) {
					t.Errorf("%s: %+v", when, p)
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, down) {
				t.Errorf("%s: %v down, want %v; %+v", when, got, down, a.Snapshot.PerAddress)
			}
		}
		pass(3 * time.Minute)
		told("both are", 1, 2)
		x.mu.Lock()
		x.at[spot(2, 0).Addr].silent = 0
		x.mu.Unlock()
		w.Hasten(w.entries(anyEntry))
		pass(3 * time.Second)
		if len(w.delivered()) != 1 {
			t.Fatal("no mail was taken by the address that came back")
		}
		told("one came back", 1)
		w.Queue.mu.Lock()
		w.sites["a.example"].controller = nil // as after an hour
		w.Queue.mu.Unlock()
		told("the controller is a new one", 1)
		x.mu.Lock()
		x.at[spot(1, 0).Addr].silent = 0
		x.mu.Unlock()
		pass(10 * time.Minute)
		for i := range 3000 {
			w.add(spool.ID(i+2), "s", "a.example")
		}
		pass(time.Minute)
		told("both came back")
	})
}
