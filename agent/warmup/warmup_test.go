package warmup

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/contrib/lab/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

var (
	source = netip.MustParseAddr("192.0.2.2")
	plan   = Plan{Name: "test", Days: []int{480, 960, 2400}, Bars: Bars{Deferrals: 0.05, HardBounces: 0.03, Complaints: 0.001}}
	monday = time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)
)

// bench is a Warmup whose clock is the test's, and whose blocks are written as the agent does.
type bench struct {
	*Warmup
	t    *testing.T
	log  strings.Builder
	end  context.CancelFunc
	done chan struct{}
}

// open must be called in a bubble of synctest.
func open(t *testing.T, dir string, now time.Time) *bench {
	b := &bench{t: t, done: make(chan struct{})}
	b.Warmup = New(Options{Log: slog.New(slog.NewTextHandler(&b.log, nil)), Directory: dir, Zone: time.UTC}, now)
	b.Use(map[string]Plan{Address(source): plan})
	ctx, cancel := context.WithCancel(context.Background())
	b.end = cancel
	go func() { b.book.Run(ctx); close(b.done) }()
	return b
}

// crash ends it without a word.
func (b *bench) crash() {
	b.end()
	<-b.done
}

// send sends up to n recipients that never were tried at one moment, and says how many could.
func (b *bench) send(now time.Time, n int) (sent int) {
	b.t.Helper()
	s := b.Share(Address(source), "google")
	for sent < n {
		room, next := s.Room(now)
		if room == 0 && !next.IsZero() {
			return sent
		}
		if room == 0 {
			synctest.Wait() // the block is written
			continue
		}
		k, _ := s.Take(now, min(room, n-sent))
		for range k {
			b.outcome(now, event.Sent, outcome.ClassNone)
		}
		sent += k
	}
	return sent
}

// sendOver sends each hour of a day what there is room for, from a moment on, and says how many
// those were.
func (b *bench) sendOver(from time.Time, hours int) (sent int) {
	for i := range hours {
		sent += b.send(from.Add(time.Duration(i)*time.Hour), 1<<20)
	}
	return sent
}

func (b *bench) outcome(now time.Time, s event.Status, c outcome.Class) {
	b.Delivery(&event.Delivery{Time: now, Queue: "google", Source: source, Status: s, Class: c, Hard: c.Hard()})
}

func (b *bench) today(now time.Time) Day {
	b.t.Helper()
	b.look(now)
	list := b.List(now)
	if len(list) != 1 || len(list[0].Days) == 0 {
		b.t.Fatalf("%+v", list)
	}
	return list[0].Days[len(list[0].Days)-1]
}

func in(t *testing.T, f func(t *testing.T, dir string)) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) { f(t, dir) })
}

// A day of mail for all hours uses its share, spread over them.
func TestShareIsSpreadOverTheDay(t *testing.T) {
	in(t, func(t *testing.T, dir string) {
		b := open(t, dir, monday)
		defer b.crash()
		total := 0
		for hour := range 24 {
			n := b.send(monday.Add(time.Duration(hour)*time.Hour), 1000)
			if n > 21 { // an hour's part, and one for a fraction
				t.Errorf("%d in hour %d", n, hour)
			}
			total += n
		}
		if total < 475 || total > 480 {
			t.Errorf("%d of 480 were sent", total)
		}
		if d := b.today(monday.Add(25 * time.Hour)); d.Step != 1 || d.Share != 960 {
			t.Errorf("the next day is %+v", d)
		}
	})
}

// What was let go before midnight and is tried after it counts on the new day.
func TestShareCountsOnTheDayOfTheTry(t *testing.T) {
	in(t, func(t *testing.T, dir string) {
		b := open(t, "", monday)
		defer b.crash()
		s := b.Share(Address(source), "google")
		s.Room(monday)
		late := monday.Add(24*time.Hour - time.Second)
		n, from := s.Take(late, 4)
		from = s.Renew(late, from, n)
		from = s.Renew(late.Add(2*time.Second), from, 3)
		k := b.courses[Key{Address(source), "google"}].count()
		if before, after := b.book.UsedOn(k, "2026-11-30"), b.book.UsedOn(k, "2026-12-01"); n != 4 || before != 1 || after != 3 {
			t.Errorf("%d count on the day, %d on the next", before, after)
		}
		s.Return(from, 3)
		if after := b.book.UsedOn(k, "2026-12-01"); after != 0 {
			t.Errorf("%d count on the next day when they came back", after)
		}
	})
}

