package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/cmd/internal/program"
	"github.com/millrace/millrace/milter/classify"
)

// mailLog is read when there is nothing on standard input.
const mailLog = "/var/log/mail.log"

// reportCmd sums up millrace-milter's verdicts.
type reportCmd struct {
	Since string   `placeholder:"TIME" help:"From here on: a time, or how long ago (\"24h\", \"7d\")."`
	Until string   `placeholder:"TIME" help:"Up to here, likewise."`
	Top   int      `default:"20" placeholder:"N" help:"Rows of each table; 0 is all. Default: ${default}."`
	Mail  *string  `placeholder:"ADDRESS" help:"Mail the daily report to this address, a name alone is of this host."`
	Day   *string  `placeholder:"YYYY-MM-DD" help:"The day of the daily report, in UTC; alone, it is printed. Default with --mail: yesterday."`
	JSON  bool     `name:"json" help:"For programs: one JSON object."`
	Files []string `arg:"" optional:"" placeholder:"FILE" help:"Logs, plain or gzipped; - is standard input."`
}

func (c *reportCmd) Help() string {
	return `Reads the log of millrace-milter and prints what was diverted or, in observe
mode, would have been: by rule, stream, sender and destination domain, each with
messages, recipients and some queue ids to grep for. Streams have the families of
evidence that spoke for them; those that no mark of list or campaign software speaks for
come first, in a table of their own. Without FILE it reads
standard input or, if that is a terminal, ` + mailLog + `. Lines of other programs
are passed over.

Times are "2026-03-02", "2026-03-02 09:30", "09:30" (today) or RFC 3339. Senders
are shown with * for what differs from recipient to recipient. A message to many
domains is logged with its five largest; the others count as (other).

With --mail or --day it is the daily report, of what became of diverted mail, from the
counts of [outcomes] keep_totals: sent, deferred and bounced, each with why and what a
receiver says, refused, complaints, by provider and stream, beside the same weekday of
the week before; and what is held back now. It goes to the host at the hand-back port,
so no rule diverts it. "systemctl enable --now millrace-report.timer" has yesterday's
mailed to root each night, at 00:15 UTC; to somebody else with "systemctl edit
millrace-report.service".

Examples:
  millrace report --since 24h
  millrace report --day 2026-03-02
  millrace report --mail you@example.com
  millrace report /var/log/mail.log.1 /var/log/mail.log.2.gz
  journalctl -u millrace-milter --since yesterday | millrace report
  millrace report --json | jq '.streams[] | select(.recipients > 1000)'`
}

func (c *reportCmd) Run(ctx context.Context, g *globals) error {
	if c.Mail != nil || c.Day != nil {
		return c.daily(ctx, g, time.Now())
	}
	// Nothing here needs tidying up: let ^C end a read that waits.
	signal.Reset(os.Interrupt, syscall.SIGTERM)
	clock := logClock{time.Now(), time.Local}
	a, err := c.period(clock)
	if err != nil {
		return program.Usage("%w", err)
	}
	files := c.Files
	if len(files) == 0 {
		files = []string{"-"}
		if term.IsTerminal(int(os.Stdin.Fd())) {
			files = []string{mailLog}
		}
	}
	for _, file := range files {
		if err := readFile(file, clock, a.add); err != nil {
			return err
		}
	}
	if c.JSON {
		return a.json(os.Stdout, c.Top)
	}
	return a.print(os.Stdout, c.Top, clock.loc)
}

