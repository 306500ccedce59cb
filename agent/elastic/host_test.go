package elastic

import (
	"testing"
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// besideHost is a site that is bounded at 20, to which the host sends so many messages.
func besideHost(t *testing.T, mail int) *limitedHosts {
	t.Helper()
	x := newLimitedHosts(1, 20)
	x.run(time.Minute)
	if x.s.Want() != 20 {
		t.Fatal(x.s)
	}
	x.s.HostMail(x.now, mail)
	for n := x.s.Surplus(x.now); n > 0; n-- {
		x.s.Ended(x.up[0], x.now)
		x.up = x.up[1:]
	}
	return x
}

// A limit is not learned by who holds nothing.
func TestAThirdIsNotLeftToTheHost(t *testing.T) {
	t.Parallel()
	if x := besideHost(t, 10_000); len(x.up) < 20/3 {
		t.Errorf("%d of 20 are left: %v", len(x.up), x.s)
	}
}

// Where places are left to the host, fewer are held than the limit is, so that what is held is
// not what is accepted.
func TestRefusedProbesDoNotTakeThePlacesLeftToTheHost(t *testing.T) {
	t.Parallel()
	x := besideHost(t, 100)
	var probes []*slots.Slot
	for end := x.now.Add(hostGap + time.Minute); len(probes) < 3; {
		slot := &slots.Slot{}
		switch _, ok := x.s.Open(x.now, slot, x.list); {
		case ok && slot.Why == slots.Probe:
			probes = append(probes, slot)
		case ok:
			x.s.CameUp(slot, x.now)
			x.up = append(x.up, slot)
		case x.now.Before(end):
			x.now = x.now.Add(siteTick)
			for _, up := range x.up {
				x.s.Accepted(up, x.now, x.now.Add(-siteTick))
			}
		default:
			t.Fatalf("%d probes: %v", len(probes), x.s)
		}
	}
	x.now = x.now.Add(siteTick)
	for _, slot := range probes {
		x.s.Refused(slot, x.now, "421 too many connections")
	}
	if x.s.Want() < 20-1 {
		t.Errorf("%d probes refused: %v", len(probes), x.s)
	}
}
