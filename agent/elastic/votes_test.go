package elastic

import (
	"net/netip"
	"testing"
	"time"
	"unsafe"

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
		next := uint8(step(lag)) // the shortest thinkable one with which a slot is surely free
		if from > next || lag > 0 && (to+1 < next || most > lag*13/10) {
			t.Error("that is wrong")
		}
	}
}

// Connects that are under way together arrive in any order, so that who began first is refused
// for the one after it. At a receiver that frees slots at once that tells of no lag.
func TestConnectsThatPassEachOtherTellOfNoLag(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	a := slots.NewTable(1).Row(slots.Key{Host: netip.MustParseAddrPort("192.0.2.1:25")}, now)
	var sites [2]late // share the address, which takes one connection
	var counts [2]slots.Count
	var up *slots.Slot
	for i := range 100 {
		now = now.Add(4 * time.Second)
		in, out := i%2, 1-i%2 // they take turns
		if up != nil {
			up.End(now, 0)
			sites[out].ended(now, a)
		}
		now = now.Add(5 * time.Millisecond)
		var first *slots.Slot
		if i%4 == 1 {
			first = &slots.Slot{}
			a.Begin(first, &counts[out], slots.Probe, now)
		}
		up = &slots.Slot{}
		a.Begin(up, &counts[in], slots.Replace, now)
		now = now.Add(20 * time.Millisecond)
		if first != nil && i%8 == 5 { // their answers pass each other, too
			sites[out].meet(now, first, false)
			first.Void(now, now)
			first = nil
		}
		sites[in].meet(now, up, true)
		up.CameUp(now)
		if first != nil {
			sites[out].meet(now, first, false)
			first.Void(now, now)
		}
	}
	for i := range sites {
		if from, to := sites[i].votes.least(); from > 0 {
			t.Errorf("site %d: slots are found to be free after %v to %v", i, lags[from], lags[to])
		}
	}
}

// busyLate is what is known of a receiver of so many addresses where a session has ended
// every gap for the last minute, and that has refused and let in at each of them; and a connect
// that is under way.
func busyLate(tb testing.TB, addresses int, gap time.Duration) (*late, *slots.Slot, time.Time) {
	tb.Helper()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	table := slots.NewTable(addresses)
	var of slots.Count
	l := &late{}
	a := make([]*slots.Address, addresses)
	for i := range a {
		a[i] = table.Row(slots.Key{Host: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 25)}, now)
	}
	for i := range int(time.Minute / gap) {
		now = now.Add(gap)
		l.ended(now, a[i%addresses])
	}
	for i := range 2 * addresses {
		x := &slots.Slot{}
		a[i%addresses].Begin(x, &of, slots.Grow, now)
		l.meet(now, x, i >= addresses)
		x.Void(now, now)
	}
	x := &slots.Slot{}
	a[0].Begin(x, &of, slots.Grow, now)
	return l, x, now
}

// BenchmarkMeet is what each connect costs that is answered, under the queue's mutex: of a
// receiver of 30 addresses where as many sessions end as are looked at.
func BenchmarkMeet(b *testing.B) {
	l, x, now := busyLate(b, 30, slots.LagMax/mostEnds)
	for i := 0; b.Loop(); i++ {
		l.meet(now, x, i%2 == 0)
		l.votes.least()
	}
}

func BenchmarkEnded(b *testing.B) {
	l, x, now := busyLate(b, 30, slots.LagMax/mostEnds)
	for b.Loop() {
		now = now.Add(slots.LagMax / mostEnds)
		l.ended(now, x.Address)
	}
}

// The memory of what sessions' ends and connects have told goes with its use.
func TestALateSitesMemory(t *testing.T) {
	t.Parallel()
	l, x, now := busyLate(t, 30, time.Millisecond)
	if n := cap(l.ends) * int(unsafe.Sizeof(end{})); n > 10<<10 {
		t.Errorf("%d octets of ends", n)
	}
	for range 40 { // 20 minutes with little to do
		now = now.Add(30 * time.Second)
		l.ended(now, x.Address)
		l.rest(now)
	}
	if n := cap(l.ends); n > 16 {
		t.Errorf("%d ends have a place where two are of use", n)
	}
	l.rest(now.Add(faded))
	if l.ends != nil || l.votes != nil {
		t.Errorf("%d ends and votes (%t) are kept where nothing happens", cap(l.ends), l.votes != nil)
	}
}

func TestALagIsRuledOutByVotes(t *testing.T) {
	t.Parallel()
	var none *votes
	for _, x := range []struct {
		what        string
		least, most float32 // against none and the other lags
		votes       *votes
		want        time.Duration
	}{
		{"no votes", 0, 0, none, slots.LagMax},
		{"too few votes", 0, certain - 0.1, &votes{}, lags[lagSteps-1]},
		{"votes against any lag", 1, 10, &votes{}, 0},
		{"votes against none and any", 5, 10, &votes{}, slots.LagMax},
	} {
		if x.votes != nil {
			for i := range x.votes.against {
				for k := range x.votes.against[i] {
					x.votes.against[i][k] = x.most
				}
				x.votes.against[i][0] = x.least
			}
		}
		if got := x.votes.most(); got != x.want {
			t.Errorf("%s: %v", x.what, got)
		}
	}
}

// A lag is known from before: over a restart, and after a time without connects.
func TestALagIsRemembered(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	list, up := sharedAddress(t, now, 1)
	list[0].late.lag = lags[30]
	l, _ := list[0].Learned(now)
	for what, s := range map[string]*Site{"a restart": Restore(now, Limits{MaxSessions: 20}, l), "a rest": list[0]} {
		s.Rest(now)
		var x slots.Slot
		up[0].Address.Begin(&x, &s.Count, slots.Replace, now)
		s.CameUp(&x, now)
		if s.late.lag != lags[30] {
			t.Errorf("the lag is %v after %s, was %v", s.late.lag, what, lags[30])
		}
	}
}

// Sessions that end together show a lag and that with one of their cycles more.
func TestOfLagsThatFitAlikeTheShortestCounts(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		short, long float32 // against the lag, and that with a cycle more
		others      float32
		want        uint8
	}{{71, 71, 180, 25}, {75, 70, 180, 25}, {70, 75, 180, 25}, {90, 70, 180, 43}, {75, 70, 120, 43}, {1, 0, 180, 43}} {
		v := &votes{}
		for i := range v.against {
			for k := range v.against[i] {
				v.against[i][k] = x.others
			}
			v.against[i][25], v.against[i][43] = x.short, x.long
		}
		if from, to := v.least(); from != x.want || to != x.want {
			t.Errorf("%v, %v and %v against: steps %d to %d, want %d", x.short, x.long, x.others, from, to, x.want)
		}
	}
}
