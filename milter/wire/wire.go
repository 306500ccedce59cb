// Package wire speaks the milter protocol, version 6, with one host MTA
// connection at a time and owns everything about it that is not a decision:
// negotiation, the order of packets, macros, deadlines, limits, and the write
// that carries a verdict.
//
// The protocol engine is emersion/go-milter. It sees the connection through
// Conn, which reads whole packets from the socket and checks each before the
// engine gets it, keeps what the engine drops (ESMTP arguments, macros of
// earlier stages, the port's own view of an address), writes the real answer to
// the negotiation, and swallows replies to steps that were agreed to have none.
// There is one engine per connection, so one backend lives as long as the
// connection does, whatever it answers.
//
// The calls to a Handler follow each other so:
//
//	Connect, then for each message
//	  Helo (once or more, not for every message)
//	  Mail, Rcpt..., Header..., EndOfHeaders
//	  if that said Continue: Body..., EndOfMessage
//	  or, at any point after Mail: Abort
//	Close
//
// All calls come from one goroutine, except that Verdict.Written may come from
// it or, when the connection breaks, from the one that closes it; never at the
// same time. Each Mail is answered by exactly one of: a verdict other than
// Continue, or Abort. A peer that breaks the protocol (wrong order, a packet
// that is empty, too long or cut short, a header without an end) gets its
// connection closed and one log line; the host MTA then does what its
// configuration says for a milter that fails. Whatever comes, a connection costs
// no more memory than one packet (1 MiB), MaxHeader, the macros of nine stages
// (64 KiB each), and what the Handler keeps.
package wire

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/emersion/go-milter"
)

// Handler decides over the messages of one connection.
type Handler interface {
	// Connect tells of the SMTP client.
	Connect(Client)
	// Helo gives the name of a HELO or EHLO; which verb it was, the protocol
	// does not say.
	Helo(name string)
	// Mail starts a message: the text after "MAIL FROM:" with its angle brackets
	// if the client wrote them, and the ESMTP arguments as written.
	Mail(from string, args []string)
	// Rcpt adds a recipient that the MTA is ready to accept; text as for Mail.
	Rcpt(to string, args []string)
	// Header gives one field: value is everything after the colon, folded with LF.
	Header(name, value string)
	// EndOfHeaders decides, or asks for the body with Continue.
	EndOfHeaders(context.Context) Verdict
	// Body gives a piece of the body, with CRLF line ends. The slice is reused
	// after the call.
	Body(chunk []byte)
	// EndOfMessage decides for good; Continue is not possible here.
	EndOfMessage(context.Context) Verdict
	// Abort says that the message in hand ends without a verdict of ours.
	Abort()
	// Close is the last call.
	Close()
}

// Client is what the MTA says of the SMTP client.
type Client struct {
	Host string // name, or "[address]", or "unknown"
	Addr string // address as the MTA wrote it, "" when it is not an internet client
	Port uint16
}

// Action is what the MTA shall do with the message.
type Action byte

// The actions.
const (
	Continue Action = Action(milter.ActContinue) // go on and send the body
	Accept   Action = Action(milter.ActAccept)
	Discard  Action = Action(milter.ActDiscard)
	TempFail Action = Action(milter.ActTempFail)
)

// Verdict is the answer to EndOfHeaders or EndOfMessage.
type Verdict struct {
	Action Action
	// Delete lists RCPT texts, as given to Rcpt, that the MTA shall forget.
	// They leave in one write(2) with the action, so no crash lies between them.
	// Only EndOfMessage may delete, and only when Conn.CanDelete.
	Delete []string
	// Written, if set, is called exactly once: with nil when the whole verdict
	// was handed to the kernel, with ErrCut when a part of it was, with another
	// error when nothing was nor ever can be.
	Written func(error)
}

// ErrCut means that a part of a verdict was written before the connection broke.
// The MTA may have deleted some of the recipients: Postfix does so packet by
// packet, and keeps to it when it then goes on without us.
var ErrCut = errors.New("verdict written in part")

// Options are the limits of a Server; zero fields get the defaults.
type Options struct {
	Logger *slog.Logger

	// MaxConnections is how many MTA connections are served at a time (default
	// 1000); further ones wait in the listen backlog. While one of those served has
	// not negotiated, none waits: the oldest such gives way.
	MaxConnections int
	// IdleTimeout is how long an MTA may be silent between packets. The default,
	// 70 minutes, is above Sendmail's Timeout.command of an hour: the MTA keeps
	// the connection while its own client is silent.
	IdleTimeout time.Duration
	// NegotiationTimeout is how long a connection may take, from when it is accepted,
	// to negotiate (default 5 s): an MTA does so at once.
	NegotiationTimeout time.Duration
	// PacketTimeout is how long one packet may take from its first octet to its
	// last (default 1 minute).
	PacketTimeout time.Duration
	// WriteTimeout bounds each write (default 30 s).
	WriteTimeout time.Duration
	// ProgressEvery is the interval of PROGRESS packets while a verdict takes
	// time (default 4 s; Sendmail gives up after 10 s without a word).
	ProgressEvery time.Duration
	// MaxHeader is how many octets of header fields of one message reach the
	// handler (default 1 MiB); further fields are dropped and Conn.HeaderCut
	// reports it.
	MaxHeader int
	// MaxPreamble is how many octets a message may have before its body, in
	// envelope, macros and header (default 64 MiB). It is far above what an MTA
	// takes: who sends more does not mean to end, and the connection is closed.
	MaxPreamble int
	// StopGrace is how long Serve, once its context is done, lets connections
	// finish the message in hand (default 30 s).
	StopGrace time.Duration
}

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.IdleTimeout, 70*time.Minute)
	def(&o.NegotiationTimeout, 5*time.Second)
	def(&o.PacketTimeout, time.Minute)
	def(&o.WriteTimeout, 30*time.Second)
	def(&o.ProgressEvery, 4*time.Second)
	def(&o.StopGrace, 30*time.Second)
	if o.MaxConnections <= 0 {
		o.MaxConnections = 1000
	}
	if o.MaxHeader <= 0 {
		o.MaxHeader = 1 << 20
	}
	if o.MaxPreamble <= 0 {
		o.MaxPreamble = 64 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}
