package history

import (
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

var start = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// clock is a history whose samples a test takes by hand.
type clock struct {
	*History
	now time.Time
}

func newClock() *clock { return &clock{New(start), start} }

func (c *clock) step(s Sample) {
	c.now = c.now.Add(Step)
	s.Time = c.now
	c.Sample(s)
}

func (c *clock) tell(status event.Status, site, stream string, n int) {
	for range n {
		c.Delivery(&event.Delivery{
			Time: c.now, Site: site, Status: status, Class: outcome.ClassUserUnknown, Transmit: 100 * time.Millisecond,
			Envelope: &spool.Envelope{Stream: stream, Sender: "s@example.com", Recipients: []spool.Recipient{{Address: "r@example.com"}}},
		})
	}
}

func near(got, want float64) bool { return math.Abs(got-want) <= 0.1*want }

func TestStepBecomesAPoint(t *testing.T) {
	t.Parallel()
	c := newClock()
	c.tell(event.Sent, "a", "", 40)
	c.tell(event.Deferred, "a", "", 20)
	c.tell(event.Bounced, "b", "", 10)
	c.tell(event.Returned, "b", "", 1000) // no attempt
	c.step(Sample{Waiting: 7, Deferred: 8, Sessions: 9, Sites: []Site{{"a", "q", 5, 6}, {"b", "q", 2, 3}}})
	c.step(Sample{})
	all := c.Total(start).Moments
	if len(all) != 2 || !all[0].At.Equal(start.Add(Step)) {
		t.Fatalf("%+v", all)
	}
	p := all[0].Point
	if !near(float64(p.Median), 0.1) || !near(float64(p.Slow), 0.1) {
		t.Errorf("took %v and %v", p.Median, p.Slow)
	}
	p.Median, p.Slow = 0, 0
	if want := (Point{Sent: 4, Deferrals: 2, Bounces: 1, Sessions: 9, Waiting: 7, Deferred: 8}); p != want {
		t.Errorf("%+v, want %+v", p, want)
	}
	if last := c.Total(start).Last(); last != (Point{}) {
		t.Errorf("an idle step is %+v", last)
	}
	if s, ok := c.Site("b", start); !ok || len(s.Moments) != 2 || s.Moments[0].Bounces != 1 || s.Moments[0].Sent != 0 {
		t.Errorf("site b: %+v, %v", s, ok)
	}
	if q := c.Queues(start); len(q) != 1 || q[0].Name != "q" || q[0].Moments[0].Waiting != 7 || q[0].Moments[0].Sent != 4 {
		t.Errorf("queues: %+v", q)
	}
	if s := c.Total(start.Add(2 * Step)); len(s.Moments) != 1 {
		t.Errorf("%d moments since then", len(s.Moments))
	}
}

func TestRateIsThatOfTheLastHalfMinute(t *testing.T) {
	t.Parallel()
	c := newClock()
	c.tell(event.Sent, "a", "s", 5)
	if got := c.Rate(c.now); got != 5 { // five in the first second, or less
		t.Errorf("at once: %v", got)
	}
	for range 5 {
		c.tell(event.Sent, "a", "s", 100)
		c.step(Sample{})
	}
	if got := c.Rate(c.now); got != 10 {
		t.Errorf("on and on: %v", got)
	}
	if got := c.SiteRates(c.now)["a"]; got != 10 {
		t.Errorf("of the site: %v", got)
	}
	if got := c.History.Streams(c.now)["s"].Rate; got != 10 {
		t.Errorf("of the stream: %v", got)
	}
	if got := c.Rate(c.now.Add(Step)); got != 7.5 { // nothing since
		t.Errorf("later: %v", got)
	}
	for range window {
		c.step(Sample{})
	}
	if got, sites := c.Rate(c.now), c.SiteRates(c.now); got != 0 || len(sites) != 0 {
		t.Errorf("long after: %v, %v", got, sites)
	}
}

func TestQuantilesAreNearTheTruth(t *testing.T) {
	t.Parallel()
	for _, d := range []time.Duration{3 * time.Millisecond, 50 * time.Millisecond, time.Second, 5 * time.Minute} {
		var tl tally
		for i := range 100 {
			x := d
			if i >= 90 {
				x = 2 * d
			}
			tl.count(&event.Delivery{Status: event.Sent}, bucket(x))
		}
		if m, s := tl.quantile(0.5), tl.quantile(0.95); !near(float64(m), d.Seconds()) || !near(float64(s), 2*d.Seconds()) {
			t.Errorf("%v: median %v, 95%% within %v", d, m, s)
		}
	}
	for d, want := range map[time.Duration]int{
		-1: 0, 0: 0, finest: 0, finest * 5 / 4: 1, finest * 7 / 4: 3, finest * 2: 4, finest*5/2 - 1: 4, finest * 5 / 2: 5, 1000 * time.Hour: buckets - 1,
	} {
		if got := bucket(d); got != want {
			t.Errorf("%v is in %d", d, got)
		}
	}
}

func TestSeriesReachBackTheirSpan(t *testing.T) {
	t.Parallel()
	c := newClock()
	for i := range points + 100 {
		s := Sample{Waiting: i}
		if i >= 50 { // a site that comes later, and stays
			s.Sites = []Site{{Name: "late", Waiting: i}}
		}
		c.step(s)
	}
	for name, s := range map[string]Series{"total": c.Total(start), "site": first(c.Site("late", start))} {
		if len(s.Moments) != points {
			t.Fatalf("%s: %d moments", name, len(s.Moments))
		}
		for i, m := range s.Moments {
			if want := i + 100; int(m.Waiting) != want || !m.At.Equal(start.Add(time.Duration(want+1)*Step)) {
				t.Fatalf("%s: moment %d is %v at %v", name, i, m.Waiting, m.At)
			}
		}
	}
}

func first(s Series, _ bool) Series { return s }

func TestBusiestSitesHaveSeries(t *testing.T) {
	t.Parallel()
	c := newClock()
	var sites []Site
	for i := range maxSites + 5 {
		sites = append(sites, Site{Name: fmt.Sprint("s", i), Queue: fmt.Sprint("q", i), Waiting: 1000 - i})
	}
	has := func(name string) bool { _, ok := c.Site(name, start); return ok }
	c.step(Sample{Sites: sites})
	if !has("s0") || !has(fmt.Sprint("s", maxSites-1)) || has(fmt.Sprint("s", maxSites)) {
		t.Error("the busiest do not come first")
	}
	if n := len(c.Queues(start)); n != maxQueues {
		t.Errorf("%d queues", n)
	}
	if got := c.places.other.ring[0].Waiting; got != 5*1000-15-16-17-18-19 {
		t.Errorf("the others have %v", got)
	}
	sites[maxSites].Waiting = 1500 // busier, but not twice as busy
	c.step(Sample{Sites: sites})
	if has(sites[maxSites].Name) {
		t.Error("sites take turns")
	}
	sites[maxSites].Waiting = 2500
	c.step(Sample{Sites: sites})
	if !has(sites[maxSites].Name) || has(fmt.Sprint("s", maxSites-1)) {
		t.Error("a site that is much busier gets no series")
	}
	for range 360 { // an hour later the first ones are forgotten for one with a little mail
		c.step(Sample{})
	}
	c.step(Sample{Sites: []Site{{Name: "new", Waiting: 100}}})
	if !has("new") {
		t.Error("those of old keep their series for ever")
	}
}

func TestStreamsAreCountedUntilForgotten(t *testing.T) {
	t.Parallel()
	c := newClock()
	c.tell(event.Sent, "a", "s", 3)
	c.tell(event.Bounced, "a", "s", 2)
	c.tell(event.Deferred, "a", "s", 4)
	c.tell(event.HandedBack, "a", "s", 1)
	c.tell(event.Cancelled, "a", "s", 1)
	c.tell(event.Returning, "a", "s", 1)
	got := c.History.Streams(c.now)["s"]
	got.Rate = 0
	if want := (Stream{Name: "s", First: start, Last: start, Sent: 3, Bounced: 2, Ended: 2, Deferrals: 4}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	for i := range 3 * maxStreams {
		c.now = c.now.Add(time.Millisecond)
		c.tell(event.Sent, "a", fmt.Sprint(i), 1)
	}
	if n := len(c.streams); n > 2*maxStreams {
		t.Errorf("%d streams", n)
	}
	c.step(Sample{})
	if n := len(c.streams); n != maxStreams || c.streams["s"] != nil {
		t.Errorf("%d streams, the oldest among them: %v", n, c.streams["s"] != nil)
	}
	c.now = c.now.Add(forget)
	c.step(Sample{})
	c.step(Sample{})
	if n := len(c.streams); n != 0 {
		t.Errorf("%d streams after two days", n)
	}
}

func TestClassesAreCountedForTheSpan(t *testing.T) {
	t.Parallel()
	c := newClock()
	c.tell(event.Bounced, "a", "", 2)
	c.tell(event.Deferred, "a", "", 3)
	if got := c.Classes(); len(got) != 1 || got[0] != (Class{outcome.ClassUserUnknown, 2, 2, 3, 3}) {
		t.Errorf("at once: %+v", got)
	}
	for range lastHour * partSteps {
		c.step(Sample{})
	}
	c.tell(event.Bounced, "a", "", 1)
	if got := c.Classes(); len(got) != 1 || got[0] != (Class{outcome.ClassUserUnknown, 3, 1, 3, 0}) {
		t.Errorf("after an hour: %+v", got)
	}
	for range parts * partSteps {
		c.step(Sample{})
	}
	if got := c.Classes(); len(got) != 0 {
		t.Errorf("after the span: %+v", got)
	}
}

func TestLastFailuresAreKeptInFull(t *testing.T) {
	t.Parallel()
	c := newClock()
	c.tell(event.Sent, "a", "", 1)
	for i := range maxRecent + 10 {
		c.Delivery(&event.Delivery{Time: start, ID: spool.ID(i), Status: event.Bounced, Reason: strings.Repeat("x", 2*maxReason),
			Envelope: &spool.Envelope{Sender: "s@example.com", Recipients: []spool.Recipient{{Address: "r@example.com"}}}})
	}
	c.Delivery(&event.Delivery{ID: 7, Status: event.Damaged}) // without an envelope
	list := c.Recent()
	if len(list) != maxRecent || list[0].ID != 7 || list[1].ID != maxRecent+9 || list[maxRecent-1].ID != 11 {
		t.Fatalf("%d: %v, %v ... %v", len(list), list[0].ID, list[1].ID, list[len(list)-1].ID)
	}
	if f := list[1]; f.Sender != "s@example.com" || f.Recipient != "r@example.com" || len(f.Reason) != maxReason {
		t.Errorf("%+v", f)
	}
}

// TestMemoryIsBounded runs for longer than the span with more of everything than is kept.
func TestMemoryIsBounded(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	c := newClock()
	for i := range points + 200 {
		var sites []Site
		for j := range 40 {
			name := fmt.Sprintf("site-%d", (i/100+j)%200)
			sites = append(sites, Site{Name: name, Queue: fmt.Sprint("queue-", j%20), Waiting: (j + i) % 977})
			c.tell(event.Bounced, name, fmt.Sprintf("stream-%d", i*40+j), 1)
		}
		c.step(Sample{Sites: sites})
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if used := int64(after.HeapAlloc) - int64(before.HeapAlloc); used > 3<<20 {
		t.Errorf("%d octets", used)
	}
	runtime.KeepAlive(c)
}

func TestManyTellAndLookAtOnce(t *testing.T) {
	t.Parallel()
	c := newClock()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 200 {
				c.Delivery(&event.Delivery{Time: start, Site: fmt.Sprint(i % 7), Status: event.Bounced, Class: outcome.Class(i % 5)})
				c.Rate(start)
				c.SiteRates(start)
				c.Streams(start)
				c.Classes()
				c.Recent()
				c.Total(start)
				c.Queues(start)
				c.Site("1", start)
			}
		})
	}
	for range 50 {
		c.step(Sample{Sites: []Site{{Name: "1"}}})
	}
	all.Wait()
	if n := c.Classes(); len(n) != 5 {
		t.Errorf("%+v", n)
	}
}

func BenchmarkDelivery(b *testing.B) {
	h := New(start)
	d := &event.Delivery{
		Time: start, Site: "gmail-smtp-in.l.google.com", Status: event.Sent, Transmit: 80 * time.Millisecond,
		Envelope: &spool.Envelope{Stream: "Weekly <weekly.news.example.com>"},
	}
	for b.Loop() {
		h.Delivery(d)
	}
}
