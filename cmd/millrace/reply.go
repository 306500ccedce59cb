package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/cmd/internal/program"
)

// replyCmd tells how a reply is read.
type replyCmd struct {
	Reply   []string `arg:"" optional:"" help:"The reply, code and text; - for lines from standard input."`
	Stage   string   `enum:"connect,tls,mail,rcpt,data" default:"rcpt" help:"What it answered: connect, tls, mail, rcpt or data. Default: ${default}."`
	MX      string   `name:"mx" placeholder:"HOST" help:"The host that spoke."`
	JSON    bool     `name:"json" help:"One JSON object a line."`
	Unknown bool     `help:"List what the running agent has met and did not know."`
}

func (c *replyCmd) Help() string {
	return `Says how a server's reply is read: its class, whether it is hard (the address is of no
use any more: only that suppresses one), what would be done, and which rule says so: one
of the configuration's [[reply]], the name of a shipped reading, "status" or "none". No
agent is needed. With - each line of standard input is

  STAGE<tab>HOST or -<tab>CODE TEXT

and each is answered by a line; with --json that is an object with class, hard, action
("bounce", "retry"), rule, and where there is one effect, greylisted, wait (in seconds).

--unknown asks the agent for replies that no rule knew, with a count and an example of
each. What they mean can be said with a [[reply]]; see millrace.toml(5).

Examples:
  millrace reply '550 5.1.1 <x@example.com>: User unknown'
  millrace reply --stage data --mx aspmx.l.google.com '421 4.7.28 unusual rate'
  millrace reply --unknown`
}

// replyAnswer is what is said of one reply.
type replyAnswer struct {
	Class      string `json:"class"`
	Hard       bool   `json:"hard"`
	Action     string `json:"action"`
	Rule       string `json:"rule"`
	Effect     string `json:"effect,omitempty"`
	Greylisted bool   `json:"greylisted,omitempty"`
	Wait       int    `json:"wait,omitempty"` // seconds
}

