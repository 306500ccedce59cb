package web

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/history"
)

func TestHeadlineSaysWhatHappens(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		s     Snapshot
		rates map[string]float64
		want  string
	}{
		{Snapshot{}, nil, "Nothing waits. New bulk mail is sent as it comes."},
		{Snapshot{Deferred: 1}, nil, "Nothing is ready to go. 1 recipient waits for a later attempt."},
		{Snapshot{Waiting: 119_900, Active: 100, Sessions: 25, Sites: []Site{{Name: "a", Waiting: 119_400}, {Name: "b", Waiting: 500}}}, map[string]float64{"a": 99.5, "b": 0.25},
			"Sending to 99.8 recipients a second over 25 sessions. 120,000 recipients are ready to go; the last of them is gone in about 33 minutes."},
		{Snapshot{Waiting: 1000, Sessions: 1, Sites: []Site{
			{Name: "a", Waiting: 100}, {Name: "b", Waiting: 200}, {Name: "c", Waiting: 300, Held: Held{Reason: "suspended", Until: time.Unix(1, 0)}}}}, map[string]float64{"a": 1, "c": 1},
			"Sending to 2 recipients a second over 1 session. 1,000 recipients are ready to go; all but 900 are gone in about 2 minutes."},
		{
			Snapshot{Waiting: 1000, Sessions: 1, Sites: []Site{{Name: "a", Waiting: 1000, Limited: 900}}}, map[string]float64{"a": 2},
			"Sending to 2 recipients a second over 1 session. 100 recipients are ready to go; the last of them is gone in about 50 seconds. 900 recipients wait for limits of their streams.",
		},
		{
			Snapshot{Waiting: 900, Deferred: 1, Sites: []Site{{Name: "a", Waiting: 900, Limited: 900}}}, map[string]float64{"a": 2},
			"Nothing is ready to go. 900 recipients wait for limits of their streams. 1 recipient waits for a later attempt.",
		},
		{Snapshot{Waiting: 1, Sessions: 1, Deferred: 2}, nil, "Sending to 0 recipients a second over 1 session. 1 recipient is ready to go. 2 recipients wait for a later attempt."},
	} {
		v := &view{Snapshot: x.s, rates: x.rates}
		for _, r := range x.rates {
			v.rate += r
		}
		if got := v.headline(); got != x.want {
			t.Errorf("got  %s\nwant %s", got, x.want)
		}
	}
}