// A crash, and a stop, lose no count: what both agents send in a day is the share at most, and
// an unfinished block counts as used.
func TestRestartLosesNoCount(t *testing.T) {
	in(t, func(t *testing.T, dir string) {
		b := open(t, dir, monday)
		first := b.sendOver(monday, 12)
		b.look(monday.Add(12 * time.Hour))
		b.crash()
		noon := monday.Add(12 * time.Hour)
		b = open(t, dir, noon)
		if n := b.send(noon, 1000); n > 480/24 {
			t.Errorf("%d at once after an hour and a restart", n)
		}
		b.look(noon.Add(2 * time.Minute))
		b.crash()
		b = open(t, dir, noon)
		if n := b.send(noon, 1000); n > 1 {
			t.Errorf("%d at once after another restart", n)
		}
		second := b.today(noon).Accepted - first + b.sendOver(noon, 12)
		if first+second > 480 || first+second < 480*9/10 {
			t.Errorf("%d and %d of 480", first, second)
		}
		night := monday.Add(23 * time.Hour)
		b.end()
		<-b.done
		if err := b.Close(night); err != nil {
			t.Error(err)
		}
		b = open(t, dir, night)
		defer b.crash()
		if n := b.send(night, 1000); first+second+n > 480 {
			t.Errorf("%d more after a stop", n)
		}
		if d := b.today(monday.Add(24 * time.Hour)); d.Step != 1 {
			t.Errorf("the next day is %+v", d)
		}
	})
}

// A clock that shows a later day for a minute moves no course, and gives no share twice.
func TestClockStepLosesNoCount(t *testing.T) {
	in(t, func(t *testing.T, dir string) {
		b := open(t, dir, monday)
		defer b.crash()
		noon := monday.Add(12 * time.Hour)
		sent := b.sendOver(monday, 12)
		ahead := b.send(noon.AddDate(0, 0, 2), 1000) // of that day's share, it counts there
		b.look(noon.AddDate(0, 0, 2))
		if d := b.today(noon); d.Date != "2026-11-30" || d.Step != 0 {
			t.Fatalf("back at noon it is %+v", d)
		}
		if sent += b.sendOver(noon, 12); sent > 480 {
			t.Errorf("%d of 480 were sent", sent)
		}
		tuesday := monday.AddDate(0, 0, 1)
		if d := b.today(tuesday); d.Step != 1 {
			t.Errorf("then it is %+v", d)
		}
		b.sendOver(tuesday, 24)
		wednesday := monday.AddDate(0, 0, 2)
		if d := b.today(wednesday); d.Step != 2 || d.Used != ahead {
			t.Errorf("then it is %+v, of which %d are used", d, ahead)
		}
		// A clock that is set back into a day that was there finds its count and step.
		if n := b.sendOver(tuesday.Add(23*time.Hour), 1); n > 40 {
			t.Errorf("%d more on a day that was over", n)
		}
	})
}

