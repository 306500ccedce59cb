package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/cmd/internal/program"
)

// historyCmd tells what became of mail.
type historyCmd struct {
	Text   string  `arg:"" optional:"" help:"A recipient's address, the host's queue id, or the id of a message in the spool (M1A-3F0040)."`
	Stream *string `placeholder:"NAME" help:"All mail of this stream."`
	Since  string  `placeholder:"TIME" help:"Nothing that is longer ago: \"7d\", \"4h\". Default: all that is kept; of a stream \"24h\"."`
	JSON   bool    `name:"json" help:"One JSON object a line, with the fields of the event file."`
}

func (c *historyCmd) Help() string {
	return `Tells every attempt and its reply, oldest first: delivered where and when, bounced why,
handed back as which queue id of the host. It reads what the agent keeps, where [outcomes]
says so, some seconds behind what happens; millrace find has what is still queued.
In any case of letters. The databases may be read with sqlite3(1) too: millrace-events(5).

Exit code: 1 if nothing is known.

Examples:
  millrace history someone@example.com
  millrace history 4fKz1T0Qx9z          Postfix's queue id
  millrace history --stream news.example.com --since 2h`
}

func (c *historyCmd) Run(ctx context.Context, g *globals) error {
	q, err := c.question(time.Now())
	if err != nil {
		return err
	}
	client, err := g.client()
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	enc := json.NewEncoder(printable.NewJSON(out))
	n, message := 0, ""
	err = client.Outcomes(ctx, q, func(o *control.Outcome) error {
		n++
		if c.JSON {
			return enc.Encode(o)
		}
		if id := o.ID + o.QueueID; id != message {
			message = id
			what := "message " + o.ID
			if o.QueueID != "" {
				what += ", " + o.QueueID + " of the host"
			}
			if o.Stream != "" {
				what += ", stream " + o.Stream
			}
			if o.Origin == "report" {
				what += ", a report of ours"
			}
			printable.Fprintln(out, what)
		}
		_, err := printable.Fprintln(out, "  "+attemptLine(o))
		return err
	})
	if err == nil && n == 0 {
		err = errors.New("nothing is known of that; millrace find looks among what is queued")
	}
	return err
}

// question reads the arguments.
func (c *historyCmd) question(now time.Time) (q control.OutcomeQuestion, err error) {
	if (c.Text == "") == (c.Stream == nil) {
		return q, program.Usage("name an address, a queue id or a message, or --stream")
	}
	q.Stream = c.Stream
	_, notID := spool.ParseID(c.Text)
	switch {
	case c.Text == "":
	case strings.Contains(c.Text, "@"):
		q.Recipient = c.Text
	case notID == nil:
		q.ID = c.Text
	default:
		q.QueueID = c.Text
	}
	since := c.Since
	if since == "" && c.Stream != nil {
		since = "24h"
	}
	if since != "" {
		d, err := config.ParseDuration(since)
		if err != nil {
			return control.OutcomeQuestion{}, program.Usage("--since: %w", err)
		}
		q.Since = now.Add(-d)
	}
	return q, nil
}

// attemptLine is one attempt in words.
func attemptLine(o *control.Outcome) string {
	event := strings.ReplaceAll(o.Event, "_", " ")
	line := o.Time.Local().Format(time.DateTime) + "  " + event + strings.Repeat(" ", max(0, len("handed back")-len(event)))
	add := func(wanted bool, parts ...string) {
		if wanted {
			line += strings.Join(parts, "")
		}
	}
	add(o.Recipient != "", " <", o.Recipient, ">")
	add(o.Relay != "", " at ", o.Relay)
	add(o.Source != "", " from ", o.Source)
	add(o.HostID != "", ", now ", o.HostID, " of the host")
	add(o.Tries > 1, ", try ", strconv.Itoa(o.Tries))
	add(o.Class != "" && o.Class != "none", ", ", o.Class)
	add(o.Reply != "", ": ", o.Reply)
	add(!o.Due.IsZero() && o.Event == "deferred", " (again ", o.Due.Local().Format(time.DateTime), ")")
	return line
}

// forgetCmd erases an address.
type forgetCmd struct {
	Address string `arg:"" help:"The address."`
}

func (c *forgetCmd) Help() string {
	return `Erases what the agent keeps of an address: its attempts in the databases of [outcomes],
by address or by hash, and its events in the agent's own logs, also those that a
[[webhook]] has not taken or refused. Files that were damaged and set aside go as a
whole. The log tells that this was done and by whom, not for which address.

Not ours to erase: [events] file, the log, Postfix's log, backups. Mail that is still
queued for the address goes on, and makes new rows (millrace cancel --recipient ends it);
an entry of the suppression list stays, or it would be mailed again (millrace suppress
remove).

Example:
  millrace forget someone@example.com`
}

func (c *forgetCmd) Run(ctx context.Context, g *globals) error {
	if err := checkAddress(c.Address); err != nil {
		return err
	}
	client, err := g.client()
	if err != nil {
		return err
	}
	done, err := client.Erase(ctx, control.Erasure{Address: c.Address})
	if err != nil {
		return err
	}
	printable.Fprintf(os.Stdout, "%s and %s erased", count(done.Rows, "attempt"), count(done.Events, "event"))
	if done.Files > 0 {
		printable.Fprintf(os.Stdout, ", %s with them", count(done.Files, "damaged file"))
	}
	printable.Fprintln(os.Stdout)
	cfg, _, err := g.Load()
	if err == nil && cfg.Events.File != "" {
		printable.Fprintf(os.Stdout, "%s may have it too, and is not ours to change\n", cfg.Events.File)
	}
	return nil
}
