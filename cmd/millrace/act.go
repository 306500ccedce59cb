package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/printable"
)

// The verbs below act once on what is queued now; those of brakes.go last.

// flushCmd tries mail now.
type flushCmd struct {
	filterFlags `embed:"" group:"Which mail (several conditions must all hold):"`
}

func (c *flushCmd) Help() string {
	return `Tries deferred mail now, as postqueue -f does: addresses that were down are called
again at once, and domains that had no way are looked up. What is held or paused stays
so, and so does what a receiver has asked for: millrace why tells.

Examples:
  millrace flush --all
  millrace flush --domain example.com`
}

func (c *flushCmd) Run(ctx context.Context, g *globals) error {
	return g.act(ctx, control.VerbFlush, &c.filterFlags, true, "will be tried now")
}

// holdCmd keeps mail.
type holdCmd struct {
	filterFlags `embed:"" group:"Which mail (several conditions must all hold):"`
}

func (c *holdCmd) Help() string {
	return `Keeps queued mail until millrace release, over restarts too, as postsuper -h does: it
is not tried and does not expire. New mail is not held: see millrace pause.

Examples:
  millrace hold --id M1A-3F0040
  millrace hold --sender news@example.com --domain example.org`
}

func (c *holdCmd) Run(ctx context.Context, g *globals) error {
	return g.act(ctx, control.VerbHold, &c.filterFlags, true, "on hold")
}

// releaseCmd ends hold.
type releaseCmd struct {
	filterFlags `embed:"" group:"Which mail (several conditions must all hold):"`
}

func (c *releaseCmd) Help() string {
	return `Lets go on what millrace hold keeps, as postsuper -H does; each recipient is tried when
it would have been. What a pause keeps is let go by millrace resume.

Example:
  millrace release --all`
}

func (c *releaseCmd) Run(ctx context.Context, g *globals) error {
	return g.act(ctx, control.VerbRelease, &c.filterFlags, true, "released")
}

// requeueCmd takes mail in anew.
type requeueCmd struct {
	filterFlags `embed:"" group:"Which mail (several conditions must all hold):"`
}

func (c *requeueCmd) Help() string {
	return `Takes queued mail in anew, as postsuper -r does: the way to its domain is found again, its
tries are forgotten, it is tried at once, and it is not on hold or to be handed back any
more. Its age stays.

Example, after a change of the queues:
  millrace requeue --domain example.com`
}

func (c *requeueCmd) Run(ctx context.Context, g *globals) error {
	return g.act(ctx, control.VerbRequeue, &c.filterFlags, true, "requeued")
}

// cancelCmd ends mail.
type cancelCmd struct {
	filterFlags `embed:"" group:"Which mail (several conditions must all hold):"`
	Yes         bool `help:"Do not ask."`
	hereFlag
}

func (c *cancelCmd) Help() string {
	return `Ends queued mail for good, as postsuper -d does: it is not sent, and its sender is not
told. What is in a transaction at that moment takes its course. Says how much it is and
asks first; in a fleet that is the mail of this node, and what is selected on the other
nodes ends with it, but nothing that comes in later.

Examples:
  millrace cancel --stream "Spring sale <sale.example.com>"
  millrace cancel --user hacked@example.com --yes`
}

func (c *cancelCmd) Run(ctx context.Context, g *globals) error {
	return g.end(ctx, control.VerbCancel, &c.filterFlags, c.Yes, c.Here, "for good, without telling their senders", "cancelled")
}

// expireCmd ends mail with a report.
type expireCmd struct {
	filterFlags `embed:"" group:"Which mail (several conditions must all hold):"`
	Yes         bool `help:"Do not ask."`
}

func (c *expireCmd) Help() string {
	return `Ends queued mail as if its time were over, as postsuper -e does: its senders get the
reports that they are owed. What is held or paused is left alone unless --state held
is said, and so is what is on its way home. Says how much it is and asks first.

Example:
  millrace expire --domain example.com --older-than 2d`
}

func (c *expireCmd) Run(ctx context.Context, g *globals) error {
	return g.end(ctx, control.VerbExpire, &c.filterFlags, c.Yes, true, "as expired, and reports that to their senders", "expired")
}

