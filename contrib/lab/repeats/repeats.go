// Package repeats explains copies that came more than once. Millrace loses nothing, and
// pays for that with repeats, but only with those that a crash or a cut connection leaves
// no choice about: [Explain] lists the lawful kinds. It goes through each copy too many
// and says which kind it is, or that it is none.
//
// A test collects the [Evidence] while mail flows: the ledgers of injector and receivers;
// an [Arrival] for each copy, of which [Read] finds the way it came; and, from the logs of
// the daemons, the [Orphans], messages that they themselves have called possible
// duplicates. Explain is called once, at the end.
package repeats

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/millrace/millrace/contrib/lab/ledger"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// Arrival is one recipient's copy at a receiver.
type Arrival struct {
	Copy  ledger.Copy
	Spool string // id, from our trace; "" if it came by Postfix alone
	Back  bool   // we handed it back, and Postfix brought it
}

// trace is our Received field; see package agent/trace.
var trace = regexp.MustCompile(`(?m)^Received: (?:[^\r]|\r\n\s)*?\bby \S+ \(Millrace\)(?:[^\r]|\r\n\s)*?\bid [^.\s]+\.(M[0-9A-F]+-[0-9A-F]+)\.`)

// Read takes from a message its id, our spool id, "" if it came by the host alone,
// and whether the host has brought what we handed back.
func Read(m *sink.Message) (id, spool string, back bool) {
	above, id, _ := strings.Cut(string(m.Content[:min(len(m.Content), 4<<10)]), ledger.IDHeader+": ")
	id, _, _ = strings.Cut(id, "\r\n")
	if f := trace.FindStringSubmatchIndex(above); f != nil {
		spool, back = strings.Clone(above[f[2]:f[3]]), f[0] > 0
	}
	return strings.Clone(id), spool, back
}

// Orphans are the spool ids that the daemons have called possible duplicates in
// their logs.
func Orphans(logs string) map[string]bool {
	found := make(map[string]bool)
	for line := range strings.Lines(logs) {
		if !strings.Contains(line, "possible duplicate") {
			continue
		}
		for word := range strings.FieldsSeq(line) {
			if id, ok := strings.CutPrefix(word, "id="); ok {
				found[id] = true
			}
		}
	}
	return found
}

// Evidence is what explains copies too many.
type Evidence struct {
	Sent, Received *ledger.Ledger
	Arrivals       []Arrival       // in the order they came
	Orphans        map[string]bool // spool ids that the daemons have called possible duplicates
}

// Counts has the copies too many by what explains them.
type Counts struct {
	Repeats  int      // transactions that the agent repeated, by a crash or a cut connection
	Dropped  int      // copies again after a receiver accepted and did not say so
	Host     int      // copies that Postfix repeated by itself
	Back     int      // messages handed back twice, as the first time went unanswered
	Orphans  int      // copies committed without a verdict, sent by both ways
	Offered  int      // copies of what the injector had to offer again
	Unlawful []string // what nothing explains
}

// Explain holds each copy too many against what invariant 3 allows:
//
//   - Who sends may repeat a transaction whose reply he has not seen: one that the
//     receiver left unanswered, or the last one on its connection. How many of the
//     latter there may be is for the caller to bound, by the sessions that were cut.
//     So are transactions with the host, whose connections are not seen here.
//   - A message committed without a verdict is sent by us, and again in whatever
//     way its client or Postfix sends it. The daemons log each one.
//   - A client that got no answer to its final dot offers the message again.
func Explain(e Evidence) Counts {
	last := make(map[uint64]ledger.Record) // on each connection
	// The records of a copy and its arrivals come in the same order.
	records := make(map[ledger.Copy][]ledger.Record)
	for x := range e.Received.Records() {
		last[x.Conn] = x
		c := ledger.Copy{ID: x.ID, Recipient: x.Recipient}
		records[c] = append(records[c], x)
	}
	doubtful := make(map[ledger.Copy]int)
	for x := range e.Sent.Records() {
		if x.Unanswered {
			doubtful[ledger.Copy{ID: x.ID, Recipient: x.Recipient}]++
		}
	}
	ways := make(map[ledger.Copy][]Arrival)
	for _, a := range e.Arrivals {
		ways[a.Copy] = append(ways[a.Copy], a)
	}
	var out Counts
	back := make(map[string]bool)  // spool ids
	again := make(map[uint64]bool) // connections whose last transaction the agent repeated
	for c, list := range ways {
		if len(list) != len(records[c]) {
			out.Unlawful = append(out.Unlawful, fmt.Sprintf("%s to %s: %d arrivals, %d records", c.ID, c.Recipient, len(list), len(records[c])))
			continue
		}
		latest := make(map[string]int) // index of the latest copy of each spool id
		orphans := 0
		more := 0 // copies by the host alone that it did not repeat: it has taken the message more than once
		for i, a := range list {
			spool := a.Spool
			before, repeated := latest[spool]
			latest[spool] = i
			if !repeated {
				if e.Orphans[spool] {
					orphans++
				}
				continue
			}
			x := records[c][before]
			y := last[x.Conn]
			switch cut := y.ID == x.ID && y.Time.Equal(x.Time); {
			case x.Unanswered:
				out.Dropped++
			case cut && (spool == "" || list[before].Back):
				out.Host++
			case cut:
				again[x.Conn] = true
			case list[before].Back:
				back[spool] = true
			case spool == "":
				more++
			default:
				out.Unlawful = append(out.Unlawful, fmt.Sprintf("%s to %s was repeated (%q), but was not the last on its connection", c.ID, c.Recipient, spool))
			}
		}
		extra := len(latest) - 1 + more
		out.Orphans += min(extra, orphans)
		out.Offered += max(0, min(extra-orphans, doubtful[c]))
		if extra > orphans+doubtful[c] {
			out.Unlawful = append(out.Unlawful, fmt.Sprintf("%s to %s came as %+v, with %d orphans, offered %d times without an answer",
				c.ID, c.Recipient, list, orphans, doubtful[c]))
		}
	}
	out.Repeats, out.Back = len(again), len(back)
	return out
}
