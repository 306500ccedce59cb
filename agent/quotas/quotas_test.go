package quotas

import (
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

var (
	hour = Key{Stream: "news"}
	day  = Key{Stream: "news", Day: true}
)

func open(t *testing.T, path string, now time.Time, list map[Key]Quota) *Book {
	t.Helper()
	b := Open(Options{Path: path, Log: slog.New(slog.DiscardHandler)}, now)
	b.Use(list)
	return b
}

// take takes up to n, with as many blocks as that needs, and returns how many it got.
func take(t *testing.T, b *Book, k Key, now time.Time, n int) (got int) {
	t.Helper()
	c := b.Counter(k)
	for range 10_000 {
		if got == n {
			break
		}
		x, _ := c.Take(now, n-got)
		if got += x; x > 0 {
			continue
		}
		if room, next := c.Room(now); room == 0 && !next.IsZero() {
			break
		}
		if err := b.reserve(now); err != nil {
			t.Fatal(err)
		}
	}
	return got
}

func berlin(t *testing.T) *time.Location {
	t.Helper()
	z, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// In no hour, whenever it begins, is more accepted than the quota, over random demand, crashes
// and refusals; and what could have been accepted is, but for blocks.
func TestHourIsNeverExceeded(t *testing.T) {
	t.Parallel()
	const limit = 1000
	r := rand.New(rand.NewPCG(3, 4))
	path := filepath.Join(t.TempDir(), "quotas.json")
	now := time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)
	b := open(t, path, now, map[Key]Quota{hour: {Limit: limit}})
	type use struct {
		at time.Time
		n  int
	}
	var uses []use
	total, crashes := 0, 0
	for end := now.Add(3 * time.Hour); now.Before(end); now = now.Add(time.Duration(r.IntN(30)) * time.Second) {
		got := 0
		for range 30 {
			n, from := b.Counter(hour).Take(now, 1+r.IntN(5))
			if n == 0 {
				if room, next := b.Counter(hour).Room(now); room == 0 && !next.IsZero() {
					break
				}
				if err := b.reserve(now); err != nil {
					t.Fatal(err)
				}
				continue
			}
			if r.IntN(3) == 0 { // refused, some of them a little later
				if back := r.IntN(n + 1); back > 0 {
					n -= back
					b.Counter(hour).Return(from, back)
				}
			}
			got += n
		}
		total += got
		uses = append(uses, use{now, got})
		sum := 0
		for i := len(uses) - 1; i >= 0 && now.Sub(uses[i].at) < time.Hour; i-- {
			sum += uses[i].n
		}
		if sum > limit {
			t.Fatalf("%d in the hour before %v", sum, now)
		}
		if r.IntN(200) == 0 {
			crashes++
			b = open(t, path, now, map[Key]Quota{hour: {Limit: limit}})
		}
	}
	if least := 3*limit*97/100 - 2*crashes*limit/part; total < least {
		t.Errorf("%d were accepted in 3 hours, with %d crashes; at least %d could have been", total, crashes, least)
	}
}

func TestDayIsThatOfTheCalendar(t *testing.T) {
	t.Parallel()
	z := berlin(t)
	sao, err := time.LoadLocation("America/Sao_Paulo")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		zone *time.Location
		day  time.Time
		long time.Duration
	}{
		{z, time.Date(2026, 11, 28, 0, 0, 0, 0, z), 24 * time.Hour},
		{z, time.Date(2026, 3, 29, 0, 0, 0, 0, z), 23 * time.Hour},
		{z, time.Date(2026, 10, 25, 0, 0, 0, 0, z), 25 * time.Hour},
		{sao, time.Date(2018, 11, 3, 0, 0, 0, 0, sao), 24 * time.Hour}, // the next day begins at 01:00
	} {
		b := open(t, "", tt.day, map[Key]Quota{day: {Limit: 50, Zone: tt.zone}})
		last := tt.day.Add(tt.long - time.Second)
		if got := take(t, b, day, tt.day, 30) + take(t, b, day, last, 30); got != 50 {
			t.Errorf("%v: %d on one day", tt.day, got)
		}
		_, next := b.Counter(day).Room(last)
		if !next.Equal(last.Add(time.Second)) {
			t.Errorf("%v: more at %v", tt.day, next.In(tt.zone))
		}
		if got := take(t, b, day, next, 60); got != 50 {
			t.Errorf("%v: %d on the next day", tt.day, got)
		}
	}
}