// end gives an order that cannot be taken back: it says of how much, and asks.
func (g *globals) end(ctx context.Context, verb control.Verb, flags *filterFlags, yes, here bool, how, done string) error {
	if !yes {
		f, err := flags.some()
		if err != nil {
			return err
		}
		client, err := g.client()
		if err != nil {
			return err
		}
		n, err := client.Act(ctx, control.Action{Verb: verb, Filter: f, Dry: true}, nil)
		if err != nil {
			return err
		}
		everywhere, err := cancelsElsewhere(ctx, client, verb, f, here)
		if err != nil {
			return err
		}
		if n.Recipients == 0 && !everywhere {
			return nothing(verb, f)
		}
		what := fmt.Sprintf("This ends %s of %s (%s) %s.", count(n.Recipients, "recipient"), count(n.Messages, "message"), f, how)
		if everywhere {
			what = fmt.Sprintf("This ends %s of %s here, and what there is on all other nodes of the fleet (%s), %s.", count(n.Recipients, "recipient"), count(n.Messages, "message"), f, how)
		}
		if !term.IsTerminal(int(os.Stdin.Fd())) {
			return errors.New(what + " Say --yes where nobody can be asked")
		}
		if !confirm(os.Stdin, os.Stderr, what+" Go on?") {
			return fmt.Errorf("nothing was %s", done)
		}
	}
	return g.act(ctx, verb, flags, here, done)
}

// cancelsElsewhere reports whether an order ends mail of other nodes, too. How much that is
// nobody knows here.
func cancelsElsewhere(ctx context.Context, client *control.Client, verb control.Verb, f control.Filter, here bool) (bool, error) {
	if verb != control.VerbCancel || f.ID != "" || here {
		return false, nil
	}
	x, err := client.Spread(ctx)
	return x.Fleet != "", err
}

// nothing says that nothing was selected. Who names some mail wants to know, by exit
// code 1; with --all the queue is as it should be.
func nothing(verb control.Verb, f control.Filter) error {
	if f == (control.Filter{All: true}) {
		printable.Fprintf(os.Stdout, "Nothing to %s\n", verb)
		return nil
	}
	return fmt.Errorf("nothing to %s: %s", verb, f)
}

// act gives an order about what flags select. Of all verbs but cancel it is for this node
// alone.
func (g *globals) act(ctx context.Context, verb control.Verb, flags *filterFlags, here bool, done string) error {
	f, err := flags.some()
	if err != nil {
		return err
	}
	return g.give(ctx, control.Action{Verb: verb, Filter: f}, here, done)
}

// give gives an order and says what came of it.
func (g *globals) give(ctx context.Context, o control.Action, here bool, done string) error {
	client, err := g.clientFor(here)
	if err != nil {
		return err
	}
	var progress func(control.Selected)
	if term.IsTerminal(int(os.Stderr.Fd())) {
		progress = func(n control.Selected) {
			printable.Fprintf(os.Stderr, "\r%s %s ...", count(n.Recipients, "recipient"), done)
		}
		defer printable.Fprintf(os.Stderr, "\r\x1b[K") // erases the line
	}
	n, err := client.Act(ctx, o, progress)
	switch {
	case err != nil && n == (control.Selected{}):
		return err
	case err != nil:
		return fmt.Errorf("%w; %s %s until then", err, count(n.Recipients, "recipient"), done)
	}
	if o.Verb == control.VerbCancel && o.Filter.ID == "" {
		x, err := g.spreadTo(ctx, client, here, "ordered")
		if err != nil {
			return err
		}
		if x.Fleet != "" && n == (control.Selected{}) {
			printable.Fprintln(os.Stdout, "nothing on this node")
			return nil // what is on the others is known there
		}
	}
	if n == (control.Selected{}) {
		return nothing(o.Verb, o.Filter)
	}
	printable.Fprintf(os.Stdout, "%s of %s %s\n", count(n.Recipients, "recipient"), count(n.Messages, "message"), done)
	if n.Active > 0 {
		printable.Fprintf(os.Stdout, "%s in transactions under way; run it again for what comes back\n", count(n.Active, "recipient"))
	}
	return nil
}

// confirm asks a question; only "y" or "yes" is yes.
func confirm(in io.Reader, out io.Writer, question string) bool {
	printable.Fprintf(out, "%s [y/N] ", question)
	var answer string
	fmt.Fscanln(in, &answer)
	return answer == "y" || answer == "yes" || answer == "Y"
}
