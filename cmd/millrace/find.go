package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/printable"
)

// findCmd looks for queued mail by what an admin has at hand.
type findCmd struct {
	Text      string `arg:"" help:"A part of a recipient's address, of the sender, or of the host's queue id; or the beginning of a message id. In any case."`
	fleetFlag `embed:""`
	JSON      bool `name:"json" help:"One JSON object a line, as postqueue -j prints them."`
}

func (c *findCmd) Help() string {
	return `Lists the queued mail that has something to do with TEXT, as millrace queue does: what
waits for someone who complains, what the log names. Mail that is done is in the log.

Exit code: 1 if nothing queued has to do with it; 75 with --fleet, if a node did not
answer.

Examples:
  millrace find someone@example.com
  millrace find 4fKz1T0Qx9z          Postfix's queue id
  millrace find M1A-                 what came with this segment of the spool`
}

func (c *findCmd) Run(ctx context.Context, g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	l := mailq{out: out}
	each := l.message
	if c.JSON {
		enc := json.NewEncoder(printable.NewJSON(out))
		each = func(m *control.Message) error { l.messages++; return enc.Encode(m) }
	}
	if c.Fleet {
		err = mailqOfFleet(ctx, client, control.Filter{Text: c.Text}, c.JSON, &l)
	} else {
		err = client.Messages(ctx, control.Filter{Text: c.Text}, each)
	}
	if err != nil && !isUnanswered(err) {
		return err
	}
	if l.messages == 0 && err == nil {
		return fmt.Errorf("nothing queued has to do with %q; what is done is in the log", c.Text)
	}
	if c.JSON || l.messages == 0 {
		return err
	}
	return cmp.Or(l.end(), err)
}
