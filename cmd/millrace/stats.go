package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/printable"
)

// statsCmd tells what the agent did.
type statsCmd struct {
	JSON bool `name:"json" help:"One JSON object: status and totals."`
}

func (c *statsCmd) Help() string {
	return `Prints what is queued now, and what became of recipients since the agent started: by
queue, then bounces and deferrals by class, and replies that no rule knew. RATE is what
receivers accept of each queue, in recipients per second over the last half minute; a
recipient that is deferred twice counts twice. What happened before the start is in the
log.

Examples:
  millrace stats
  millrace stats --json | jq .totals.bounces`
}

// stats are what the agent says of itself.
type stats struct {
	Status *control.Status `json:"status"`
	Totals control.Totals  `json:"totals"`
}

func (c *statsCmd) Run(ctx context.Context, g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	var s stats
	if s.Status, err = client.Status(ctx); err != nil {
		return err
	}
	if s.Totals, err = client.Totals(ctx); err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	if c.JSON {
		return json.NewEncoder(printable.NewJSON(out)).Encode(s)
	}
	s.print(out, time.Now())
	return nil
}

func (s *stats) print(out io.Writer, now time.Time) {
	st := s.Status
	rates, all := make(map[string]float64), 0.0
	for _, site := range st.Sites {
		rates[site.Queue] += site.Rate
		all += site.Rate
	}
	printable.Fprintf(out, "millrace-agent %s, for %s (since %s)\n", st.Version, span(now.Sub(s.Totals.Since)), s.Totals.Since.Local().Format(time.DateTime))
	printable.Fprintf(out, "%d recipients waiting, %d deferred, %d active, %d held; %s to %s; %.3g/s accepted\n\n",
		st.Waiting, st.Deferred, st.Active, st.Held, count(st.Sessions, "session"), count(len(st.Sites), "site"), all)
	const row = "%9v %9v %8v %8v %9v %8v %8v  %s\n"
	printable.Fprintf(out, row, "SENT", "DEFERRED", "BOUNCED", "HANDBACK", "CANCELLED", "SUPPRESS", "RATE", "QUEUE")
	total := control.QueueTotals{Name: "TOTAL"}
	line := func(q *control.QueueTotals, rate float64) {
		printable.Fprintf(out, row, q.Sent, q.Deferred, q.Bounced, q.HandedBack, q.Cancelled, q.Suppressed, fmt.Sprintf("%.3g/s", rate), q.Name)
	}
	for _, q := range s.Totals.Queues {
		total.Sent += q.Sent
		total.Deferred += q.Deferred
		total.Bounced += q.Bounced
		total.HandedBack += q.HandedBack
		total.Cancelled += q.Cancelled
		total.Suppressed += q.Suppressed
		total.Damaged += q.Damaged
		total.Moved += q.Moved
		line(&q, rates[q.Name])
	}
	line(&total, all)
	if total.Damaged > 0 {
		printable.Fprintf(out, "\n%s damaged: its content cannot be read; millrace spool verify\n", count(total.Damaged, "recipient"))
	}
	if total.Moved > 0 {
		printable.Fprintf(out, "\n%s moved to other nodes\n", count(total.Moved, "recipient"))
	}
	classes(out, "Bounces", s.Totals.Bounces)
	classes(out, "Deferrals", s.Totals.Deferrals)
	if s.Totals.Unknown > 0 {
		printable.Fprintf(out, "\nReplies that no rule knew: %s (millrace reply --unknown has more)\n", thousands(s.Totals.Unknown))
		printUnknown(out, s.Totals.UnknownReplies[:min(len(s.Totals.UnknownReplies), 5)])
	}
}

// classes lists counts by bounce class, most first.
func classes(out io.Writer, title string, counts map[string]int) {
	if len(counts) == 0 {
		return
	}
	printable.Fprintf(out, "\n%s by class\n", title)
	for _, name := range slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	}) {
		printable.Fprintf(out, "%9d  %s\n", counts[name], name)
	}
}

// span is a length of time in its two largest units: "3d4h", "12m5s".
func span(d time.Duration) string {
	d = max(d, 0)
	days, h, m, s := int(d.Hours())/24, int(d.Hours())%24, int(d.Minutes())%60, int(d.Seconds())%60
	switch {
	case days > 0:
		return fmt.Sprintf("%dd%dh", days, h)
	case h > 0:
		return fmt.Sprintf("%dh%dm", h, m)
	case m > 0:
		return fmt.Sprintf("%dm%ds", m, s)
	}
	return fmt.Sprintf("%ds", s)
}
