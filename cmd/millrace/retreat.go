package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/fleet"
	"github.com/millrace/millrace/agent/postconf"
	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/milter"
)

// retreatCmd makes Millrace safe to remove.
type retreatCmd struct {
	Deliver       bool   `help:"Deliver here what is queued, instead of handing it back. That may take days."`
	To            string `placeholder:"NODE" help:"Give what is queued to this node of the fleet, as millrace move does, instead of handing it back."`
	Check         bool   `help:"Only say whether Millrace may be removed: exit code 0 if it may."`
	PostfixConfig string `placeholder:"DIR" help:"Postfix's configuration directory, as for millrace setup."`
	Yes           bool   `help:"Do not ask."`
}

func (c *retreatCmd) Help() string {
	return `The way back to the host's MTA alone, in this order:

  1. the milter diverts nothing more (as by millrace drain)
  2. every queued message goes back to Postfix, paced, which delivers it
     (with --deliver Millrace delivers it itself, with --to NODE another node does)
  3. Postfix's configuration becomes what it was before millrace setup
  4. it says that Millrace may be removed, or what still stands in the way: clients
     of the inlet, whose mail goes to Postfix meanwhile, must send there themselves

It may be interrupted and run again at any point. Until 3 nothing is final:
millrace drain --end lets Millrace go on as before.

Examples:
  millrace retreat
  millrace retreat --check && apt-get remove millrace`
}

func (c *retreatCmd) Run(ctx context.Context, g *globals) error {
	cfg, _, err := g.Load()
	if err != nil {
		return err
	}
	if fleet.HasPart(cfg.Agent.StateDirectory) {
		// Without the store it cannot leave, and may be removed all the same.
		(&printer{out: os.Stderr}).say("note: this host is a node of a fleet, and nobody else gets its part of shared limits until it has left; remedy: millrace fleet leave when nothing is queued here, " +
			"or millrace fleet forget at another node when Millrace is removed")
	}
	if c.Check {
		return c.check(ctx, g, cfg)
	}
	// Said before, as the rest may take its time.
	if err := inletLeft(os.DirFS("/"), &cfg.Inlet, g.Config); err != nil {
		(&printer{out: os.Stderr}).say("note: " + err.Error())
	}
	client := control.NewClient(cfg.Agent.Control)
	defer client.Close()
	if err := c.empty(ctx, cfg, client); err != nil {
		return err
	}
	undo := setupCmd{PostfixConfig: c.PostfixConfig, Yes: c.Yes}
	if err := undo.undo(ctx, g); err != nil && !errors.Is(err, postconf.ErrNone) {
		return err
	}
	if err := c.check(ctx, g, cfg); err != nil {
		return err
	}
	printable.Fprintln(os.Stdout, "Millrace may be removed now: apt-get remove millrace")
	return nil
}

