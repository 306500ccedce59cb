package daily

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
)

var monday = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

// counted is a whole day with these counts.
func counted(totals ...control.DayTotal) control.DayTotals {
	return control.DayTotals{From: monday.Add(30 * time.Minute), Until: monday.Add(24 * time.Hour), Totals: totals}
}

func of(event, class, site, stream string, n int) control.DayTotal {
	return control.DayTotal{Event: event, Class: class, Site: site, Stream: stream, N: n}
}

// now has nothing to tell.
func now(r Report) *Report {
	r.Hostname, r.Day, r.Now = "mail.lab.test", monday, monday.Add(24*time.Hour+15*time.Minute)
	if r.Status == nil {
		r.Status = &control.Status{}
	}
	return &r
}

const nothingHeld = `
Held back, as it stands at 2026-03-03 00:15 UTC
no recipients queued; of these 0 deferred, 0 on hold or of a paused sender
nothing is paused or limited, and no site gets less than it could
`

const legend = `(*) of the deferred and bounced, those that a receiver refused for our reputation,
    authentication, content or its policy
`

// Whole texts, of days that have little.
func TestDaysWithLittleToTell(t *testing.T) {
	t.Parallel()
	for what, tt := range map[string]struct {
		r             Report
		subject, text string
	}{
		"an empty day": {subject: "0 sent, 0 bounced, no complaints", text: `Millrace on mail.lab.test, Monday 2026-03-02 (UTC)
2026-03-02: nothing happened, or nothing was kept
2026-02-23, for comparison: nothing happened, or nothing was kept

Recipients                       the day a week before
sent                                   0             -
deferred (each try)                    0             -
bounced                                0             -
refused (*)                            0             -
complaints                             0             -
` + legend + nothingHeld},
		"no counts are kept": {
			r: Report{CountsErr: errors.New("counts are not kept"), BeforeErr: errors.New("counts are not kept")}, subject: "no counts",
			text: `Millrace on mail.lab.test, Monday 2026-03-02 (UTC)

Nothing is known of the day: counts are not kept
` + nothingHeld,
		},
		"no agent": {
			r: Report{CountsErr: errors.New("not running"), NowErr: errors.New("not running")}, subject: "no counts",
			text: `Millrace on mail.lab.test, Monday 2026-03-02 (UTC)

Nothing is known of the day: not running

Held back, as it stands at 2026-03-03 00:15 UTC
not known: not running
`,
		},
		"gaps, trouble, and no week before": {
			r: Report{
				Counts: control.DayTotals{
					From: monday.Add(time.Hour), Until: monday.Add(90 * time.Minute), Trouble: "the disk is full",
					Totals: []control.DayTotal{of("gap", "", "", "", 1200), of("sent", "none", "far.test", "news", 1), of("complaint", "complaint", "", "news", 1),
						of("complaint", "uncounted", "", "forged", 3), of("late_bounce", "uncounted", "", "news", 1)},
				},
				BeforeErr: errors.New("totals.db is damaged"),
			},
			subject: "1 sent, 0 bounced, 1 complaint", text: `Millrace on mail.lab.test, Monday 2026-03-02 (UTC)
2026-03-02: first and last count between 01:00 and 01:30; 1,200 events lost, and in no count
2026-02-23, for comparison: nothing is known of it: totals.db is damaged
What is wrong with the outcomes now, so that counts may be missing: the disk is full

Recipients                       the day a week before
sent                                   1             -
deferred (each try)                    0             -
bounced                                0             -
refused (*)                            0             -
complaints                             1             -
not counted (***)                      4             -
` + legend + `(***) complaints and late bounces that anybody could have written, or that are too old:
    they suppress and hold nothing, and are in no other count

By provider
      sent   change  deferred  bounced  refused complaints  late
         0        -         0        0        0          1     0  (no site)
         1        -         0        0        0          0     0  far.test

By stream
      sent   change  deferred  bounced  refused complaints  late
         1        -         0        0        0          1     0  news
` + nothingHeld,
		},
	} {
		r := now(tt.r)
		if got := r.Text(); got != tt.text {
			t.Errorf("%s:\n%s\nwant\n%s", what, got, tt.text)
		}
		if got, want := r.Subject(), "Millrace on mail.lab.test, 2026-03-02: "+tt.subject; got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
}

// Providers grow, vanish and are new; classes have their examples; last week's gaps are told.
func TestComparison(t *testing.T) {
	t.Parallel()
	r := now(Report{
		Counts: counted(
			of("sent", "none", "grows", "news", 1500), of("sent", "none", "same", "news", 10), of("sent", "none", "new", "news", 3), of("sent", "none", "hardly", "news", 1001),
			of("deferred", "greylisted", "grows", "news", 7), of("deferred", "policy", "same", "news", 20), of("deferred", "policy", "new", "", 1),
			of("bounced", "userunknown", "grows", "news", 2), of("bounced", "content", "grows", "news", 4),
			of("suppressed", "userunknown", "", "news", 5), of("handed_back", "none", "relay:127.0.0.1:10626", "", 6), of("cancelled", "none", "", "quiet", 8),
			of("late_bounce", "userunknown", "grows", "news", 9), of("feedback", "undefined", "grows", "news", 99), of("sent", "none", "other", "other", 1),
			of("sent", "none", "other", "news", 2), of("stuck", "system", "relay:127.0.0.1:10626", "", 77), of("damaged", "none", "", "", 3),
		),
		Before: counted(of("sent", "none", "grows", "news", 1000), of("sent", "none", "same", "news", 10), of("sent", "none", "hardly", "news", 1000),
			of("sent", "none", "gone", "old", 40), of("complaint", "complaint", "gone", "old", 1), of("gap", "", "", "", 12), of("cancelled", "none", "", "never", 2)),
	})
	r.Counts.Examples = []control.DayExample{{Event: "deferred", Class: "policy", Reply: "451 4.7.1 \x1b[31mlater"}, {Event: "bounced", Class: "userunknown", Reply: "no such domain"}}
	const want = `2026-03-02: first and last count between 00:30 and 24:00
2026-02-23, for comparison: first and last count between 00:30 and 24:00; 12 events lost, and in no count

Recipients                       the day a week before
sent                               2,517         2,050  +23%
deferred (each try)                   28             0  new
bounced                                6             0  new
refused (*)                           25             0  new
complaints                             0             1  -100%
late bounces                           9             0  new
not tried, suppressed                  5             0  new
back to the host (**)                  6             0  new
cancelled                              8             2  +300%
damaged in the spool                   3             0  new
` + legend + `(**) reports to senders count there, too

Deferred, why
        21  policy
            such as: 451 4.7.1 ?[31mlater
         7  greylisted

Bounced, why
         4  content
         2  userunknown
            such as: no such domain

By provider
      sent   change  deferred  bounced  refused complaints  late
     1,500     +50%         7        6        4          0     9  grows
     1,001      <1%         0        0        0          0     0  hardly
        10        =        20        0       20          0     0  same
         3      new         1        0        1          0     0  new
         2      new         0        0        0          0     0  other
         1      new         0        0        0          0     0  (of too many to count apart)
         0    -100%         0        0        0          0     0  gone

By stream
      sent   change  deferred  bounced  refused complaints  late
     2,516     +25%        27        6       24          0     9  news
         0        =         1        0        1          0     0  (no name)
         1      new         0        0        0          0     0  (of too many to count apart)
         0    -100%         0        0        0          0     0  old
`
	if got := r.Text(); !strings.Contains(got, want) {
		t.Errorf("\n%s\nwant\n%s", got, want)
	}
}

// Many names are added up, and long ones cut: no line is too long for a mail, and no sum is lost.
func TestManyAndLongNames(t *testing.T) {
	t.Parallel()
	var totals []control.DayTotal
	for i := range 25 {
		totals = append(totals, of("sent", "none", fmt.Sprintf("%s%d", strings.Repeat("ü", 600), i), "a\r\nstream", 100-i), of("bounced", "content", fmt.Sprintf("%s%d", strings.Repeat("ü", 600), i), "a\r\nstream", 1))
	}
	r := now(Report{Counts: counted(totals...)})
	r.Counts.Examples = []control.DayExample{{Event: "bounced", Class: "content", Reply: strings.Repeat("r", 9000)}}
	for i := range 60 {
		r.Standing.Pauses = append(r.Standing.Pauses, control.Pause{Filter: control.Filter{Stream: strings.Repeat("s", 2000)}, Reason: fmt.Sprint(i)})
	}
	text := r.Text()
	for line := range strings.Lines(text) {
		if len(line) > 500 {
			t.Errorf("%d octets: %.100s", len(line), line)
		}
	}
	for _, want := range []string{"\n       390                  0        5        5          0     0  (5 more)\n", "\nand 20 more: millrace brakes", "  a??stream\n", "…\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%.5000s", want, text)
		}
	}
}

