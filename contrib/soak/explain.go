package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/millrace/millrace/contrib/sink"
	"github.com/millrace/millrace/contrib/sink/ledger"
)

// arrival is one recipient's copy at a receiver.
type arrival struct {
	copy  ledger.Copy
	spool string // id, from our trace; "" if it came by Postfix alone
	back  bool   // we handed it back, and Postfix brought it
}

// trace is our Received field; see package agent/trace.
var trace = regexp.MustCompile(`(?m)^Received: (?:[^\r]|\r\n\s)*?\bby \S+ \(Millrace\)(?:[^\r]|\r\n\s)*?\bid [^.\s]+\.(M[0-9A-F]+-[0-9A-F]+)\.`)

// arrived notes what a receiver took.
func (s *scene) arrived(m *sink.Message) {
	above, id, _ := strings.Cut(string(m.Content[:min(len(m.Content), 4<<10)]), ledger.IDHeader+": ")
	id, _, _ = strings.Cut(id, "\r\n")
	a := arrival{copy: ledger.Copy{ID: strings.Clone(id)}}
	if f := trace.FindStringSubmatchIndex(above); f != nil {
		a.spool, a.back = strings.Clone(above[f[2]:f[3]]), f[0] > 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range m.Recipients {
		a.copy.Recipient = r.Address
		s.arrivals = append(s.arrivals, a)
	}
}

// evidence is what explains copies too many.
type evidence struct {
	sent, received *ledger.Ledger
	arrivals       []arrival
	orphans        map[string]bool // spool ids that the daemons have called possible duplicates
}

// explained counts the copies too many.
type explained struct {
	repeats  int      // transactions that the agent repeated, by a crash or a cut connection
	dropped  int      // copies again after a receiver accepted and did not say so
	host     int      // copies that Postfix repeated by itself
	back     int      // messages handed back twice, as the first time went unanswered
	orphans  int      // copies committed without a verdict, sent by both ways
	offered  int      // copies of what the injector had to offer again
	unlawful []string // what nothing explains
}

// explain holds each copy too many against what invariant 3 allows:
//
//   - Who sends may repeat a transaction whose reply he has not seen: one that the
//     receiver left unanswered, or the last one on its connection. How many of the
//     latter there may be is for the caller to bound, by the sessions that were cut.
//     So are transactions with the host, whose connections are not seen here.
//   - A message committed without a verdict is sent by us, and again in whatever
//     way its client or Postfix sends it. The daemons log each one.
//   - A client that got no answer to its final dot offers the message again.
func explain(e evidence) explained {
	last := make(map[uint64]ledger.Record) // on each connection
	// The records of a copy and its arrivals come in the same order.
	records := make(map[ledger.Copy][]ledger.Record)
	for x := range e.received.Records() {
		last[x.Conn] = x
		c := ledger.Copy{ID: x.ID, Recipient: x.Recipient}
		records[c] = append(records[c], x)
	}
	doubtful := make(map[ledger.Copy]int)
	for x := range e.sent.Records() {
		if x.Unanswered {
			doubtful[ledger.Copy{ID: x.ID, Recipient: x.Recipient}]++
		}
	}
	ways := make(map[ledger.Copy][]arrival)
	for _, a := range e.arrivals {
		ways[a.copy] = append(ways[a.copy], a)
	}
	var out explained
	back := make(map[string]bool)  // spool ids
	again := make(map[uint64]bool) // connections whose last transaction the agent repeated
	for c, list := range ways {
		if len(list) != len(records[c]) {
			out.unlawful = append(out.unlawful, fmt.Sprintf("%s to %s: %d arrivals, %d records", c.ID, c.Recipient, len(list), len(records[c])))
			continue
		}
		latest := make(map[string]int) // index of the latest copy of each spool id
		orphans := 0
		for i, a := range list {
			spool := a.spool
			before, repeated := latest[spool]
			latest[spool] = i
			if !repeated {
				if e.orphans[spool] {
					orphans++
				}
				continue
			}
			x := records[c][before]
			y := last[x.Conn]
			switch cut := y.ID == x.ID && y.Time.Equal(x.Time); {
			case x.Unanswered:
				out.dropped++
			case cut && (spool == "" || list[before].back):
				out.host++
			case cut:
				again[x.Conn] = true
			case list[before].back:
				back[spool] = true
			default:
				out.unlawful = append(out.unlawful, fmt.Sprintf("%s to %s was repeated (%q), but was not the last on its connection", c.ID, c.Recipient, spool))
			}
		}
		extra := len(latest) - 1
		out.orphans += min(extra, orphans)
		out.offered += max(0, min(extra-orphans, doubtful[c]))
		if extra > orphans+doubtful[c] {
			out.unlawful = append(out.unlawful, fmt.Sprintf("%s to %s came as %+v, with %d orphans, offered %d times without an answer",
				c.ID, c.Recipient, list, orphans, doubtful[c]))
		}
	}
	out.repeats, out.back = len(again), len(back)
	return out
}
