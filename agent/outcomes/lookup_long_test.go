//go:build long

package outcomes

import (
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/eventlog"
)

// TestLookUpsAmongThirtyMillion has a week of 30 million attempts; MILLRACE_ROWS is for
// another number. One address is found in 0.2 s.
func TestLookUpsAmongThirtyMillion(t *testing.T) {
	total := 30_000_000
	if s := os.Getenv("MILLRACE_ROWS"); s != "" {
		total, _ = strconv.Atoi(s)
	}
	const days = 7
	b := begin(t, t.TempDir(), week)
	began, n := time.Now(), 0
	records := make([]eventlog.Record, 0, batchRows)
	for back := days - 1; back >= 0; back-- {
		at := noon.Add(-time.Duration(back) * 24 * time.Hour)
		d, err := openDay(t.Context(), b.dayPath(at))
		if err != nil {
			// The directory is made by the first fill.
			b.fill()
			if d, err = openDay(t.Context(), b.dayPath(at)); err != nil {
				t.Fatal(err)
			}
		}
		for last := n + total/days; n < last; {
			records = records[:0]
			for len(records) < batchRows {
				records = append(records, sent(at.Add(time.Duration(n)*time.Millisecond/100), n))
				n++
			}
			if err := d.add(t.Context(), records, eventlog.Cursor{Segment: 1}); err != nil {
				t.Fatal(err)
			}
		}
		if back > 0 { // the day under way has some without keys
			if err := d.writeRun(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.close(); err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(began)
	t.Logf("%d rows in %v, %d a second with the making of them; %d octets a row, %d MiB", n, took.Round(time.Second), int(float64(n)/took.Seconds()), b.size()/int64(n), b.size()>>20)
	runtime.GC()
	for _, q := range []struct {
		what string
		ask  func(i int) Question
	}{
		{"address", func(i int) Question { return Question{Recipient: sent(noon, i).Recipient} }},
		{"queue id", func(i int) Question { return Question{QueueID: sent(noon, i).QueueID} }},
		{"message", func(i int) Question { return Question{Message: sent(noon, i).ID} }},
		{"nobody", func(i int) Question { return Question{Recipient: "nobody" + strconv.Itoa(i) + "@example.org"} }},
	} {
		var worst, sum time.Duration
		const tries = 20
		for i := range tries {
			at := time.Now()
			got := b.ask(q.ask((n - 1) / tries * i))
			took := time.Since(at)
			worst, sum = max(worst, took), sum+took
			if len(got) != 1 && q.what != "nobody" {
				t.Errorf("%s: %d attempts", q.what, len(got))
			}
		}
		t.Logf("%s: %v on average, %v at worst", q.what, (sum / tries).Round(time.Microsecond), worst.Round(time.Microsecond))
	}
}
