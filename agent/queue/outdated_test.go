package queue

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
)

// An answer that was on its way when the routes were asked for again may have been found before
// what they depend on changed: it is asked for once more, and the second one counts.
func TestAnswerOfBeforeIsNotUsed(t *testing.T) {
	t.Parallel()
	asked := 0
	policy := config.Queue{Name: "general", MaxSessions: 20}
	q := New(Options{Resolve: func(string) { asked++ }, Launch: func(*Session) {}, MaxSessions: 1})
	q.Add(1, &spool.Envelope{Arrived: time.Now(), Recipients: make([]spool.Recipient, 1)}, []string{"a.test"}, nil, false)
	answer := func(site string, sites ...string) {
		t.Helper()
		q.Routed("a.test", Route{Queue: &policy, Site: site, Key: site, Places: []Place{{Addr: netip.MustParseAddrPort("198.18.0.1:25")}}})
		if got := q.SitesOf("a.test"); !slices.Equal(got, sites) {
			t.Errorf("after the answer %s it goes to %v, want %v", site, got, sites)
		}
	}
	q.RerouteAll()
	answer("old")
	answer("new", "new")
	q.RerouteAll()
	q.RerouteAll()
	q.Unrouted("a.test", "of before", time.Now().Add(time.Hour))
	answer("newer", "newer")
	if asked != 4 {
		t.Errorf("asked %d times, want 4", asked)
	}
	// A search that has not begun when the routes are asked for again finds the state of now.
	q.RerouteAll()
	q.RerouteAll()
	q.Asking("a.test")
	answer("newest", "newest")
	if asked != 5 {
		t.Errorf("asked %d times, want 5", asked)
	}
}
