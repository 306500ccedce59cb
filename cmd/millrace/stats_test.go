package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestStatsSumUp(t *testing.T) {
	t.Parallel()
	b := backend(nil)
	st := b.Status()
	s := stats{Status: &st, Totals: b.Totals()}
	var out strings.Builder
	s.print(&out, s.Totals.Since.Add(75*time.Minute))
	_, got, _ := strings.Cut(out.String(), "\n") // the first line has local time
	if want := `1200 recipients waiting, 30 deferred, 20 active, 0 held; 8 sessions to 2 sites; 45.2/s accepted

     SENT  DEFERRED  BOUNCED HANDBACK CANCELLED SUPPRESS     RATE  QUEUE
   123456        30        5        0         0        0   45.2/s  general
        0         0        0        2         0        0      0/s  handback
   123456        30        5        2         0        0   45.2/s  TOTAL

Bounces by class
        4  mailboxfull
        1  userunknown

Deferrals by class
       30  greylisted
`; got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	if !strings.HasPrefix(out.String(), "millrace-agent 1.2, for 1h15m (since ") {
		t.Errorf("got:\n%s", out.String())
	}
}

func TestStatsAsJSONHasAllOfIt(t *testing.T) {
	t.Parallel()
	r := millrace(t, "TZ=UTC", "--config", serve(t, backend(nil)), "stats", "--json")
	var got stats
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil || got.Status.Sites[0].Rate != 45.25 || got.Totals.Queues[0].Sent != 123_456 {
		t.Errorf("%v: %s%s", err, r.stdout, r.stderr)
	}
}

func TestSpanHasItsTwoLargestUnits(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0s", -time.Second: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m1s", 25*time.Hour + 59*time.Minute: "1d1h", 2 * time.Hour: "2h0m",
	} {
		if got := span(d); got != want {
			t.Errorf("%v is %s, want %s", d, got, want)
		}
	}
}
