package elastic

import (
	"testing"

	"github.com/millrace/millrace/agent/slots"
)

// What is up at a site is told before the addresses that are silent, however many those are and
// whenever they were called.
func TestListingBeginsWithWhatIsUp(t *testing.T) {
	t.Parallel()
	x := newLimitedHosts(8, 10)
	silent := make(map[*slots.Address]bool)
	for range 40 {
		slot := &slots.Slot{}
		if a, ok := x.s.Open(x.now, slot, x.list); ok {
			if len(silent) == 0 || a == x.list[5].Address {
				silent[a] = true
			}
			if !silent[a] {
				x.s.CameUp(slot, x.now)
				x.up = append(x.up, slot)
			}
		}
		x.now = x.now.Add(siteTick)
		for _, slot := range x.up {
			x.s.Accepted(slot, x.now, x.now.Add(-siteTick))
		}
	}
	x.now = x.now.Add(slots.HangAfter)
	list := x.s.Snapshot(x.now).PerAddress
	up, down := 0, 0
	for _, a := range list {
		switch {
		case a.Up > 0 && down > 0:
			t.Errorf("after those that are silent: %+v", a)
		case a.Up > 0:
			up++
		case a.Down:
			down++
		}
	}
	if up == 0 || down == 0 {
		t.Errorf("%d up, %d silent: %+v", up, down, list)
	}
}
