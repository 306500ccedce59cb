package elastic

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/millrace/millrace/agent/slots"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// at is a time of a test.
func at(d time.Duration) time.Time { return epoch.Add(d) }

// siteTick is how long the receivers here take for a message.
const siteTick = 250 * time.Millisecond

// limitedHosts are addresses that allow so many connections each, answer at once and
// take a tick for a message.
type limitedHosts struct {
	s       *Site
	now     time.Time
	list    []Candidate
	limit   int
	shut    *slots.Address // takes none
	lag     time.Duration  // after the end of a session its place is free
	late    []lateEnd
	up      []*slots.Slot
	refused int
}

type lateEnd struct {
	of *slots.Address
	at time.Time
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
	case a == x.shut, a.Live+x.lagging(a) >= x.limit:
		x.refused++
		x.s.Refused(slot, x.now, "421 too many connections")
	default:
		x.s.CameUp(slot, x.now)
		x.up = append(x.up, slot)
	}
	return true
}

// lagging is how many places the receiver has not noticed to be free.
func (x *limitedHosts) lagging(a *slots.Address) (n int) {
	for _, e := range x.late {
		if e.of == a && x.now.Before(e.at.Add(x.lag)) {
			n++
		}
	}
	return n
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
		x.late = append(x.late, lateEnd{slot.Address, x.now})
		x.s.Ended(slot, x.now)
	}
	x.up = nil
}

// endAt ends the session at the n-th address.
func (x *limitedHosts) endAt(n int) {
	x.up = slices.DeleteFunc(x.up, func(slot *slots.Slot) bool {
		if slot.Address != x.list[n].Address {
			return false
		}
		x.late = append(x.late, lateEnd{slot.Address, x.now})
		x.s.Ended(slot, x.now)
		return true
	})
}

