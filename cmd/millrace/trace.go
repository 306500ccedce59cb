package main

import (
	"context"
	"os"

	"github.com/millrace/millrace/agent"
	"github.com/millrace/millrace/agent/printable"
)

// traceCmd shows how mail for a destination would go.
type traceCmd struct {
	Destination string `arg:"" help:"A domain, or an address in it."`
}

func (c *traceCmd) Help() string {
	return `Looks the destination up as the agent does, and talks to its first host that
answers, from EHLO to QUIT, without sending mail. The agent need not run, and
its state is not touched.

What it prints:
  queue, MX   the queue that takes the mail, and the hosts with their addresses
  policy      what the domain publishes: DANE with its TLSA records, MTA-STS
  C: S:       what this host says, and what the other one answers
  --          what happens to the connection: TLS version, cipher, certificate

Exit code: 0 if a session came about; 1 if mail would have to wait, with the reason.

Examples:
  millrace trace example.com
  millrace trace someone@example.com
  millrace --config /root/new.toml trace example.com    try a configuration first`
}

// Run prints to standard output what is found, to standard error what is wrong.
func (c *traceCmd) Run(ctx context.Context, g *globals) error {
	cfg, _, err := g.Load()
	if err != nil {
		return err
	}
	err = agent.Transcript(ctx, cfg, c.Destination, g.Logger(os.Stderr), func(line string) { printable.Fprintln(os.Stdout, line) })
	return printable.Error(err)
}