// What the file has is not believed if it makes no sense: it is renamed and told, nothing is left
// of that day's share, and courses that are lost begin anew on the next day.
func TestDamagedFileIsSetAside(t *testing.T) {
	for _, name := range []string{planFile, countFile} {
		t.Run(name, func(t *testing.T) {
			in(t, func(t *testing.T, dir string) {
				b := open(t, dir, monday)
				b.sendOver(monday, 24)
				tuesday := monday.AddDate(0, 0, 1)
				b.send(tuesday, 10)
				b.crash()
				b.look(tuesday)
				if err := os.WriteFile(filepath.Join(dir, name), []byte(`{"courses": [{"address": ""}], "counters": [{"spent": [{"n": -5}]}]}`), 0o600); err != nil {
					t.Fatal(err)
				}
				for range 2 { // also over another restart
					b = open(t, dir, tuesday)
					if n := b.sendOver(tuesday, 23); n != 0 {
						t.Errorf("%d were sent on that day", n)
					}
					if !b.Lost(tuesday) {
						t.Error("it is not told")
					}
					b.look(tuesday)
					b.crash()
				}
				if list, _ := filepath.Glob(filepath.Join(dir, name+".damaged-*")); len(list) != 1 {
					t.Errorf("set aside: %v", list)
				}
				b = open(t, dir, tuesday)
				defer b.crash()
				step := map[string]int{planFile: 0, countFile: 1}[name] // the course is known: no mail was judged
				if d := b.today(monday.AddDate(0, 0, 2)); d.Step != step {
					t.Errorf("the next day is %+v", d)
				}
				if n := b.send(monday.AddDate(0, 0, 2), 1000); n == 0 {
					t.Error("nothing is sent on the next day")
				}
			})
		})
	}
}

// What makes a day good, and what it does to the course.
func TestJudgement(t *testing.T) {
	for _, tt := range []struct {
		name    string
		step    int // of the day
		share   int // of it that is sent, in hundredths
		limited bool
		then    func(b *bench, noon time.Time)
		want    int
		verdict string
	}{
		{name: "good", share: 100, want: 2},
		{name: "half", share: 50, want: 2},
		{name: "not used", share: 40, want: 1, verdict: "its share was not used: 384 of 960"},
		{name: "little, for want of room", share: 10, limited: true, want: 2},
		{name: "too little", share: 1, limited: true, want: 1, verdict: "too little mail to judge: 9 tries"},
		{name: "greylisted", share: 100, then: func(b *bench, noon time.Time) {
			for range 900 {
				b.outcome(noon, event.Deferred, outcome.ClassGreylisted)
			}
		}, want: 2},
		{name: "greylisted beside refusals", share: 100, then: func(b *bench, noon time.Time) {
			for range 900 {
				b.outcome(noon, event.Deferred, outcome.ClassGreylisted)
			}
			for range 60 {
				b.outcome(noon, event.Deferred, outcome.ClassReputation)
			}
		}, want: 1, verdict: "60 of 1020 refused"},
		{name: "deferred below the bar", share: 100, then: func(b *bench, noon time.Time) {
			for range 48 {
				b.outcome(noon, event.Deferred, outcome.ClassReputation)
			}
		}, want: 2},
		{name: "deferred", share: 100, then: func(b *bench, noon time.Time) {
			for range 60 {
				b.outcome(noon, event.Deferred, outcome.ClassReputation)
			}
		}, want: 1, verdict: "60 of 1020 refused for reputation or volume, more than 5%"},
		{name: "limited in rate", share: 100, then: func(b *bench, noon time.Time) {
			for range 60 {
				b.outcome(noon, event.Deferred, outcome.ClassRateLimited)
			}
		}, want: 1, verdict: "60 of 1020"},
		{name: "deferred far above", share: 100, then: func(b *bench, noon time.Time) {
			for range 300 {
				b.outcome(noon, event.Deferred, outcome.ClassReputation)
			}
		}, want: 0, verdict: "a day back"},
		{name: "full mailboxes", share: 100, then: func(b *bench, noon time.Time) {
			for range 300 {
				b.outcome(noon, event.Deferred, outcome.ClassMailboxFull)
			}
		}, want: 2},
		{name: "bounced", share: 100, then: func(b *bench, noon time.Time) {
			for range 40 {
				b.outcome(noon, event.Bounced, outcome.ClassUserUnknown)
			}
		}, want: 1, verdict: "40 of 1000 bounced hard, more than 3%"},
		{name: "one complaint", share: 100, then: func(b *bench, noon time.Time) {
			b.outcome(noon, event.Complaint, outcome.ClassComplaint)
		}, want: 2},
		{name: "complaints", share: 100, then: func(b *bench, noon time.Time) {
			b.outcome(noon, event.Complaint, outcome.ClassComplaint)
			b.outcome(noon, event.Complaint, outcome.ClassComplaint)
		}, want: 1, verdict: "2 of 960 who got mail of 2026-12-01 complained, more than 0.1%"},
		{name: "complaints beside much from others", share: 100, then: func(b *bench, noon time.Time) {
			for range 3000 {
				b.Delivery(&event.Delivery{Time: noon, Queue: "google", Source: netip.MustParseAddr("192.0.2.1"), Status: event.Sent})
			}
			b.outcome(noon, event.Complaint, outcome.ClassComplaint)
			b.outcome(noon, event.Complaint, outcome.ClassComplaint)
		}, want: 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in(t, func(t *testing.T, dir string) {
				b := open(t, "", monday)
				defer b.crash()
				b.sendOver(monday, 24)
				tuesday := monday.AddDate(0, 0, 1)
				b.today(tuesday)
				left := 960 * tt.share / 100
				for i := range 24 {
					left -= b.send(tuesday.Add(time.Duration(i)*time.Hour), min(40, left))
				}
				if tt.limited {
					b.Share(Address(source), "google").Room(tuesday)
					b.courses[Key{Address(source), "google"}].today().Limited = true
				}
				if tt.then != nil {
					tt.then(b, tuesday.Add(12*time.Hour))
				}
				d := b.today(monday.AddDate(0, 0, 2))
				before := b.List(monday.AddDate(0, 0, 2))[0].Days[1]
				if before.Bad && !strings.Contains(b.log.String(), "warm-up does not go on") ||
					!strings.Contains(b.log.String(), "date=2026-12-01 day=2 share=960 used="+fmt.Sprint(before.Used)+" verdict="+[]string{"back", "stayed", "advanced"}[tt.want]+" ") {
					t.Errorf("the log has %s", b.log.String())
				}
				if d.Step != tt.want || !strings.Contains(before.Verdict, tt.verdict) || (tt.verdict == "") != (before.Verdict == "") {
					t.Errorf("step %d, %q (%+v), want %d", d.Step, before.Verdict, before, tt.want)
				}
			})
		})
	}
}

