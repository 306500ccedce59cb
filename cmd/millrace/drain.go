package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/cmd/internal/program"
	"github.com/millrace/millrace/milter"
)

// drainCmd lets the queue run empty.
type drainCmd struct {
	Wait bool `help:"Show how far it is, and end when nothing is left."`
	End  bool `help:"End the drain: mail is diverted again, as the configuration says."`
}

func (c *drainCmd) Help() string {
	return `From now on the milter diverts nothing, whatever [milter] mode says, and the agent
sends what it has. That needs no reload, is kept over restarts, shows in millrace
check and on /readyz, and lasts until millrace drain --end. It takes the rights of
the spool's user, or root.

With --wait: exit code 0 when nothing is left. Deferred mail may take days; to be
done sooner, hand back what is left with millrace handback --all.

Examples:
  millrace drain --wait
  millrace drain && millrace handback --all --yes --wait
  millrace drain --end`
}

func (c *drainCmd) Run(ctx context.Context, g *globals) error {
	cfg, _, err := g.Load()
	if err != nil {
		return err
	}
	if c.End {
		if c.Wait {
			return program.Usage("--end and --wait contradict each other")
		}
		if err := spool.EndDrain(cfg.Spool.Directory); err != nil {
			return rights(err)
		}
		printable.Fprintf(os.Stdout, "the drain has ended; the milter's mode is %s\n", cfg.Milter.Mode)
		return nil
	}
	if err := beginDrain(cfg); err != nil {
		return err
	}
	printable.Fprintln(os.Stdout, "the milter diverts nothing more; millrace drain --end ends that")
	if cfg.Inlet.On() {
		printable.Fprintf(os.Stdout, "mail of the inlet goes to %s\n", cfg.Inlet.Host())
	}
	if !c.Wait {
		return nil
	}
	client := control.NewClient(cfg.Agent.Control)
	defer client.Close()
	return drained(ctx, client)
}

// beginDrain makes the milter observe.
func beginDrain(cfg *config.Config) error {
	return rights(spool.Drain(cfg.Spool.Directory, time.Now()))
}

// rights adds the remedy to an error for want of them.
func rights(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w; remedy: run it as root or as the spool's user", err)
	}
	return err
}

// drained waits until the queue is empty and no message can come into it any more:
// one whose commit was under way when the drain began may be late.
func drained(ctx context.Context, client *control.Client) error {
	settled := time.Now().Add(milter.DrainSettles)
	return follow(ctx, os.Stdout, "the drain goes on", func() (string, bool, error) {
		st, err := client.Status(ctx)
		if err != nil {
			return "", false, err
		}
		left := st.Queued()
		line := fmt.Sprintf("%s left: %d waiting, %d deferred, %d under way", count(left, "recipient"), st.Waiting, st.Deferred, st.Active)
		if st.Held > 0 {
			line += fmt.Sprintf(", %d held (millrace queue --state held)", st.Held)
		}
		if st.Loading {
			return "the agent is still reading the spool", false, nil
		}
		rest := time.Until(settled)
		if left == 0 && rest > 0 {
			line = fmt.Sprintf("nothing left; a last message may still come within %s", rest.Round(time.Second))
		}
		return line, left == 0 && rest <= 0, nil
	})
}
