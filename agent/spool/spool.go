package spool

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ID names a message for ever: the number of its segment in the high 32 bits,
// the byte offset of its record in the low 32. IDs are never reused.
type ID uint64

// MakeID returns the ID of the record at offset in a segment.
func MakeID(segment, offset uint32) ID { return ID(segment)<<32 | ID(offset) }

// Segment returns the number of the segment that holds the record.
func (id ID) Segment() uint32 { return uint32(id >> 32) }

// Offset returns the byte offset of the record in its segment.
func (id ID) Offset() uint32 { return uint32(id) }

// String writes the ID as admins see it in logs and type it in commands:
// segment and offset in hexadecimal, "M1A-3F0040".
func (id ID) String() string { return fmt.Sprintf("M%X-%X", id.Segment(), id.Offset()) }

// ParseID reads what String wrote, in either case.
func ParseID(s string) (ID, error) {
	seg, off, ok := strings.Cut(strings.TrimPrefix(strings.ToUpper(s), "M"), "-")
	if ok {
		a, err1 := strconv.ParseUint(seg, 16, 32)
		b, err2 := strconv.ParseUint(off, 16, 32)
		if err1 == nil && err2 == nil {
			return MakeID(uint32(a), uint32(b)), nil
		}
	}
	return 0, fmt.Errorf("%q is not a message id (like M1A-3F0040)", s)
}

// Origin says how a message came into the spool.
type Origin uint8

// The origins.
const (
	Diverted Origin = iota // taken from the host MTA by the milter
	Report                 // a DSN of our own; always goes to the hand-back relay
)

// Envelope is everything known of a message beside its content. Strings are as
// the SMTP client or the host MTA gave them.
type Envelope struct {
	Origin     Origin
	Sender     string   // reverse path without angle brackets; "" is the null sender
	Args       []string // ESMTP arguments of MAIL, verbatim: "RET=HDRS", "ENVID=x"
	Recipients []Recipient
	Stream     string // campaign or list
	// Formerly is the name that the stream would have had from a milter that took ids of
	// recipients for streams; "" if the same. Orders and suppressions under it hold on.
	Formerly string
	// Pool is the [[pool]] that the rule of the milter names; "" if it names none.
	Pool    string
	Arrived time.Time
	// Moved says where a message came from that another node had in its spool (package move);
	// "" for what came from the host MTA or is our own. Opaque here; no control characters.
	Moved string

	// Where the message came from, for our Received field, the log and pauses.
	QueueID    string // the host MTA's queue id
	ClientName string // host name of the client, "" or "unknown" if it has none
	ClientAddr string // address literal as in Received: "192.0.2.1", "IPv6:2001:db8::1"; "" for sendmail(1)
	Helo       string
	Protocol   string // "SMTP", "ESMTP", "ESMTPS", "ESMTPA", "ESMTPSA" (RFC 3848); "" for sendmail(1)
	AuthUser   string // SASL user
	Daemon     string // {daemon_name}
	ByHost     string // the host MTA's own name, macro j

	// Set by Append.
	Size       int64 // octets of header and body
	HeaderSize int64 // octets up to and with the empty line
	EightBit   bool  // content has octets above 127
}

// Recipient is one RCPT of a message; its ordinal is its index in
// Envelope.Recipients.
type Recipient struct {
	Address string   // forward path without angle brackets, as the client wrote it
	Args    []string // ESMTP arguments of RCPT, verbatim: "NOTIFY=NEVER"
}

// Status is where a recipient stands. All but Queued are final.
type Status uint8

// The statuses of a recipient.
const (
	Queued     Status = iota // waiting for its first or next try
	Delivered                // the destination said 2xx to the final dot
	Bounced                  // failed; its DSN is durable in the spool, or none was owed
	HandedBack               // the host MTA accepted it
	Cancelled                // by an admin
	Suppressed
	Damaged // content unreadable; told to the admin
	Moved   // another node has it, durable, and sends it from now on
)

var statusNames = [...]string{"queued", "delivered", "bounced", "handed-back", "cancelled", "suppressed", "damaged", "moved"}

func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return "status(" + strconv.Itoa(int(s)) + ")"
}

// Final reports whether nothing more will be tried.
func (s Status) Final() bool { return s != Queued }

// State is what the journal knows of one recipient.
type State struct {
	Status   Status
	Handback bool      // queued for the hand-back relay, not for its own destination
	Stuck    bool      // queued, but the hand-back relay refused it for good
	Held     bool      // kept aside by an admin until it is released
	Tries    uint16    // transactions that were offered to a server
	Class    uint8     // outcome.Class of the last try; opaque here
	Due      time.Time // next try, for Queued; zero: at once
	Reply    string    // last reply or reason, one line, at most 512 octets are kept
	From     string    // where the mail leaves from, as the first try settled it (pools.From); opaque here. An event without it keeps it
}

// Event is a change of one recipient's state.
type Event struct {
	ID        ID
	Recipient uint32 // ordinal
	State
	Last bool // set by Record: this was the last recipient of the message to become final
	Late bool // set by Record: it is not recorded, as the recipient is final by now, or unknown
}

// Errors that callers tell apart.
var (
	// ErrFull: no room (min_free, max_recipients, or ENOSPC); the mail stays with the host.
	ErrFull = errors.New("spool full")
	// ErrLocked: another agent has this spool open.
	ErrLocked = errors.New("spool is in use by another agent")
	// ErrNotFound: no such message, or it is done and reclaimed.
	ErrNotFound = errors.New("no such message in the spool")
	// ErrDamaged: a checksum does not match.
	ErrDamaged = errors.New("spool record is damaged")
	// ErrNewer: the directory was written by a newer Millrace.
	ErrNewer = errors.New("spool format is newer than this program")
	// ErrClosed: the writer or store was closed.
	ErrClosed = errors.New("spool is closed")
)
