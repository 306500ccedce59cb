// Package smtp is one outbound SMTP connection (RFC 5321) and the transactions on it.
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
	Hello      string     // EHLO name
	Local      netip.Addr // source address; the zero Addr leaves the choice to the kernel
	TLS        Level
	ServerName string      // MX host name, for SNI and Verify
	TLSConfig  *tls.Config // base configuration (roots, session cache); nil: defaults
	Timeouts   Timeouts    // zero fields: RFC 5321 4.5.3.2, with a shorter connect
	Dial       func(ctx context.Context, network, address string) (net.Conn, error)
}

// Timeouts bound each wait of the dialogue.
type Timeouts struct {
	Connect, Greeting, Hello, Mail, Rcpt, DataStart, DataBlock, DataEnd, Quit time.Duration
}

// Stage says what a reply answered, or where a connection failed.
type Stage uint8

// The stages of a dialogue.
const (
	StageConnect Stage = iota
	StageGreeting
	StageHello
	StageStartTLS
	StageMail
	StageRcpt
	StageData    // the DATA command
	StageContent // while the content was being written
	StageDot     // the final dot
	StageReset
	StageQuit
)

// Reply is one SMTP reply.
type Reply struct {
	Code     int    // 0: none
	Enhanced string // "5.1.1" (RFC 3463), or "" if the server gave none
	Text     string // lines joined by one blank, without the codes; at most 1,024 octets
}

// Error is a failure that ended a connection, or kept it from coming up.
type Error struct {
	Stage Stage
	Reply Reply // Code 0 when the server said nothing
	Err   error // the cause when there was no reply: a net.Error, a TLS error, io.EOF
}

// Tx is one transaction.
type Tx struct {
	Sender     string   // without angle brackets
	Args       []string // the client's MAIL arguments; only those the peer offers are passed on
	Recipients []Rcpt
	Size       int64     // octets of Prefix and Content together
	EightBit   bool      // content has octets above 127
	Prefix     []byte    // our Received field, CRLF at its end
	Content    io.Reader // CRLF lines; an error other than io.EOF cuts the connection before the final dot
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
	NotOffered Fate = iota // its RCPT was never answered; nothing can have been delivered
	Accepted               // 2xx to the final dot
	Refused                // the server refused it; Reply says why
	InDoubt                // the final dot may have been seen, its reply never came
)

// Result is the outcome of a transaction.
type Result struct {
	Recipients []RcptResult // parallel to Tx.Recipients
}

// RcptResult is the outcome for one recipient.
type RcptResult struct {
	Fate     Fate
	Stage    Stage // of Reply
	Reply    Reply
	DSNTaken bool // accepted by a peer with DSN: its reports are the peer's duty
}
