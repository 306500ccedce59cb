package suppress

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/contrib/lab/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

var (
	start  = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	policy = Policy{Mode: Drop, After: 3, Within: 30 * day, Expire: 180 * day}
)

const day = 24 * time.Hour

func open(t *testing.T, path string, p Policy) *List {
	t.Helper()
	l, err := Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l.Use(p)
	t.Cleanup(l.close)
	return l
}

func fresh(t *testing.T, p Policy) *List { return open(t, filepath.Join(t.TempDir(), "suppressed"), p) }

func (l *List) suppresses(stream, address string, now time.Time) bool {
	_, ok := l.Check(stream, address, now)
	return ok
}

func TestAddressIsSuppressedAfterSoManyBounces(t *testing.T) {
	t.Parallel()
	l, now := fresh(t, policy), start
	for n := 1; n <= 3; n++ {
		if l.suppresses("s", "a@b.test", now) {
			t.Fatalf("suppressed after %d bounces", n-1)
		}
		now = now.Add(29 * day)
		if got := l.Bounced("s", "A@b.Test", outcome.ClassUserUnknown, now); got != (n == 3) {
			t.Errorf("bounce %d: suppressed %v", n, got)
		}
	}
	e, ok := l.Check("s", "a@B.test", now.Add(180*day-time.Second))
	if !ok || e.Bounces != 3 || e.Class != outcome.ClassUserUnknown || !e.Last.Equal(now) {
		t.Errorf("entry %+v, %v", e, ok)
	}
	if l.suppresses("other", "a@b.test", now) {
		t.Error("suppressed in another stream")
	}
	if l.suppresses("s", "a@b.test", now.Add(180*day)) {
		t.Error("suppressed after expiry")
	}
	if l.Bounced("s", "a@b.test", outcome.ClassUserUnknown, now.Add(180*day)) || l.suppresses("s", "a@b.test", now.Add(180*day)) {
		t.Error("after expiry one bounce is enough")
	}
}

func TestBouncesFarApartDoNotAddUp(t *testing.T) {
	t.Parallel()
	l, now := fresh(t, policy), start
	for range 5 {
		l.Bounced("s", "a@b.test", outcome.ClassUserUnknown, now)
		now = now.Add(30 * day)
	}
	if l.suppresses("s", "a@b.test", now) {
		t.Error("suppressed")
	}
}

func TestADeliveryStartsAnew(t *testing.T) {
	t.Parallel()
	l := fresh(t, policy)
	for range 2 {
		l.Bounced("s", "a@b.test", outcome.ClassHasMoved, start)
	}
	l.Delivered("s", "a@B.test", start)
	l.Bounced("s", "a@b.test", outcome.ClassHasMoved, start)
	if l.suppresses("s", "a@b.test", start) {
		t.Error("suppressed")
	}
	if st := l.Stats(start); st.Counted != 1 || st.Suppressed != 0 {
		t.Errorf("%+v", st)
	}
}

// TestOnlyHardClassesCount goes over every class, those that will be added too.
func TestOnlyHardClassesCount(t *testing.T) {
	t.Parallel()
	p := policy
	p.After = 1
	var counted []outcome.Class
	for c := range 256 {
		l, class := fresh(t, p), outcome.Class(c)
		l.Bounced("s", "a@b.test", class, start)
		if l.suppresses("s", "a@b.test", start) != class.Hard() || len(l.table.marks) > 0 != class.Hard() {
			t.Errorf("class %s", class)
		}
		if len(l.table.marks) > 0 {
			counted = append(counted, class)
		}
	}
	if want := []outcome.Class{outcome.ClassUserUnknown, outcome.ClassHostUnknown, outcome.ClassHasMoved}; !slices.Equal(counted, want) {
		t.Errorf("counted %v, want %v", counted, want)
	}
}

func TestModes(t *testing.T) {
	t.Parallel()
	p := policy
	p.After = 1
	for _, x := range []struct {
		mode       Mode
		streams    map[string]Mode
		entries    int
		suppressed bool
	}{
		{Off, nil, 0, false}, {Advise, nil, 1, false}, {Drop, nil, 1, true},
		{Off, map[string]Mode{"s": Drop}, 1, true}, {Drop, map[string]Mode{"s": Advise}, 1, false},
		{Drop, map[string]Mode{"s": Off}, 0, false}, {Advise, map[string]Mode{"other": Drop}, 1, false},
	} {
		p.Mode, p.Streams = x.mode, x.streams
		l := fresh(t, p)
		l.Bounced("s", "a@b.test", outcome.ClassUserUnknown, start)
		if got := l.suppresses("s", "a@b.test", start); got != x.suppressed || len(l.table.marks) != x.entries {
			t.Errorf("%+v: %v, %d entries", x, got, len(l.table.marks))
		}
	}
}

func TestGlobalBouncesCountForAllStreams(t *testing.T) {
	t.Parallel()
	p := policy
	p.Global, p.After = true, 2
	l := fresh(t, p)
	l.Bounced("one", "a@b.test", outcome.ClassUserUnknown, start)
	l.Bounced("two", "a@b.test", outcome.ClassUserUnknown, start)
	if !l.suppresses("three", "a@b.test", start) {
		t.Error("not suppressed in a third stream")
	}
}

func TestWhatAnAdminAddsStays(t *testing.T) {
	t.Parallel()
	l := fresh(t, policy)
	if err := l.Add(Entry{Address: "A@b.test", Last: start}, Entry{Address: "c@b.test", Stream: "s", Last: start}); err != nil {
		t.Fatal(err)
	}
	l.Delivered("s", "a@b.test", start)
	l.Delivered("s", "c@b.test", start)
	l.Bounced("s", "c@b.test", outcome.ClassUserUnknown, start)
	late := start.Add(4000 * day)
	l.sweep(late)
	for _, x := range []struct {
		stream, address string
		want            bool
	}{{"any", "a@b.test", true}, {"", "a@b.test", true}, {"s", "c@b.test", true}, {"t", "c@b.test", false}} {
		if got := l.suppresses(x.stream, x.address, late); got != x.want {
			t.Errorf("%+v: %v", x, got)
		}
	}
	if st := l.Stats(late); st.Admin != 2 || st.Suppressed != 2 {
		t.Errorf("%+v", st)
	}
	s := "s"
	if n, err := l.Remove(&s, "a@b.test", "C@b.test"); n != 1 || err != nil {
		t.Errorf("%d removed, %v", n, err)
	}
	l.Put(Entry{Address: "a@b.test", Stream: "x", Last: start}, Entry{Address: "d@b.test", Last: start})
	if n, err := l.Remove(nil, "A@b.test"); n != 2 || err != nil {
		t.Errorf("%d removed, %v", n, err)
	}
	if st := l.Stats(late); st.Suppressed != 1 {
		t.Errorf("%+v", st)
	}
}

func TestSweepForgetsWhatIsOver(t *testing.T) {
	t.Parallel()
	l := fresh(t, policy)
	for n := range 3000 {
		l.Bounced("s", fmt.Sprint(n, "@b.test"), outcome.ClassUserUnknown, start)
	}
	l.Bounced("s", "late@b.test", outcome.ClassUserUnknown, start.Add(day))
	l.sweep(start.Add(30 * day))
	if n := len(l.table.marks); n != 1 || l.size.Load() != 1 {
		t.Errorf("%d entries, size %d", n, l.size.Load())
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
