package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/cmd/internal/program"
)

// watchCmd shows dialogues of sessions as they happen.
type watchCmd struct {
	Site      string `placeholder:"SITE" help:"Sessions with this site: its name, a domain, an MX host or an address of it."`
	Recipient string `placeholder:"ADDRESS" help:"Transactions for this recipient, with the opening of their connection."`
	Failed    bool   `help:"Only what had a refusal or a broken connection, shown once the transaction, or the session, is over."`
	First     *int   `placeholder:"N" help:"The first N that match, and then end."`
	JSON      bool   `name:"json" help:"One JSON object a line."`
}

func (c *watchCmd) Help() string {
	return `Shows what sessions and receivers say to each other, while they do: each line with its
time, the number of its session, and C: for what we say, S: for the reply, -- for what
happened. Content is shown as its number of octets, and of AUTH the mechanism alone.

With --site, a session is shown to its end, and one that was up already from now on. With
--recipient or --failed, a transaction with the opening of its connection. --first counts
these. A connect that fails is not yet for any recipient: --site with --failed shows it.

It ends with ^C. Nothing is kept, and mail does not wait for it: lines that are not read
fast enough are left out, and counted where they are missing. 8 can watch at a time:
root, and the group of the control socket. millrace trace shows a dialogue without mail.

Examples:
  millrace watch --site gmail.com --first 3
  millrace watch --recipient someone@example.com
  millrace watch --failed --first 10`
}

func (c *watchCmd) Run(ctx context.Context, g *globals) error {
	if c.Site == "" && c.Recipient == "" && !c.Failed {
		return program.Usage("say whose dialogues: --site, --recipient or --failed")
	}
	q := control.WatchQuestion{Site: c.Site, Recipient: c.Recipient, Failed: c.Failed}
	if c.First != nil {
		if q.First = *c.First; q.First < 1 {
			return program.Usage("--first: a number of dialogues is at least 1")
		}
	}
	if c.Recipient != "" {
		if err := checkAddress(c.Recipient); err != nil {
			return program.Usage("--recipient: %w", err)
		}
	}
	client, err := g.client()
	if err != nil {
		return err
	}
	enc := json.NewEncoder(printable.NewJSON(os.Stdout))
	err = client.Watch(ctx, q, func(l *control.WatchLine) error {
		switch {
		case l == nil:
			if !c.JSON {
				printable.Fprintln(os.Stderr, "watching; ^C ends it")
			}
			return nil
		case c.JSON:
			return enc.Encode(l)
		}
		mark := "--"
		if l.From != control.WatchNote {
			mark = l.From + ":"
		}
		_, err := printable.Fprintf(os.Stdout, "%s %5d %s %s\n", l.Time.Local().Format("15:04:05.000"), l.Session, mark, l.Text)
		return err
	})
	if errors.Is(err, context.Canceled) {
		return nil // ^C
	}
	return err
}
