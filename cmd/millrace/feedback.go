package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/feedback"
	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/cmd/internal/program"
)

// feedbackCmd takes a report from a pipe.
type feedbackCmd struct {
	File string `arg:"" placeholder:"FILE" help:"A message: a file, or - for standard input."`
}

// exitTempFail (EX_TEMPFAIL of sysexits.h) has the MTA try a pipe again later.
const exitTempFail = 75

// exitNoInput (EX_NOINPUT) says that the file cannot be read.
const exitNoInput = 66

func (c *feedbackCmd) Help() string {
	return `Reads one delivery report or complaint (RFC 3464, 5965; also the forms of qmail and
JMRP) and has the agent judge it. Those that pass this host's milter are read anyhow;
this is for return paths that end on another host, or in a pipe. What is about mail of
another host is known where both have the same [feedback] key_file.

A report counts for the recipient whose copy came back with it, once: millrace(7) says
more. Root, the agent's user and the group of the control socket may use it; as a
pipe, it needs a user of that group. 256 KiB of the message are read.

Exit codes, as pipes want them: 0 read, whatever came of it, also if it is no report;
66 the file cannot be read; 75 the agent cannot take it now: the MTA tries again.

Examples:
  millrace feedback - <report.eml
  reports unix - n n - 2 pipe user=millrace argv=/usr/bin/millrace feedback -
                                 in master.cf, and a transport(5) that leads there
(local(8) runs a pipe of aliases(5) as nobody, who may not use the socket.)`
}

func (c *feedbackCmd) Run(ctx context.Context, g *globals) error {
	in := io.Reader(os.Stdin)
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return program.Error{Code: exitNoInput, Err: err}
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, feedback.MaxSize))
	if err != nil {
		return program.Error{Code: exitNoInput, Err: err}
	}
	io.Copy(io.Discard, in) // a pipe that is closed early is an error to the MTA
	client, err := g.client()
	if err != nil {
		return program.Error{Code: exitTempFail, Err: err}
	}
	found, err := client.Feedback(ctx, b)
	if err != nil {
		return program.Error{Code: exitTempFail, Err: err}
	}
	if len(found) == 0 {
		printable.Fprintln(os.Stdout, "no delivery report and no complaint")
	}
	for i := range found {
		printable.Fprintln(os.Stdout, findingInWords(&found[i]))
	}
	return nil
}

// findingInWords tells what came of a report.
func findingInWords(f *control.Finding) string {
	s := map[string]string{"late_bounce": "failed", "complaint": "complaint", "feedback": "feedback", "no_failure": "nothing failed"}[f.Kind]
	if f.Recipient != "" {
		s += " <" + f.Recipient + ">"
	}
	if f.ID != "" {
		s += fmt.Sprintf(" of %s in stream %q", f.ID, f.Stream)
	}
	s += ": " + f.Result
	if f.Why != "" {
		s += ", as " + f.Why
	}
	return s
}
