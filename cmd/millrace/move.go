package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/cmd/internal/program"
)

// moveCmd gives queued mail to another node.
type moveCmd struct {
	filterFlags `embed:"" group:"Which mail (several conditions must all hold):"`
	To          string `placeholder:"NODE" help:"To this node of the fleet."`
	Yes         bool   `help:"Do not ask."`
	List        bool   `help:"List the transfers that wait, to this node and from it."`
	Abandon     string `placeholder:"TRANSFER" help:"Keep the mail of a transfer from here, and send it from here."`
	Accept      string `placeholder:"TRANSFER" help:"Send what has come of a transfer to here, though the node that it came from has not confirmed that it is ours."`
	JSON        bool   `name:"json" help:"With --list: a JSON object a line."`
}

func (c *moveCmd) Help() string {
	return `Gives queued mail to another node of the fleet (see millrace-fleet(7)), which sends it
from then on; its age, next try, tries, stream, source, and hold go along. What is in a
transaction at that moment takes its course. A pause of this node alone (--here) does
not hold there. Each recipient is sent to by one node, whatever breaks down meanwhile.

What is given to a node that then does not answer waits, and goes on by itself when it
does; --list shows it. If it does not come back:

  --abandon TRANSFER  on the node where the mail was: it is sent from there. The other
                      node has it too, perhaps, sends none of it, and drops it when
                      it hears of this
  --accept TRANSFER   on the node to where the mail was to go, if the one where it was
                      is gone for good. Where that comes back in spite of it, it hears
                      what was accepted; but mail that was abandoned there, and
                      accepted here, is sent twice

Run it again after an error: it goes on with what is left.

Examples:
  millrace move --to b --all
  millrace move --to b --stream news.example.com --yes
  millrace move --list`
}

func (c *moveCmd) Run(ctx context.Context, g *globals) error {
	asked := 0
	for _, is := range []bool{c.To != "", c.List, c.Abandon != "", c.Accept != ""} {
		if is {
			asked++
		}
	}
	if asked != 1 {
		return program.Usage("say one of --to NODE, --list, --abandon TRANSFER, --accept TRANSFER")
	}
	client, err := g.client()
	if err != nil {
		return err
	}
	defer client.Close()
	switch {
	case c.List:
		list, err := client.Transfers(ctx)
		if err != nil {
			return err
		}
		if c.JSON {
			return printJSON(os.Stdout, list)
		}
		printTransfers(os.Stdout, list)
		return nil
	case c.To != "":
		return c.move(ctx, g, client)
	}
	o, question, done := control.TransferOrder{ID: c.Abandon}, "Keep the mail of this transfer, and send it from here?", "kept here"
	if c.Accept != "" {
		o, question, done = control.TransferOrder{ID: c.Accept, Accept: true}, "Is the node that this transfer came from gone for good? Else its mail may be sent twice.", "accepted"
	}
	if err := consent(c.Yes, question, "this decides who sends mail", "nothing was changed"); err != nil {
		return err
	}
	n, err := client.EndTransfer(ctx, o)
	if err != nil {
		return err
	}
	printable.Fprintf(os.Stdout, "%s of %s %s\n", count(n.Recipients, "recipient"), count(n.Messages, "message"), done)
	return nil
}

// move moves, and asks before it does.
func (c *moveCmd) move(ctx context.Context, g *globals, client *control.Client) error {
	f, err := c.some()
	if err != nil {
		return err
	}
	if !c.Yes {
		n, err := client.Act(ctx, control.Action{Verb: control.VerbMove, To: c.To, Filter: f, Dry: true}, nil)
		if err != nil {
			return err
		}
		if n.Recipients == 0 {
			return nothing(control.VerbMove, f)
		}
		what := fmt.Sprintf("Move %s of %s (%s) to node %s?", count(n.Recipients, "recipient"), count(n.Messages, "message"), f, c.To)
		if err := consent(false, what, "this takes mail out of this node's queue", "nothing was moved"); err != nil {
			return err
		}
	}
	return g.give(ctx, control.Action{Verb: control.VerbMove, To: c.To, Filter: f}, true, "moved to node "+c.To)
}

func printTransfers(out io.Writer, list []control.Transfer) {
	if len(list) == 0 {
		printable.Fprintln(out, "No transfer waits")
		return
	}
	for i := range list {
		t := &list[i]
		way, node := "to", t.Node
		if t.In {
			way = "from"
		}
		mail := count(t.Recipients, "recipient") + " of " + count(t.Messages, "message")
		if t.Kept {
			mail = "kept here"
		}
		printable.Fprintf(out, "%s  %s %s  since %s  %s: %s\n", t.ID, way, node, t.Began.Local().Format(time.DateTime), mail, t.Why)
	}
}