func readFile(name string, clock logClock, each func(*verdict)) error {
	if name == "-" {
		return readVerdicts(os.Stdin, clock, each)
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := readVerdicts(f, clock, each); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// period is an empty account for the period asked for.
func (c *reportCmd) period(clock logClock) (*account, error) {
	a := &account{
		rules: newTable(), doubtful: newTable(), streams: newTable(), senders: newTable(), domains: newTable(), reasons: newTable(),
	}
	var err error
	if a.since, err = clock.bound(c.Since); err != nil {
		return nil, fmt.Errorf("--since: %w", err)
	}
	if a.until, err = clock.bound(c.Until); err != nil {
		return nil, fmt.Errorf("--until: %w", err)
	}
	if c.Top < 0 {
		return nil, fmt.Errorf("--top: %d is no number of rows; remedy: write 0 for all", c.Top)
	}
	return a, nil
}

// bound reads an end of a period; "" is zero.
func (c logClock) bound(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if ago, err := config.ParseDuration(s); err == nil {
		return c.now.Add(-ago), nil
	}
	now := c.now.In(c.loc)
	for _, layout := range []string{"15:04", "15:04:05"} {
		if t, err := time.Parse(layout, s); err == nil {
			return time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), t.Second(), 0, c.loc), nil
		}
	}
	for _, layout := range []string{time.DateOnly, "2006-01-02 15:04", time.DateTime, "2006-01-02T15:04", "2006-01-02T15:04:05", time.RFC3339Nano} {
		if t, err := time.ParseInLocation(layout, s, c.loc); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf(`%q is no time; remedy: write it like "24h", "7d", "2026-03-02", "2026-03-02 09:30" or "09:30"`, s)
}

// account is what the log says of a period.
type account struct {
	since, until time.Time // zero: no bound
	first, last  time.Time // of the verdicts in it
	undated      int       // verdicts without a time, which a period leaves out

	judged   tally
	observed tally // would have been diverted
	diverted tally
	left     tally // with the host, recipients of partly diverted messages included
	deferred tally // tempfail: the client was told to try again

	rules, streams, senders, domains table // of what was or would have been diverted
	doubtful                         table // streams of that by evidence that can err
	reasons                          table // of whole messages that were left
}

// doubtful says that a message was diverted by the built-in evidence, and without a mark of
// software that sends nothing but bulk.
func (v *verdict) doubtful() bool {
	return v.Evidence != "" && !strings.Contains(v.Evidence, "-software")
}

// add counts a verdict, if it is of the period.
func (a *account) add(v *verdict) {
	switch {
	case v.Time.IsZero() && !(a.since.IsZero() && a.until.IsZero()):
		a.undated++
		return
	case !a.since.IsZero() && v.Time.Before(a.since), !a.until.IsZero() && !v.Time.Before(a.until):
		return
	}
	if !v.Time.IsZero() {
		if a.first.IsZero() || v.Time.Before(a.first) {
			a.first = v.Time
		}
		if v.Time.After(a.last) {
			a.last = v.Time
		}
	}
	a.judged.add(1, v.NRcpt)
	switch {
	case v.Msg == "verdict lost":
		a.left.add(1, v.NRcpt)
		a.reasons.add("the MTA was not told", v.QueueID, v.NRcpt)
		return
	case v.Verdict == "observe":
		a.observed.add(1, v.Diverted)
	case v.Verdict == "delrcpt", v.Verdict == "discard", v.Verdict == "inlet":
		a.diverted.add(1, v.Diverted)
	case v.Verdict == "tempfail":
		a.deferred.add(1, v.NRcpt)
		return
	default:
		a.left.add(1, v.NRcpt)
		a.reasons.add(v.Reason, v.QueueID, v.NRcpt)
		return
	}
	a.left.add(0, v.NRcpt-v.Diverted)
	a.rules.add(v.Rule, v.QueueID, v.Diverted)
	a.streams.add(v.Stream, v.QueueID, v.Diverted)
	a.streams.spoke(v.Stream, v.Evidence)
	if v.doubtful() {
		a.doubtful.add(v.Stream, v.QueueID, v.Diverted)
		a.doubtful.spoke(v.Stream, v.Evidence)
	}
	a.senders.add(classify.SenderKey(v.From), v.QueueID, v.Diverted)
	a.addDomains(v)
}

// otherDomains is the row of recipients whose domain was not logged. Its
// parentheses are in no domain.
const otherDomains = "(other)"

// addDomains counts "gmail.com:40,web.de:3,other:12". Whatever the line says,
// its recipients are counted once each.
func (a *account) addDomains(v *verdict) {
	rest := v.Diverted
	for part := range strings.SplitSeq(v.ToDomains, ",") {
		name, count, _ := strings.Cut(part, ":")
		if n, err := strconv.Atoi(count); err == nil && n > 0 && n <= rest && name != "other" {
			a.domains.add(name, v.QueueID, n)
			rest -= n
		}
	}
	if rest > 0 {
		a.domains.add(otherDomains, v.QueueID, rest)
	}
}

// print writes the report for people, in the manner of pflogsumm.
func (a *account) print(w io.Writer, top int, loc *time.Location) error {
	out := bufio.NewWriter(w)
	printable.Fprintf(out, "Millrace verdicts")
	if !a.first.IsZero() {
		printable.Fprintf(out, ", %s to %s", a.first.In(loc).Format(time.DateTime), a.last.In(loc).Format(time.DateTime))
	}
	printable.Fprintf(out, "\n\nGrand Totals\n------------\n%s\n", columns)
	for _, t := range []struct {
		tally
		what string
	}{
		{a.judged, "judged"},
		{a.diverted, "diverted"},
		{a.observed, "would have been diverted (observe)"},
		{a.left, "left with the host"},
		{a.deferred, "deferred, could not be spooled (tempfail)"},
	} {
		line(out, t.tally, t.what, nil)
	}
	if a.undated > 0 {
		printable.Fprintf(out, "\nVerdicts that have no time in the log, and are counted only without --since and --until: %d\n", a.undated)
	}
	if a.judged.Messages == 0 {
		printable.Fprintf(out, "\nNo verdict was found. Name the log that millrace-milter writes to, or:\n  journalctl -u millrace-milter | millrace report\n")
	}
	for _, t := range a.tables() {
		rows, others := t.top(top)
		if len(rows) == 0 {
			continue
		}
		printable.Fprintf(out, "\n%s\n%s\n%s\n", t.title, strings.Repeat("-", len(t.title)), columns)
		for _, e := range rows {
			name := e.Name
			if name == "" {
				name = "(none)"
			}
			if len(e.Evidence) > 0 {
				name += " (" + strings.Join(e.Evidence, ", ") + ")"
			}
			line(out, e.tally, name, e.QueueIDs)
		}
		if others != (tally{}) {
			line(out, others, "(all others)", nil)
		}
		if t.pruned {
			printable.Fprintf(out, "more than %d names: the sums are exact, a row may be low\n", maxRows)
		}
	}
	return out.Flush()
}

// columns is the heading of every table.
const columns = " messages  recipients"

func line(w io.Writer, t tally, name string, ids []string) {
	s := fmt.Sprintf("%9d %11d   %-40s", t.Messages, t.Recipients, name)
	for _, id := range ids {
		s += " " + id
	}
	printable.Fprintln(w, strings.TrimRight(s, " "))
}

// titled is a table with its names: for people, and in JSON.
type titled struct {
	*table
	title, key string
	optional   bool // not in JSON if it is empty
}

func (a *account) tables() []titled {
	diverted := "Diverted"
	if a.diverted.Messages == 0 {
		diverted = "Would be Diverted"
	}
	return []titled{
		{&a.doubtful, diverted + " by Evidence that can Err, by Stream: Look at these First", "doubtful", true},
		{&a.rules, diverted + " by Rule", "rules", false},
		{&a.streams, diverted + " by Stream", "streams", false},
		{&a.senders, diverted + " by Sender", "senders", false},
		{&a.domains, diverted + " by Destination Domain", "domains", false},
		{&a.reasons, "Left with the Host, by Reason", "reasons", false},
	}
}

// json writes the report for programs.
func (a *account) json(w io.Writer, top int) error {
	type others struct {
		tally
		Exact bool `json:"exact"` // the rows' counts are
	}
	out := map[string]any{
		"judged": a.judged, "diverted": a.diverted, "observed": a.observed, "left": a.left, "deferred": a.deferred,
		"undated": a.undated,
	}
	for key, t := range map[string]time.Time{"since": a.since, "until": a.until, "first": a.first, "last": a.last} {
		if !t.IsZero() {
			out[key] = t
		}
	}
	rest := map[string]others{}
	for _, t := range a.tables() {
		rows, sum := t.top(top)
		if rows == nil && t.optional {
			continue
		}
		if rows == nil {
			rows = []*entry{}
		}
		out[t.key], rest[t.key] = rows, others{sum, !t.pruned}
	}
	out["others"] = rest
	enc := json.NewEncoder(printable.NewJSON(w))
	enc.SetIndent("", "  ")
	return enc.Encode(out)
}
