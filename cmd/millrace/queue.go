package main

import (
	"bufio"
	"cmp"
	"context"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/printable"
)

// queueCmd lists the queue as mailq does.
type queueCmd struct {
	filterFlags `embed:"" group:"Which mail (several conditions must all hold):"`
	fleetFlag   `embed:""`
	JSON        bool `name:"json" help:"One JSON object a line, as postqueue -j prints them."`
}

func (c *queueCmd) Help() string {
	return `Lists the diverted mail that is not delivered yet, in the layout of mailq(1). Behind
an id stands * if the message is being delivered now, ! if it is held or paused. The
reason of the last failure stands in brackets above its recipients; it begins with
"stuck:" where the host MTA itself refused a bounce or mail that was given back.

Examples:
  millrace queue
  millrace queue --state deferred --older-than 1d
  millrace queue --fleet --user hacked@example.com
  millrace queue --json | jq -r 'select(.queue_name=="google").queue_id'`
}

func (c *queueCmd) Run(ctx context.Context, g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	if c.Fleet {
		out := bufio.NewWriter(os.Stdout)
		defer out.Flush()
		l := mailq{out: out}
		err := mailqOfFleet(ctx, client, c.filter(), c.JSON, &l)
		if c.JSON || err != nil && !isUnanswered(err) {
			return err
		}
		return cmp.Or(l.end(), err)
	}
	if c.JSON {
		return client.Lines(ctx, c.filter(), printable.NewJSON(os.Stdout))
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	l := mailq{out: out}
	if err := client.Messages(ctx, c.filter(), l.message); err != nil {
		return err
	}
	return l.end()
}

// row is a line of a listing, as Postfix prints it with enable_long_queue_ids.
const row = "%-17s %8s %-19s %s\n"

// mailq writes a listing in the layout of Postfix's postqueue -p.
type mailq struct {
	out      io.Writer
	messages int
	octets   int64

	fleet bool   // each line has its node's name before it
	node  string // of the next message
}

// line writes one, with the column of its node.
func (l *mailq) line(node, format string, args ...any) {
	if l.fleet {
		printable.Fprintf(l.out, nodeColumn, node)
	}
	printable.Fprintf(l.out, format, args...)
}

func (l *mailq) message(m *control.Message) error {
	if l.messages == 0 {
		l.line("----Node-------", row, "----Queue ID-----", "--Size--", "---Arrival Time----", "--Sender/Recipient------")
	}
	l.messages++
	l.octets += m.Size
	mark := ""
	for _, r := range m.Recipients {
		switch {
		case r.State == "active":
			mark = "*"
		case r.State == "held" && mark == "":
			mark = "!"
		}
	}
	sender := m.Sender
	if sender == "" {
		sender = "MAILER-DAEMON"
	}
	l.line(l.node, row, m.ID+mark, strconv.FormatInt(m.Size, 10),
		time.Unix(m.ArrivalTime, 0).Format("Mon Jan _2 15:04:05"), sender)
	reason := ""
	for _, r := range m.Recipients {
		why := r.Reason
		if r.State == "stuck" { // the host MTA refused it
			why = "stuck: " + why
		}
		if why != reason {
			l.line("", "%78s\n", "("+cmp.Or(why, "reason unavailable")+")")
		}
		reason = why
		l.line("", row, "", "", "", r.Address)
	}
	_, err := printable.Fprintln(l.out)
	return err
}

func (l *mailq) end() error {
	if l.messages == 0 {
		_, err := printable.Fprintln(l.out, "Mail queue is empty")
		return err
	}
	s := "s"
	if l.messages == 1 {
		s = ""
	}
	_, err := printable.Fprintf(l.out, "-- %d Kbytes in %d Request%s.\n", l.octets/1024, l.messages, s)
	return err
}