// A crash loses at most the block that was not finished; a stop loses nothing.
func TestCountsOutliveTheAgent(t *testing.T) {
	t.Parallel()
	z := berlin(t)
	for _, k := range []Key{hour, day} {
		quota := map[Key]Quota{k: {Limit: 1000, Zone: z}}
		now := time.Date(2026, 11, 28, 23, 0, 0, 0, z)
		path := filepath.Join(t.TempDir(), "quotas.json")
		b := open(t, path, now, quota)
		if got := take(t, b, k, now, 123); got != 123 {
			t.Fatal(got)
		}
		b = open(t, path, now.Add(time.Minute), quota) // it crashed
		if used := b.List(now)[0].Used; used != 130 {
			t.Errorf("%+v: %d count after a crash; 123 were taken, by blocks of 10", k, used)
		}
		now = now.Add(2 * time.Minute)
		take(t, b, k, now, 45)
		if err := b.Close(now); err != nil {
			t.Fatal(err)
		}
		b = open(t, path, now, quota)
		if used := b.List(now)[0].Used; used != 175 {
			t.Errorf("%+v: %d count after a stop, of 175", k, used)
		}
		if got := take(t, b, k, now, 2000); got != 825 {
			t.Errorf("%+v: %d more", k, got)
		}
	}
}

// On days of 23, 24 and 25 hours, with restarts and crashes in the middle of them, no day of the
// calendar has more than its quota, and none loses more than a block for each crash.
func TestRestartsOnDaysOf23And25Hours(t *testing.T) {
	t.Parallel()
	z := berlin(t)
	for _, from := range []time.Time{time.Date(2026, 3, 28, 0, 0, 0, 0, z), time.Date(2026, 10, 24, 0, 0, 0, 0, z)} {
		r := rand.New(rand.NewPCG(5, uint64(from.Unix())))
		path := filepath.Join(t.TempDir(), "quotas.json")
		quota := map[Key]Quota{day: {Limit: 1000, Zone: z}}
		b := open(t, path, from, quota)
		sent, crashes := make(map[string]int), make(map[string]int)
		for now := from; now.Before(from.AddDate(0, 0, 3)); now = now.Add(10 * time.Minute) {
			today := now.In(z).Format(time.DateOnly)
			sent[today] += take(t, b, day, now, r.IntN(20))
			switch r.IntN(10) {
			case 0:
				crashes[today]++
				b = open(t, path, now, quota)
			case 1:
				if err := b.Close(now); err != nil {
					t.Fatal(err)
				}
				b = open(t, path, now, quota)
			}
		}
		for today, n := range sent {
			if n > 1000 || n < 1000-10*crashes[today] {
				t.Errorf("%s: %d of 1000, with %d crashes", today, n, crashes[today])
			}
		}
		if len(sent) != 3 {
			t.Errorf("%v", sent)
		}
	}
}

// A block that an agent took from for hours, and did not finish, counts from the start on: it
// may have been used just before the crash.
func TestUnfinishedHourCountsFromTheStart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "quotas.json")
	now := time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)
	quota := map[Key]Quota{hour: {Limit: 1000}}
	b := open(t, path, now, quota)
	take(t, b, hour, now, 1)
	now = now.Add(50 * time.Minute)
	take(t, b, hour, now, 9) // of the same block: nothing is written
	now = now.Add(20 * time.Minute)
	b = open(t, path, now, quota)
	if used := b.List(now)[0].Used; used != 10 {
		t.Errorf("%d count", used)
	}
}