// After its last good day an address is warm there, and elsewhere not. After a month without mail
// it begins anew.
func TestCourseEndsAndBeginsAnew(t *testing.T) {
	in(t, func(t *testing.T, dir string) {
		b := open(t, dir, monday)
		for n := range 3 {
			if !b.Warming(Address(source), "google", monday.AddDate(0, 0, n)) {
				t.Fatalf("warm on day %d", n)
			}
			b.sendOver(monday.AddDate(0, 0, n), 24)
		}
		thursday := monday.AddDate(0, 0, 3)
		if b.Warming(Address(source), "google", thursday) || !b.Warming(Address(source), "yahoo", thursday) {
			t.Error("warm at the wrong provider")
		}
		if n := b.send(thursday, 100_000); n != 100_000 {
			t.Errorf("%d were sent by an address that is warm", n)
		}
		b.look(thursday)
		b.crash()
		b = open(t, dir, thursday.AddDate(0, 0, 30))
		if b.Warming(Address(source), "google", thursday.AddDate(0, 0, 30)) {
			t.Error("it is not warm after thirty days")
		}
		b.crash()
		b = open(t, dir, thursday.AddDate(0, 0, 31))
		defer b.crash()
		if n := b.send(thursday.AddDate(0, 0, 31), 1000); n != 21 {
			t.Errorf("%d were sent after a month", n)
		}
	})
}

// The shipped plan is SendGrid's, by the day.
func TestStandardPlan(t *testing.T) {
	t.Parallel()
	p := Standard()
	if len(p.Days) != 30 || p.Days[0] != 480 || p.Days[12] != 24_000 || p.Days[29] != 8_297_640 || !slices.IsSorted(p.Days) {
		t.Errorf("%v", p.Days)
	}
}

// Nothing is written where no address warms up, or none of those has mail.
func TestNothingIsWrittenWithoutMail(t *testing.T) {
	in(t, func(t *testing.T, dir string) {
		for i, plans := range []map[string]Plan{nil, {Address(source): plan}} {
			b := open(t, dir, monday)
			b.Use(plans)
			b.Delivery(&event.Delivery{Time: monday, Queue: "google", Source: netip.MustParseAddr("192.0.2.1"), Status: event.Sent})
			b.look(monday.Add(time.Hour))
			b.crash()
			if err := b.Close(monday); err != nil {
				t.Error(err)
			}
			if list, _ := os.ReadDir(dir); len(list) > 0 {
				t.Errorf("%d: %v was written", i, list)
			}
		}
	})
}

