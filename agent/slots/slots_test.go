package slots

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return epoch.Add(d) }

func address() *Address {
	return NewTable(10).Row(Key{Host: netip.MustParseAddrPort("192.0.2.1:25")}, epoch)
}

// opened is a slot that is proven.
func opened(a *Address, of *Count, now time.Time) *Slot {
	s := &Slot{}
	a.Begin(s, of, Grow, now)
	s.CameUp(now)
	s.Prove()
	return s
}

func TestASlotIsHeldUntilTheEndIsNoticed(t *testing.T) {
	t.Parallel()
	a, of := address(), &Count{}
	s := opened(a, of, at(0))
	opened(a, of, at(0))
	s.End(at(time.Second), 2*time.Second)
	for _, x := range []struct {
		at           time.Duration
		held, vacant int
	}{{time.Second, 2, 0}, {2 * time.Second, 2, 0}, {3 * time.Second, 1, 1}, {8 * time.Second, 1, 0}} {
		a.Look(at(x.at))
		if a.Held() != x.held || a.Vacant != x.vacant || *of != a.Count {
			t.Errorf("after %v: held %d, vacant %d, want %d, %d; the site's %+v, the address's %+v", x.at, a.Held(), a.Vacant, x.held, x.vacant, *of, a.Count)
		}
	}
}

func TestAReplacementTakesThePlaceThatEndedFirst(t *testing.T) {
	t.Parallel()
	a, of := address(), &Count{}
	x, y := opened(a, of, at(0)), opened(a, of, at(0))
	y.End(at(1*time.Second), 0)
	x.End(at(2*time.Second), 0)
	s := &Slot{}
	a.Begin(s, of, Replace, at(3*time.Second))
	if waited := s.Waited(); waited != 2*time.Second {
		t.Errorf("waited %v", waited)
	}
	// Refused, it leaves the place as it was, for the next one.
	s.Void(at(3*time.Second), at(3*time.Second))
	next := &Slot{}
	a.Begin(next, of, Replace, at(4*time.Second))
	if waited := next.Waited(); waited != 3*time.Second {
		t.Errorf("the next one waited %v", waited)
	}
	if a.Vacant != 1 || a.Held() != 1 || *of != a.Count {
		t.Errorf("%+v", a.Count)
	}
}

// A place whose replacement was refused is neither held nor vacant until its next try.
func TestAPlaceWaitsForItsNextTry(t *testing.T) {
	t.Parallel()
	a, of := address(), &Count{}
	opened(a, of, at(0)).End(at(0), 0)
	s := &Slot{}
	a.Begin(s, of, Replace, at(time.Second))
	s.Tries++
	s.Void(at(time.Second), at(2*time.Second))
	if a.Waiting != 1 || a.Held() != 0 || a.Vacant != 0 || *of != a.Count {
		t.Errorf("refused: %+v", a.Count)
	}
	if a.Relag(of, 0, at(time.Second)); a.Waiting != 1 || *of != a.Count {
		t.Errorf("without a lag: %+v", a.Count)
	}
	a.Relag(of, 7*time.Second, at(time.Second))
	if a.Look(at(6 * time.Second)); a.Waiting != 1 || *of != a.Count {
		t.Errorf("with a lag: %+v", a.Count)
	}
	if a.Look(at(7 * time.Second)); a.Vacant != 1 || a.Waiting != 0 || *of != a.Count {
		t.Errorf("to be tried: %+v", a.Count)
	}
	next := &Slot{}
	a.Begin(next, of, Replace, at(8*time.Second))
	if waited := next.Waited(); waited != 8*time.Second || next.Tries != 1 {
		t.Errorf("waited %v, %d tries", waited, next.Tries)
	}
}

func TestAnEarlyReplacementTakesALaggingSlot(t *testing.T) {
	t.Parallel()
	a, of := address(), &Count{}
	opened(a, of, at(0)).End(at(0), 4*time.Second)
	s := &Slot{}
	a.Begin(s, of, Early, at(2*time.Second))
	if waited := s.Waited(); waited != 2*time.Second || a.Lagging != 0 {
		t.Errorf("waited %v, %+v", waited, a.Count)
	}
	s.Void(at(2*time.Second), at(4*time.Second))
	if a.Lagging != 1 || a.Vacant != 0 || *of != a.Count {
		t.Errorf("refused: %+v", a.Count)
	}
	if a.Look(at(4 * time.Second)); a.Vacant != 1 || *of != a.Count {
		t.Errorf("free: %+v", a.Count)
	}
}

