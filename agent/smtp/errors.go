package smtp

import (
	"errors"
	"strconv"

	"github.com/millrace/millrace/agent/printable"
)

// Reasons for RcptResult.Err: the recipient was not offered, nothing was
// written for it, and the connection can be used further.
var (
	// ErrTooBig means that Tx.Size exceeds the limit the peer declared with
	// SIZE (RFC 1870).
	ErrTooBig = errors.New("message is larger than the server accepts")
	// ErrNeedsSMTPUTF8 means that the peer does not offer SMTPUTF8 (RFC 6531), and
	// the local part of the sender's or this recipient's address is not ASCII, or
	// the client declared the message SMTPUTF8 and it has octets above 127.
	ErrNeedsSMTPUTF8 = errors.New("message needs SMTPUTF8, which the server does not offer")
	// ErrBadAddress means that the sender's or this recipient's address is none
	// that address.International takes, and Tx.AsTaken is not set.
	ErrBadAddress = errors.New("address is not plain: only the host that took it knows what it means")
)

// Causes in Error.Err beside those of net, crypto/tls, context and io.
var (
	// ErrContent wraps what reading Tx.Content failed with.
	ErrContent = errors.New("content could not be read")
	// ErrMalformedReply means that the peer sent something that is no SMTP
	// reply, or one that is no answer to its command.
	ErrMalformedReply = errors.New("malformed reply")
	// ErrReplyTooLong means that a reply exceeded 64 KiB.
	ErrReplyTooLong = errors.New("reply too long")
	// ErrOutOfTurn means that the peer sent something nobody had asked for.
	ErrOutOfTurn = errors.New("server spoke out of turn")
	// ErrNoChunking means that the peer announced CHUNKING and refused BDAT, by code, status
	// or words: it does not know the command, and has said nothing of the message.
	ErrNoChunking = errors.New("server does not take BDAT")
	// ErrAbandoned means that Abandon cut a transaction.
	ErrAbandoned = errors.New("the server takes long, and others wait")
	// ErrNoTLS means that TLS is required and the peer does not offer STARTTLS.
	ErrNoTLS = errors.New("server does not offer STARTTLS")
	// ErrNoAuth means that there are credentials and the peer offers neither AUTH
	// PLAIN nor LOGIN.
	ErrNoAuth = errors.New("server offers neither AUTH PLAIN nor AUTH LOGIN")
	// ErrAuthInClear means that there are credentials, the connection is not
	// encrypted and the peer is not on loopback.
	ErrAuthInClear = errors.New("credentials are not sent over a connection without TLS")
	// ErrAuthUnverified means that there are credentials, the peer's certificate
	// was not verified and the peer is not on loopback.
	ErrAuthUnverified = errors.New("credentials are not sent to a server whose certificate was not verified")
	// ErrBadHello means that Options.Hello cannot stand in a command.
	ErrBadHello = errors.New("unusable EHLO name")
)

// Stage says what a reply answered, or where a connection failed.
type Stage uint8

// The stages, in the order of a dialogue: before StageContent, nothing of a message
// has been written (but for BDAT, where Fate says what may have happened).
const (
	StageConnect Stage = iota
	StageGreeting
	StageHello
	StageStartTLS // the command, the handshake (of implicit TLS too), Options.VerifyPeer, and the wait for a first reply through TLS
	StageAuth
	StageReset
	StageMail
	StageRcpt
	StageData    // the DATA command
	StageContent // while the content was being written
	StageDot     // the final dot, or BDAT LAST
	StageQuit
	StageIdle // between transactions
)

// String names the stage as logs do.
func (s Stage) String() string {
	switch s {
	case StageConnect:
		return "connect"
	case StageGreeting:
		return "greeting"
	case StageHello:
		return "EHLO"
	case StageStartTLS:
		return "STARTTLS"
	case StageAuth:
		return "AUTH"
	case StageReset:
		return "RSET"
	case StageMail:
		return "MAIL"
	case StageRcpt:
		return "RCPT"
	case StageData:
		return "DATA"
	case StageContent:
		return "content"
	case StageDot:
		return "final dot"
	case StageQuit:
		return "QUIT"
	case StageIdle:
		return "idle"
	}
	return "unknown"
}

// Error is a failure that ended a connection, or kept it from coming up.
type Error struct {
	Stage Stage
	Reply Reply // Code 0 when there was no reply; Text has what was said in its place
	Err   error // the cause when there was no reply: a net.Error, a TLS error, io.EOF, a context's error

	// Chunk says that the content went by BDAT, without a reply to it or with
	// ErrNoChunking, on a connection where no message went that way before: with DATA the
	// peer may fare better.
	Chunk bool

	// Group says that commands went in a group (PIPELINING) and that what came back was no
	// reply to each: a line that is none, one out of step, or silence after the first. With
	// a command at a time the peer may fare better.
	Group bool
}

// Error gives the stage and the reply or the cause: "RCPT: 421 4.3.2 shutting down". It
// is one line of printable characters and bounded, whatever a certificate holds that is
// the cause.
func (e *Error) Error() string {
	if e.Reply.Code == 0 {
		if e.Err == nil {
			return e.Stage.String() + ": failed"
		}
		s := e.Stage.String() + ": " + printable.Cut(e.Err.Error(), maxReplyText)
		if e.Reply.Text != "" {
			s += ", after " + strconv.Quote(printable.String(e.Reply.Text))
		}
		return s
	}
	s := e.Stage.String() + ": " + printable.String(e.Reply.String())
	if e.Err != nil {
		s += ": " + printable.Cut(e.Err.Error(), maxReplyText)
	}
	return s
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// String gives the reply on one line: code, enhanced code, text.
func (r Reply) String() string {
	s := strconv.Itoa(r.Code)
	if r.Enhanced != "" {
		s += " " + r.Enhanced
	}
	if r.Text != "" {
		s += " " + r.Text
	}
	return s
}
