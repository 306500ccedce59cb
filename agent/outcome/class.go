package outcome

// The classes. Those called hard say that the address is of no use any more; all
// others, ours and the receiver's troubles, never suppress an address.
const (
	ClassNone           Class = 0  // delivered
	ClassUserUnknown    Class = 1  // hard
	ClassHostUnknown    Class = 2  // hard
	ClassHasMoved       Class = 3  // hard
	ClassMailboxFull    Class = 4  // over quota
	ClassRateLimited    Class = 5  // too fast, too much
	ClassReputation     Class = 6  // the source address is distrusted
	ClassAuthentication Class = 7  // SPF, DKIM, DMARC, reverse DNS
	ClassPolicy         Class = 8  // refused by a rule of the receiver
	ClassContent        Class = 9  // spam, virus, form of the message
	ClassNetwork        Class = 10 // no connection, or a broken one, or no DNS
	ClassTLS            Class = 11 // no TLS, or not the TLS that is required
	ClassProtocol       Class = 12 // command, argument or extension not understood
	ClassGreylisted     Class = 13
	ClassTooBig         Class = 14 // for the server
	ClassExpired        Class = 15 // in our queue
	ClassSizeLimit      Class = 16 // too big for this mailbox
	ClassSystem         Class = 17 // trouble of the receiver's system, or of ours
	ClassConnections    Class = 18 // one connection, or one message on it, too many
	ClassSuspended      Class = 19 // the mailbox is disabled or not in use
	ClassUndefined      Class = 20 // nothing tells
	// ClassTooManyRecipients is one recipient of a message too many (RFC 3463, X.5.3): not
	// of a time, which is ClassRateLimited. Those accepted go on; the others fit in the
	// next transaction, at once.
	ClassTooManyRecipients Class = 21
	// ClassComplaint is of a recipient who has complained. No reply says so, a feedback
	// report does.
	ClassComplaint Class = 22

	// Classes is how many there are.
	Classes = 23
)

// String is the class in the vocabulary of bounce tools.
func (c Class) String() string {
	switch c {
	case ClassNone:
		return "none"
	case ClassUserUnknown:
		return "userunknown"
	case ClassHostUnknown:
		return "hostunknown"
	case ClassHasMoved:
		return "hasmoved"
	case ClassMailboxFull:
		return "mailboxfull"
	case ClassRateLimited:
		return "ratelimited"
	case ClassReputation:
		return "reputation"
	case ClassAuthentication:
		return "authentication"
	case ClassPolicy:
		return "policy"
	case ClassContent:
		return "content"
	case ClassNetwork:
		return "network"
	case ClassTLS:
		return "tls"
	case ClassProtocol:
		return "protocol"
	case ClassGreylisted:
		return "greylisted"
	case ClassTooBig:
		return "toobig"
	case ClassExpired:
		return "expired"
	case ClassSizeLimit:
		return "sizelimit"
	case ClassSystem:
		return "system"
	case ClassConnections:
		return "connections"
	case ClassSuspended:
		return "suspended"
	case ClassTooManyRecipients:
		return "toomanyrecipients"
	case ClassComplaint:
		return "complaint"
	}
	return "undefined"
}

// ParseClass reads what String writes.
func ParseClass(s string) (Class, bool) {
	for c := ClassNone; c < Classes; c++ {
		if c.String() == s {
			return c, true
		}
	}
	return ClassNone, false
}

// Hard says whether a bounce of this class can mean that the address is of no use any
// more, so that list software may suppress it. Whether one does is Decision.Hard.
func (c Class) Hard() bool {
	return c == ClassUserUnknown || c == ClassHostUnknown || c == ClassHasMoved
}

// throttle says whether the class means "not now", whatever the code. Some
// receivers put it in 5xx clothes (QQ: "550 Connection frequency limited").
func (c Class) throttle() bool {
	return c == ClassRateLimited || c == ClassConnections || c == ClassGreylisted || c == ClassTooManyRecipients
}

// passes says whether a 5xx of the class is no end: it says nothing of the recipient or
// the message, and what it says of us may be otherwise soon. Those who distrust our host
// trust it again, or another of our addresses.
func (c Class) passes() bool { return c.throttle() || c == ClassTLS || c == ClassReputation }