func TestALagThatIsLearnedAppliesToWhatHasEnded(t *testing.T) {
	t.Parallel()
	a, of := address(), &Count{}
	x, y := opened(a, of, at(0)), opened(a, of, at(0))
	x.End(at(0), 0)
	y.End(at(2*time.Second), 0)
	a.Relag(of, 3*time.Second, at(4*time.Second))
	if a.Vacant != 1 || a.Lagging != 1 || *of != a.Count {
		t.Errorf("%+v", a.Count)
	}
	a.Relag(of, 0, at(4*time.Second))
	if a.Vacant != 2 || a.Lagging != 0 || *of != a.Count {
		t.Errorf("taken back: %+v", a.Count)
	}
}

func TestSitesAtOneAddressCountTheirOwn(t *testing.T) {
	t.Parallel()
	a, one, two := address(), &Count{}, &Count{}
	x := opened(a, one, at(0))
	opened(a, two, at(0))
	x.End(at(0), time.Second)
	if one.Held() != 1 || one.Lagging != 1 || two.Held() != 1 || a.Held() != 2 {
		t.Errorf("one %+v, two %+v, address %+v", *one, *two, a.Count)
	}
}

func TestOneAddressHasOneKey(t *testing.T) {
	t.Parallel()
	table := NewTable(10)
	a := table.Row(Key{Host: netip.MustParseAddrPort("192.0.2.1:25")}, epoch)
	for _, form := range []string{"[::ffff:192.0.2.1]:25", "[64:ff9b::c000:201]:25"} {
		if table.Row(Key{Host: netip.MustParseAddrPort(form)}, epoch) != a {
			t.Errorf("%s has a row of its own", form)
		}
	}
	for _, k := range []Key{
		{Host: netip.MustParseAddrPort("192.0.2.1:26")},
		{Source: netip.MustParseAddr("198.51.100.1"), Host: netip.MustParseAddrPort("192.0.2.1:25")},
	} {
		if table.Row(k, epoch) == a {
			t.Errorf("%v shares the row", k)
		}
	}
}

func TestRowsAreBoundedAndIdleOnesGo(t *testing.T) {
	t.Parallel()
	table := NewTable(2)
	key := func(n byte) Key { return Key{Host: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, n}), 25)} }
	used := table.Row(key(1), epoch)
	opened(used, &Count{}, epoch)
	table.Row(key(2), epoch)
	table.Row(key(3), epoch)
	if table.Row(key(1), epoch) != used || len(table.rows) != 2 {
		t.Errorf("%d rows, the used one kept: %t", len(table.rows), table.rows[key(1)] == used)
	}
}

func TestAnAddressWithoutAnAnswerIsTriedByOne(t *testing.T) {
	t.Parallel()
	a, of := address(), &Count{}
	fail := func(began, now time.Duration) {
		s := &Slot{}
		a.Begin(s, of, Grow, at(began))
		s.Void(at(now), at(now))
		a.Failed(at(began), at(now))
	}
	fail(0, time.Second)
	if !a.Down(at(30*time.Second)) || a.Down(at(31*time.Second)) {
		t.Error("not off for 30 s")
	}
	s := &Slot{}
	a.Begin(s, of, Grow, at(31*time.Second))
	if !a.Down(at(31*time.Second)) || !a.Busy() {
		t.Error("a second connect may go there")
	}
	s.CameUp(at(32 * time.Second))
	if a.Down(at(32*time.Second)) || a.Busy() {
		t.Error("off though it answered")
	}
}

// A connect that was to show whether the address answers, and came to nothing for a reason of
// ours, leaves that to the next one.
func TestATryThatComesToNothingIsFollowedByAnother(t *testing.T) {
	t.Parallel()
	a, of := address(), &Count{}
	a.Failed(at(0), at(time.Second))
	now := at(time.Minute)
	s := &Slot{}
	a.Begin(s, of, Grow, now)
	if !a.Down(now) || !a.Busy() {
		t.Error("more than one tries the address")
	}
	s.Void(now, now)
	if a.Down(now) || a.Busy() {
		t.Error("nothing tries the address any more")
	}
}

func TestAConnectThatHangsIsPassedBy(t *testing.T) {
	t.Parallel()
	a, of := address(), &Count{}
	s := &Slot{}
	a.Begin(s, of, Grow, at(0))
	if a.Down(at(HangAfter-1)) || !a.Down(at(HangAfter)) {
		t.Error("not down from HangAfter on")
	}
	s.Hangs()
	s.Hangs()
	if a.Hanging != 1 || of.Hanging != 1 {
		t.Errorf("%+v", a.Count)
	}
	s.CameUp(at(3 * time.Second))
	if a.Hanging != 0 || of.Hanging != 0 || a.Live != 1 {
		t.Errorf("%+v", a.Count)
	}
}