// empty has the milter divert nothing more, and waits until nothing is queued.
func (c *retreatCmd) empty(ctx context.Context, cfg *config.Config, client *control.Client) error {
	left, open, err := queued(ctx, cfg, client)
	if err != nil {
		return err
	}
	if c.To == "" { // hold goes along to another node
		if err := nothingStopped(ctx, client); err != nil {
			return err
		}
	}
	if left > 0 && !c.Deliver {
		question, what := fmt.Sprintf("Divert nothing more, and hand %s back to Postfix?", count(left, "recipient")), "this hands queued mail back"
		if c.To != "" {
			question, what = fmt.Sprintf("Divert nothing more, and give %s to node %s?", count(left, "recipient"), c.To), "this gives queued mail to another node"
		}
		if err := consent(c.Yes, question, what, "nothing was changed"); err != nil {
			return err
		}
	}
	if err := beginDrain(cfg); err != nil {
		return err
	}
	_, err = client.Status(ctx)
	if errors.Is(err, control.ErrNotRunning) {
		if left > 0 {
			return fmt.Errorf("%s queued, and only a running millrace-agent can hand them back: %w", count(left, "recipient"), err)
		}
		if open > 0 {
			return fmt.Errorf("%s open, and only a running millrace-agent can end them: %w", transfers(open), err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if c.Deliver {
		return drained(ctx, client)
	}
	// A message whose commit was under way when the drain began may be late.
	told := false
	for settled := time.Now().Add(milter.DrainSettles); ; {
		if err := c.giveAway(ctx, client); err != nil {
			return err
		}
		left, open, err := queued(ctx, cfg, client)
		if err != nil {
			return err
		}
		if left == 0 && open == 0 && time.Now().After(settled) {
			return nil
		}
		if left == 0 && open > 0 && !told {
			told = true
			printable.Fprintf(os.Stdout, "waiting for %s: millrace move --list\n", transfers(open))
		}
		select {
		case <-time.After(followEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// giveAway gives what is queued to whoever is to have it, and waits until he has.
func (c *retreatCmd) giveAway(ctx context.Context, client *control.Client) error {
	if c.To != "" {
		n, err := client.Act(ctx, control.Action{Verb: control.VerbMove, To: c.To, Filter: control.Filter{All: true}}, nil)
		if n.Recipients > 0 {
			printable.Fprintf(os.Stdout, "%s moved to node %s\n", count(n.Recipients, "recipient"), c.To)
		}
		return err
	}
	if err := handBack(ctx, client, control.Filter{All: true}, os.Stdout, true); err != nil {
		return err
	}
	return follow(ctx, os.Stdout, "the agent goes on handing back; run millrace retreat again", func() (string, bool, error) {
		r, err := client.HandbackStatus(ctx)
		return returning(&r), r.Left() == 0, err
	})
}

// nothingStopped says what an admin has stopped: handed back, Postfix would deliver it.
func nothingStopped(ctx context.Context, client *control.Client) error {
	st, err := client.Status(ctx)
	if errors.Is(err, control.ErrNotRunning) {
		return nil // then nothing is handed back either
	}
	if err != nil {
		return err
	}
	if st.Held > 0 {
		return fmt.Errorf("%s on hold, and Postfix would deliver them; remedy: millrace queue --state held shows them; release, cancel, or handback --state held",
			count(st.Held, "recipient"))
	}
	standing, err := client.Standing(ctx)
	if err != nil {
		return err
	}
	if n := len(standing.Pauses); n > 0 {
		return fmt.Errorf("%s on, and Postfix would deliver what is paused; remedy: millrace brakes lists them; resume, or cancel that mail", count(n, "brake"))
	}
	return nil
}

// check says what stands in the way of a removal.
func (c *retreatCmd) check(ctx context.Context, g *globals, cfg *config.Config) error {
	client := control.NewClient(cfg.Agent.Control)
	defer client.Close()
	left, open, err := queued(ctx, cfg, client)
	if err != nil {
		return err
	}
	var wrong error
	if open > 0 {
		wrong = errors.Join(wrong, fmt.Errorf("%s open; remedy: millrace move --list", transfers(open)))
	}
	if left > 0 {
		wrong = errors.Join(wrong, fmt.Errorf("%s queued in %s", count(left, "recipient"), cfg.Spool.Directory))
	}
	plan, err := postconf.Undo(ctx, cfg, postconf.SetupOptions{Dir: c.PostfixConfig})
	switch {
	case errors.Is(err, postconf.ErrNone):
	case err != nil:
		return err
	default:
		for _, change := range plan.Changes {
			wrong = errors.Join(wrong, fmt.Errorf("%s still names Millrace", change.Path))
		}
		for _, n := range plan.ByHand {
			wrong = errors.Join(wrong, errors.New(n))
		}
	}
	dir := c.PostfixConfig
	if dir == "" {
		if dir, err = postconf.DefaultDir(ctx); err != nil {
			dir = "" // no Postfix: no other instance either
		}
	}
	others, err := otherInstances(ctx, dir, g.Config)
	if err != nil {
		return err
	}
	for _, o := range others {
		if o.Names(cfg) {
			wrong = errors.Join(wrong, fmt.Errorf("the Postfix of %s still names Millrace: millrace setup --undo --postfix-config %s", o.Dir(), o.Dir()))
		}
	}
	wrong = errors.Join(wrong, inletLeft(os.DirFS("/"), &cfg.Inlet, g.Config))
	own := filepath.Join(filepath.Dir(g.Config), hostFile)
	if _, err := os.Stat(own); err == nil {
		wrong = errors.Join(wrong, fmt.Errorf("%s is there, of millrace setup", own))
	}
	return wrong
}

// transfers says how many there are.
func transfers(n int) string { return count(n, "transfer") + " of mail to or from other nodes" }

// queued counts the recipients that are not done, and the transfers that are open, whose mail is
// nowhere sent without this node. The agent knows, and without one the spool does.
func queued(ctx context.Context, cfg *config.Config, client *control.Client) (recipients, open int, err error) {
	st, err := client.Status(ctx)
	if err == nil && st.Loading {
		return 0, 0, errors.New("the agent is still reading the spool; try again in a moment")
	}
	if err == nil {
		list, err := client.Transfers(ctx)
		if errors.Is(err, control.ErrOlder) {
			err = nil
		}
		return st.Queued(), len(list), err
	}
	if !errors.Is(err, control.ErrNotRunning) {
		return 0, 0, err
	}
	r, err := spool.OpenReader(cfg.Spool.Directory)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	defer r.Close()
	lists, err := filepath.Glob(filepath.Join(cfg.Spool.Directory, spool.MovesDirectory, "*.json"))
	if err != nil {
		return 0, 0, err
	}
	stats, err := r.Stats()
	return int(stats.Recipients[spool.Queued] + stats.Pending + stats.Damaged), len(lists), err
}
