package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"strings"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/printable"
)

// warmupCmd shows how far addresses have come.
type warmupCmd struct {
	JSON bool `name:"json" help:"One JSON object a line."`
}

func (c *warmupCmd) Help() string {
	return `Shows each address that has a plan (warmup of a [[pool]]), at each queue to which it has
sent: the plan, today's share and what is used of it, the days so far, and why a day did
not count. Complaints are those at the queue about mail of all addresses, as no report
tells the address. The plan is drawn beside what was done.

Examples:
  millrace warmup
  millrace warmup --json | jq -r 'select(.bad_days > 0) | .address + " " + .queue'`
}

func (c *warmupCmd) Run(ctx context.Context, g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	st, err := client.Status(ctx)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	if c.JSON {
		return printJSON(out, st.Warmups)
	}
	if len(st.Warmups) == 0 {
		printable.Fprintln(out, "No address warms up, or none of those has sent mail yet")
	}
	for i := range st.Warmups {
		if i > 0 {
			printable.Fprintln(out, "")
		}
		printWarmup(out, &st.Warmups[i])
	}
	return nil
}

// shownDays is how many days of a course are listed.
const shownDays = 14

func printWarmup(out io.Writer, w *control.Warmup) {
	printable.Fprintf(out, "%s to %s, plan %s: %s\n", w.Address, w.Queue, w.Plan, w.InWords())
	if !w.Reports {
		printable.Fprintln(out, "no complaint was ever reported by this provider, so its replies are all that is known")
	}
	days := w.Days[max(0, len(w.Days)-shownDays):]
	most := 1
	for _, d := range days {
		most = max(most, d.Share, d.Used)
	}
	printable.Fprintf(out, "%-10s %4s %9s %9s %9s %8s %8s %10s  %s\n", "DATE", "DAY", "SHARE", "USED", "ACCEPTED", "REFUSED", "BOUNCED", "COMPLAINED", "USED OF SHARE")
	for _, d := range days {
		printable.Fprintf(out, "%-10s %4d %9d %9d %9d %8d %8d %10d  %s\n", d.Date, d.Day, d.Share, d.Used, d.Accepted, d.Refused, d.HardBounces, d.Complaints, bar(d.Used, d.Share, most))
		if d.Verdict != "" {
			printable.Fprintf(out, "%15s %s\n", "", d.Verdict)
		}
	}
}

// bar draws what was used of a share, on a scale that all days have in common.
func bar(used, share, most int) string {
	const width = 30
	done, all := used*width/most, share*width/most
	return strings.Repeat("#", done) + strings.Repeat(".", max(0, all-done))
}
