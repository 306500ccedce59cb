// Package simulate is the receiver of [simulate]: an SMTP server behind a pipe inside the agent,
// to try what becomes of outcomes. A session for its domain is one like others, but for what
// Dial connects it to: queue, controller, journal, reports and events know no difference. No
// socket is opened, so no mail leaves the host.
//
// The local part of a recipient, up to a "+" or "-", says what becomes of it:
//
//	bounce     refused for good, at RCPT
//	defer      refused for now, at RCPT
//	complain   taken; a complaint comes back, as a feedback report (RFC 5965) with the
//	           header of the copy, and is judged as if the milter had seen it pass
//	any other  taken
//
// Each recipient gets a copy of its own (package settings), as a complaint counts for a recipient
// that was alone. The complaint comes a second after the copy was taken, or when the session goes
// on or ends: what became of the transaction is in the journal and told by then.
package simulate

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	// maxLine bounds a line that is looked at; the rest of a longer one is dropped.
	maxLine = 64 << 10
	// maxHead is how many octets of a header a complaint returns.
	maxHead = 128 << 10
	// idleFor is how long a session may be silent.
	idleFor = 10 * time.Minute
	// complainAfter is the time from the reply to a copy to its complaint.
	complainAfter = time.Second
)

// Receiver is the server. It may be used by many goroutines.
type Receiver struct {
	report func(message []byte) error
	log    *slog.Logger
	all    sync.WaitGroup
}

// New returns a receiver. report takes a complaint in, as what came back to the host; nil: there
// are none.
func New(log *slog.Logger, report func(message []byte) error) *Receiver {
	return &Receiver{report: report, log: log}
}

// Dial implements smtp.Options.Dial. The session ends with the connection.
func (r *Receiver) Dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	r.all.Go(func() {
		defer server.Close()
		s := session{receiver: r, conn: server, in: bufio.NewReaderSize(server, 4096)}
		s.serve()
		s.complain()
	})
	return client, nil
}

// Wait returns once all sessions have ended.
func (r *Receiver) Wait() { r.all.Wait() }

// session is one connection.
type session struct {
	receiver *Receiver
	conn     net.Conn
	in       *bufio.Reader

	taken       bool   // the transaction has a recipient
	complaining string // it, if it will complain; else ""
	after       []byte // the complaint that is due; nil: none
}

// serve answers commands until QUIT or the end of the connection.
func (s *session) serve() {
	if !s.say("220 simulated ESMTP") {
		return
	}
	for {
		line, err := s.line()
		if err != nil {
			return
		}
		s.complain()
		verb, _, _ := strings.Cut(string(line), " ")
		ok := false
		switch strings.ToUpper(verb) {
		case "EHLO":
			ok = s.say("250-simulated\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-ENHANCEDSTATUSCODES\r\n250 SIZE")
		case "HELO":
			ok = s.say("250 simulated")
		case "MAIL":
			s.taken, s.complaining = false, ""
			ok = s.say("250 2.1.0 simulated: sender ok")
		case "RCPT":
			ok = s.say(s.rcpt(string(line)))
		case "DATA":
			ok = s.data()
		case "RSET":
			s.taken, s.complaining = false, ""
			ok = s.say("250 2.0.0 simulated: reset")
		case "NOOP":
			ok = s.say("250 2.0.0 simulated: ok")
		case "QUIT":
			s.say("221 2.0.0 simulated: bye")
			return
		default:
			ok = s.say("502 5.5.1 simulated: no such command")
		}
		if !ok {
			return
		}
	}
}

func (s *session) say(reply string) bool {
	s.conn.SetDeadline(time.Now().Add(idleFor))
	_, err := io.WriteString(s.conn, reply+"\r\n")
	return err == nil
}

// line reads a line without its end, at most maxLine octets of it.
func (s *session) line() (line []byte, err error) {
	wait := idleFor
	if s.after != nil {
		wait = complainAfter
	}
	s.conn.SetDeadline(time.Now().Add(wait))
	for {
		part, err := s.in.ReadSlice('\n')
		if len(line) < maxLine {
			line = append(line, part...)
		}
		if s.after != nil && errors.Is(err, os.ErrDeadlineExceeded) {
			s.complain()
			s.conn.SetDeadline(time.Now().Add(idleFor))
			continue
		}
		if err != bufio.ErrBufferFull {
			return bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r")), err
		}
	}
}

// rcpt answers RCPT.
func (s *session) rcpt(line string) string {
	_, rest, _ := strings.Cut(line, "<")
	address, _, _ := strings.Cut(rest, ">")
	local, _, _ := strings.Cut(address, "@")
	name, _, _ := strings.Cut(strings.ToLower(local), "+")
	name, _, _ = strings.Cut(name, "-")
	switch {
	case name == "bounce":
		return "550 5.1.1 simulated: user unknown"
	case name == "defer":
		return "450 4.2.1 simulated: mailbox busy, try again later"
	case s.taken:
		return "452 4.5.3 simulated: one recipient at a time"
	case name == "complain":
		s.complaining = address
	}
	s.taken = true
	return "250 2.1.5 simulated: recipient ok"
}

// data takes content, and keeps the header of what will be complained of.
func (s *session) data() bool {
	if !s.taken {
		return s.say("554 5.5.1 simulated: no recipients")
	}
	if !s.say("354 simulated: go on") {
		return false
	}
	var head bytes.Buffer
	for inHead := s.complaining != ""; ; {
		line, err := s.line()
		if err != nil {
			return false
		}
		if string(line) == "." {
			break
		}
		line = bytes.TrimPrefix(line, []byte("."))
		if inHead = inHead && len(line) > 0 && head.Len() < maxHead; inHead {
			head.Write(line)
			head.WriteString("\r\n")
		}
	}
	if s.complaining != "" {
		s.after = complaint(s.complaining, head.Bytes())
	}
	s.taken, s.complaining = false, ""
	return s.say("250 2.0.0 simulated: taken")
}

// complain has a complaint that is due come back.
func (s *session) complain() {
	if s.after == nil || s.receiver.report == nil {
		return
	}
	if err := s.receiver.report(s.after); err != nil {
		s.receiver.log.Warn("a simulated complaint does not come back", "err", err)
	}
	s.after = nil
}

// complaint is a feedback report, RFC 5965 sections 2 and 3.
func complaint(recipient string, head []byte) []byte {
	domain := recipient[strings.LastIndexByte(recipient, '@')+1:]
	mark := "=_" + rand.Text() // a stranger wrote the header, and cannot know it
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: <complaints@%s>\r\nSubject: simulated complaint\r\nMIME-Version: 1.0\r\n"+
		"Content-Type: multipart/report; report-type=feedback-report; boundary=%q\r\n\r\n"+
		"--%s\r\nContent-Type: text/plain\r\n\r\nA simulated complaint.\r\n\r\n"+
		"--%s\r\nContent-Type: message/feedback-report\r\n\r\n"+
		"Feedback-Type: abuse\r\nUser-Agent: Millrace-Simulated/1\r\nVersion: 1\r\nOriginal-Rcpt-To: <%s>\r\nReporting-MTA: dns; simulated.%s\r\n\r\n"+
		"--%s\r\nContent-Type: text/rfc822-headers\r\n\r\n",
		domain, mark, mark, mark, recipient, domain, mark)
	b.Write(head)
	fmt.Fprintf(&b, "\r\n--%s--\r\n", mark)
	return b.Bytes()
}
