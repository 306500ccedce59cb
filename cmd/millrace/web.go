package main

import (
	"context"
	"os"

	"github.com/millrace/millrace/agent/printable"
)

// webCmd prints a link to the status page.
type webCmd struct{}

func (c *webCmd) Help() string {
	return `Anybody on this host may look at the agent's status page ([agent.http] listen), but it
hides mail addresses, and the page of recent failures. The link lets one browser
see them for eight hours. It is good once, for five minutes.

Examples:
  millrace web
  ssh -L 8891:127.0.0.1:8891 mail.example.com    from elsewhere; there: millrace web`
}

func (c *webCmd) Run(ctx context.Context, g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	link, err := client.WebLink(ctx)
	if err == nil {
		printable.Fprintln(os.Stdout, link)
	}
	return err
}
