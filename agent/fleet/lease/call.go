package lease

import (
	_ "embed"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Script is what the store runs for each call: EVALSHA with the one key Call.Key and the
// arguments Call.Args; ParseReply reads what comes back.
//
//go:embed lease.lua
var Script string

// Epoch is one life of the store's data. A later one has a greater number; of equal numbers
// the IDs differ where two lives do not know of each other.
type Epoch struct {
	N  int64
	ID string
}

// Table is who is a member of the fleet, as a member persists it.
type Table struct {
	Version string   // compared for equality alone; "": none
	Members []string // sorted; some may not have a floor yet
	Divisor int      // of this member's floors, at least len(Members); 0: no floor
	Low     int      // no member that has a floor uses a smaller divisor, as long as this table is somebody's
}

// Call is what a member asks of the store, once every five seconds for all its limits.
type Call struct {
	Fleet, Node string
	ID          string // of the member's state file
	Token       string // which the store gave; "": asks for one
	N           int64  // of this call under the token
	Answered    int64  // the greatest N that was answered
	Epoch       Epoch  // the newest that the member knows of
	Since       int64  // milliseconds since the last reply arrived
	Seq         int64  // of that reply, and what follows too
	Time, Clock int64
	Table       Table // that is persisted
	Active      bool  // has floors
	Nodes       int
	Leave       bool
	Found       bool   // the admin says that no node of this fleet has been granted anything
	Doubt       bool   // it was started, and does not use its floors before the store knows of them
	Forget      string // a node that the admin says is off for good
	Off         int64  // the seq of the last reply when he said it
	Asks        []Ask

	sent     time.Duration // by Options.Boot
	subjects []subject     // of the asks
}

// Ask is what a call says of one limit. Rates are in thousandths.
type Ask struct {
	Field string // of the store's hash
	Count bool   // of a day
	Limit int64
	Want  int64 // what could be used now; of a count what has been used
	Claim int64 // the member may be using up to this, now and until the reply arrives

	used int64 // of that in use, whatever is granted
}

// Reply is the store's answer.
type Reply struct {
	Why    string // nothing was done: Hello; nothing new is lent: Recovery, Unknown; or Left, or ""
	Token  string
	Epoch  Epoch
	Seq    int64 // how many calls were executed in this epoch
	Time   int64 // milliseconds of this epoch that have been witnessed; for turns
	Clock  int64 // milliseconds that this member alone has witnessed under its token
	Table  Table // Version "": none
	Active bool
	Grants []int64 // one for each ask; none with Hello and Left
	Less   []Less  // of the limits that were asked for, some that are smaller with others
}

// Less is a limit of which another node has a smaller one by the same name; that is what is lent.
type Less struct {
	Field string `json:"f"`
	Limit int64  `json:"l"` // there
	Node  string `json:"n"`
}

// Why a reply grants nothing new.
const (
	Hello    = "hello"    // here is a token: call again
	Left     = "left"     // the member has left, as it wanted
	Unknown  = "unknown"  // the store has no table, and nobody who has one has called
	Recovery = "recovery" // the store's data are new: leases of the former may run
)

// header is a call or a reply in JSON, but for asks and grants.
type header struct {
	Why      string `json:"why,omitempty"`
	Node     string `json:"node"`
	ID       string `json:"id"`
	Token    string `json:"tok"`
	N        int64  `json:"n"`
	Answered int64  `json:"ack"`
	Epoch    int64  `json:"en"`
	EpochID  string `json:"eid"`
	Time     int64  `json:"t"`
	Since    int64  `json:"since"`
	Seq      int64  `json:"seq"`
	Clock    int64  `json:"clk"`
	Version  string `json:"v"`
	Members  string `json:"s"` // with commas between
	Divisor  int    `json:"d"`
	Low      int    `json:"low"`
	Active   bool   `json:"act"`
	Nodes    int    `json:"nodes"`
	Leave    bool   `json:"leave"`
	Found    bool   `json:"found"`
	Doubt    bool   `json:"doubt"`
	Forget   string `json:"forget"`
	Off      int64  `json:"off"`
	Less     []Less `json:"less,omitempty"`
}

// Key is the one key of the store that the call needs.
func (c *Call) Key() string { return "millrace:{" + c.Fleet + "}:lease" }

// Args are the arguments of the script: a few hundred octets, and about 45 for each ask.
func (c *Call) Args() []any {
	h := header{Node: c.Node, ID: c.ID, Token: c.Token, N: c.N, Answered: c.Answered, Epoch: c.Epoch.N, EpochID: c.Epoch.ID,
		Time: c.Time, Since: c.Since, Seq: c.Seq, Clock: c.Clock, Version: c.Table.Version, Members: strings.Join(c.Table.Members, ","), Divisor: c.Table.Divisor,
		Low: c.Table.Low, Active: c.Active, Nodes: c.Nodes, Leave: c.Leave, Found: c.Found, Doubt: c.Doubt, Forget: c.Forget, Off: c.Off}
	text, err := json.Marshal(h)
	if err != nil {
		panic(err) // strings, numbers and truths can be written
	}
	return []any{string(text), "", "", packed(c.Asks)}
}

// packed are asks as one list in MessagePack, of which a server reads 10,000 in half the time of as
// many arguments.
func packed(asks []Ask) []byte {
	b := make([]byte, 0, 5+80*len(asks))
	b = append(b, 0xdd) // https://github.com/msgpack/msgpack/blob/master/spec.md has these
	b = binary.BigEndian.AppendUint32(b, uint32(5*len(asks)))
	for _, a := range asks {
		b = append(b, 0xda)
		b = binary.BigEndian.AppendUint16(b, uint16(len(a.Field)))
		b = append(b, a.Field...)
		if a.Count {
			b = append(b, 0xc3)
		} else {
			b = append(b, 0xc2)
		}
		for _, n := range [...]int64{a.Limit, a.Want, a.Claim} {
			if n >= 0 && n < 128 {
				b = append(b, byte(n))
			} else {
				b = append(b, 0xd3)
				b = binary.BigEndian.AppendUint64(b, uint64(n))
			}
		}
	}
	return b
}

// ParseReply reads what the script returned.
func ParseReply(v any) (*Reply, error) {
	list, ok := v.([]any)
	if !ok || len(list) == 0 {
		return nil, fmt.Errorf("the store's script returned %T, not a list", v)
	}
	text, ok := list[0].(string)
	if !ok {
		return nil, fmt.Errorf("the store's script returned %T for the head of its reply", list[0])
	}
	var h header
	if err := json.Unmarshal([]byte(text), &h); err != nil {
		return nil, fmt.Errorf("the head of the store's reply: %w", err)
	}
	r := &Reply{Why: h.Why, Token: h.Token, Epoch: Epoch{h.Epoch, h.EpochID}, Time: h.Time, Seq: h.Seq, Clock: h.Clock, Active: h.Active, Less: h.Less,
		Table: Table{Version: h.Version, Divisor: h.Divisor, Low: h.Low}}
	if h.Members != "" {
		r.Table.Members = strings.Split(h.Members, ",")
	}
	for _, x := range list[1:] {
		n, ok := x.(int64)
		if !ok {
			return nil, fmt.Errorf("the store's script returned %T for a grant", x)
		}
		r.Grants = append(r.Grants, n)
	}
	return r, nil
}