// takes is a receiver's bucket, which saves up a second's messages.
func (b *Bucket) takes(now time.Time, rate float64) bool {
	b.tokens = min(max(1, rate), b.tokens+now.Sub(b.filled).Seconds()*rate)
	b.filled = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// A receiver that takes 10 messages a second has them, and is seldom asked for more.
func TestPaceFindsARate(t *testing.T) {
	t.Parallel()
	const rate = 10.0
	var p Pace
	var ours, theirs Bucket
	theirs.tokens = 1
	taken, refused := 0, 0
	for now := time.Duration(0); now < 5*time.Minute; now += 20 * time.Millisecond {
		if ours.Wait(at(now), p.Value) > 0 {
			continue
		}
		ours.Take()
		if !theirs.takes(at(now), rate) {
			refused++
			p.TooFast(at(now), at(now), 1)
			continue
		}
		taken++
		p.Accepted(at(now), at(now), 1)
	}
	if got := float64(taken) / 300; got < 0.95*rate {
		t.Errorf("%.2f messages/s of %.0f", got, rate)
	}
	if refused > taken/100 {
		t.Errorf("%d refused, %d taken", refused, taken)
	}
}

// A receiver that ends the session with each message too fast, and has no place for the next one for some
// seconds, is asked no faster for that: its sessions live for milliseconds.
func TestPaceFindsARateBehindGaps(t *testing.T) {
	t.Parallel()
	for _, x := range []struct{ rate, gap float64 }{{1.5, 3.4}, {9, 2}, {20, 3}} {
		var p Pace
		var ours, theirs Bucket
		theirs.tokens = 1
		taken, refused := 0, 0
		gap := time.Duration(x.gap * float64(time.Second))
		for now := time.Duration(0); now < 5*time.Minute; now += 10 * time.Millisecond {
			if ours.Wait(at(now), p.Value) > 0 {
				continue
			}
			ours.Take()
			if !theirs.takes(at(now), x.rate) {
				refused++
				p.TooFast(at(now), at(now), 1)
				p.Run(at(now), 1)
				now += gap
				p.Run(at(now), 0)
				p.Gap(gap, 0)
				continue
			}
			taken++
			p.Accepted(at(now), at(now), 1)
		}
		if got := float64(taken) / 300; got < 0.75*x.rate || refused > 20 {
			t.Errorf("%.2f messages/s of %.3g, %d refused", got, x.rate, refused)
		}
	}
}

// A receiver that answers some messages as if they were too fast, whatever the pace, gets about what
// it would if it had another word for it.
func TestPaceIsNotLoweredForLongByChance(t *testing.T) {
	t.Parallel()
	for _, share := range []float64{0.01, 0.05, 0.12} {
		rng := rand.New(rand.NewPCG(1, 2))
		var p Pace
		var ours Bucket
		tries, taken := 0, 0
		for now := time.Duration(0); now < 10*time.Minute; now += 20 * time.Millisecond {
			tries++
			if ours.Wait(at(now), p.Value) > 0 {
				continue
			}
			ours.Take()
			if rng.Float64() < share {
				p.TooFast(at(now), at(now), 1)
				continue
			}
			taken++
			p.Accepted(at(now), at(now), 1)
		}
		if got := float64(taken) / (float64(tries) * (1 - share)); got < 0.7 {
			t.Errorf("%.0f%% refused by chance: %.2f of the possible, pace %.3g/s", 100*share, got, p.Value)
		}
	}
}

// What is refused at a pace far above what is begun may be for the rate: it shows no chance.
func TestPaceThatDoesNotBindShowsNoChance(t *testing.T) {
	t.Parallel()
	p := Pace{Value: 40, Known: 40}
	for now := time.Duration(0); p.Value > 5.2; now += 200 * time.Millisecond {
		if now >= time.Minute {
			t.Fatalf("a pace of %.3g/s after a minute", p.Value)
		}
		if now%(4*time.Second) == 0 {
			p.TooFast(at(now), at(now), 1)
		} else {
			p.Accepted(at(now), at(now), 1)
		}
		if p.Trial() > 0 {
			t.Fatalf("after %v, at %.3g/s, 5/s accepted, %.1f%% are taken to be refused by chance", now, p.Value, 100*p.Trial())
		}
	}
}

// A pace that is far above what is sent holds nothing back, and nothing that is accepted then speaks for
// a higher one: a site whose mail a receiver takes a message of every three seconds is not to have
// thousands a second at once when more comes.
func TestPaceIsNoMoreThanASmallMultipleOfWhatIsAccepted(t *testing.T) {
	t.Parallel()
	for _, every := range []time.Duration{100 * time.Millisecond, time.Second, 3 * time.Second, time.Minute} {
		var p Pace
		p.TooFast(at(0), at(0), 1) // the first message; nothing is known of the rate yet
		most := 0.0
		for now := every; now < time.Hour; now += every {
			p.Accepted(at(now), at(now), 1)
			most = max(most, p.Value)
		}
		if bound := 2 * paceIdle * max(1, 1/every.Seconds()); most > bound {
			t.Errorf("%.3g/s where one in %v was accepted, want at most %.3g/s", most, every, bound)
		}
		if p.Value != 0 {
			t.Errorf("%.3g/s still, an hour after one refusal", p.Value)
		}
	}
}

// Where a receiver for days calls every second of a few messages an hour too fast, no rate is at fault.
func TestPaceHasALeast(t *testing.T) {
	t.Parallel()
	var p Pace
	for i := range 2000 {
		now := at(time.Duration(i) * 6 * time.Minute)
		if i%2 == 0 {
			p.Accepted(now, now, 1)
		} else {
			p.TooFast(now, now, 1)
		}
	}
	if p.Value != paceLeast {
		t.Errorf("%.3g/s after a week", p.Value)
	}
}

func TestWhatIsLearnedAtAddressesIsRestored(t *testing.T) {
	t.Parallel()
	k := Key{Source: netip.MustParseAddr("198.51.100.1"), Host: netip.MustParseAddrPort("192.0.2.1:25")}
	before := NewTable(10)
	a := before.Row(k, epoch)
	a.Accepted, a.Limited, a.Reply, a.Pace.Value = 7, true, "421 too many", 3
	a.Opens = at(100 * time.Hour) // the clock was wrong
	before.Row(Key{Host: netip.MustParseAddrPort("192.0.2.2:25")}, epoch)
	var list []Learned
	for _, a := range before.All() {
		if l, any := a.Learned(); any {
			list = append(list, l)
		}
	}
	if len(list) != 1 {
		t.Fatalf("%d rows are kept", len(list))
	}
	after := NewTable(10)
	after.Restore(epoch, list)
	b := after.Row(k, epoch)
	if b.Room() != 7 || b.Reply != "421 too many" || b.Pace.Value != 3 || b.Opens.After(at(offMost)) {
		t.Errorf("%+v", b)
	}
	opened(b, &Count{}, epoch)
	if b.Forget(); b.Room() < 1000 || b.Held() != 1 {
		t.Errorf("forgotten: room %d, held %d", b.Room(), b.Held())
	}
}

// What is known of an address that is down outlives a restart, and ends with its first answer.
func TestFailuresOutliveARestart(t *testing.T) {
	t.Parallel()
	key := Key{Host: netip.MustParseAddrPort("192.0.2.1:25")}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	a := NewTable(10).Row(key, now)
	a.Because("answered 554", "go away") // of an address that is not down: nothing
	if f := a.Failing(); f != (Failing{}) {
		t.Errorf("%+v", f)
	}
	a.Failed(now, now)
	a.Failed(now.Add(time.Minute), now.Add(time.Minute))
	a.Because("answered 554", "go away")
	l, _ := a.Learned()
	text, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	l = Learned{}
	if err := json.Unmarshal(text, &l); err != nil {
		t.Fatal(err)
	}
	table := NewTable(10)
	table.Restore(now.Add(time.Minute), []Learned{l})
	a = table.Known(key)
	want := Failing{Times: 2, Since: now, Until: now.Add(2 * time.Minute), How: "answered 554", Why: "go away"}
	if f := a.Failing(); f != want {
		t.Errorf("%+v, want %+v", f, want)
	}
	if !a.Retry(now.Add(time.Minute)) || a.Down(now.Add(time.Minute)) || a.Failing().Times != 2 {
		t.Errorf("%+v after a wish to try it now", a.Failing())
	}
	if a.Answered(); a.Failing() != (Failing{}) {
		t.Errorf("%+v after an answer", a.Failing())
	}
}

// After a restart a message that is refused as too fast at once does not undo what was accepted before it.
func TestPaceBeginsWithWhatWasAcceptedBeforeARestart(t *testing.T) {
	t.Parallel()
	p := Pace{Known: 20}
	if p.TooFast(at(0), at(0), 2); p.Value < 18 || p.Value > 20 {
		t.Errorf("pace %.3g/s", p.Value)
	}
	var none Pace
	if none.TooFast(at(0), at(0), 2); none.Value != 0.5 {
		t.Errorf("pace %.3g/s", none.Value)
	}
}
