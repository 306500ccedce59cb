package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/printable"
)

// fleetCmd is about hosts that share limits.
type fleetCmd struct {
	Status    fleetStatus    `cmd:"" default:"withargs" help:"Print the members, how the store does, and what this node may use."`
	Forget    fleetForget    `cmd:"" help:"Give to others what is a node's that is off for good."`
	Leave     fleetLeave     `cmd:"" help:"Give up this node's part, for good."`
	Bootstrap fleetBootstrap `cmd:"" help:"Begin a new fleet, once and at one node."`
}

func (c *fleetCmd) Help() string {
	return `The nodes of a fleet share limits by a store ([fleet] in the configuration). Each has its
floor of each, limit/members, for good, and more is lent to it for half a minute at a time.
While the store is away each uses its lease to the end, then its floors. MAY USE is what this
node may use now, floor and loan together.

A node that is stopped keeps its floors, and has them when it comes back: to stop the
agent is no leave. What is off for good is told by "forget" at another node, or by
"leave" before. A node that was forgotten and starts again hears that from the store, and
joins anew; if the store is away it cannot know, and uses its former floors after ten
seconds: remove fleet.json in its state_directory then.

The first node of a new fleet has to be told that it is, by "bootstrap": a store that is
empty might have lost what it had. With nodes = N in [fleet], the same everywhere, all
know that once all N have called.

Examples:
  millrace fleet bootstrap       # once, at the first node of a new fleet
  millrace fleet status --json | jq .lease_seconds_left
  millrace fleet forget mx3      # which will not come back
  millrace fleet leave           # before [fleet] is taken out of the configuration`
}

type fleetStatus struct {
	JSON bool `name:"json" help:"One JSON object."`
}

func (c *fleetStatus) Run(ctx context.Context, g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	f, err := client.Fleet(ctx)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	if c.JSON {
		return printJSON(out, []any{f})
	}
	if f.Fleet == "" {
		printable.Fprintln(out, "this host is of no fleet ([fleet] in the configuration)")
		return nil
	}
	members := "no members known yet"
	if len(f.Members) > 0 {
		members = "members: " + strings.Join(f.Members, " ")
	}
	printable.Fprintf(out, "fleet %s, node %s, %s\n", f.Fleet, f.Node, members)
	store := "store " + f.State
	if f.Server != "" {
		store += " (" + f.Server + ")"
	}
	if !f.Since.IsZero() {
		store += " since " + f.Since.Local().Format(time.DateTime)
	}
	printable.Fprintf(out, "%s, %s calls, %s not answered", store, thousands(int(f.Calls)), thousands(int(f.Errors)))
	if f.Lease > 0 && len(f.Members) > 0 { // else nothing can have been lent
		printable.Fprintf(out, ", lease runs for %.0f s", f.Lease)
	}
	printable.Fprintln(out)
	if f.Away != "" {
		printable.Fprintf(out, "%s\n", f.Away)
	}
	for _, w := range f.Warnings {
		printable.Fprintf(out, "warning: %s\n", w)
	}
	switch f.Divisor {
	case 0:
		printable.Fprintln(out, "this node has no floor yet: mail for what is shared waits for what the store lends")
	case 1:
		printable.Fprintln(out, "floor of each limit: all of it")
	default:
		printable.Fprintf(out, "floor of each limit: 1/%d of it\n", f.Divisor)
	}
	if len(f.Limits) == 0 {
		return nil
	}
	const row = "%8s %8s %8s %8s %8s  %s\n"
	printable.Fprintf(out, row, "LIMIT", "FLOOR", "MAY USE", "IN USE", "WANTED", "NAME")
	for _, x := range f.Limits {
		has, want := strconv.Itoa(x.Has), number(x.Want)
		if strings.HasPrefix(x.Name, "stream/") {
			has, want = "-", "-"
		}
		printable.Fprintf(out, row, number(x.Limit), number(x.Floor), number(x.May), has, want, x.Name)
	}
	if f.More > 0 {
		printable.Fprintf(out, "and %s more\n", thousands(f.More))
	}
	return nil
}

// number writes sessions or a rate.
func number(x float64) string { return fmt.Sprintf("%.4g", x) }

type fleetForget struct {
	Node string `arg:"" help:"Its name."`
}

func (c *fleetForget) Run(ctx context.Context, g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	if err := client.ForgetNode(ctx, c.Node); err != nil {
		return err
	}
	printable.Fprintf(os.Stdout, "%s is no member any more: what was its own is lent to the others\n", c.Node)
	return nil
}

type fleetLeave struct{}

func (c *fleetLeave) Run(ctx context.Context, g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	if err := client.LeaveFleet(ctx); err != nil {
		return err
	}
	printable.Fprintln(os.Stdout, "this node has left: mail for what is shared waits here until [fleet] is taken out of the configuration, or the agent is started again, which joins anew")
	return nil
}

type fleetBootstrap struct{}

func (c *fleetBootstrap) Run(ctx context.Context, g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	if err := client.BootstrapFleet(ctx); err != nil {
		return err
	}
	printable.Fprintln(os.Stdout, "the fleet begins here; this node has its part in about half a minute (millrace fleet)")
	return nil
}
