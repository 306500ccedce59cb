package warmup

import (
	"testing"
	"time"

	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/spool"
)

// A host that boots with a wrong clock, before its time server is asked, has what its addresses
// have come to when the clock is right again: far in the past (no battery), or in the future.
func TestClockThatIsFarOffForAWhileForgetsNoCourse(t *testing.T) {
	for _, tt := range []struct {
		name string
		days int // of mail before
		off  int // years
		mail bool
	}{
		{"past", 2, -26, false}, {"past, with mail", 2, -26, true}, {"future", 2, 3, false}, {"future, with mail", 2, 3, true},
		{"warm, past", 3, -26, false}, {"warm, past, with mail", 3, -26, true}, {"warm, future", 3, 3, false}, {"warm, future, with mail", 3, 3, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in(t, func(t *testing.T, dir string) {
				b := open(t, dir, monday)
				for n := range tt.days {
					b.sendOver(monday.AddDate(0, 0, n), 24)
				}
				now := monday.AddDate(0, 0, tt.days).Add(time.Hour)
				b.look(now)
				b.send(now, 10)
				b.Close(now)
				b.crash()
				wrong := now.AddDate(tt.off, 0, 0)
				b = open(t, dir, wrong)
				b.look(wrong)
				if tt.mail {
					b.send(wrong.Add(time.Minute), 10)
				}
				b.look(wrong.Add(2 * time.Minute))
				b.Close(wrong.Add(2 * time.Minute))
				b.crash()
				now = now.Add(3 * time.Minute)
				b = open(t, dir, now)
				defer b.crash()
				b.look(now)
				if tt.days == 3 {
					if b.Warming(Address(source), "google", now) {
						t.Errorf("a warm address is cold: %+v", b.List(now))
					}
					if !b.Warming(Address(source), "google", now.AddDate(0, 0, 40)) {
						t.Error("it is warm after forty days without mail")
					}
					return
				}
				if d := b.today(now); d.Step != 2 || d.Used < 10 || d.Accepted < 10 {
					t.Errorf("today is %+v", d)
				}
			})
		})
	}
}

// A plan that is changed in the middle of a course goes on with the same share or less, and a bad
// day makes no address warm, however short the new plan is.
func TestPlanChangedInTheMiddleOfACourse(t *testing.T) {
	for _, tt := range []struct {
		name string
		days []int
		step int
		now  int // share today
	}{
		{"shorter", []int{100, 200}, 1, 200},
		{"slower", []int{100, 200, 300, 800, 1000, 2000, 2500, 5000}, 5, 2000},
		{"steeper", []int{480, 960, 100_000}, 1, 960},
		{"all more", []int{5000, 10_000}, 0, 5000},
		{"longer", []int{480, 960, 2400, 5000}, 2, 2400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, night := range []bool{false, true} {
				f := func(t *testing.T, dir string) {
					b := open(t, dir, monday)
					defer b.crash()
					b.sendOver(monday, 24)
					b.sendOver(monday.AddDate(0, 0, 1), 24)
					at := monday.AddDate(0, 0, 2).Add(time.Hour)
					b.send(at, 50)
					for range 30 {
						b.outcome(at, event.Deferred, outcome.ClassReputation)
					}
					if d := b.today(at); d.Step != 2 || d.Share != 2400 {
						t.Fatalf("%+v", d)
					}
					p := plan
					p.Days = tt.days
					b.Use(map[string]Plan{Address(source): p})
					if !night {
						b.look(at)
						if d := b.today(at); d.Share != tt.now || d.Step != tt.step {
							t.Errorf("today is %+v", d)
						}
					}
					if !b.Warming(Address(source), "google", at.AddDate(0, 0, 1)) {
						t.Error("warm after a bad day")
					}
				}
				each(t, f)
			}
		})
	}
}

// each runs f in a bubble of its own.
func each(t *testing.T, f func(t *testing.T, dir string)) {
	t.Helper()
	t.Run("", func(t *testing.T) { in(t, f) })
}

// Complaints come after the mail that they are about: those about a large campaign of yesterday
// are no rate of today's few messages, and many about little mail stay many after a campaign.
func TestComplaintsAreOfTheMailTheyAreAbout(t *testing.T) {
	for _, tt := range []struct {
		name       string
		before     int // recipients on the day before, of other addresses
		complaints int // about that day's mail
		todays     int // about this day's
		bad        bool
	}{
		{"few about much", 20_000, 5, 0, false},
		{"many about much", 20_000, 50, 0, true},
		{"few about much, one about little", 20_000, 5, 1, false},
		{"many about little", 20_000, 0, 5, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in(t, func(t *testing.T, dir string) {
				b := open(t, dir, monday)
				b.sendOver(monday, 24)
				noon := monday.Add(12 * time.Hour)
				for range tt.before {
					b.Delivery(&event.Delivery{Time: noon, Queue: "google", Status: event.Sent, Envelope: &spool.Envelope{Arrived: noon.Add(-time.Hour)}})
				}
				tuesday := noon.AddDate(0, 0, 1)
				b.look(tuesday)
				b.send(tuesday, 1000)
				for i := range tt.complaints + tt.todays {
					about := monday
					if i >= tt.complaints {
						about = tuesday
					}
					b.Delivery(&event.Delivery{Time: tuesday, Queue: "google", Status: event.Complaint, Arrived: about})
				}
				b.Close(tuesday)
				b.crash()
				b = open(t, dir, tuesday)
				defer b.crash()
				b.look(tuesday.AddDate(0, 0, 1))
				if d := b.courses[Key{Address(source), "google"}].Days[1]; d.Bad != tt.bad {
					t.Errorf("%+v", d)
				}
				b.send(tuesday.AddDate(0, 0, 1), 1000)
				b.look(tuesday.AddDate(0, 0, 2))
				if d := b.courses[Key{Address(source), "google"}].Days[2]; d.Bad {
					t.Errorf("a day on which nobody complained: %+v", d)
				}
			})
		})
	}
}

// A clock that shows yesterday for a minute makes no bad day a good one, also over a restart then.
func TestClockThatShowsYesterdayForgetsNoBadDay(t *testing.T) {
	in(t, func(t *testing.T, dir string) {
		b := open(t, dir, monday)
		b.sendOver(monday, 24)
		tuesday := monday.AddDate(0, 0, 1)
		b.sendOver(tuesday, 12)
		noon := tuesday.Add(12 * time.Hour)
		for range 60 {
			b.outcome(noon, event.Deferred, outcome.ClassReputation)
		}
		for _, at := range []time.Time{noon.AddDate(0, 0, -1), noon.Add(time.Minute)} {
			b.look(at)
			b.Close(at)
			b.crash()
			b = open(t, dir, at)
		}
		defer b.crash()
		b.sendOver(noon.Add(time.Hour), 11)
		d := b.today(tuesday.AddDate(0, 0, 1))
		if before := b.List(tuesday.AddDate(0, 0, 1))[0].Days[1]; d.Step != 1 || !before.Bad || before.Deferrals != 60 || before.Step != 1 {
			t.Errorf("%+v, then %+v", before, d)
		}
	})
}
