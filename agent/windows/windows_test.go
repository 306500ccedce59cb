package windows

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := ParseZone(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func parse(t *testing.T, s string) Window {
	t.Helper()
	w, err := Parse(s, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestWindowOpensByTheClockOnTheWall(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		window, at string // in Berlin
		open       bool
		next       string
	}{
		{"Mon-Fri 08:00-20:00", "2026-11-27 07:59:59", false, "2026-11-27 08:00:00"}, // a Friday
		{"Mon-Fri 08:00-20:00", "2026-11-27 08:00:00", true, "2026-11-27 20:00:00"},
		{"Mon-Fri 08:00-20:00", "2026-11-27 19:59:59", true, "2026-11-27 20:00:00"},
		{"Mon-Fri 08:00-20:00", "2026-11-27 20:00:00", false, "2026-11-30 08:00:00"},
		{"mon,WED 08:00-20:00", "2026-11-30 21:00:00", false, "2026-12-02 08:00:00"},
		{"22:00-06:00", "2026-11-28 23:30:00", true, "2026-11-29 06:00:00"}, // from Saturday into Sunday
		{"22:00-06:00", "2026-11-29 05:59:00", true, "2026-11-29 06:00:00"},
		{"22:00-06:00", "2026-11-29 06:00:00", false, "2026-11-29 22:00:00"},
		{"Fri 22:00-06:00", "2026-11-28 05:00:00", true, "2026-11-28 06:00:00"},
		{"Fri 22:00-06:00", "2026-11-28 23:00:00", false, "2026-12-04 22:00:00"},
		{"Sat-Mon 00:00-24:00", "2026-11-28 12:00:00", true, "2026-12-01 00:00:00"},
		{"Mon-Fri 08:00-12:00; Mon-Thu 13:00-17:00", "2026-11-27 12:30:00", false, "2026-11-30 08:00:00"},
		{"Mon-Fri 08:00-12:00; Mon-Fri 12:00-17:00", "2026-11-27 09:00:00", true, "2026-11-27 17:00:00"},
		{"Sun 23:00-01:00", "2026-11-30 00:59:00", true, "2026-11-30 01:00:00"},
		// Clocks go from 02:00 to 03:00: that day has no 02:30.
		{"02:30-05:00", "2026-03-29 01:30:00", false, "2026-03-29 03:00:00"},
		{"02:15-02:45", "2026-03-29 01:30:00", false, "2026-03-30 02:15:00"},
		{"01:00-02:30", "2026-03-29 01:30:00", true, "2026-03-29 03:00:00"},
		{"20:00-08:00", "2026-03-29 01:30:00", true, "2026-03-29 08:00:00"},
		// Clocks go from 03:00 back to 02:00; what stands here is the first of the two.
		{"02:15-02:45", "2026-10-25 02:20:00", true, "2026-10-25 02:45:00"},
		{"03:00-05:00", "2026-10-25 01:00:00", false, "2026-10-25 03:00:00"},
	} {
		berlin := zone(t, "Europe/Berlin")
		at, err := time.ParseInLocation(time.DateTime, tt.at, berlin)
		if err != nil {
			t.Fatal(err)
		}
		w := parse(t, tt.window+" Europe/Berlin")
		if got := w.Open(at); got != tt.open {
			t.Errorf("%s at %s: open %v", tt.window, tt.at, got)
		}
		if got := w.Next(at).In(berlin).Format(time.DateTime); got != tt.next {
			t.Errorf("%s at %s: next %s, want %s", tt.window, tt.at, got, tt.next)
		}
	}
}

// The hour that comes twice is inside twice, and a window over it is an hour longer.
func TestDaysOf23And25Hours(t *testing.T) {
	t.Parallel()
	berlin := zone(t, "Europe/Berlin")
	night := parse(t, "22:00-06:00 Europe/Berlin")
	twice := parse(t, "02:15-02:45 Europe/Berlin")
	for _, tt := range []struct {
		day          time.Time
		night, twice time.Duration
	}{
		{time.Date(2026, 3, 28, 12, 0, 0, 0, berlin), 7 * time.Hour, 0},
		{time.Date(2026, 10, 24, 12, 0, 0, 0, berlin), 9 * time.Hour, time.Hour},
		{time.Date(2026, 10, 26, 12, 0, 0, 0, berlin), 8 * time.Hour, 30 * time.Minute},
	} {
		noon := tt.day.AddDate(0, 0, 1)
		if got := night.Within(tt.day, noon); got != tt.night {
			t.Errorf("%v: the night is %v long", tt.day, got)
		}
		if got := twice.Within(tt.day, noon); got != tt.twice {
			t.Errorf("%v: %v of half an hour", tt.day, got)
		}
	}
}

// What Next and Within say is what Open says, second by second, in zones with awkward clocks:
// half hours, a day that was left out (Apia, 2011-12-30), a change of half an hour.
func TestAnswersAgreeInAwkwardZones(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for _, x := range []struct {
		zone string
		from time.Time
	}{
		{"Europe/Berlin", time.Date(2026, 3, 27, 0, 0, 0, 0, time.UTC)},
		{"Europe/Berlin", time.Date(2026, 10, 23, 0, 0, 0, 0, time.UTC)},
		{"Australia/Lord_Howe", time.Date(2026, 4, 3, 0, 0, 0, 0, time.UTC)},
		{"Pacific/Apia", time.Date(2011, 12, 28, 0, 0, 0, 0, time.UTC)},
		{"Asia/Kathmandu", time.Date(2026, 4, 3, 0, 0, 0, 0, time.UTC)},
	} {
		for _, s := range []string{"Mon-Fri 08:00-20:00", "22:00-06:00", "02:00-02:30", "Sat 23:15-00:45; Sun 01:00-03:00", "Fri 00:00-24:00"} {
			w := parse(t, s+" "+x.zone)
			const minutes = 5 * dayMinutes
			var open [minutes + 1]bool
			for i := range open {
				open[i] = w.Open(x.from.Add(time.Duration(i) * time.Minute))
			}
			for range 200 {
				a := r.IntN(minutes)
				b := a + r.IntN(minutes-a)
				at := x.from.Add(time.Duration(a) * time.Minute)
				change, sum := a, time.Duration(0)
				for change <= minutes && open[change] == open[a] {
					change++
				}
				if next := w.Next(at); change <= minutes && !next.Equal(x.from.Add(time.Duration(change)*time.Minute)) {
					t.Fatalf("%s: after %v it changes at %v, not after %d minutes", w, at.In(w.Zone()), next.In(w.Zone()), change-a)
				}
				for i := a; i < b; i++ {
					if open[i] {
						sum += time.Minute
					}
				}
				if got := w.Within(at, x.from.Add(time.Duration(b)*time.Minute)); got != sum {
					t.Fatalf("%s: open for %v in %d minutes after %v, not %v", w, got, b-a, at.In(w.Zone()), sum)
				}
			}
		}
	}
}

func TestWindowWithoutZoneTakesTheGivenOne(t *testing.T) {
	t.Parallel()
	tokyo := zone(t, "Asia/Tokyo")
	w, err := Parse("08:00-20:00", tokyo)
	if err != nil || w.Zone() != tokyo || !w.Open(time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("zone %v, %v", w.Zone(), err)
	}
}

func TestAlwaysOpen(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, s := range []string{"", "00:00-24:00", "Mon-Fri 00:00-24:00; Sat-Sun 00:00-24:00", "20:00-08:00; 08:00-20:00"} {
		w := parse(t, s)
		if !w.Zero() || !w.Open(now) || !w.Next(now).IsZero() || w.Within(now, now.Add(time.Hour)) != time.Hour {
			t.Errorf("%q is not always open", s)
		}
	}
}

func TestWindowThatCannotBe(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"08:00-08:00":                       "never opens",
		"24:00-06:00":                       "never opens",
		"Mon-Fri 8-20":                      "no time of the day",
		"Mon-Fri 08:00":                     "no time of the day",
		"Mon-Fri 08:00-25:00":               "no time of the day",
		"Mon-Fri 08:00-20:00 Europe/Berlim": "is not a time zone",
		"Mon-Fri 08:00-20:00 Local":         "is not a time zone",
		"Mo-Fr 08:00-20:00":                 "names no days",
		"Mon-Fri":                           "no time of the day",
		"Mon - Fri 08:00-20:00":             "days and hours are expected",
		";":                                 "days and hours are expected",
		"08:00-20:00; ":                     "days and hours are expected",
	} {
		_, err := Parse(s, time.UTC)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "; remedy: ") {
			t.Errorf("%q: %v, want %q and a remedy", s, err, want)
		}
	}
}
