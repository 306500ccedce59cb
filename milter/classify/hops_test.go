package classify

import (
	"slices"
	"strings"
	"testing"
)

// Mail that the host might not take back for its hops stays there.
func TestMailOfManyHopsStays(t *testing.T) {
	t.Parallel()
	c := mustNew(t, base())
	for n, stays := range map[int]bool{0: false, 1: false, maxHops: false, maxHops + 1: true, 48: true} {
		m := newsletter()
		m.Header = slices.Clip(m.Header)
		for range n {
			m.Header = append(m.Header, Field{Name: "Received", Value: " from a.test by b.test; Mon, 23 Nov 2026 12:00:00 +0000"})
		}
		d := c.Decide(m)
		if got := strings.Contains(d.Reason, "too many hops"); got != stays || stays != (d.Divert == nil) {
			t.Errorf("%d hops: %+v", n, d)
		}
	}
}
