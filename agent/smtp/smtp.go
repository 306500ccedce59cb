// Package smtp is one outbound SMTP connection (RFC 5321) and the transactions
// on it.
//
// # What it owns
//
// A Conn owns one TCP connection to one address, or one to a Unix socket, from connect to close: the
// greeting, EHLO (HELO where that is refused), STARTTLS, the deadlines of every
// wait, and what the peer said it can do. It knows no queues, no DNS and no
// policy: the caller says which address, how much TLS, and what a reply means
// for a message.
//
// # The order of calls
//
//	c, err := smtp.Dial(ctx, addr, options)   // up and greeted, or *Error
//	res, err := c.Send(ctx, &tx)              // any number of times, one after the other
//	err = c.Check()                           // before a Send after a pause
//	c.Quit(ctx)                               // or c.Close()
//
// A Conn is used by one goroutine at a time; only Close may come from another.
//
// # What it promises
//
//   - Send reports the fate of every recipient of the transaction, whatever
//     happened. Its error is non-nil exactly when the connection is of no more
//     use (it is closed then, and the error is an *Error); the Result is valid
//     in both cases. A refusal of a message is no error.
//   - Nothing waits without a deadline, a reply is bounded in octets and
//     time, and a cancelled context ends a call at once. That is a hard stop,
//     also between the final dot and its reply: those recipients are InDoubt. A
//     caller that wants to wait for that reply cancels later.
//   - No recipient is reported Accepted without a 2xx to the final dot (or to BDAT),
//     and none is reported as certainly undelivered once that may have been seen.
//   - Addresses and arguments cannot carry another command: those with control
//     characters or unquoted blanks or angle brackets are never written.
//
// # On the wire
//
// With PIPELINING (RFC 2920) RSET where one is needed, MAIL, the RCPTs and DATA
// go in one write, and Prefix, content and final dot in one more as long as they
// fit a block of 64 KiB: two flights for a message. With CHUNKING (RFC 3030) too,
// a message of known size that fits a block with its envelope is one flight:
// MAIL, the RCPTs, BDAT and the content in one write. The next MAIL follows a good
// final reply directly; RSET comes only after a transaction that failed.
// Without PIPELINING each command waits for its reply.
//
// Only CRLF ends a line, and a dot is doubled only after CRLF and at the very
// beginning. A bare CR or LF passes unchanged and a dot after it is not doubled:
// the caller keeps such content away. Content that does not end in CRLF gets
// one. Eight-bit content for a peer without 8BITMIME goes unchanged and without
// BODY=, since a conversion would break signatures.
//
// SMTPUTF8 (RFC 6531) is declared only for a message that needs it: one that its
// client declared, or with a local part or argument beyond ASCII. A domain beyond
// ASCII goes in A-labels and needs nothing. What needs SMTPUTF8 is not offered to
// a peer without it (ErrNeedsSMTPUTF8).
//
// Of the limits a peer names, SIZE is heeded here, before anything is written.
// Those of RFC 9422 are in Extensions: the caller decides what goes together.
//
// There is no envelope behind the final dot of the message before: it would bring
// DATA to one flight as well, as BDAT does, but at the price of a second message
// on its way whose fate hangs on the reply to the first.
package smtp

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"time"
)

// Level is the least protection a connection must have.
type Level uint8

// The levels.
const (
	None          Level = iota // never STARTTLS
	Opportunistic              // STARTTLS if offered, any certificate
	Required                   // no mail without TLS, any certificate
	Verify                     // no mail without TLS and a valid certificate for ServerName
)