// Addresses of one /64 share a course.
func TestAddressOfIPv6IsItsNetwork(t *testing.T) {
	t.Parallel()
	for a, want := range map[string]string{"192.0.2.1": "192.0.2.1", "2001:db8::1": "2001:db8::/64", "2001:db8::ffff:1": "2001:db8::/64", "2001:db8:1::1": "2001:db8:1::/64"} {
		if got := Address(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s is %s", a, got)
		}
	}
}

// A file that cannot be read is no empty one: nothing is sent until it can.
func TestUnreadableFileIsTriedAgain(t *testing.T) {
	in(t, func(t *testing.T, dir string) {
		path := filepath.Join(dir, planFile)
		if err := os.Mkdir(path, 0o700); err != nil { // reading a directory fails, for root too
			t.Fatal(err)
		}
		b := open(t, dir, monday)
		defer b.crash()
		if n := b.send(monday, 10); n != 0 || b.Failed() == nil || !strings.Contains(b.Failed().Error(), "; remedy: ") {
			t.Errorf("%d were sent, %v", n, b.Failed())
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		b.look(monday)
		if n := b.send(monday.Add(time.Hour), 10); n != 10 || b.Failed() != nil {
			t.Errorf("%d were sent, %v", n, b.Failed())
		}
	})
}

func ExampleWarmup_List() {
	w := New(Options{Zone: time.UTC}, monday)
	w.Use(map[string]Plan{"192.0.2.2": plan})
	n, next := w.Share("192.0.2.2", "google").Room(monday)
	c := w.List(monday)[0]
	fmt.Println(n, next.IsZero(), c.Address, c.Provider, c.Days[0].Share)
	// Output: 4 true 192.0.2.2 google 480
}

// Half of an hour's part is kept for those who took mail before, for an hour after the last of
// them; of the day nothing else is left, and it counts.
func TestRoomIsKeptForThoseWhoTookMail(t *testing.T) {
	in(t, func(t *testing.T, dir string) {
		b := open(t, "", monday)
		defer b.crash()
		s := b.Share(Address(source), "google")
		// try is one recipient, who goes elsewhere without room.
		try := func(now time.Time, known bool) int {
			if !s.Spared(now, 1, known) {
				return 0
			}
			return b.send(now, 1)
		}
		if n := try(monday, true); n != 1 {
			t.Errorf("%d of one who took mail", n)
		}
		n := 0
		for range 100 {
			n += try(monday, false)
		}
		if n != 10 || !b.today(monday).Limited {
			t.Errorf("%d of those whom nobody knows had room, want 10: %+v", n, b.today(monday))
		}
		for n = 0; n < 100 && try(monday, true) == 1; n++ {
		}
		if n != 10 {
			t.Errorf("%d of those who took mail had room, want 10", n)
		}
		unknown, known := 0, 0
		for minute := range 23 * 60 {
			now := monday.Add(time.Hour + time.Duration(minute)*time.Minute)
			unknown += try(now, false)
			if minute%6 == 0 {
				known += try(now, true)
			}
		}
		if used := b.today(monday.Add(24*time.Hour - time.Minute)); known != 230 || unknown < 480-230-10-11-11 || used.Share != 480 {
			t.Errorf("over the day %d who took mail and %d others had room: %+v", known, unknown, used)
		}
		if used := b.List(monday.Add(24*time.Hour - time.Minute))[0].Used; used < 480-11 {
			t.Errorf("%d of 480 were used", used)
		}

		tuesday := monday.AddDate(0, 0, 1)
		for n = 0; n < 100 && try(tuesday.Add(2*time.Hour), false) == 1; n++ { // no known one for two hours
		}
		if n < 40 {
			t.Errorf("%d had room where nobody is known, of an hour's part", n)
		}
	})
}
