package elastic

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"github.com/millrace/millrace/agent/slots"
)

// limitedHosts are addresses that allow so many connections each, answer at once and
// take a tick for a message.
type limitedHosts struct {
	s       *Site
	now     time.Time
	list    []Candidate
	limit   int
	up      []*slots.Slot
	refused int
}

func newLimitedHosts(n, limit int) *limitedHosts {
	x := &limitedHosts{s: NewSite(epoch, Limits{MaxSessions: 200}), now: epoch, limit: limit}
	table := slots.NewTable(100)
	for i := range n {
		k := slots.Key{Host: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 25)}
		x.list = append(x.list, Candidate{Address: table.Row(k, epoch)})
	}
	return x
}

// open makes one connect, if one is wanted.
func (x *limitedHosts) open() bool {
	slot := &slots.Slot{}
	a, ok := x.s.Open(x.now, slot, x.list)
	switch {
	case !ok:
		return false
	case a.Live >= x.limit:
		x.refused++
		x.s.Refused(slot, x.now, "421 too many connections")
	default:
		x.s.CameUp(slot, x.now)
		x.up = append(x.up, slot)
	}
	return true
}

// run lets time pass with mail waiting.
func (x *limitedHosts) run(d time.Duration) {
	for end := x.now.Add(d); x.now.Before(end); {
		for x.open() {
		}
		began := x.now
		x.now = x.now.Add(siteTick)
		for _, slot := range x.up {
			x.s.Accepted(slot, x.now, began)
		}
	}
}

// end ends all sessions at once.
func (x *limitedHosts) end() {
	for _, slot := range x.up {
		x.s.Ended(slot, x.now)
	}
	x.up = nil
}

func TestSiteFindsWhatEachHostTakes(t *testing.T) {
	t.Parallel()
	x := newLimitedHosts(3, 10)
	x.run(time.Minute)
	if len(x.up) != 30 || x.refused == 0 || x.refused > 10 {
		t.Errorf("%d up, %d refused", len(x.up), x.refused)
	}
	if got := x.s.Snapshot(x.now); got.State != "bounded" || got.Whose != "each address" || got.Reply != "421 too many connections" || got.Up != 30 {
		t.Errorf("%+v", got)
	}
}

func TestReconnectsThatComeTogetherAreNoEvent(t *testing.T) {
	t.Parallel()
	x := newLimitedHosts(3, 10)
	x.run(time.Minute)
	refused := x.refused
	for range 5 {
		x.end()
		x.run(10 * time.Second)
	}
	if len(x.up) != 30 || x.refused > refused+5 {
		t.Errorf("%d up, %d more refused", len(x.up), x.refused-refused)
	}
}

func TestRestoredSiteOpensHalfAtOnceAndTheRestAsThatComesUp(t *testing.T) {
	t.Parallel()
	x := newLimitedHosts(1, 40)
	x.run(time.Minute)
	known, _ := x.s.Learned(x.now)
	b, err := json.Marshal(known)
	if err != nil {
		t.Fatal(err)
	}
	var l Learned
	if err := json.Unmarshal(b, &l); err != nil {
		t.Fatal(err)
	}
	y := newLimitedHosts(1, 40)
	y.s = Restore(y.now, Limits{MaxSessions: 200}, l)
	n := 0
	for {
		slot := &slots.Slot{}
		if _, ok := y.s.Open(y.now, slot, y.list); !ok {
			break
		}
		n++
		y.up = append(y.up, slot)
	}
	if n != l.Want/2 {
		t.Errorf("%d connects at once, want half of %d", n, l.Want)
	}
	for _, slot := range y.up {
		y.s.CameUp(slot, y.now)
	}
	y.run(time.Second)
	if len(y.up) < l.Want-1 || y.refused > 0 {
		t.Errorf("%d up after a second, %d refused", len(y.up), y.refused)
	}
}

func TestWhatWasLearnedFadesByHalfInAnHour(t *testing.T) {
	t.Parallel()
	l := Learned{At: epoch, Want: 42, Bound: true}
	for _, x := range []struct {
		after time.Duration
		want  int
	}{{0, 42}, {time.Hour, 22}, {2 * time.Hour, 12}, {-time.Hour, 42}, {100 * time.Hour, startSessions}} {
		if got := Restore(at(x.after), Limits{MaxSessions: 200}, l).Want(); got != x.want {
			t.Errorf("after %v: %d, want %d", x.after, got, x.want)
		}
	}
}

