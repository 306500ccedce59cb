package ledger

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Copy names one recipient's copy of a message.
type Copy struct {
	ID        string
	Recipient string
}

// Report is what [Compare] found. The lists name each copy once.
type Report struct {
	Sent     int // copies the injector was told are accepted
	Received int // copies the receiver accepted, more than one of a kind included

	Lost      []Copy // accepted from the injector, never received
	Duplicate []Copy // received oftener than explained
	Altered   []Copy // received with other octets than were sent
	Stray     []Copy // received, never sent
	Refused   []Copy // not received since the receiver refuses the recipient for good: not a fault

	Excused int // received again after an unanswered final dot, on either side: not a fault
}

// Clean says whether nothing is lost, duplicate, altered or stray.
func (r *Report) Clean() bool {
	return len(r.Lost)+len(r.Duplicate)+len(r.Altered)+len(r.Stray) == 0
}

// String gives the report in one line, and up to five examples of each fault.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d sent, %d received: %d lost, %d duplicate, %d altered, %d stray",
		r.Sent, r.Received, len(r.Lost), len(r.Duplicate), len(r.Altered), len(r.Stray))
	if len(r.Refused) > 0 {
		fmt.Fprintf(&b, "; %d refused for good", len(r.Refused))
	}
	if r.Excused > 0 {
		fmt.Fprintf(&b, "; %d received again after an unanswered dot", r.Excused)
	}
	for _, list := range []struct {
		name   string
		copies []Copy
	}{{"lost", r.Lost}, {"duplicate", r.Duplicate}, {"altered", r.Altered}, {"stray", r.Stray}} {
		for i, c := range list.copies {
			if i == 5 {
				fmt.Fprintf(&b, "\n  %s: and %d more", list.name, len(list.copies)-i)
				break
			}
			fmt.Fprintf(&b, "\n  %s: %s to %s", list.name, c.ID, c.Recipient)
		}
	}
	return b.String()
}

// copyKey identifies a copy without holding its strings.
type copyKey [16]byte

// keyOf folds the case of the domain only: the local part belongs to the
// receiver (RFC 5321, section 2.4).
func keyOf(scratch []byte, id, rcpt []byte) (copyKey, []byte) {
	scratch = append(append(scratch[:0], id...), 0)
	at := bytes.LastIndexByte(rcpt, '@') + 1
	scratch = append(scratch, rcpt[:at]...)
	for _, c := range rcpt[at:] {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		scratch = append(scratch, c)
	}
	sum := sha256.Sum256(scratch)
	return copyKey(sum[:16]), scratch
}

// tally is what both sides know of a copy.
type tally struct {
	hash                 Hash
	sent, doubtful       uint32 // by the injector: answered with 250; perhaps accepted
	received, unanswered uint32 // by the receiver: with an answer; without
	altered              bool
}

// Compare holds what was received against what was sent. A copy whose final
// dot went unanswered may come again: the client has to repeat it.
func Compare(sent, received *Ledger) *Report {
	tallies := make(map[copyKey]*tally, sent.Len())
	var scratch []byte
	var key copyKey
	rep := new(Report)
	for m := range sent.all() {
		for _, rcpt := range m.Recipients {
			key, scratch = keyOf(scratch, m.ID, rcpt)
			t := tallies[key]
			if t == nil {
				t = &tally{hash: m.Hash}
				tallies[key] = t
			}
			if m.Unanswered {
				t.doubtful++
			} else {
				t.sent++
				rep.Sent++
			}
		}
	}
	for m := range received.all() {
		for _, rcpt := range m.Recipients {
			rep.Received++
			key, scratch = keyOf(scratch, m.ID, rcpt)
			t := tallies[key]
			if t == nil {
				rep.Stray = append(rep.Stray, Copy{string(m.ID), string(rcpt)})
				continue
			}
			if t.hash != m.Hash && !t.altered {
				t.altered = true
				rep.Altered = append(rep.Altered, Copy{string(m.ID), string(rcpt)})
			}
			if m.Unanswered {
				t.unanswered++
			} else {
				t.received++
			}
		}
	}
	refused := received.snapshotRefused()
	for m := range sent.all() {
		for _, rcpt := range m.Recipients {
			key, scratch = keyOf(scratch, m.ID, rcpt)
			t := tallies[key]
			if t == nil {
				continue // told of already
			}
			delete(tallies, key)
			all := t.received + t.unanswered
			if all < t.sent {
				c := Copy{string(m.ID), string(rcpt)}
				if _, ok := refused[c.Recipient]; ok {
					rep.Refused = append(rep.Refused, c)
				} else {
					rep.Lost = append(rep.Lost, c)
				}
			}
			if t.received > t.sent+t.doubtful {
				rep.Duplicate = append(rep.Duplicate, Copy{string(m.ID), string(rcpt)})
			} else if all > max(t.sent, 1) {
				rep.Excused += int(all - max(t.sent, 1))
			}
		}
	}
	return rep
}

// Latencies gives, sorted, the time from first sent to first received of each
// copy whose message id the choice accepts; a nil choice takes all. Copies not
// received are left out.
func Latencies(sent, received *Ledger, choose func(id string) bool) []time.Duration {
	started := make(map[copyKey]int64)
	var scratch []byte
	var key copyKey
	for m := range sent.all() {
		if choose != nil && !choose(string(m.ID)) {
			continue
		}
		for _, rcpt := range m.Recipients {
			key, scratch = keyOf(scratch, m.ID, rcpt)
			if _, again := started[key]; !again {
				started[key] = m.Time.UnixNano()
			}
		}
	}
	var took []time.Duration
	for m := range received.all() {
		for _, rcpt := range m.Recipients {
			key, scratch = keyOf(scratch, m.ID, rcpt)
			if at, ok := started[key]; ok {
				delete(started, key)
				took = append(took, time.Duration(m.Time.UnixNano()-at))
			}
		}
	}
	slices.Sort(took)
	return took
}
