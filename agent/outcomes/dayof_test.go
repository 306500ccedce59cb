package outcomes

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/eventlog"
)

// A day has its counts, also when its buckets are wider by now, and for each class of what was
// refused the reply that came most often, without who got it. Without the
// attempts, or with damaged ones, it has its counts.
func TestDay(t *testing.T) {
	t.Parallel()
	b := begin(t, t.TempDir(), week)
	day := noon.Truncate(24 * time.Hour)
	add := func(i int, event, class, reply string) {
		r := sent(noon.Add(time.Duration(i)*time.Minute), i)
		r.Event, r.Class, r.Site, r.Reply = event, class, "site", reply
		b.Add(r)
	}
	add(0, "sent", "none", "250 2.0.0 Ok")
	for i := range 3 {
		add(i, "deferred", "policy", fmt.Sprintf("451 4.7.1 <user%d@example%d.com>: user%d try later", i, i, i))
		add(i, "bounced", "userunknown", fmt.Sprintf("550 5.1.1 <user%d@example%d.com>: user%d unknown, ask help@x.test, please", i, i, i))
	}
	add(10, "deferred", "policy", "451 4.7.1 go away")
	add(11, "deferred", "policy", "451 4.7.1 go away, really")
	for _, why := range []string{"", "the receiver has not signed it"} {
		r := sent(noon, 1)
		r.Event, r.Class, r.Site, r.Uncounted = "complaint", "complaint", "site", why
		b.Add(r)
	}
	b.Add(eventlog.Record{Time: noon, Event: eventlog.Gap, Due: noon, Lost: 12})
	b.Add(sent(noon.Add(24*time.Hour), 99)) // the next day's
	b.fill()

	want := []Total{
		{"", "", "", "gap", "", 12},
		{"news", "general", "site", "bounced", "userunknown", 3},
		{"news", "general", "site", "complaint", "complaint", 1}, {"news", "general", "site", "complaint", "uncounted", 1}, {"news", "general", "site", "deferred", "policy", 5}, {"news", "general", "site", "sent", "none", 1},
	}
	examples := []Example{{"bounced", "userunknown", "550 5.1.1 <…@example0.com>: … unknown, ask …@x.test, please"}, {"deferred", "policy", "451 4.7.1 <…@example0.com>: … try later"}}
	check := func(what string, until time.Duration, examples []Example) {
		t.Helper()
		d, err := b.Day(t.Context(), day)
		if err != nil || !slices.Equal(d.Totals, want) || !slices.Equal(d.Examples, examples) || !d.From.Equal(noon) || !d.Until.Equal(noon.Add(until)) {
			t.Errorf("%s: %+v, %v", what, d, err)
		}
	}
	check("at once", 15*time.Minute, examples)
	b.now = noon.Add(72 * time.Hour)
	b.fill()
	check("added up", time.Hour, examples)
	if d, err := b.Day(t.Context(), day.AddDate(0, 0, -1)); err != nil || len(d.Totals)+len(d.Examples) > 0 || !d.From.IsZero() {
		t.Errorf("the day before: %+v, %v", d, err)
	}
	path := b.dayPath(noon)
	if err := os.WriteFile(path, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	check("damaged", time.Hour, nil)
	for _, name := range beside(path) {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	check("without attempts", time.Hour, nil)
	b.Use(Policy{Keep: week.Keep})
	if d, err := b.Day(t.Context(), day); err == nil || !strings.Contains(err.Error(), "keep_totals") {
		t.Errorf("counts are not kept: %+v, %v", d, err)
	}
}