// Nothing of a block is given before it is on disk, and all that is asked for together is
// written together.
func TestBlockIsDurableBeforeItIsUsed(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // no directory
		t.Fatal(err)
	}
	path := filepath.Join(dir, "quotas.json")
	now := time.Now()
	b := open(t, "", now, nil)
	b.o.Path = path
	granted := 0
	b.o.Granted = func() { granted++ }
	b.Use(map[Key]Quota{hour: {Limit: 1000}, day: {Limit: 1000}})
	for _, k := range []Key{hour, day} {
		if n, _ := b.Counter(k).Take(now, 1); n != 0 {
			t.Fatalf("%d of a block that is nowhere", n)
		}
	}
	if err := b.reserve(now); err == nil || b.Failed() == nil || granted != 0 {
		t.Fatalf("%v, %v", err, b.Failed())
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := b.reserve(now); err != nil || b.Failed() != nil || granted != 1 {
		t.Fatal(err, b.Failed(), granted)
	}
	for _, k := range []Key{hour, day} {
		if n, _ := b.Counter(k).Take(now, 1); n != 1 {
			t.Errorf("%+v: %d after the write", k, n)
		}
	}
	after := open(t, path, now, map[Key]Quota{hour: {Limit: 1000}, day: {Limit: 1000}})
	for _, x := range after.List(now) {
		if x.Used != 10 {
			t.Errorf("%+v in the file", x)
		}
	}
}

// Run writes what Room asks for; what cannot be written is tried again.
func TestRunGrants(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(dir, "state")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		granted := make(chan struct{}, 1)
		b := Open(Options{Log: slog.New(slog.DiscardHandler), Granted: func() { granted <- struct{}{} }}, time.Now())
		b.o.Path = filepath.Join(file, "quotas.json")
		b.Use(map[Key]Quota{hour: {Limit: 50}})
		go b.Run(t.Context())
		if n, next := b.Counter(hour).Room(time.Now()); n != 0 || !next.IsZero() {
			t.Fatal(n, next)
		}
		synctest.Wait()
		if b.Failed() == nil {
			t.Fatal("written where no directory is")
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		<-granted
		if n, _ := b.Counter(hour).Take(time.Now(), 5); n != 1 || b.Failed() != nil {
			t.Errorf("%d of a block of one, %v", n, b.Failed())
		}
	})
}

// A clock that is set changes no count: not in a run, not over a restart.
func TestClockIsSet(t *testing.T) {
	t.Parallel()
	z := berlin(t)
	path := filepath.Join(t.TempDir(), "quotas.json")
	quota := map[Key]Quota{hour: {Limit: 100}, day: {Limit: 100, Zone: z}}
	noon := time.Date(2026, 11, 28, 12, 0, 0, 0, z)
	b := open(t, path, noon, quota)
	take(t, b, day, noon, 60)
	// Tomorrow for a minute, and back.
	if got := take(t, b, day, noon.AddDate(0, 0, 1), 200); got != 100 {
		t.Errorf("%d tomorrow", got)
	}
	if got := take(t, b, day, noon, 200); got != 40 {
		t.Errorf("%d of 40 that were left of today", got)
	}
	take(t, b, hour, noon, 60)
	if err := b.Close(noon); err != nil {
		t.Fatal(err)
	}
	// The file is of the future: what it has counts as of now, and not for a year.
	past := noon.AddDate(-1, 0, 0)
	b = open(t, path, past, quota)
	if got := take(t, b, hour, past, 200); got != 40 {
		t.Errorf("%d in the same hour, a year before", got)
	}
	if got := take(t, b, hour, past.Add(time.Hour), 200); got != 100 {
		t.Errorf("%d in the next hour", got)
	}
	if got := take(t, b, day, noon, 200); got != 0 {
		t.Errorf("%d more today", got)
	}
}