// Options are what a caller chooses for a connection.
type Options struct {
	Hello    string     // EHLO name
	Local    netip.Addr // source address of the default dialer; the zero Addr leaves the choice to the kernel
	Timeouts Timeouts   // zero fields: RFC 5321 4.5.3.2, with a shorter connect

	TLS         Level
	ImplicitTLS bool        // TLS from the first octet (RFC 8314 3.3), as port 465 speaks it; Level then only says what the certificate must be
	ServerName  string      // MX host name, for SNI and Verify; an address is checked against the certificate's addresses
	TLSConfig   *tls.Config // base configuration: roots, client certificates, MinVersion, session cache; nil: defaults

	// VerifyPeer, if not nil, judges the peer after each handshake, a resumed one
	// too, at every Level and before any mail. Its error ends the connection with
	// an *Error of StageStartTLS that wraps it. It is not called on a plain
	// connection: a policy that needs it sets Required or Verify.
	VerifyPeer func(tls.ConnectionState) error

	// Ignore are EHLO keywords, in any case, that count as not offered: those that the
	// peer is known to announce in vain.
	Ignore []string

	// Auth, if not nil, are the credentials for a relay that asks for them. They
	// are never said in the clear, except to loopback.
	Auth *Auth

	// Trace, if not nil, sees the dialogue line by line, as it happens. It is
	// called by the goroutine that uses the connection, which waits for it.
	Trace func(TraceEvent)
	// Traced says whether Trace is called now; nil: always. It is asked for each line, by
	// the same goroutine.
	Traced func() bool

	// Socket, if not "", is the path of a Unix socket that is dialled in place of the
	// address, which may be zero then.
	Socket string

	// Dial opens the connection; nil: a net.Dialer bound to Local.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Auth are SASL credentials (RFC 4954), for PLAIN (RFC 4616) or, where that is not
// offered, LOGIN. They are sent to a peer on loopback, or under TLS at level Verify.
type Auth struct {
	User, Password string
	AnyCertificate bool // TLS will do whatever certificate the peer shows
}

// Timeouts bound each wait of the dialogue. STARTTLS and each reply to AUTH have
// Hello, RSET has Mail.
type Timeouts struct {
	Connect   time.Duration // TCP connect; default 30 s
	Greeting  time.Duration // the server's first reply; default 5 min
	Hello     time.Duration // EHLO and HELO; default 5 min
	Handshake time.Duration // of TLS; default 5 min; after STARTTLS with Opportunistic 30 s, as the caller can go on without
	Mail      time.Duration // default 5 min
	Rcpt      time.Duration // each reply; default 5 min
	DataStart time.Duration // the reply to DATA; default 2 min
	DataBlock time.Duration // each write of content; default 3 min
	DataEnd   time.Duration // the reply to the final dot; default 10 min
	Quit      time.Duration // QUIT and its reply together; default 10 ms
}

// orDefault fills the zero fields in.
func (t Timeouts) orDefault(optionalTLS bool) Timeouts {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&t.Connect, 30*time.Second)
	set(&t.Greeting, 5*time.Minute)
	set(&t.Hello, 5*time.Minute)
	if optionalTLS {
		set(&t.Handshake, 30*time.Second)
	}
	set(&t.Handshake, 5*time.Minute)
	set(&t.Mail, 5*time.Minute)
	set(&t.Rcpt, 5*time.Minute)
	set(&t.DataStart, 2*time.Minute)
	set(&t.DataBlock, 3*time.Minute)
	set(&t.DataEnd, 10*time.Minute)
	set(&t.Quit, quitWait)
	return t
}

// Reply is one SMTP reply.
type Reply struct {
	Code     int    // 0: none
	Enhanced string // "5.1.1" (RFC 3463), or "" if the server gave none
	Text     string // lines joined by one blank, without the codes; valid UTF-8 without control characters, at most 1,024 octets
}

// Tx is one transaction.
type Tx struct {
	Sender     string   // without angle brackets; "" is the null sender
	Args       []string // the client's MAIL arguments; of them RET and ENVID are passed on if the peer offers DSN, the others are made anew or left out
	Recipients []Rcpt

	// AsTaken is for the host MTA, which took these addresses from its client as
	// they stand, whatever they look like: it is told them in the same octets, and
	// mends them as it would have done. Nobody else is said an address that is not
	// plain (package address). Prefix is left out where it is what the message is over
	// the host's SIZE by.
	AsTaken bool

	Size     int64     // octets of Prefix and Content together; 0: unknown, then SIZE is not declared and BDAT not used
	EightBit bool      // content has octets above 127
	Prefix   []byte    // our Received field, CRLF at its end
	Content  io.Reader // CRLF lines; an error other than io.EOF cuts the connection before the final dot
}

// Rcpt is one recipient of a transaction.
type Rcpt struct {
	Address string
	Args    []string // NOTIFY, ORCPT; passed on if the peer offers DSN
}

// Fate says what became of a recipient.
type Fate uint8

// The fates.
const (
	NotOffered Fate = iota // the transaction ended before the final dot for want of a connection, or RcptResult.Err kept it from being tried; nothing can have been delivered
	Accepted               // 2xx to the final dot
	Refused                // the server refused it; Reply says why
	InDoubt                // the final dot, or the last octet after BDAT, may have been seen; its reply never came
)

// String gives the fate in lower case, for logs and tests.
func (f Fate) String() string {
	switch f {
	case NotOffered:
		return "not offered"
	case Accepted:
		return "accepted"
	case Refused:
		return "refused"
	case InDoubt:
		return "in doubt"
	}
	return "unknown"
}

// Result is the outcome of a transaction.
type Result struct {
	Recipients []RcptResult // parallel to Tx.Recipients
}

// RcptResult is the outcome for one recipient.
type RcptResult struct {
	Fate     Fate
	Stage    Stage // of Reply; without one, where the connection was lost
	Reply    Reply
	DSNTaken bool // accepted by a peer with DSN: its reports are the peer's duty

	// Err says why this recipient was not offered although the connection is
	// fine: ErrTooBig, ErrNeedsSMTPUTF8 or ErrBadAddress. When the connection
	// failed Err is nil and the error of Send says why.
	Err error
}
