// Package order has the common orders of a fleet: what an admin, a rule or the breaker orders on
// one node, and all nodes obey.
//
// An Order is a statement with an identity (node, instance, number), signed with the
// certificate of the node that issued it, over its exact octets, with the name of the fleet
// inside. So whatever carries it (a store, a peer, a hostile store) can withhold, delay or repeat
// it, and neither forge nor change it.
//
// A Log is a set of orders. Nothing in it depends on the order in which they came or on how
// often: the state of a node is a function of the set and of the time, and two nodes that have
// heard the same orders are in the same state. An order stands until another one lifts it by
// naming its identity, or its time is over. A resume names the pauses that its issuer knew;
// a pause that it did not know is not named and stays. A change (of a limit, of a priority, of
// a pause of the same filter) lifts those before it in the same way; several that did not know
// each other stand side by side until the next change, and the caller takes the strictest.
//
// The calls: Open reads the file; Issue makes an order of this node, durable when it returns;
// TakeAll takes orders that came from elsewhere; Live lists what stands. Known and Lacking are
// for whoever carries orders: what this node has, and what another one is to be sent. Pending and
// Done are for orders that are done once: a cancel, changes of the suppression list.
// Changes tells of each change.
//
// # What is kept
//
// An order that was lifted is dropped, but one that lifts others is kept even if it was lifted
// itself: it would be the only one to say that an older one, which a store may repeat, is over.
// Bounds: MaxStanding orders that stand, MaxTombs that only lift (the oldest are dropped: a
// pause that was lifted then could come back by a store's repetition, and have mail wait),
// MaxChanges orders about the suppression list, of MaxChangesSize octets together and 30 days
// (the oldest are dropped, and are in the lists of those that had heard of them), 24 hours for
// a cancel.
//
// The package knows no network and none of our other packages but durable.
package order

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Kind says what an order is about. One of a kind that this version does not know is kept and
// handed on, and changes nothing here.
type Kind string

// The kinds.
const (
	Pause      Kind = "pause"      // Body: control.Pause
	Limit      Kind = "limit"      // Body: control.Limit
	Priority   Kind = "priority"   // Body: control.Priority
	Lift       Kind = "lift"       // no Body: it only lifts
	Suppress   Kind = "suppress"   // Body: entries for the suppression list
	Unsuppress Kind = "unsuppress" // Body: entries to be removed
	Cancel     Kind = "cancel"     // Body: a filter, and how far into each node's spool it reaches
)

const (
	// SuppressFor is how long an order about the suppression list is handed on.
	SuppressFor = 30 * 24 * time.Hour
	// CancelFor is how long a cancel is obeyed, from when it was issued.
	CancelFor = 24 * time.Hour
	// MaxSize bounds the octets of an order with its signature and certificate, as they are
	// sent.
	MaxSize = 128 << 10
	// MaxBody bounds those of its body.
	MaxBody = 60 << 10
	// MaxStanding bounds the pauses, limits and priorities that stand.
	MaxStanding = 10_000
	// MaxTombs bounds the orders that only lift others.
	MaxTombs = 10_000
	// MaxChanges and MaxChangesSize bound the orders about the suppression list: how many, and
	// of how many octets together.
	MaxChanges     = 4096
	MaxChangesSize = 32 << 20
	// maxLifts bounds what one order lifts.
	maxLifts = 500
)

// ID is the identity of an order. Numbers begin at 1 with each instance; an instance is one run of
// the agent, so a state directory that comes back from a backup gives no number twice.
type ID struct {
	Node     string
	Instance string // 16 hexadecimal digits
	Number   uint64
}

// String is the ID as files and listings have it: "a/0123456789abcdef/7".
func (id ID) String() string {
	return id.Node + "/" + id.Instance + "/" + strconv.FormatUint(id.Number, 10)
}

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(b []byte) (err error) {
	*id, err = ParseID(string(b))
	return err
}

// ParseID reads what String wrote.
func ParseID(s string) (ID, error) {
	parts := strings.Split(s, "/")
	if len(parts) == 3 && parts[0] != "" && len(parts[0]) <= maxName && parts[1] != "" && len(parts[1]) <= maxName {
		if n, err := strconv.ParseUint(parts[2], 10, 64); err == nil && n > 0 {
			return ID{parts[0], parts[1], n}, nil
		}
	}
	return ID{}, fmt.Errorf("%q is no identity of an order (like a/0123456789abcdef/7)", s)
}

// maxName bounds the octets of a node's name and of an instance.
const maxName = 63

// Compare orders identities, for what must come out the same on every node.
func (id ID) Compare(x ID) int {
	return cmp.Or(cmp.Compare(id.Node, x.Node), cmp.Compare(id.Instance, x.Instance), cmp.Compare(id.Number, x.Number))
}

// Order is what a node has ordered.
type Order struct {
	Fleet string          `json:"fleet"`
	ID    ID              `json:"id"`
	Kind  Kind            `json:"kind"`
	Who   string          `json:"who,omitempty"`   // a user, a rule, the breaker; "": what was learned of bounces
	At    time.Time       `json:"at"`              // by the issuer's clock
	Until time.Time       `json:"until,omitzero"`  // when it ends by itself; zero: when it is lifted
	Lifts []ID            `json:"lifts,omitempty"` // orders that end with this one
	Seen  Known           `json:"seen,omitempty"`  // of an Unsuppress: the Suppress orders that its issuer knew
	Body  json.RawMessage `json:"body,omitempty"`
}

// standing reports whether orders of this kind stand until they are lifted.
func (k Kind) standing() bool { return k == Pause || k == Limit || k == Priority }

// change reports whether orders of this kind change the suppression list.
func (k Kind) change() bool { return k == Suppress || k == Unsuppress }

// once reports whether orders of this kind are done once on each node.
func (k Kind) once() bool { return k.change() || k == Cancel }

// over reports whether an order has ended by itself.
func (o *Order) over(now time.Time) bool {
	switch {
	case o.Kind.change():
		return now.Sub(o.At) >= SuppressFor
	case o.Kind == Cancel:
		return now.Sub(o.At) >= CancelFor
	}
	return !o.Until.IsZero() && !now.Before(o.Until)
}

// IDOf is the identity of an order in the form that TakeAll takes, of which nothing is proven.
func IDOf(line []byte) (ID, bool) {
	var s Signed
	var o struct {
		ID ID `json:"id"`
	}
	ok := len(line) <= MaxSize && json.Unmarshal(line, &s) == nil && json.Unmarshal(s.Text, &o) == nil && o.ID.Number > 0
	return o.ID, ok
}

// ErrCertificate says that this node's own certificate cannot sign orders.
var ErrCertificate = errors.New("orders of the fleet cannot be signed")

// The errors of orders that are not taken.
var (
	ErrForged  = errors.New("the signature of an order does not fit")
	ErrForeign = errors.New("an order of another fleet")
	ErrUnknown = errors.New("an order of a node without a certificate of the fleet")
	ErrFormat  = errors.New("not an order")
	ErrFull    = errors.New("more orders stand than are kept; remedy: resume what is no longer wanted (millrace brakes lists it)")
)
