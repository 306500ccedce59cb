package queue

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/spool"
)

// maxMin divides a budget so that nobody can be given more without taking it from
// one who has no more than he: small wants are met, the others get equal parts.
func maxMin(budget float64, wants []float64) []float64 {
	order := make([]int, len(wants))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return int(wants[a] - wants[b]) })
	parts := make([]float64, len(wants))
	for k, i := range order {
		parts[i] = min(wants[i], budget/float64(len(wants)-k))
		budget -= parts[i]
	}
	return parts
}

// jain is the fairness index of Jain, Chiu and Hawe (DEC-TR-301, 1984), 1 when
// everyone has the same part of what is his due: with n of whom k have all, k/n.
func jain(got, due []float64) float64 {
	var sum, squares float64
	for i := range got {
		x := got[i] / due[i]
		sum += x
		squares += x * x
	}
	return sum * sum / (float64(len(got)) * squares)
}

// TestSitesShareTheBudgetFairly measures what sites that come and go send under
// one budget of sessions, after half a minute in which sessions change hands.
func TestSitesShareTheBudgetFairly(t *testing.T) {
	t.Parallel()
	const budget = 40
	for _, tt := range []struct {
		name   string
		phases [][]int // the sites' own max_sessions; 0: the site has no mail
	}{
		{"equal wants", [][]int{{100, 100, 100, 100, 100, 100, 100, 100}}},
		{"more sites than sessions", [][]int{slices.Repeat([]int{5}, 80)}},
		{"unequal wants", [][]int{{1, 1, 2, 5, 100, 100, 100}}},
		{"two large among many small", [][]int{{100, 1, 1, 1, 1, 1, 1, 1, 1, 100}}},
		{"less wanted than there is", [][]int{{1, 2, 5, 20}}},
		{"one, then many", [][]int{{100, 0, 0, 0, 0, 0}, {100, 100, 100, 100, 100, 100}}},
		{"one, then one as large beside small ones", [][]int{{100, 0, 0, 0}, {100, 100, 1, 2}}},
		{"many, then two", [][]int{{100, 100, 100, 100, 100, 100}, {0, 0, 0, 100, 0, 100}}},
		{"in turn", [][]int{{100, 100, 0, 0, 3}, {100, 0, 100, 0, 3}, {0, 0, 100, 100, 3}, {100, 100, 100, 100, 0}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { share(t, budget, tt.phases) })
		})
	}
}

// share runs the phases and measures each. Sites keep their names.
func share(t *testing.T, budget int, phases [][]int) {
	const (
		service = 500 * time.Millisecond
		settle  = 30 * time.Second
		measure = 2 * time.Minute
	)
	policies := make(map[string]*config.Queue)
	w := newWorld(t, func(w *world) {
		w.o.MaxSessions = budget
		w.service, w.quit = service, 200*time.Millisecond
		w.way = func(domain string) (Route, bool) {
			way := w.to(domain)
			w.set(func() { way.Queue = policies[domain] })
			return way, true
		}
	})
	id := spool.ID(0)
	for n, wants := range phases {
		w.empty()
		var sites []string
		var due []float64
		for i, want := range wants {
			if want == 0 {
				continue
			}
			site := fmt.Sprintf("site%d.example", i)
			sites = append(sites, site)
			due = append(due, float64(want))
			p := w.policy
			p.MaxSessions = want
			w.set(func() { policies[site] = &p })
			for range int((settle+measure)/service) * min(want, budget) { // more than can be sent
				id++
				w.add(id, "s", site)
			}
		}
		due = maxMin(float64(budget), due)
		pass(settle)
		before := len(w.transactions())
		pass(measure)
		sent := make(map[string]float64)
		for _, j := range w.transactions()[before:] {
			sent[j.Domain]++
		}
		got := make([]float64, len(sites))
		all, most := 0.0, 0.0
		for i, site := range sites {
			got[i] = sent[site]
			all += got[i]
			most += due[i] * float64(measure/service)
		}
		j := jain(got, due)
		t.Logf("phase %d: Jain's index %.3f, %.0f sent of %.0f", n, j, all, most)
		if j < 0.99 {
			t.Errorf("phase %d: Jain's index %.3f: sent %v, due as %.3v", n, j, got, due)
		}
		if all < 0.9*most {
			t.Errorf("phase %d: %.0f sent, %.0f possible", n, all, most)
		}
	}
}

// A site that is down gets its probes, and nobody makes room for more than these,
// however much mail arrives for it.
func TestNobodyMakesRoomForASiteThatIsDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) {
			w.o.MaxSessions = 10
			w.policy.MaxMessagesPerConnection = 100_000
			w.server = func(w *world, s *Session) {
				if s.Route().Key == "down.example" {
					w.set(func() { w.launched++ })
					w.Leave(s, nil, []elastic.Signal{{Kind: elastic.Failed}}, "connection refused")
					return
				}
				w.serveSession(s)
			}
		})
		for i := range 60_000 {
			w.add(spool.ID(i+1), "s", "up.example")
		}
		pass(time.Minute)
		before := w.connects()
		for i := range 300 {
			w.add(spool.ID(i+100_001), "s", "down.example")
			pass(time.Second)
		}
		// Probes after 0, 5, 20, 65 and 185 s, for each of which a session goes and comes.
		if n := w.connects() - before; n < 5 || n > 10 {
			t.Errorf("%d connects, want 5 and a new one for each", n)
		}
	})
}

// empty takes out all mail that waits.
func (w *world) empty() { w.drop(func(Entry) bool { return true }) }

// drop takes out what waits of that.
func (w *world) drop(fits func(Entry) bool) {
	var all []Entry
	w.List(func(page []Entry) bool {
		all = append(all, slices.DeleteFunc(slices.Clone(page), func(e Entry) bool { return !fits(e) })...)
		return true
	})
	for _, job := range w.Take(all) {
		for _, item := range job.Items {
			w.Settle([]Settled{{Handle: item.Handle, State: spool.State{Status: spool.Cancelled}}})
		}
	}
}