// Where hosts take one connection each and notice its end late, sessions that break off one after the
// other do not shut the door to the rest: a place that became vacant a moment ago only lags.
func TestEndsOneByOneShutNoDoor(t *testing.T) {
	t.Parallel()
	x := newLimitedHosts(5, 1)
	x.run(time.Minute)
	if len(x.up) != 5 {
		t.Fatalf("%d up", len(x.up))
	}
	x.lag = 4500 * time.Millisecond
	for round := range 10 {
		for n, d := range []time.Duration{2 * time.Second, 3 * time.Second, 2 * time.Second} {
			x.endAt((round + n) % 5)
			x.run(d)
		}
		x.run(8 * time.Second)
		if len(x.up) != 5 || x.s.refusals.shut > 0 {
			t.Fatalf("in round %d %d up: %v", round, len(x.up), x.s)
		}
	}
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

// Places given up before it was known that slots are freed late are had again, each at its
// address.
func TestPlacesGivenUpForALagAreHadAgain(t *testing.T) {
	t.Parallel()
	for _, hosts := range []int{1, 3} {
		x := newLimitedHosts(hosts, 4)
		x.run(time.Minute)
		x.lag = 2200 * time.Millisecond
		for range 12 {
			x.run(5 * time.Second)
			x.end()
		}
		if x.run(5 * time.Second); len(x.up) != 4*hosts {
			t.Errorf("%d hosts: %d up", hosts, len(x.up))
		}
		for _, c := range x.list {
			if c.Room() != 4 {
				t.Errorf("%d hosts: %v has room for %d", hosts, c.Key.Host, c.Room())
			}
		}
	}
}

// What ended sessions still held when growth was refused counts as accepted once it is known
// how late slots are freed.
func TestWhatWasHeldUncountedIsHadWhenTheLagIsKnown(t *testing.T) {
	t.Parallel()
	for _, lag := range []time.Duration{time.Second, 4 * time.Second} {
		x := newLimitedHosts(1, 2)
		x.lag = lag
		x.open()
		x.open()
		x.now = at(100 * time.Millisecond)
		x.end()
		x.run(90 * time.Second)
		for range 4 {
			x.end()
			x.run(8 * time.Second)
		}
		if len(x.up) != 2 {
			t.Errorf("%v: %d up, room for %d", lag, len(x.up), x.list[0].Room())
		}
	}
}

// A host that took none while others did has its turn among the probes later.
func TestHostThatTookNoneIsTriedAgain(t *testing.T) {
	t.Parallel()
	x := newLimitedHosts(3, 4)
	x.shut = x.list[2].Address
	if x.run(time.Minute); len(x.up) != 8 {
		t.Fatalf("%d up without it", len(x.up))
	}
	x.shut = nil
	if x.run(4 * time.Minute); len(x.up) != 12 {
		t.Errorf("%d up with it", len(x.up))
	}
}

// A host that takes none any more costs its own places, a few refusals, and what the others
// allow is found as before.
func TestHostThatTakesNoneAnyMoreCostsTheOthersNothing(t *testing.T) {
	t.Parallel()
	x := newLimitedHosts(3, 10)
	x.run(time.Minute)
	x.shut, x.refused = x.list[2].Address, 0
	pass := func(d time.Duration) {
		for range d / time.Second { // the session that is up longest ends
			x.s.Ended(x.up[0], x.now)
			x.up = x.up[1:]
			x.run(time.Second)
			if n := x.list[0].Live + x.list[1].Live; n < 17 {
				t.Fatalf("%v: %d up at the others: %v", x.now.Sub(epoch), n, x.s)
			}
		}
	}
	pass(2 * time.Minute)
	if len(x.up) != 20 || x.refused > 40 {
		t.Errorf("%d up, %d refused: %v", len(x.up), x.refused, x.s)
	}
	if b := x.s.Brief(x.now); b.Refusing != 1 {
		t.Errorf("%d refuse", b.Refusing)
	}
	x.limit = 20
	if pass(2 * time.Minute); len(x.up) < 38 {
		t.Errorf("%d up of 40: %v", len(x.up), x.s)
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

// replaced is three hosts of 10, all in use, whose lag is known to be none.
func replaced(t *testing.T) *limitedHosts {
	t.Helper()
	x := newLimitedHosts(3, 10)
	x.run(time.Minute)
	x.end()
	x.run(10 * time.Second)
	if len(x.up) != 30 || x.s.late.lag > 0 {
		t.Fatalf("%d up; %v", len(x.up), x.s)
	}
	return x
}

// dial begins a connect.
func (x *limitedHosts) dial(t *testing.T) *slots.Slot {
	t.Helper()
	slot := &slots.Slot{}
	if _, ok := x.s.Open(x.now, slot, x.list); !ok {
		t.Fatalf("no connect is wanted: %v", x.s)
	}
	return slot
}

func TestFirstRefusalOfAGrowingSite(t *testing.T) {
	t.Parallel()
	for _, met := range []bool{true, false} {
		x := newLimitedHosts(3, 100)
		for x.s.Want() < 16 {
			x.run(siteTick)
		}
		for x.s.Held() < 12 {
			x.open()
		}
		slot := x.dial(t)
		if !met { // it is the only one there, and none was ever let in
			for i, y := range x.up {
				if y.Address == slot.Address {
					x.s.Ended(y, x.now)
					x.up[i] = nil
				}
			}
			slot.Address.Accepted = 0
		}
		held, at := x.s.Held(), slot.Address
		x.s.Refused(slot, x.now, "421 too many connections")
		if !met {
			if x.s.state != growing || x.s.Want() < 16 || !at.Opens.After(x.now) {
				t.Errorf("a host that takes none bounds the site: %v", x.s)
			}
			continue
		}
		if x.s.state != bounded || x.s.Want() != held-1 || !at.Limited {
			t.Errorf("%d were held: %v", held-1, x.s)
		}
		for _, c := range x.list {
			if c.Address != at && c.Limited {
				t.Error("a host that refused nothing is limited")
			}
		}
	}
}

func TestRefusedProbeGivesNothingUp(t *testing.T) {
	t.Parallel()
	x := replaced(t)
	x.now = x.now.Add(gapMax)
	want, gap := x.s.Want(), x.s.probe.gap
	slot := x.dial(t)
	if slot.Why != slots.Probe {
		t.Fatalf("a %v", slot.Why)
	}
	x.s.Refused(slot, x.now, "421 too many connections")
	if x.s.Want() != want || x.s.state != bounded {
		t.Errorf("%d were wanted: %v", want, x.s)
	}
	if wait := x.s.probe.at.Sub(x.now); wait != min(2*gap, gapMax) {
		t.Errorf("the next round after %v, the last wait was %v", wait, gap)
	}
}

func TestRefusedReplacementGivesOnePlaceUp(t *testing.T) {
	t.Parallel()
	x := replaced(t)
	at := x.up[0].Address
	x.s.Ended(x.up[0], x.now)
	x.up = x.up[1:]
	x.now = x.now.Add(time.Second)
	slot := x.dial(t)
	if slot.Why != slots.Replace || slot.Address != at {
		t.Fatalf("a %v to %v", slot.Why, slot.Address.Key)
	}
	x.s.Refused(slot, x.now, "421 too many connections")
	if x.s.Want() != 29 || at.Accepted != 9 {
		t.Errorf("%d accepted there: %v", at.Accepted, x.s)
	}
	if x.s.probe.at.After(x.now.Add(gapMin)) {
		t.Errorf("the next probe after %v", x.s.probe.at.Sub(x.now))
	}
}

// Where nothing rules out that slots are freed late, a place waits for another try.
func TestAPlaceIsGivenUpByItsOwnWait(t *testing.T) {
	t.Parallel()
	x := newLimitedHosts(1, 4)
	x.run(time.Minute)
	x.s.late.votes = nil
	x.limit, x.refused = 3, 0
	x.s.Ended(x.up[0], x.now)
	x.up = x.up[1:]
	if x.run(5 * time.Second); x.s.Want() != 4 || x.refused != 4 {
		t.Errorf("after 5 s %d refused: %v", x.refused, x.s)
	}
	if x.run(5 * time.Second); x.s.Want() != 3 || x.refused > 7 {
		t.Errorf("after 10 s %d refused: %v", x.refused, x.s)
	}
}

// A place that is given up waits for no further try, which would keep others from being replaced.
func TestAPlaceGivenUpNoLongerWaits(t *testing.T) {
	t.Parallel()
	x := replaced(t)
	x.s.Ended(x.up[0], x.now)
	x.up = x.up[1:]
	x.now = x.now.Add(time.Second)
	x.s.Refused(x.dial(t), x.now, "421 too many connections")
	if x.s.Waiting != 0 || x.s.Want() != 29 {
		t.Fatal(x.s)
	}
	x.s.Ended(x.up[0], x.now)
	x.dial(t)
}

// A place that an address never had does not wait there for one that lags.
func TestPlaceMovedToAFullAddressIsGivenUp(t *testing.T) {
	t.Parallel()
	x := newLimitedHosts(2, 10)
	x.run(time.Minute)
	x.list[1].Limited = false
	x.s.want, x.s.window = 21, 1
	slot := x.dial(t)
	x.now = x.now.Add(100 * time.Millisecond)
	x.s.Refused(slot, x.now, "421 too many connections")
	if slot.Why != slots.Replace || slot.Address != x.list[1].Address {
		t.Fatalf("a %v at %v: %v", slot.Why, slot.Address.Key, x.s)
	}
	if a := slot.Address; x.s.Want() != 20 || x.s.Waiting != 0 || !a.Limited || a.Accepted != 10 {
		t.Errorf("%d accepted there: %v", a.Accepted, x.s)
	}
}

// What is refused when nothing has been up for long tells of a door, not of a limit.
func TestOutageAfterAnIdleTimeIsNoLimit(t *testing.T) {
	t.Parallel()
	x := newLimitedHosts(2, 1000)
	x.run(10 * time.Second)
	if x.refused > 0 || x.s.state == bounded {
		t.Fatal(x.s)
	}
	x.end()
	x.now = x.now.Add(time.Minute)
	before := x.s.Want()
	x.limit = 0
	if x.run(10 * time.Second); x.s.refusals.shut == 0 || x.refused > 10 {
		t.Errorf("%d refused: %v", x.refused, x.s)
	}
	x.limit = 1000
	if x.run(20 * time.Second); x.s.Want() < before-before/8 || len(x.up) < x.s.Want() {
		t.Errorf("%d up, %d wanted before: %v", len(x.up), before, x.s)
	}
}

// A receiver that refuses all at first has shown no limit.
func TestDoorThatIsShutAtFirstIsNoLimit(t *testing.T) {
	t.Parallel()
	x := newLimitedHosts(1, 0)
	x.run(5 * time.Second)
	if x.s.state != growing || x.refused == 0 || x.refused > 5 {
		t.Errorf("%d refused: %v", x.refused, x.s)
	}
	x.limit = 8
	if x.run(20 * time.Second); len(x.up) != 8 {
		t.Errorf("%d up of 8: %v", len(x.up), x.s)
	}
}

// A receiver that refuses all for a time has no lower limit afterwards, though places were given up
// one by one before it was taken to be shut, and no slot that is freed late.
func TestBusyReceiverKeepsWhatItTook(t *testing.T) {
	t.Parallel()
	for _, busy := range []time.Duration{10 * time.Second, 25 * time.Second, 50 * time.Second} {
		x := newLimitedHosts(2, 10)
		pass := func(d time.Duration) {
			for range d / time.Second { // the session that is up longest ends
				if len(x.up) > 0 {
					x.s.Ended(x.up[0], x.now)
					x.up = x.up[1:]
				}
				x.run(time.Second)
			}
		}
		pass(time.Minute)
		x.limit = 0
		pass(busy)
		x.limit = 10
		if pass(40 * time.Second); len(x.up) < 17 || x.s.late.lag > 0 {
			t.Errorf("busy for %v: %d up of 20: %v", busy, len(x.up), x.s)
		}
	}
}

func TestRefusalsThatComeTogetherAreOneOfARow(t *testing.T) {
	t.Parallel()
	x := replaced(t)
	for _, slot := range x.up[:3] {
		x.s.Ended(slot, x.now)
	}
	x.now = x.now.Add(time.Second)
	x.s.window = 3
	var under []*slots.Slot
	for range 3 {
		under = append(under, x.dial(t))
	}
	for _, slot := range under {
		x.now = x.now.Add(time.Millisecond)
		x.s.Refused(slot, x.now, "421 too many connections")
	}
	if x.s.refusals.row != 1 || !x.s.refusals.opens.IsZero() {
		t.Error(x.s)
	}
}

// A session that is refused its message had no slot to free.
func TestRefusedMessageLeavesNoVacancy(t *testing.T) {
	t.Parallel()
	x := replaced(t)
	x.now = x.now.Add(time.Second)
	x.s.Refused(x.up[0], x.now, "421 too many connections")
	if x.s.Vacant != 0 || x.s.Want() != 29 {
		t.Error(x.s)
	}
	if _, ok := x.s.Open(x.now, &slots.Slot{}, x.list); ok {
		t.Error("a connect in its stead")
	}
}

func TestRefusalBegunBeforeTheLastTellsNothingNew(t *testing.T) {
	t.Parallel()
	x := replaced(t)
	at := x.up[0].Address
	for range 2 {
		for i, slot := range x.up {
			if slot.Address == at {
				x.s.Ended(slot, x.now)
				x.up = append(x.up[:i], x.up[i+1:]...)
				break
			}
		}
	}
	x.s.window = 2
	first, second := x.dial(t), x.dial(t)
	x.now = x.now.Add(100 * time.Millisecond)
	x.s.Refused(first, x.now, "421 too many connections")
	want, credit, changes := x.s.Want(), x.s.credit, len(x.s.History())
	x.s.Refused(second, x.now, "421 too many connections")
	if x.s.Want() != want || x.s.credit != credit || len(x.s.History()) != changes {
		t.Errorf("%d wanted, credit %.2f: %v", want, credit, x.s)
	}
}

// A session on trial ends the growth under way once, when it comes up, and not again when it
// breaks without a word before its first message.
func TestSessionThatBreaksEndsItsGrowthOnce(t *testing.T) {
	t.Parallel()
	x := newLimitedHosts(1, 10)
	slot := x.dial(t)
	x.s.CameUp(slot, x.now)
	x.s.Failed(slot, x.now, true)
	if slot.Why != slots.Grow || x.s.growth.open != 0 {
		t.Errorf("a %v, %d under way for growth", slot.Why, x.s.growth.open)
	}
}

func TestHostsTroubleIsNoLimit(t *testing.T) {
	t.Parallel()
	x := replaced(t)
	failed := 0
	for range 20 {
		x.s.Ended(x.up[0], x.now)
		x.up = x.up[1:]
		slot := &slots.Slot{}
		if _, ok := x.s.Open(x.now, slot, x.list); ok {
			x.now = x.now.Add(slots.HangAfter)
			x.s.Failed(slot, x.now, false)
			failed++
		}
		x.now = x.now.Add(time.Second)
	}
	if failed == 0 {
		t.Error("no connect failed")
	}
	if x.s.Want() != 30 || x.s.state != bounded {
		t.Error(x.s)
	}
}

// Sendmail closes its port while MaxDaemonChildren are up: what is up there shows that it is a limit.
func TestPortThatIsClosedWhileSessionsAreUpIsARefusal(t *testing.T) {
	t.Parallel()
	x := newLimitedHosts(2, 6)
	for x.s.Want() < 8 {
		x.run(siteTick)
	}
	slot := x.dial(t)
	x.s.Failed(slot, x.now, false)
	if x.s.state != bounded || !slot.Address.Limited || slot.Address.Down(x.now) {
		t.Errorf("%v, limited %v, down %v", x.s, slot.Address.Limited, slot.Address.Down(x.now))
	}
}

// What a refusal finds while the host's own connections are there is less than what the
// receiver allows.
func TestTheHostsConnectionsAreCountedInWhatARefusalFinds(t *testing.T) {
	t.Parallel()
	for _, mail := range []int{0, 100} { // 10 a second, 0.25 s each
		x := newLimitedHosts(1, 20)
		for x.s.Want() < 16 {
			x.run(siteTick)
		}
		slot, held := x.dial(t), x.s.Held()-1
		x.s.HostMail(x.now, mail)
		x.s.Refused(slot, x.now, "421 too many connections")
		if more := x.s.Want() > held; more != (mail > 0) {
			t.Errorf("%d messages of the host: %v", mail, x.s)
		}
	}
}

// Where more sessions bring nothing, what is held may be all that the receiver allows.
func TestRoomIsLeftToTheHostOnAPlateau(t *testing.T) {
	t.Parallel()
	x := newLimitedHosts(1, 1000)
	for end := x.now.Add(time.Minute); x.s.state != plateau; {
		if x.now.After(end) {
			t.Fatal(x.s)
		}
		for x.open() {
		}
		began := x.now
		x.now = x.now.Add(siteTick * time.Duration(len(x.up))) // it takes one after the other
		for _, slot := range x.up {
			x.s.Accepted(slot, x.now, began)
		}
	}
	if n := x.s.Surplus(x.now); n > 0 {
		t.Errorf("%d too many without mail of the host: %v", n, x.s)
	}
	x.s.HostMail(x.now, 1)
	for range x.s.Surplus(x.now) {
		x.s.Ended(x.up[0], x.now)
		x.up = x.up[1:]
	}
	x.open()
	if got := x.s.Snapshot(x.now); got.Up > 4 || got.Up == 0 {
		t.Errorf("%+v", got)
	}
}

func TestHistoryKeepsTheLastChanges(t *testing.T) {
	t.Parallel()
	s := NewSite(epoch, Limits{MaxSessions: 1000})
	for i := range 100 {
		s.SetLimits(at(time.Duration(i)*time.Second), Limits{MaxSessions: 1 + i})
	}
	h := s.History()
	if len(h) != historySize || h[len(h)-1].At != at(99*time.Second) || h[0].At != at((100-historySize)*time.Second) {
		t.Errorf("%d changes from %v to %v", len(h), h[0].At, h[len(h)-1].At)
	}
}

// What is measured of a number of sessions is their time, in which they may have had no mail: it is
// not told as what a transaction takes.
func TestHistoryTellsSessionTimeInSeconds(t *testing.T) {
	t.Parallel()
	x := newLimitedHosts(3, 10)
	x.run(2 * siteTick)
	x.now = x.now.Add(25 * time.Second) // without mail
	x.run(10 * time.Second)
	found := false
	for _, c := range x.s.History() {
		found = found || strings.Contains(c.Cause, " s of session time a transaction, idle time included; doubling")
		if strings.Contains(c.Cause, "e+") || strings.Contains(c.Cause, "ms a transaction") {
			t.Errorf("%+v", c)
		}
	}
	if !found {
		t.Errorf("%+v", x.s.History())
	}
}

func TestLimitsAreObeyedAtOnce(t *testing.T) {
	t.Parallel()
	x := replaced(t)
	x.s.SetLimits(x.now, Limits{MaxSessions: 3, MaxRate: 5, Why: "the configuration"})
	if n := x.s.Surplus(x.now); n != 27 {
		t.Errorf("%d sessions too many, want 27", n)
	}
	if got := x.s.Target(x.now); got.Sessions != 3 || got.Pace != 5 || got.Slowed {
		t.Errorf("%+v", got)
	}
	if x.open() {
		t.Error("a connect above the limit")
	}
	sent := 0
	for end := x.now.Add(10 * time.Second); x.now.Before(end); x.now = x.now.Add(5 * time.Millisecond) {
		if x.s.MayBegin(x.up[0], x.now) == 0 {
			sent++
		}
	}
	if sent < 49 || sent > 52 {
		t.Errorf("%d messages in 10 s, want 50", sent)
	}
}

func TestTightestClampCounts(t *testing.T) {
	t.Parallel()
	x := replaced(t)
	s, now := x.s, x.now
	s.Clamp(now, Clamp{Sessions: 1, Until: now.Add(time.Hour), Reason: "too many connections"})
	s.Clamp(now, Clamp{Sessions: 0, Until: now.Add(time.Minute), Reason: "blocked"})
	s.Clamp(now, Clamp{Sessions: -1, Pace: 2, Until: now.Add(2 * time.Hour), Reason: "slower"})
	s.Clamp(now, Clamp{Sessions: 0, Until: now.Add(-time.Minute), Reason: "long over"})
	for _, w := range []struct {
		after    time.Duration
		sessions int
		pace     float64
		reason   string
		until    time.Duration
	}{
		{0, 0, 2, "blocked", time.Minute}, {time.Minute, 1, 2, "too many connections", time.Hour},
		{time.Hour, 30, 2, "slower", 2 * time.Hour}, {2 * time.Hour, 30, 0, "", 0},
	} {
		at := now.Add(w.after)
		if got := s.Target(at); got.Sessions != w.sessions || got.Pace != w.pace {
			t.Errorf("after %v: %+v, want %d sessions at %v/s", w.after, got, w.sessions, w.pace)
		}
		cl, clamped := s.Clamped(at)
		if clamped != (w.reason != "") || cl.Reason != w.reason || clamped && !cl.Until.Equal(now.Add(w.until)) {
			t.Errorf("after %v: clamped %v: %+v, want %q until %v", w.after, clamped, cl, w.reason, w.until)
		}
		if n := s.Surplus(at); w.sessions < 30 && n != 30-w.sessions {
			t.Errorf("after %v: %d sessions too many, want %d", w.after, n, 30-w.sessions)
		}
	}
}

func TestTooFastLowersThePaceOfAllAndThenOfTheOneThatAloneSaysSo(t *testing.T) {
	t.Parallel()
	x := replaced(t) // 120 messages/s
	slot := x.up[0]
	a := slot.Address
	x.s.TooFast(slot, x.now, x.now, "450 too fast")
	if x.s.pace.Value != 0 {
		t.Errorf("%.1f/s after one refused of hundreds", x.s.pace.Value)
	}
	x.s.TooFast(slot, x.now, x.now, "450 too fast")
	first := x.s.pace.Value
	if first < 36 || first > 40 || a.Pace.Value != 0 || !x.s.Target(x.now).Slowed {
		t.Fatalf("%.1f/s at each of 3: %v", first, x.s)
	}
	x.s.TooFast(slot, x.now, x.now.Add(-time.Second), "450 too fast")
	if x.s.pace.Value != first {
		t.Errorf("%.1f/s after a message begun before the cut", x.s.pace.Value)
	}
	row := 3
	for ; a.Pace.Value == 0 && row < 20; row++ {
		x.s.TooFast(slot, x.now, x.now, "450 too fast")
	}
	if row < 6 || row > 7 { // 3 to the 5th is above ownAffair
		t.Errorf("its own affair after %d", row)
	}
	if a.Pace.Value == 0 || x.s.pace.Value != first {
		t.Errorf("%.1f/s there, %.1f/s at each", a.Pace.Value, x.s.pace.Value)
	}
}

// The first message at an address waits for no pace, as its answer shows whose the address is: that
// it is too fast tells nothing of the pace.
func TestFirstMessageAtAnAddressTellsNothingOfThePace(t *testing.T) {
	t.Parallel()
	x := newLimitedHosts(2, 10)
	for x.open() {
	}
	if len(x.up) != 2 || x.up[0].Address == x.up[1].Address {
		t.Fatal(x.s)
	}
	x.s.TooFast(x.up[0], x.now, x.now, "450 too fast")
	for end := x.now.Add(10 * time.Second); x.now.Before(end); x.now = x.now.Add(siteTick) {
		if x.s.MayBegin(x.up[0], x.now) == 0 {
			x.s.Accepted(x.up[0], x.now.Add(siteTick/2), x.now)
		}
	}
	pace := x.s.pace.Value
	if wait := x.s.MayBegin(x.up[1], x.now); pace == 0 || wait != 0 {
		t.Fatalf("%v at a pace of %.2g/s", wait, pace)
	}
	for _, lowers := range []bool{false, true} {
		x.s.TooFast(x.up[1], x.now, x.now, "450 too fast")
		if got := x.s.pace.Value; got < pace != lowers {
			t.Errorf("%.2g/s, was %.2g/s, lowered: want %v", got, pace, lowers)
		}
	}
}

// Where few sessions are allowed at all of the addresses, and each has its rate, two at one address
// send no more than one there. An address that keeps refusing gets no place of another's.
func TestPlaceGoesToWhereThePaceIsNotUsedUp(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"no pace", "paced", "paced, and the other refuses"} {
		paced, refuses := how != "no pace", strings.HasSuffix(how, "refuses")
		x := newLimitedHosts(1, 4)
		x.run(20 * time.Second)
		full := x.up[0].Address
		if paced {
			x.s.TooFast(x.up[0], x.now, x.now, "450 too fast")
			x.s.pace.Value = 10 // what two and a half sessions send
		}
		x.list = append(x.list, Candidate{Address: slots.NewTable(1).Row(slots.Key{Host: netip.MustParseAddrPort("192.0.2.99:25")}, x.now)})
		if refuses {
			x.list[1].Strikes = 2
		}
		x.s.Ended(x.up[3], x.now)
		slot := &slots.Slot{}
		a, ok := x.s.Open(x.now.Add(time.Second), slot, x.list)
		if !ok || len(x.up) != 4 || (a == full) == (paced && !refuses) {
			t.Errorf("%s: %v %t, %d were up at %v: %v", how, a, ok, len(x.up), full.Key, x.s)
		}
	}
}

// Slots counted at an address that its limit never had draw no probe after the other to it.
func TestProbesGoFirstToWhereNoneWasRefused(t *testing.T) {
	t.Parallel()
	var hosts [4]slots.Address
	counted, open, fewer, refused := &hosts[0], &hosts[1], &hosts[2], &hosts[3]
	counted.Limited, counted.Accepted, counted.Live, counted.Probed = true, 8, 7, at(time.Minute)
	open.Accepted, open.Live = 8, 8
	fewer.Accepted, fewer.Live = 8, 7
	refused.Limited, refused.Accepted, refused.Live = true, 8, 8
	order := []*slots.Address{fewer, open, refused, counted}
	for i, a := range order {
		for _, b := range order[i+1:] {
			if !worse(b, a) || worse(a, b) {
				t.Errorf("%d of %d, limited %t, before %d of %d, limited %t: want the other way round", b.Live, b.Accepted, b.Limited, a.Live, a.Accepted, a.Limited)
			}
		}
	}
}

// Whatever happens, no more slots are held than the limits allow, no connect goes to a
// suspended site, and a site that waits says until when.
func TestSiteKeepsItsBounds(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 2))
		x := newLimitedHosts(1+r.IntN(4), 1)
		limits := Limits{MaxSessions: 1 + r.IntN(30), MaxRate: float64(r.IntN(3)) * 10}
		x.s = NewSite(x.now, limits)
		var opening []*slots.Slot
		take := func(list *[]*slots.Slot) *slots.Slot {
			i := r.IntN(len(*list))
			y := (*list)[i]
			*list = append((*list)[:i], (*list)[i+1:]...)
			return y
		}
		for range 2000 {
			x.now = x.now.Add(time.Duration(r.ExpFloat64() * float64(300*time.Millisecond)))
			if next := x.s.Next(); r.IntN(4) == 0 && next.After(x.now) {
				x.now = next
			}
			switch n := r.IntN(60); {
			case n == 0:
				limits.MaxSessions = 1 + r.IntN(30)
				x.s.SetLimits(x.now, limits)
			case n == 1:
				x.s.Clamp(x.now, Clamp{Sessions: r.IntN(4) - 1, Pace: r.Float64(), Until: x.now.Add(time.Duration(r.IntN(100)) * time.Second), Reason: "r"})
			case n < 30 && len(opening) > 0:
				y := take(&opening)
				switch r.IntN(8) {
				case 0:
					x.s.Refused(y, x.now, "421 too many connections")
				case 1:
					x.s.Failed(y, x.now, r.IntN(2) == 0)
				case 2:
					x.s.Void(y, x.now)
				case 3:
					x.s.Hangs(y, x.now)
					opening = append(opening, y)
				default:
					x.s.CameUp(y, x.now)
					x.up = append(x.up, y)
				}
			case len(x.up) > 0:
				y := take(&x.up)
				switch r.IntN(16) {
				case 0:
					x.s.Refused(y, x.now, "421 too many connections")
				case 1:
					x.s.Ended(y, x.now)
				case 2:
					x.s.TooFast(y, x.now, x.now.Add(-siteTick), "450 too fast")
					x.up = append(x.up, y)
				default:
					x.s.Accepted(y, x.now, x.now.Add(-siteTick))
					x.up = append(x.up, y)
				}
			}
			for x.s.Surplus(x.now) > 0 {
				x.s.Ended(take(&x.up), x.now)
			}
			y := &slots.Slot{}
			cl, clamped := x.s.Clamped(x.now)
			_, ok := x.s.Open(x.now, y, x.list)
			if ok {
				opening = append(opening, y)
			}
			switch target, next := x.s.Target(x.now), x.s.Next(); {
			case ok && x.s.Held() > limits.MaxSessions:
				t.Fatalf("seed %d: %d slots of %d: %v", seed, x.s.Held(), limits.MaxSessions, x.s)
			case ok && clamped && cl.Sessions == 0:
				t.Fatalf("seed %d: a connect to a suspended site", seed)
			case x.s.Live != len(x.up) || x.s.Opening != len(opening):
				t.Fatalf("seed %d: %d up and %d under way: %v", seed, len(x.up), len(opening), x.s)
			case !ok && !next.IsZero() && !next.After(x.now):
				t.Fatalf("seed %d: next is %v, now %v", seed, next, x.now)
			case !ok && x.s.Live+x.s.Opening == 0 && next.IsZero():
				t.Fatalf("seed %d: waits for nothing: %v", seed, x.s)
			case target.Sessions < 0 || target.Sessions > limits.MaxSessions || target.Cause == "":
				t.Fatalf("seed %d: %+v with %+v", seed, target, limits)
			case target.Pace < 0 || limits.MaxRate > 0 && (target.Pace == 0 || target.Pace > limits.MaxRate):
				t.Fatalf("seed %d: pace %v with %+v", seed, target.Pace, limits)
			}
		}
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

// What an admin allows for a time is no limit of the receiver's.
func TestCeilingThatEndsLeavesNoLimit(t *testing.T) {
	t.Parallel()
	limits := func(n int) Limits { return Limits{MaxSessions: n, Why: "a test"} }
	x := replaced(t)
	lower := func(n int) {
		x.s.SetLimits(x.now, limits(n))
		for x.s.Surplus(x.now) > 0 {
			x.s.Ended(x.up[0], x.now)
			x.up = x.up[1:]
		}
		x.run(20 * time.Second)
		if len(x.up) != n {
			t.Fatalf("%d up of %d", len(x.up), n)
		}
	}
	lower(5)
	lower(2)
	l, _ := x.s.Learned(x.now)
	if y := Restore(x.now, limits(2), l); y.Want() != 2 {
		t.Errorf("%d wanted", y.Want())
	} else if y.SetLimits(x.now, limits(200)); y.Want() != 30 {
		t.Errorf("%d wanted after a restart, and the ceiling", y.Want())
	}
	x.s.SetLimits(x.now, limits(200))
	x.run(2 * time.Second)
	if len(x.up) != 30 {
		t.Errorf("%d up of 30: %v", len(x.up), x.s)
	}
	lower(10)
	x.limit = 1
	x.end()
	x.run(time.Minute)
	if n := x.s.Want(); n > 5 {
		t.Fatalf("%d wanted of 3", n)
	}
	x.refused = 0
	x.s.SetLimits(x.now, limits(200)) // what was learned below it holds
	if x.run(10 * time.Second); x.refused > 3 {
		t.Errorf("%d refused: %v", x.refused, x.s)
	}
}

// What is held is accepted, whatever was forgotten: a ceiling comes and goes.
func TestForgottenSiteKeepsItsSlotsOverACeiling(t *testing.T) {
	t.Parallel()
	x := newLimitedHosts(2, 5)
	x.run(time.Minute)
	x.s.Forget(x.now)
	x.run(20 * time.Second)
	for _, a := range x.s.Snapshot(x.now).PerAddress {
		if a.Accepted != 5 {
			t.Errorf("%+v", a)
		}
	}
	x.s.SetLimits(x.now, Limits{MaxSessions: 2})
	for x.s.Surplus(x.now) > 0 {
		x.s.Ended(x.up[0], x.now)
		x.up = x.up[1:]
	}
	x.run(7 * time.Second)
	x.s.SetLimits(x.now, Limits{MaxSessions: 200})
	if x.run(3 * time.Second); len(x.up) != 10 {
		t.Errorf("%d up of 10: %v", len(x.up), x.s)
	}
}

// The words beside a pace are those that asked for it, whatever the address has said since.
func TestPaceIsToldWithItsOwnWords(t *testing.T) {
	t.Parallel()
	x := newLimitedHosts(1, 2)
	x.run(time.Minute)
	x.s.TooFast(x.up[0], x.now, x.now, "451 too fast")
	x.s.Hasten(x.now)
	x.run(10 * time.Second)
	if b := x.s.Brief(x.now); b.TooFast != "451 too fast" || b.Reply != "421 too many connections" || x.list[0].Reply != b.Reply {
		t.Errorf("%q, %q, %q", b.TooFast, b.Reply, x.list[0].Reply)
	}
}
