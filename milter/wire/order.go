package wire

import (
	"fmt"

	"github.com/emersion/go-milter"
)

// stage is how far a connection has come.
type stage int

const (
	fresh      stage = iota // nothing yet: OPTNEG
	negotiated              // CONNECT next
	idle                    // between messages
	envelope                // after MAIL
	header                  // after the first header field
	body                    // after the end of headers, the body was asked for
)

// inMessage reports whether a message is in hand.
func (s stage) inMessage() bool { return s >= envelope }

// allows reports whether a command may come at this stage. MAIL, HELO and
// ABORT may come in the middle of a message and end it.
func (s stage) allows(c milter.Code) bool {
	switch c {
	case milter.CodeQuit:
		return true
	case milter.CodeOptNeg:
		return s == fresh
	case milter.CodeMacro, milter.CodeAbort, milter.CodeQuitNewConn:
		return s >= negotiated
	case milter.CodeConn:
		return s == negotiated
	case milter.CodeHelo, milter.CodeMail, codeUnknown:
		return s >= idle
	case milter.CodeRcpt, milter.CodeData:
		return s == envelope
	case milter.CodeHeader, milter.CodeEOH:
		return s == envelope || s == header
	case milter.CodeBody, milter.CodeEOB:
		return s == body
	}
	return false
}

// after is the stage once a command was taken. What a verdict leads to is not
// decided here.
func (s stage) after(c milter.Code) stage {
	switch c {
	case milter.CodeOptNeg, milter.CodeQuitNewConn:
		return negotiated
	case milter.CodeConn:
		return idle
	case milter.CodeHelo, milter.CodeAbort:
		return min(s, idle)
	case milter.CodeMail:
		return envelope
	case milter.CodeHeader:
		return header
	}
	return s
}

func (s stage) String() string {
	return [...]string{"negotiation", "connect", "message", "envelope", "headers", "body"}[s]
}

func outOfOrder(s stage, c milter.Code) error {
	return fmt.Errorf("command %q out of order: expecting %s", byte(c), s)
}
