package main

import (
	"bufio"
	"context"
	"os"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/cmd/internal/program"
)

// webhookCmd looks after webhooks, of a running agent.
type webhookCmd struct {
	List   webhookList   `cmd:"" help:"Print how each webhook stands, and the events that it refused."`
	Test   webhookTest   `cmd:"" help:"Post one event that says it is a test."`
	Replay webhookReplay `cmd:"" help:"Post events again, from a time on."`
}

func (c *webhookCmd) Help() string {
	return `Events go to the receivers of [[webhook]] at least once, in order. One that is away
costs nothing: its events wait on disk for seven days, or 256 MiB of them for all
webhooks together. What is refused five times (4xx) is set aside, and listed; a replay
posts it again. Each event has the same id each time: event_id, and webhook-id of a
request.

Examples:
  millrace webhook list
  millrace webhook list --json | jq '.aside[]?.event'
  millrace webhook test listmonk
  millrace webhook replay crm --since 4h`
}

type webhookList struct {
	JSON bool `name:"json" help:"One JSON object a line, with what was refused as it was posted."`
}

func (c *webhookList) Run(ctx context.Context, g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	list, err := client.Webhooks(ctx)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	if c.JSON {
		return printJSON(out, list)
	}
	if len(list) == 0 {
		printable.Fprintln(out, "no [[webhook]] in the configuration")
		return nil
	}
	const row = "%-16s %-9s %8s %10s %6s %6s  %-19s %s\n"
	printable.Fprintf(out, row, "NAME", "FORM", "WAITING", "TAKEN", "ASIDE", "LOST", "LAST TAKEN", "TO")
	for i := range list {
		w := &list[i]
		last := "-"
		if !w.Last.IsZero() {
			last = w.Last.Local().Format(time.DateTime)
		}
		printable.Fprintf(out, row, w.Name, w.Form, thousands(int(w.Waiting)), thousands(int(w.Taken)), thousands(len(w.Aside)), thousands(int(w.Lost)), last, w.Host)
	}
	for i := range list {
		w := &list[i]
		if w.Why != "" {
			since := ""
			if !w.Since.IsZero() {
				since = " since " + w.Since.Local().Format(time.DateTime)
			}
			printable.Fprintf(out, "%s is not taken%s: %s\n", w.Name, since, w.Why)
		}
		for _, a := range w.Aside {
			printable.Fprintf(out, "%s refused at %s: %s: %s\n", w.Name, a.Time.Local().Format(time.DateTime), a.Answer, string(a.Event))
		}
		if w.Gone > 0 {
			printable.Fprintf(out, "%s refused %s more, listed no longer\n", w.Name, thousands(int(w.Gone)))
		}
	}
	return nil
}

type webhookTest struct {
	Webhook string `arg:"" help:"Its name."`
}

func (c *webhookTest) Run(ctx context.Context, g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	answer, err := client.TestWebhook(ctx, control.WebhookTest{Name: c.Webhook})
	if err != nil {
		return err
	}
	printable.Fprintln(os.Stdout, "taken: "+answer)
	return nil
}

type webhookReplay struct {
	Webhook string `arg:"" help:"Its name."`
	Since   string `required:"" placeholder:"TIME" help:"Events of so long ago and later: \"4h\", \"3d\"."`
}

func (c *webhookReplay) Run(ctx context.Context, g *globals) error {
	d, err := config.ParseDuration(c.Since)
	if err != nil {
		return program.Usage("--since: %w", err)
	}
	client, err := g.client()
	if err != nil {
		return err
	}
	n, err := client.ReplayWebhook(ctx, control.WebhookReplay{Name: c.Webhook, Since: time.Now().Add(-d)})
	if err != nil {
		return err
	}
	printable.Fprintf(os.Stdout, "%s will post again what is for it of %s events, in their order\n", c.Webhook, thousands(int(n)))
	return nil
}