func TestNumbersInWords(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1_234_567: "1,234,567", -1000: "-1,000", -100: "-100"} {
		if got := number(n); got != want {
			t.Errorf("%d is %s", n, got)
		}
	}
	for x, want := range map[float64]string{0: "0", 0.004: "0", 0.125: "0.12", 3: "3", 9.99: "9.99", 9.996: "10", 12.34: "12.3", 99.94: "99.9", 99.96: "100", 12_345.6: "12,346"} {
		if got := amount(x); got != want {
			t.Errorf("%v is %s, want %s", x, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "1 second", 89 * time.Second: "89 seconds", 90 * time.Second: "2 minutes", 90 * time.Minute: "2 hours", 100 * time.Hour: "4 days",
	} {
		if got := about(d); got != want {
			t.Errorf("%v is %s, want %s", d, got, want)
		}
	}
	if _, ok := left(1<<40, 0.001); ok {
		t.Error("an estimate of thousands of years")
	}
}

func TestWhoHoldsUsBack(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for _, x := range []struct {
		s    Site
		want string
	}{
		{Site{Waiting: 5, Sessions: 2}, ""},
		{Site{Waiting: 0}, ""},
		{Site{Waiting: 5}, ""}, // it was not tried yet
		{Site{Held: Held{Reason: "dead", How: "no answer", Next: now.Add(time.Minute)}}, "no answer, tried again at 12:01:00"},
		{Site{Held: Held{Reason: "dead", How: "no answer", Next: now.Add(-time.Minute)}}, "no answer"}, // it is being tried
		{Site{Held: Held{Reason: "refused", How: "takes 7 sessions, 30 are allowed"}}, "takes 7 sessions, 30 are allowed"},
		{Site{Held: Held{Reason: "suspended", How: "suspended", Until: now.Add(time.Hour)}}, "suspended until 13:00:00"},
		{Site{Held: Held{Reason: "slowed", How: "at most 1 session", Until: now.Add(24 * time.Hour)}}, "at most 1 session until 2026-11-25 12:00:00"},
	} {
		v := &view{Snapshot: Snapshot{Time: now}}
		if got := v.held(x.s); got != x.want {
			t.Errorf("%+v: %q, want %q", x.s, got, x.want)
		}
	}
}

// Of an address that failed and was not called again, that is told: it may be well by now.
func TestAddressThatWasNotCalledSinceItFailed(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	a := Address{Address: "192.0.2.2:25", Failed: "answered 421", Since: now.Add(-2 * time.Minute), Until: now.Add(-90 * time.Second)}
	v := &view{Snapshot: Snapshot{Time: now}}
	if got, want := v.addressRow(&a).State, "down since 11:58:00, not called again, due since 11:58:30: answered 421"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// Each site that is held back is named, or counted by its reason.
func TestNobodyIsLeftOutOfWhoHoldsUsBack(t *testing.T) {
	t.Parallel()
	v := &view{Snapshot: Snapshot{Waiting: 5000}}
	for i := range 40 {
		s := Site{Name: fmt.Sprint("site", i), Waiting: 100 - i}
		if i < 30 {
			s.Held = Held{Reason: []string{"dead", "refused", "queue_limit"}[i%3], How: "x", Reply: "y"}
		}
		v.Sites = append(v.Sites, s)
	}
	list, more := v.holds()
	if len(list) != maxHolds || list[0].Name != "No site" || list[1].Name != "site0" || list[1].Why != "y" {
		t.Errorf("%+v", list)
	}
	if want := "21 more: 7 dead, 7 queue limit, 7 refused"; more != want {
		t.Errorf("%q, want %q", more, want)
	}
}

// Paused mail is told with its site and its pause, and is no mail of no site.
func TestPausedMailIsNamedByItsSite(t *testing.T) {
	t.Parallel()
	v := &view{Snapshot: Snapshot{Waiting: 155, Sites: []Site{
		{Name: "a", Paused: 150, PausedBy: "a pause of site a: wrong price"},
		{Name: "b", Waiting: 5, Held: Held{Reason: "dead", How: "no answer"}},
		{Name: "c"},
	}}}
	list, more := v.holds()
	if len(list) != 2 || more != "" || list[0].Name != "a" || list[0].How != "paused" || list[0].Why != "a pause of site a: wrong price" || list[0].Waiting != wait(150) || list[1].Name != "b" {
		t.Errorf("%+v, %q", list, more)
	}
	if got := v.doing(v.Sites[0]) + ": " + v.Sites[0].why(); got != "paused: a pause of site a: wrong price" {
		t.Error(got)
	}
	if _, stuck, ok := v.empty(); stuck != 155 || ok {
		t.Errorf("%d are stuck, %v", stuck, ok)
	}
}

func TestChartsAreDrawnInTheirBox(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	s := history.Series{}
	for i := range 90 { // of the last 15 minutes, with a gap of five
		if i < 30 || i >= 60 {
			s.Moments = append(s.Moments, history.Moment{At: now.Add(time.Duration(i-89) * history.Step), Point: history.Point{Waiting: float32(i)}})
		}
	}
	c := draw("x", "Title", axis{now.Add(-15 * time.Minute), now}, count, curve{name: "waiting", series: s, value: waiting})
	if c.Top != "100" || c.Mid != "50" || c.Lines[0].Now != "89" {
		t.Errorf("%+v", c)
	}
	p := c.Lines[0].Path
	if strings.Count(p, "M") != 2 || !strings.HasPrefix(p, "M13.9 100 L25 99 L") || !strings.HasSuffix(p, " L997.2 11") {
		t.Errorf("path %s", p)
	}
	if n := len(c.Rows); n != 9 { // of twelve: the gap has none
		t.Errorf("%d rows: %+v", n, c.Rows)
	}
	if want := "Title since 15 minutes ago, at most 100. Now: waiting 89."; c.Summary != want {
		t.Errorf("%s", c.Summary)
	}
}
