package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/cmd/internal/program"
)

// handbackCmd gives queued mail back to the host MTA.
type handbackCmd struct {
	filterFlags `embed:"" group:"Which mail (several conditions must all hold):"`
	Yes         bool `help:"Do not ask."`
	Wait        bool `help:"Show how far it is, and end when the host has it all. Alone: of what was asked for before."`
}

func (c *handbackCmd) Help() string {
	return `Gives queued mail back to the host's Postfix, which delivers it as it would have
done without Millrace; it is not diverted again. The agent does this by itself, no
faster than [handback] max_message_rate, and only while Postfix has no more than
max_host_queue messages to deal with; it goes on without this command and over
restarts. What Postfix refuses stays in Millrace's queue and is tried again.

Kept are the message as it is, with a Received field of ours, the envelope sender,
the recipients, and what was asked about delivery reports (NOTIFY, RET, ENVID,
ORCPT). Postfix counts its maximal_queue_lifetime anew from then on.

While mail is diverted, new mail comes after it: see millrace drain.

Examples:
  millrace handback --queue google
  millrace handback --user hacked@example.com --yes
  millrace drain && millrace handback --all --wait`
}

func (c *handbackCmd) Run(ctx context.Context, g *globals) error {
	f := c.filter()
	if f.Empty() && !c.Wait {
		return program.Usage("say what to hand back: --stream, --user, --domain ... or --all")
	}
	client, err := g.client()
	if err != nil {
		return err
	}
	defer client.Close()
	if !f.Empty() {
		if err := consent(c.Yes, "Hand this mail back to Postfix?", "this takes mail out of Millrace's queue", "nothing was handed back"); err != nil {
			return err
		}
		if err := handBack(ctx, client, f, os.Stdout, c.Wait); err != nil {
			return err
		}
	}
	if !c.Wait {
		return nil
	}
	return follow(ctx, os.Stdout, "the agent goes on handing back", func() (string, bool, error) {
		r, err := client.HandbackStatus(ctx)
		if err == nil && r.Stuck > 0 && r.Stuck == r.Left() {
			err = fmt.Errorf("%s: the host refuses what is left, and millrace queue says why; it stays here and is tried once an hour", returning(&r))
		}
		return returning(&r), r.Left() == 0, err
	})
}

// consent asks before something that is not undone, unless the flag says yes.
func consent(yes bool, question, what, not string) error {
	if yes {
		return nil
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return fmt.Errorf("%s; say --yes where nobody can be asked", what)
	}
	if !confirm(os.Stdin, os.Stderr, question) {
		return errors.New(not)
	}
	return nil
}

// handBack asks the agent to hand back what a filter selects; with all, again until
// nothing of it is left in a transaction. Without, it is an error if nothing was selected.
func handBack(ctx context.Context, client *control.Client, f control.Filter, out io.Writer, all bool) error {
	for {
		done, err := client.HandBack(ctx, f)
		if err != nil {
			return err
		}
		if !all && done.Recipients+done.Active == 0 {
			return nothing("hand back", f)
		}
		printable.Fprintf(out, "%s on the way back to the host\n", count(done.Recipients, "recipient"))
		if done.Active == 0 {
			return nil
		}
		if !all {
			printable.Fprintf(out, "%s in transactions under way; run it again for what comes back\n", count(done.Active, "recipient"))
			return nil
		}
	}
}

// returning is one line about the way back.
func returning(r *control.HandbackStatus) string {
	s := fmt.Sprintf("%d handed back, %d waiting", r.Done, r.Waiting)
	if r.Later > 0 {
		s += fmt.Sprintf(", %d under way or not taken by the host for now", r.Later)
	}
	if r.Stuck > 0 {
		s += fmt.Sprintf(", of them %d stuck", r.Stuck)
	}
	if r.HostQueue >= 0 {
		s += fmt.Sprintf("; host's queue %d", r.HostQueue)
	}
	if r.Held != "" {
		s += " (held: " + r.Held + ")"
	}
	return s
}

const (
	// followEvery is how often the agent is asked how far it is.
	followEvery = time.Second
	// tellEvery is how often that is written where nobody watches.
	tellEvery = 10 * time.Second
)

// follow shows how far something is until it is done: on a terminal one line that
// changes, elsewhere a line now and then. An interrupt ends only the showing.
func follow(ctx context.Context, out io.Writer, goesOn string, look func() (line string, done bool, err error)) error {
	file, _ := out.(*os.File)
	live := file != nil && term.IsTerminal(int(file.Fd()))
	var told time.Time
	for {
		line, done, err := look()
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("interrupted; %s", goesOn)
		case err != nil:
			return err
		case live:
			printable.Fprintf(out, "\r\x1b[K%s", line)
			if done {
				printable.Fprintln(out)
			}
		case done || time.Since(told) >= tellEvery:
			printable.Fprintln(out, line)
			told = time.Now()
		}
		if done {
			return nil
		}
		select {
		case <-time.After(followEvery):
		case <-ctx.Done():
		}
	}
}
