package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
)

func (backend) Outcomes(_ context.Context, q control.OutcomeQuestion, yield func(*control.Outcome) error) error {
	if q.Recipient == "nobody@example.com" {
		return nil
	}
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	for _, o := range []control.Outcome{
		{Time: at, Event: "deferred", ID: "M1-2", QueueID: "4fKz", Stream: "news", Recipient: "bob@example.com", Relay: "mx.example.com[192.0.2.1]:25", Tries: 1, Class: "ratelimited", Reply: "421 later\x1b[2J", Due: at.Add(time.Minute)},
		{Time: at.Add(time.Minute), Event: "handed_back", ID: "M1-2", QueueID: "4fKz", Stream: "news", Recipient: "bob@example.com", Tries: 2, Class: "none", Reply: "250 ok: queued as 4QQ", HostID: "4QQ"},
	} {
		if err := yield(&o); err != nil {
			return err
		}
	}
	return nil
}

func (backend) Erase(context.Context, control.Erasure) (control.Erased, error) {
	return control.Erased{Rows: 2, Events: 1}, nil
}

func TestHistoryInWords(t *testing.T) {
	t.Parallel()
	config := serve(t, messages())
	run := func(args ...string) string {
		r := millrace(t, "TZ=UTC", append([]string{"--config", config}, args...)...)
		if r.code != 0 || r.stderr != "" {
			t.Errorf("%q: exit code %d, %s", args, r.code, r.stderr)
		}
		return r.stdout
	}
	out := run("history", "bob@example.com")
	want := `message M1-2, 4fKz of the host, stream news
  2026-11-28 12:00:00  deferred    <bob@example.com> at mx.example.com[192.0.2.1]:25, ratelimited: 421 later?[2J (again 2026-11-28 12:01:00)
  2026-11-28 12:01:00  handed back <bob@example.com>, now 4QQ of the host, try 2: 250 ok: queued as 4QQ
`
	if out != want {
		t.Errorf("%s\nwant\n%s", out, want)
	}
	if out := run("history", "--json", "--stream", "news"); strings.Count(out, "\n") != 2 || !strings.Contains(out, `"host_qid":"4QQ"`) {
		t.Errorf("%s", out)
	}
	if out := run("forget", "bob@example.com"); out != "2 attempts and 1 event erased\n" {
		t.Errorf("%s", out)
	}
}

func TestHistoryQuestions(t *testing.T) {
	t.Parallel()
	now := time.Now()
	news := "news"
	for _, c := range []struct {
		cmd  historyCmd
		want control.OutcomeQuestion
		bad  bool
	}{
		{cmd: historyCmd{Text: "a@b.test"}, want: control.OutcomeQuestion{Recipient: "a@b.test"}},
		{cmd: historyCmd{Text: "M1A-3F0040"}, want: control.OutcomeQuestion{ID: "M1A-3F0040"}},
		{cmd: historyCmd{Text: "4fKz1T0Qx9z", Since: "2h"}, want: control.OutcomeQuestion{QueueID: "4fKz1T0Qx9z", Since: now.Add(-2 * time.Hour)}},
		{cmd: historyCmd{Stream: &news}, want: control.OutcomeQuestion{Stream: &news, Since: now.Add(-24 * time.Hour)}},
		{cmd: historyCmd{}, bad: true},
		{cmd: historyCmd{Text: "a@b.test", Stream: &news}, bad: true},
		{cmd: historyCmd{Text: "a@b.test", Since: "yesterday"}, bad: true},
	} {
		if got, err := c.cmd.question(now); got != c.want || (err != nil) != c.bad {
			t.Errorf("%+v: %+v, %v", c.cmd, got, err)
		}
	}
}

// Watch implements control.Backend.
func (backend) Watch(_ context.Context, q control.WatchQuestion, yield func([]control.WatchLine) error) error {
	at := time.Unix(1700000000, 0)
	return yield([]control.WatchLine{
		{Time: at, Session: 3, From: control.WatchNote, Text: "session of site " + q.Site},
		{Time: at, Session: 3, From: control.WatchClient, Text: "EHLO mail.example.com"},
		{Time: at, Session: 3, From: control.WatchServer, Text: "250 \x1b[31mred"},
	})
}

func (backend) Day(_ context.Context, day time.Time) (control.DayTotals, error) {
	d := control.DayTotals{From: day, Until: day.Add(24 * time.Hour)}
	n := 1200
	if day.Day() == 7 {
		n = 1000
	}
	d.Totals = []control.DayTotal{{Stream: "news", Queue: "google", Site: "google", Event: "sent", Class: "none", N: n}}
	return d, nil
}
