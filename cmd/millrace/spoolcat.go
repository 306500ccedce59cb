package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/agent/spool"
)

// catCmd prints a message of the spool that the configuration names.
type catCmd struct{ spoolCat }

func (c *catCmd) Help() string {
	return `Prints a message that is queued, or done and not yet reclaimed: its envelope with the
state of each recipient and the last reply, then its content, in the layout of
postcat(1). It reads the spool itself, with the rights of its user, or root. Lines end
in LF alone; on a terminal a question mark stands for what is not printable. Of content
that is damaged it prints what there is.

Exit code: 1 if there is no such message, or some of it is damaged.

Example:
  millrace cat M1A-3F0040`
}

// Run is spool cat.
func (c *catCmd) Run(g *globals) error { return c.spoolCat.Run(&spoolCmd{}, g) }

type spoolCat struct {
	ID string `arg:"" help:"Message id, like M1A-3F0040."`
}

func (c *spoolCat) Help() string {
	return `Prints a message in the layout of postcat(1). Lines end in LF alone. Of content
that is damaged it prints what there is, and ends with exit code 1.`
}

func (c *spoolCat) Run(s *spoolCmd, g *globals) error {
	r, err := s.open(g)
	if err != nil {
		return err
	}
	defer r.Close()
	out := bufio.NewWriter(os.Stdout)
	content := io.Writer(out)
	if term.IsTerminal(int(os.Stdout.Fd())) {
		content = printable.NewWriter(out)
	}
	return errors.Join(c.cat(out, content, r), out.Flush())
}

// cat writes what is ours to out, and the message to content, which writes there too.
func (c *spoolCat) cat(out, content io.Writer, r *spool.Reader) error {
	id, err := spool.ParseID(c.ID)
	if err != nil {
		return err
	}
	m, err := r.Message(id)
	if err != nil {
		return err
	}
	e := m.Envelope
	printable.Fprintf(out, "*** ENVELOPE RECORDS %s ***\n", id)
	printable.Fprintf(out, "message_size: %d\n", e.Size)
	printable.Fprintf(out, "message_arrival_time: %s\n", e.Arrived.Format(time.ANSIC))
	attr := func(name, value string) {
		if value != "" {
			printable.Fprintf(out, "named_attribute: %s=%s\n", name, value)
		}
	}
	attr("log_client_name", e.ClientName)
	attr("log_client_address", e.ClientAddr)
	attr("log_helo_name", e.Helo)
	attr("log_protocol_name", e.Protocol)
	attr("sasl_username", e.AuthUser)
	attr("daemon_name", e.Daemon)
	attr("host", e.ByHost)
	attr("host_queue_id", e.QueueID)
	attr("stream", e.Stream)
	attr("pool", e.Pool)
	attr("verdict", string(m.Verdict))
	if e.Origin == spool.Report {
		attr("origin", "report")
	}
	attr("mail_arguments", strings.Join(e.Args, " "))
	printable.Fprintf(out, "sender: %s\n", e.Sender)
	for i, rcpt := range e.Recipients {
		attr("rcpt_arguments", strings.Join(rcpt.Args, " "))
		attr("state", stateText(&m.States[i]))
		name := "recipient"
		if m.States[i].Status.Final() {
			name = "done_recipient"
		}
		printable.Fprintf(out, "%s: %s\n", name, rcpt.Address)
	}
	printable.Fprintf(out, "*** MESSAGE CONTENTS %s ***\n", id)
	if err := copyLines(content, r, id); err != nil {
		return err
	}
	printable.Fprintf(out, "*** HEADER EXTRACTED %s ***\n*** MESSAGE FILE END %s ***\n", id, id)
	return nil
}

// stateText is "deferred, 3 tries, next 2026-...: 451 4.7.1 ...".
func stateText(st *spool.State) string {
	s := stateName(st)
	if st.Tries > 0 {
		s += fmt.Sprintf(", %d tries", st.Tries)
	}
	if st.From != "" {
		s += ", from " + st.From
	}
	if st.Status == spool.Queued && !st.Due.IsZero() {
		s += ", next " + st.Due.Format(time.RFC3339)
	}
	if st.Reply != "" {
		s += ": " + st.Reply
	}
	return s
}

// copyLines writes the content with LF for CR LF, and an LF at its end.
func copyLines(out io.Writer, r *spool.Reader, id spool.ID) error {
	content, err := r.Open(id)
	if err != nil {
		return err
	}
	defer content.Close()
	in := bufio.NewReaderSize(content, 64<<10)
	last := byte('\n')
	for {
		line, err := in.ReadSlice('\n')
		if err == bufio.ErrBufferFull && line[len(line)-1] == '\r' {
			line = line[:len(line)-1] // what follows tells what it is
			in.UnreadByte()
		}
		if n := len(line); n > 0 {
			if n > 1 && line[n-2] == '\r' && line[n-1] == '\n' {
				line[n-2], line = '\n', line[:n-1]
			}
			last = line[len(line)-1]
			if _, err := out.Write(line); err != nil {
				return err
			}
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		if err != nil && last != '\n' {
			if _, err := io.WriteString(out, "\n"); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
