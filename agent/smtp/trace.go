package smtp

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/printable"
)

// TraceEvent is one line of a live transcript, as Options.Trace sees it.
type TraceEvent struct {
	Time time.Time
	From Party
	// Line has no line end. It is printable (package printable) and cut after 1,280
	// octets. Content is told as its count of octets, and what is
	// secret in AUTH is an asterisk.
	Line string
}

// Party is whose line it is.
type Party uint8

// The parties.
const (
	Note   Party = iota // nobody's: what happened to the connection
	Client              // ours
	Server              // the peer's
)

// String gives the mark of a line in a transcript.
func (p Party) String() string {
	switch p {
	case Client:
		return "C:"
	case Server:
		return "S:"
	}
	return "--"
}

// traces tells whether somebody looks on.
func (c *Conn) traces() bool { return c.trace != nil && (c.traced == nil || c.traced()) }

// show tells one line.
func (c *Conn) show(from Party, line []byte) {
	c.trace(TraceEvent{Time: time.Now(), From: from, Line: printable.Cut(string(line), maxReplyLine)})
}

// note tells of the connection.
func (c *Conn) note(format string, args ...any) {
	if c.traces() {
		c.show(Note, fmt.Appendf(nil, format, args...))
	}
}

// traceCommands tells commands that are about to be written.
func (c *Conn) traceCommands(lines []byte) {
	if !c.traces() {
		return
	}
	for l := range bytes.Lines(lines) {
		c.show(Client, bytes.TrimRight(l, "\r\n"))
	}
}

// traceContent tells of content: how many octets went to the network, those of
// dot-stuffing and the final dot included.
func (c *Conn) traceContent(octets int, err error) {
	if !c.traces() {
		return
	}
	text := fmt.Appendf(nil, "[%d octets of content]", octets)
	if err != nil {
		text = fmt.Appendf(text, " and then: %v", err)
	}
	c.show(Client, text)
}

// masked leaves of a line of AUTH the command and the mechanism.
func masked(line string) string {
	f := strings.Fields(line)
	if len(f) > 1 && f[0] == "AUTH" {
		if len(f) == 2 {
			return line
		}
		return f[0] + " " + f[1] + " *"
	}
	return "*"
}

// describe says what a handshake came to.
func describe(s tls.ConnectionState) string {
	text := tls.VersionName(s.Version) + ", " + tls.CipherSuiteName(s.CipherSuite)
	switch {
	case s.DidResume:
		text += ", session resumed"
	case len(s.PeerCertificates) > 0:
		text += ", certificate of " + s.PeerCertificates[0].Subject.String()
	}
	if len(s.VerifiedChains) > 0 {
		text += ", verified for " + s.ServerName
	}
	return text
}
