//go:build !race

// What three sources get of a limit is measured in three courses of 180,000 messages, which are
// half of the package's time with the race detector. What runs in them runs with it in
// TestMoreSitesThanSlotsTakeTurns, TestSourcesShareTheTotal and TestSitesAtOneAddressTakeTurns.

package queue

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/spool"
)

// Sources that a receiver counts together come to equal parts of its limit, whoever came
// first. In one or two of a hundred courses one of them gets a third of its part, so the median
// of three is judged.
func TestSourcesShareAReceiversLimit(t *testing.T) {
	t.Parallel()
	var shares []float64
	for range 3 {
		synctest.Test(t, func(t *testing.T) { shares = append(shares, sharedLimit(t)) })
	}
	slices.Sort(shares)
	if shares[1] < 0.9 {
		t.Errorf("Jain's index in minutes 2 to 5 of three courses: %.2f", shares)
	}
}

// sharedLimit is Jain's index of what three sources sent that share a receiver's limit.
func sharedLimit(t *testing.T) float64 {
	x := receiversAt(receiver{limit: 24, messages: 20})
	w := worldOf(t, x, func(w *world, d string) Route {
		at := spot(1, 0)
		at.Source = netip.AddrFrom4([4]byte{198, 51, 100, d[0] - 'a' + 1})
		return w.toPlaces(d, d, at)
	}, func(w *world) { w.o.MaxSessions, w.policy.MaxSessions, w.service = 200, 100, 500*time.Millisecond })
	names := []string{"a.example", "b.example", "c.example"}
	for n, d := range names {
		for i := range 60_000 {
			w.add(spool.ID(100_000*n+i+1), "s", d)
		}
		pass(20 * time.Second)
	}
	pass(2 * time.Minute)
	before := len(w.delivered())
	pass(3 * time.Minute)
	got, due := make([]float64, 3), []float64{1, 1, 1}
	for _, id := range w.delivered()[before:] {
		got[(id-1)/100_000]++
	}
	if r := x.met(1); r.refused*100 > r.taken {
		t.Errorf("%d refused, %d taken", r.refused, r.taken)
	}
	w.empty()
	return jain(got, due)
}