func (c *replyCmd) Run(ctx context.Context, g *globals) error {
	if c.Unknown == (len(c.Reply) > 0) {
		return program.Usage("give a reply, or - for standard input, or else --unknown")
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	if c.Unknown {
		return c.unknown(ctx, g, out)
	}
	rules, err := g.replyRules()
	if err != nil {
		return err
	}
	p := outcome.Policy{Rules: rules}
	if len(c.Reply) == 1 && c.Reply[0] == "-" {
		return c.lines(&p, os.Stdin, out)
	}
	a, err := readReply(&p, c.Stage, c.MX, strings.Join(c.Reply, " "))
	if err != nil {
		return err
	}
	return c.print(out, &a)
}

// replyRules are the rules of the configuration, or without one the shipped ones.
func (g *globals) replyRules() ([]outcome.Rule, error) {
	var list []config.Reply
	switch cfg, _, err := g.Load(); {
	case err == nil:
		list = cfg.Replies
	case missing(g.Config):
		if list, err = config.ShippedReplies(); err != nil {
			return nil, err
		}
	default:
		return nil, err
	}
	return settings.ReplyRules(list)
}

func missing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

func (c *replyCmd) print(out io.Writer, a *replyAnswer) error {
	if c.JSON {
		return json.NewEncoder(printable.NewJSON(out)).Encode(a)
	}
	s := a.Class
	if a.Hard {
		s += ", hard"
	}
	s += ": " + a.Action
	if a.Effect != "" {
		s += ", " + a.Effect
	}
	if a.Wait > 0 {
		s += fmt.Sprintf(", it asks to wait %s", time.Duration(a.Wait)*time.Second)
	}
	_, err := printable.Fprintln(out, fmt.Sprintf("%s (rule %s)", s, a.Rule))
	return err
}

// maxReplyLine bounds a line of standard input, in octets. The agent keeps far less of a
// reply; a log may have more.
const maxReplyLine = 1 << 20

// lines answers each line of in.
func (c *replyCmd) lines(p *outcome.Policy, in io.Reader, out io.Writer) error {
	s := bufio.NewScanner(in)
	s.Buffer(nil, maxReplyLine)
	n := 1
	for ; s.Scan(); n++ {
		fields := strings.SplitN(strings.TrimSuffix(s.Text(), "\r"), "\t", 3)
		if len(fields) < 3 {
			return fmt.Errorf("line %d: it is not stage, tab, host or -, tab, reply", n)
		}
		a, err := readReply(p, fields[0], strings.TrimSuffix(fields[1], "-"), fields[2])
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if err := c.print(out, &a); err != nil {
			return err
		}
	}
	if errors.Is(s.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("line %d: it is longer than %d octets", n, maxReplyLine)
	}
	return s.Err()
}

// readReply has the agent's own code decide on a reply to a message that does not expire.
func readReply(p *outcome.Policy, stage, host, reply string) (replyAnswer, error) {
	at, ok := outcome.ParseStage(strings.ToLower(stage))
	if !ok {
		return replyAnswer{}, fmt.Errorf("stage %q is unknown; write connect, tls, mail, rcpt or data", stage)
	}
	reply = strings.TrimSpace(reply)
	digits, text := reply, ""
	if len(reply) > 3 && (reply[3] == ' ' || reply[3] == '-') {
		digits, text = reply[:3], strings.TrimSpace(reply[4:])
	}
	code, err := strconv.Atoi(digits)
	if err != nil || code < 200 || code > 599 {
		return replyAnswer{}, fmt.Errorf("%q is no reply: it begins with a code like 550", reply)
	}
	a := outcome.Attempt{Stage: at, Code: code, Text: text}
	if first, rest, _ := strings.Cut(text, " "); outcome.IsStatus(first) {
		a.Enhanced, a.Text = first, rest
	}
	if host != "" {
		a.Peer = host + "[192.0.2.1]" // no address matters
	}
	d := p.Decide(time.Now(), a)
	x := replyAnswer{
		Class: d.Class.String(), Hard: d.Hard, Rule: d.Rule, Action: "retry",
		Greylisted: d.Greylisted, Wait: int(d.Wait.Seconds()),
	}
	switch d.Action {
	case outcome.Deliver:
		x.Action, x.Rule = "deliver", outcome.NoRule
	case outcome.Bounce:
		x.Action = "bounce"
	}
	if d.Effect != nil {
		x.Effect = effectInWords(d.Effect)
	}
	return x, nil
}

// effectInWords is what a rule does beyond the one recipient, "" if nothing.
func effectInWords(e *outcome.Effect) string {
	what := ""
	switch e.Kind {
	case outcome.Slow:
		what = "the site " + (&control.Effect{Action: "slow"}).Does()
	case outcome.Suspend:
		what = "the site " + (&control.Effect{Action: "suspend"}).Does()
	case outcome.Bound:
		what = "the site " + (&control.Effect{Action: "sessions", Sessions: e.Sessions}).Does()
	case outcome.Pause:
		what = "the stream waits at the site"
	case outcome.HoldStream:
		what = "the stream is held"
	default:
		return ""
	}
	if e.For > 0 {
		what += " for " + span(e.For)
	}
	if e.After > 1 {
		what += fmt.Sprintf(", after %d of them within %s", e.After, span(e.Within))
	}
	return what
}

func (c *replyCmd) unknown(ctx context.Context, g *globals, out io.Writer) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	t, err := client.Totals(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(out, t.UnknownReplies)
	}
	if len(t.UnknownReplies) == 0 {
		printable.Fprintln(out, "Every reply was known to a rule")
	}
	printUnknown(out, t.UnknownReplies)
	return nil
}

func printUnknown(out io.Writer, list []control.UnknownReply) {
	for _, x := range list {
		printable.Fprintln(out, fmt.Sprintf("%9d  %s", x.Count, x.Example))
	}
}
