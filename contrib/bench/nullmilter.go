package main

import (
	"context"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"os/exec"
	"time"

	"github.com/emersion/go-milter"

	"github.com/millrace/millrace/contrib/lab"
)

// nullVerdict is what a null milter says of every message.
type nullVerdict string

// The verdicts. They come at the same place as Millrace's: ACCEPT at the end of
// the header; or at the end of the message DELRCPT of every recipient, ACCEPT.
// The third reads header and body before that, and forgets them.
const (
	nullAccept     nullVerdict = "accept"
	nullDivert     nullVerdict = "divert"
	nullReadDivert nullVerdict = "read and divert"
)

// steps is what a null milter does not want to see: all that its verdict does
// not need, header and body too. No milter with that verdict can do less; none
// that diverts a message can do as little.
func (v nullVerdict) steps() milter.OptProtocol {
	skip := milter.OptNoConnect | milter.OptNoHelo | milter.OptNoMailFrom | milter.OptNoUnknown | milter.OptNoData
	switch v {
	case nullDivert:
		return skip | milter.OptNoHeaders | milter.OptNoEOH | milter.OptNoBody | milter.OptNoRcptReply
	case nullReadDivert:
		return skip | milter.OptNoHeaderReply | milter.OptNoBodyReply | milter.OptNoRcptReply
	}
	return skip | milter.OptNoHeaders | milter.OptNoBody | milter.OptNoRcptTo
}

// nullSession is one message.
type nullSession struct {
	milter.NoOpMilter
	verdict    nullVerdict
	recipients []string
}

// RcptTo answers nothing, as negotiated.
func (s *nullSession) RcptTo(to string, _ *milter.Modifier) (milter.Response, error) {
	s.recipients = append(s.recipients, to)
	return nil, nil
}

// Header answers nothing, as negotiated.
func (s *nullSession) Header(string, string, *milter.Modifier) (milter.Response, error) {
	return nil, nil
}

// BodyChunk answers nothing, as negotiated.
func (s *nullSession) BodyChunk([]byte, *milter.Modifier) (milter.Response, error) { return nil, nil }

func (s *nullSession) Headers(textproto.MIMEHeader, *milter.Modifier) (milter.Response, error) {
	if s.verdict == nullAccept {
		return milter.RespAccept, nil
	}
	return milter.RespContinue, nil
}

func (s *nullSession) Body(m *milter.Modifier) (milter.Response, error) {
	for _, to := range s.recipients {
		if err := m.DeleteRecipient(to); err != nil {
			return nil, err
		}
	}
	return milter.RespAccept, nil
}

func (s *nullSession) Abort(*milter.Modifier) error {
	s.recipients = nil
	return nil
}

// nullCommand is the first argument of this program as a null milter.
const nullCommand = "null-milter"

// asNullMilter says whether the program was started as a null milter.
func asNullMilter(args []string) (verdict nullVerdict, socket string, ok bool) {
	if len(args) != 4 || args[1] != nullCommand {
		return "", "", false
	}
	return nullVerdict(args[2]), args[3], true
}

// serveNullMilter serves until it is killed.
func serveNullMilter(v nullVerdict, socket string) error {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	if err := os.Chmod(socket, 0o666); err != nil { // Postfix has a user of its own
		return err
	}
	s := &milter.Server{
		NewMilter: func() milter.Milter { return &nullSession{verdict: v} },
		Actions:   milter.OptRemoveRcpt,
		Protocol:  v.steps(),
	}
	return s.Serve(l)
}

// nullMilter is a process of this program that serves as a null milter.
type nullMilter struct{ cmd *exec.Cmd }

func startNullMilter(ctx context.Context, v nullVerdict, socket string) (*nullMilter, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("null milter: %w", err)
	}
	m := &nullMilter{exec.Command(self, nullCommand, string(v), socket)}
	m.cmd.Stderr = os.Stderr
	if err := m.cmd.Start(); err != nil {
		return nil, fmt.Errorf("null milter: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, answers)
	defer cancel()
	err = lab.Until(ctx, func() (bool, error) {
		c, err := net.Dial("unix", socket)
		if err != nil {
			return false, nil
		}
		return true, c.Close()
	})
	if err != nil {
		m.kill()
		return nil, fmt.Errorf("null milter does not answer: %w", err)
	}
	return m, nil
}

// kill ends it; after the first call nothing happens.
func (m *nullMilter) kill() {
	if m.cmd.ProcessState == nil {
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait() // "killed" is what was asked for
	}
}

// cpu is the CPU time of a killed null milter, 0 before.
func (m *nullMilter) cpu() time.Duration { return cpuOf(m.cmd) }

// cpuOf is the CPU time of a command that has ended, 0 before.
func cpuOf(c *exec.Cmd) time.Duration {
	if c.ProcessState == nil {
		return 0
	}
	return c.ProcessState.UserTime() + c.ProcessState.SystemTime()
}
