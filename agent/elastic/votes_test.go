package elastic

import (
	"net/netip"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// A receiver that frees slots late is understood though its limit is not known: crowds of
// sessions end together, and connects are made at all ages of the slots that have ended.
func TestLagIsToldByWhatConnectsMet(t *testing.T) {
	t.Parallel()
	for _, lag := range []time.Duration{0, 300 * time.Millisecond, time.Second, 4 * time.Second} {
		const limit = 10
		t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		table := slots.NewTable(1)
		a := table.Row(slots.Key{Host: netip.MustParseAddrPort("192.0.2.1:25")}, t0)
		var l late
		var of slots.Count
		var up []*slots.Slot
		var freed []time.Time // when the receiver has slots back
		now := t0
		for i := range 2000 {
			now = now.Add(time.Duration(50+i*37%200) * time.Millisecond)
			held := len(up)
			for _, at := range freed {
				if now.Before(at) {
					held++
				}
			}
			x := &slots.Slot{}
			a.Begin(x, &of, slots.Grow, now)
			letIn := held < limit
			l.meet(now, x, letIn)
			if !letIn {
				x.Void(now, now)
			} else {
				x.CameUp(now)
				up = append(up, x)
			}
			if i%40 == 0 { // a crowd ends
				for _, x := range up {
					x.End(now, 0)
					l.ended(now, a)
					freed = append(freed, now.Add(lag))
				}
				up = nil
			}
		}
		from, to := l.votes.least()
		least, most := lags[from], lags[to]
		t.Logf("slots are free after %v, found to be after %v to %v", lag, least, most)
		if lag == 0 && from > 0 || lag > 0 && (least > lag*11/10 || most < lag*9/10 || most > lag*13/10) {
			t.Error("that is wrong")
		}
	}
}
