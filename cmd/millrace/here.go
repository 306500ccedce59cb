package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/printable"
)

// hereFlag keeps an order on one node of a fleet.
type hereFlag struct {
	Here bool `help:"In a fleet: on this node alone."`
}

// clientFor is a client whose orders are for this node alone, or for the whole fleet.
func (g *globals) clientFor(here bool) (*control.Client, error) {
	client, err := g.client()
	if err == nil && here {
		client.Here()
	}
	return client, err
}

// spread says on which nodes of the fleet an order is done, as a warning if a node of one has no part
// in orders. Without a fleet there is nothing to say.
func (g *globals) spread(ctx context.Context, client *control.Client, here bool, done string) error {
	_, err := g.spreadTo(ctx, client, here, done)
	return err
}

// spreadTo does what spread does, and returns what it said; of no Fleet if it had nothing to say.
func (g *globals) spreadTo(ctx context.Context, client *control.Client, here bool, done string) (x control.Spread, err error) {
	if here {
		return x, nil
	}
	switch x, err = client.Spread(ctx); {
	case err != nil:
	case x.Fleet != "":
		printable.Fprintln(os.Stdout, spreadInWords(&x, done))
	case x.Alone != "":
		printable.Fprintf(os.Stderr, "millrace: warning: %s on this node only: %s\n", done, x.Alone)
	}
	return x, err
}

func spreadInWords(x *control.Spread, done string) string {
	text := fmt.Sprintf("%s on %d of %d nodes", done, len(x.Confirmed), len(x.Confirmed)+len(x.Missing))
	switch len(x.Missing) {
	case 0:
		return text
	case 1:
		return text + "; " + x.Missing[0] + " has not confirmed; it gets it when it is reachable"
	}
	return text + "; " + strings.Join(x.Missing, ", ") + " have not confirmed; they get it when they are reachable"
}