func TestSuspensionLastsOverARestart(t *testing.T) {
	t.Parallel()
	s := NewSite(epoch, Limits{MaxSessions: 20})
	s.Clamp(epoch, Clamp{Until: at(time.Hour), Reason: "421 4.7.0 blocked"})
	x := newLimitedHosts(1, 10)
	known, _ := s.Learned(at(time.Minute))
	x.s = Restore(at(time.Minute), Limits{MaxSessions: 20}, known)
	x.now = at(time.Minute)
	if x.open() {
		t.Error("a connect to a suspended site")
	}
	if got := x.s.Next(); !got.Equal(at(time.Hour)) {
		t.Errorf("next look at %v", got)
	}
	x.now = at(time.Hour)
	if !x.open() {
		t.Error("no connect after the suspension")
	}
}

func TestASiteThatIsSlowedSendsHalfAsFast(t *testing.T) {
	t.Parallel()
	x := newLimitedHosts(1, 10)
	x.run(time.Minute) // 40 messages/s
	x.s.Slow(x.now, x.now.Add(time.Hour), "451 slow down")
	sent := 0
	for end := x.now.Add(10 * time.Second); x.now.Before(end); x.now = x.now.Add(5 * time.Millisecond) {
		if x.s.MayBegin(x.up[0], x.now) == 0 {
			sent++
		}
	}
	if sent < 190 || sent > 210 {
		t.Errorf("%d messages in 10 s, want 200", sent)
	}
}

func TestForgetDropsWhatWasLearnedAndKeepsWhatIsHeld(t *testing.T) {
	t.Parallel()
	x := newLimitedHosts(2, 5)
	x.run(time.Minute)
	x.s.Forget(x.now)
	if got := x.s.Snapshot(x.now); got.State != "growing" || got.Up != 10 || got.PerAddress[0].Limited {
		t.Errorf("%+v", got)
	}
	x.limit = 10
	x.run(time.Minute)
	if len(x.up) != 20 {
		t.Errorf("%d up", len(x.up))
	}
}

func TestWorseTierIsForWhenTheBetterIsDown(t *testing.T) {
	t.Parallel()
	x := newLimitedHosts(2, 5)
	x.list[1].Tier = 1
	x.run(time.Minute)
	if n := x.list[1].Live; n != 0 || x.list[0].Live != 5 {
		t.Errorf("%d and %d sessions", x.list[0].Live, n)
	}
	x.end()
	slot := &slots.Slot{}
	if a, ok := x.s.Open(x.now, slot, x.list); !ok || a != x.list[0].Address {
		t.Fatal("the better one is not called first")
	}
	x.s.Failed(slot, x.now, false)
	x.run(time.Second)
	if x.list[1].Live == 0 {
		t.Error("no session to the worse one though the better is down")
	}
}

func TestSiteIsSmall(t *testing.T) {
	t.Parallel()
	n := unsafe.Sizeof(Site{}) + unsafe.Sizeof(slots.Address{})
	t.Logf("%d bytes a site, %d of them an address", n, unsafe.Sizeof(slots.Address{}))
	if n > 1700 {
		t.Errorf("%d bytes", n)
	}
}

func TestSiteAllocatesNothingForAMessage(t *testing.T) {
	x := newLimitedHosts(3, 10)
	x.run(time.Minute)
	slot := x.up[0]
	var next slots.Slot
	if n := testing.AllocsPerRun(1000, func() {
		x.now = x.now.Add(time.Millisecond)
		x.s.MayBegin(slot, x.now)
		x.s.Accepted(slot, x.now, x.now)
		if x.s.Surplus(x.now) > 0 {
			t.Error("surplus")
		}
		if _, ok := x.s.Open(x.now, &next, x.list); ok {
			x.s.Failed(&next, x.now, false)
		}
	}); n > 0 {
		t.Errorf("%.1f allocations", n)
	}
}

// BenchmarkNewSite tells what a site with one address takes when it is met.
func BenchmarkNewSite(b *testing.B) {
	b.ReportAllocs()
	table := slots.NewTable(b.N + 1)
	for i := range b.N {
		host := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		table.Row(slots.Key{Host: netip.AddrPortFrom(host, 25)}, epoch)
		sites = append(sites[:0], NewSite(epoch, Limits{MaxSessions: 20}))
	}
}

var sites []*Site

// BenchmarkOpenOf64Candidates tells what it takes to see that no connect is wanted, and to
// choose one of 64 addresses.
func BenchmarkOpenOf64Candidates(b *testing.B) {
	x := newLimitedHosts(64, 2)
	x.run(time.Minute)
	b.Run("none", func(b *testing.B) {
		b.ReportAllocs()
		var slot slots.Slot
		for b.Loop() {
			if _, ok := x.s.Open(x.now, &slot, x.list); ok {
				x.s.Failed(&slot, x.now, false)
			}
		}
	})
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			x.s.Ended(x.up[0], x.now)
			y := &slots.Slot{} // one is never used again
			if _, ok := x.s.Open(x.now, y, x.list); !ok {
				b.Fatal("no replacement")
			}
			x.s.CameUp(y, x.now)
			x.s.Accepted(y, x.now, x.now)
			x.up[0] = y
		}
	})
}