// All that holds mail back is listed, each with what it does and until when.
func TestHeldBack(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 3, 8, 0, 0, 0, time.Local)
	r := now(Report{
		Status: &control.Status{
			Waiting: 4000, Deferred: 300, Held: 20, Active: 1, Loading: true,
			Sites: []control.Site{
				{Name: "quick", Waiting: 9}, {Name: "few", Waiting: 1, HeldBack: &control.HeldBack{Reason: "dead", How: "no answer", Next: at.AddDate(100, 0, 0)}},
				{Name: "many", Waiting: 3000, HeldBack: &control.HeldBack{Reason: "slowed", How: "takes about 2/s", Reply: "421 too fast", Until: at}},
			},
			Limits: []control.StreamLimits{{Name: "news", Rate: 10}},
		},
		Standing: control.StandingOrders{
			Pauses: []control.Pause{{Filter: control.Filter{Stream: "sale"}, Reason: "a wrong price", Who: "ann", Since: at}, {Filter: control.Filter{All: true}, Reason: "r", Who: "bob", Since: at, Until: at}},
			Limits: []control.Limit{{Name: "google", Sessions: 5, Rate: 2, Until: at, Who: "ann"}},
			Effects: []control.Effect{
				{Site: "yahoo", Action: "suspend", Until: at, Reason: "volume: 421"}, {Site: "yahoo", Action: "slow", Until: at, Reason: "r"},
				{Site: "yahoo", Action: "slow", Rate: 3, Until: at, Reason: "r"}, {Site: "yahoo", Action: "sessions", Sessions: 1, Until: at, Reason: "r"},
				{Site: "yahoo", Action: "suspend", Address: "192.0.2.1", Until: at, Reason: "listed: 550"},
			},
		},
		Paused: []int{1200},
	})
	const want = `
Held back, as it stands at 2026-03-03 00:15 UTC
4,321 recipients queued; of these 300 deferred, 20 on hold or of a paused sender
the spool is still being read: there may be more
paused, 1,200 recipients held: stream sale: a wrong price (ann, 2026-03-03 08:00:00)
paused: everything until 2026-03-03 08:00:00: r (bob, 2026-03-03 08:00:00)
limited: google: at most 5 sessions and 2/s until 2026-03-03 08:00:00 (ann)
by rule: site yahoo is suspended until 2026-03-03 08:00:00: volume: 421
by rule: site yahoo goes on at half its pace until 2026-03-03 08:00:00: r
by rule: site yahoo gets at most 3/s until 2026-03-03 08:00:00: r
by rule: site yahoo gets at most 1 session until 2026-03-03 08:00:00: r
by rule: address 192.0.2.1 is blocked at yahoo until 2026-03-03 08:00:00: its mail there waits; listed: 550
stream news: at most 10 messages/s
site many, 3,000 recipients waiting: slowed: takes about 2/s until 2026-03-03 08:00:00; 421 too fast
site few, 1 recipient waiting: dead: no answer, tried again at 2126-03-03 08:00:00
`
	if got := r.Text(); !strings.HasSuffix(got, want) {
		t.Errorf("\n%s\nwant at its end\n%s", got, want)
	}
}