// In a run the hour goes by the monotonic clock.
func TestHourKeepsMonotonicTime(t *testing.T) {
	t.Parallel()
	now := time.Now()
	b := open(t, "", now, map[Key]Quota{hour: {Limit: 10}})
	take(t, b, hour, now, 10)
	// Round drops the monotonic reading: with the wall clock alone it would be another hour.
	if at := b.Counter(hour).open.At; at != now || at == now.Round(0) {
		t.Errorf("%v: no monotonic reading", at)
	}
}

func TestReloadKeepsCounts(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	for _, k := range []Key{hour, day} {
		b := open(t, "", now, map[Key]Quota{k: {Limit: 100}})
		take(t, b, k, now, 80)
		b.Use(map[Key]Quota{k: {Limit: 50}})
		if room, next := b.Counter(k).Room(now); room != 0 || !next.After(now) {
			t.Errorf("%+v: room %d, next %v, with a lower quota", k, room, next)
		}
		b.Use(nil)
		if b.Counter(k) != nil || len(b.List(now)) != 0 {
			t.Errorf("%+v: still there", k)
		}
		b.Use(map[Key]Quota{k: {Limit: 120}})
		if got := take(t, b, k, now, 100); got != 40 {
			t.Errorf("%+v: %d more with a higher one", k, got)
		}
	}
}

// What is not accepted is given back, to the day it was taken on.
func TestReturnGoesWhereItWasTaken(t *testing.T) {
	t.Parallel()
	z := berlin(t)
	b := open(t, "", time.Time{}, map[Key]Quota{day: {Limit: 10, Zone: z}})
	before := time.Date(2026, 11, 28, 23, 59, 0, 0, z)
	after := before.Add(2 * time.Minute)
	n, from := b.Counter(day).Take(before, 1)
	for range 9 {
		take(t, b, day, before, 1)
	}
	take(t, b, day, after, 4)
	b.Counter(day).Return(from, n)
	if got := take(t, b, day, after, 10); got != 6 {
		t.Errorf("%d of 6 after midnight", got)
	}
	if got := take(t, b, day, before, 10); got != 1 {
		t.Errorf("%d of 1 before", got)
	}
}

func TestNextIsWhenThereIsRoom(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	b := open(t, "", begin, map[Key]Quota{hour: {Limit: 400}})
	now := begin
	for range 100 {
		take(t, b, hour, now, 4)
		now = now.Add(10 * time.Second)
	}
	_, next := b.Counter(hour).Room(now)
	if want := begin.Add(time.Hour); !next.Equal(want) {
		t.Fatalf("next %v, want %v", next, want)
	}
	if n, _ := b.Counter(hour).Room(next.Add(-time.Nanosecond)); n != 0 {
		t.Error("room before")
	}
	if n, _ := b.Counter(hour).Room(next); n != 4 {
		t.Errorf("room for %d", n)
	}
}

// A file that cannot be read may have counts: it is never replaced, and read once that is
// possible, or begun anew once it is gone.
func TestUnreadableFileIsNotReplaced(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	path := filepath.Join(t.TempDir(), "quotas.json")
	quota := map[Key]Quota{hour: {Limit: 100}}
	b := open(t, path, now, quota)
	take(t, b, hour, now, 60)
	if err := b.Close(now); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		bad     string
		left    int
		content []byte // that it is mended with; nil: it is removed
	}{
		{`{"counters": [`, 40, good},
		{`{"counters": [`, 100, nil},
		{"", 40, good},
		{"null", 40, good},
		{`{"counters": [{"stream": "a", "spent": [{"n": -60}]}]}`, 40, good},
		{`{"counters": [{"stream": "a", "reserved": {"n": -60}}]}`, 40, good},
	} {
		left, content, bad := x.left, x.content, []byte(x.bad)
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		b = open(t, path, now, nil)
		if err := b.Failed(); err != nil {
			t.Errorf("without quotas: %v", err)
		}
		b.Use(quota)
		if err := b.Failed(); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "remedy: ") {
			t.Error(err)
		}
		if n, _ := b.Counter(hour).Room(now); n != 0 || b.reserve(now) == nil {
			t.Errorf("room for %d", n)
		}
		if err := b.Close(now); err != nil {
			t.Error(err)
		}
		if is, err := os.ReadFile(path); err != nil || string(is) != string(bad) {
			t.Errorf("%q, %v", is, err)
		}
		b = open(t, path, now, quota)
		if content == nil {
			err = os.Remove(path)
		} else {
			err = os.WriteFile(path, content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := take(t, b, hour, now, 200); got != left || b.Failed() != nil {
			t.Errorf("%d of %d, %v", got, left, b.Failed())
		}
	}
}

