package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"

	"github.com/millrace/millrace/agent/control"
)

// client connects to the agent of the configuration.
func (g *globals) client() (*control.Client, error) {
	cfg, _, err := g.Load()
	if err != nil {
		return nil, err
	}
	return control.NewClient(cfg.Agent.Control), nil
}

// streamsCmd lists streams.
type streamsCmd struct {
	JSON bool `name:"json" help:"One JSON object a line."`
}

func (c *streamsCmd) Help() string {
	return `Lists the streams (campaigns and lists) that have mail in the queue, or that are
paused or have a priority. Counts are recipients.`
}

func (c *streamsCmd) Run(ctx context.Context, g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	list, err := client.Streams(ctx)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	if c.JSON {
		enc := json.NewEncoder(out)
		for _, s := range list {
			if err := enc.Encode(s); err != nil {
				return err
			}
		}
		return nil
	}
	const row = "%10v %10v %8v %8v  %s\n"
	fmt.Fprintf(out, row, "WAITING", "DEFERRED", "ACTIVE", "PRIORITY", "STREAM")
	for _, s := range list {
		name := s.Name
		if s.Paused != "" {
			name += "  (paused: " + s.Paused + ")"
		}
		fmt.Fprintf(out, row, s.Waiting, s.Deferred, s.Active, max(1, s.Priority), name)
	}
	return nil
}

// pauseCmd stops a stream.
type pauseCmd struct {
	Stream string `arg:"" help:"The stream, as millrace streams lists it."`
	Reason string `default:"by the admin" help:"Why, for listings and logs."`
}

func (c *pauseCmd) Help() string {
	return `Nothing more of the stream is sent until millrace resume. Transactions under way
finish; new mail of the stream is taken into the spool and waits; nothing expires.

Example:
  millrace pause "Spring sale <sale.example.com>" --reason "wrong price in it"`
}

func (c *pauseCmd) Run(ctx context.Context, g *globals) error {
	if c.Reason == "" {
		return errors.New("--reason must not be empty")
	}
	return g.set(ctx, control.Setting{Stream: c.Stream, Paused: &c.Reason})
}

// resumeCmd lets a stream go on.
type resumeCmd struct {
	Stream string `arg:"" help:"The stream, as millrace streams lists it."`
}

func (c *resumeCmd) Run(ctx context.Context, g *globals) error {
	return g.set(ctx, control.Setting{Stream: c.Stream, Paused: new(string)})
}

// priorityCmd gives a stream more than one share.
type priorityCmd struct {
	Stream   string `arg:"" help:"The stream, as millrace streams lists it."`
	Priority int    `arg:"" help:"Its share beside the other streams, 1 to 100; 1 is what each has."`
}

func (c *priorityCmd) Help() string {
	return `Streams that wait for the same receiver take turns. A stream of priority 4 sends
four times as much in its turn as one of priority 1.`
}

func (c *priorityCmd) Run(ctx context.Context, g *globals) error {
	return g.set(ctx, control.Setting{Stream: c.Stream, Priority: &c.Priority})
}

func (g *globals) set(ctx context.Context, s control.Setting) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	return client.Set(ctx, s)
}

// cancelCmd ends queued mail.
type cancelCmd struct {
	All    bool   `help:"Everything in the queue."`
	ID     string `name:"id" placeholder:"ID" help:"The message of this id."`
	Stream string `placeholder:"NAME" help:"Mail of this stream."`
	Queue  string `placeholder:"NAME" help:"Mail of this queue."`
	Site   string `placeholder:"NAME" help:"Mail to this site."`
	Domain string `placeholder:"NAME" help:"Mail to recipients in this domain."`
	Sender string `placeholder:"ADDRESS" help:"Mail of this envelope sender."`
	User   string `placeholder:"NAME" help:"Mail that this SASL user submitted."`
	Client string `placeholder:"ADDRESS" help:"Mail that this SMTP client submitted."`
	Yes    bool   `help:"Do not ask."`
}

func (c *cancelCmd) Help() string {
	return `Ends queued mail for good: it is not sent, and its sender is not told. What is in
a transaction at that moment takes its course. Several conditions must all hold.

Examples:
  millrace cancel --stream "Spring sale <sale.example.com>"
  millrace cancel --user hacked@example.com --yes`
}

func (c *cancelCmd) Run(ctx context.Context, g *globals) error {
	f := control.Filter{All: c.All, ID: c.ID, Stream: c.Stream, Queue: c.Queue, Site: c.Site,
		Domain: c.Domain, Sender: c.Sender, User: c.User, Client: c.Client}
	if f.Empty() {
		return errors.New("say what to cancel: --stream, --user, --domain ... or --all")
	}
	client, err := g.client()
	if err != nil {
		return err
	}
	if !c.Yes {
		if !term.IsTerminal(int(os.Stdin.Fd())) {
			return errors.New("this ends mail for good; say --yes where nobody can be asked")
		}
		if !confirm(os.Stdin, os.Stderr, "Cancel this mail for good, without telling its senders?") {
			return errors.New("nothing was cancelled")
		}
	}
	done, err := client.Cancel(ctx, f)
	if err != nil {
		return err
	}
	fmt.Printf("%s cancelled\n", count(done.Recipients, "recipient"))
	if done.Active > 0 {
		fmt.Printf("%s in transactions under way; run it again for what comes back\n", count(done.Active, "recipient"))
	}
	return nil
}

// confirm asks a question; only "y" or "yes" is yes.
func confirm(in io.Reader, out io.Writer, question string) bool {
	fmt.Fprintf(out, "%s [y/N] ", question)
	var answer string
	fmt.Fscanln(in, &answer)
	return answer == "y" || answer == "yes" || answer == "Y"
}

// whyCmd explains a site.
type whyCmd struct {
	Site string `arg:"" help:"A site, as millrace queue --json names it: a provider's queue, or the MX set of a domain."`
	JSON bool   `name:"json" help:"One JSON object a line."`
}

func (c *whyCmd) Help() string {
	return `Shows the last changes of how many sessions a site gets and how fast they may send,
each with the receiver's reply or the measurement behind it, oldest first.

Example:
  millrace why google`
}

func (c *whyCmd) Run(ctx context.Context, g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	list, err := client.Why(ctx, c.Site)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for _, x := range list {
		if c.JSON {
			if err := json.NewEncoder(out).Encode(x); err != nil {
				return err
			}
			continue
		}
		pace := ""
		if x.Pace > 0 {
			pace = fmt.Sprintf(" at most %.3g/s", x.Pace)
		}
		fmt.Fprintf(out, "%s  %3d -> %-3d%s  %s\n", x.At.Local().Format(time.DateTime), x.From, x.To, pace, x.Cause)
	}
	return nil
}