// What this node may count of a quota that others share bounds its blocks, and what may be taken of one
// that is open.
func TestBoundKeepsPartOfAQuotaForOthers(t *testing.T) {
	t.Parallel()
	bound := 10
	key := Key{Stream: "news", Day: true}
	b := Open(Options{Bound: func(k Key, day string, limit int) int {
		if k != key || day != "2026-11-29" || limit != 1000 {
			t.Errorf("asked for %v, %q, %d", k, day, limit)
		}
		return bound
	}}, time.Time{})
	b.Use(map[Key]Quota{key: {Limit: 1000, Zone: time.UTC}})
	c := b.Counter(key)
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	if n, _ := c.Room(now); n != 10 {
		t.Fatalf("room for %d of a bound of 10", n)
	}
	c.Take(now, 6)
	bound = 8
	if n, _ := c.Take(now, 100); n != 2 {
		t.Errorf("%d taken of 2 that the bound leaves of the open block", n)
	}
	if n, next := c.Room(now); n != 0 || !next.Equal(now.Add(lookAgain)) {
		t.Errorf("room for %d, next at %v", n, next)
	}
	bound = 30
	if n, _ := c.Room(now); n == 0 {
		t.Error("no room where the bound was raised")
	}
	counted := map[string]int{}
	b.Counted(now, func(_ Key, day string, limit, n int) { counted[day] = n })
	if len(counted) != 1 || counted["2026-11-29"] != 10 { // its block is reserved whole
		t.Errorf("%v", counted)
	}
	b.Counted(now.AddDate(0, 0, 1), func(_ Key, day string, limit, n int) { counted[day] = n })
	if len(counted) != 2 || counted["2026-11-30"] != 0 || counted["2026-11-29"] != 10 {
		t.Errorf("%v on the next day", counted)
	}
}

// TestNobodyWaitsForADiskThatHangs: a file that could not be read is read again without the lock.
func TestNobodyWaitsForADiskThatHangs(t *testing.T) {
	t.Parallel()
	now := time.Now()
	path := filepath.Join(t.TempDir(), "quotas.json")
	if err := os.Mkdir(path, 0o700); err != nil { // it cannot be read
		t.Fatal(err)
	}
	b := open(t, path, now, map[Key]Quota{day: {Limit: 100}})
	if n, _ := b.Counter(day).Room(now); n != 0 || b.Failed() == nil {
		t.Fatalf("room for %d, %v", n, b.Failed())
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	read := make(chan error)
	go func() { read <- b.reserve(now) }()
	f, err := os.OpenFile(path, os.O_WRONLY, 0) // until reserve has opened it, too
	if err != nil {
		t.Fatal(err)
	}
	if b.mu.TryLock() {
		b.mu.Unlock()
	} else {
		t.Error("the lock is held while the file is read")
	}
	if _, err := f.WriteString(`{"counters":[{"stream":"news","day":true,"spent":[{"day":"` + now.Format(time.DateOnly) + `","n":40}]}]}`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil || b.List(now)[0].Used != 40 {
		t.Errorf("%+v, %v", b.List(now), err)
	}
}
