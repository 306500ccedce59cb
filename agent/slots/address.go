// Package slots keeps, by source and receiving address, what is known of an address: the
// slots that we hold there, how many were accepted, its breaker, and the pace it asked for.
//
// It owns two things: the Table with a row (Address) for each address, whichever site's
// mail brought it to light, and the Slot, a place among the connections that an address
// takes from us. A slot goes Begin -> CameUp -> Prove -> End, or Begin -> Void when the
// connect, or its first transaction, came to nothing. Ended slots stay with the row for
// LagMax: a new connect takes the place of the one that is free first.
//
// A Pace is lowered to a twentieth below what was accepted. It is raised again by accepted messages alone:
// by 2% after 5 s and 20 of them at least, and after four such steps with nothing refused for the rate by 4,
// 8, 16, 32% and then half. Where it is above four times what is accepted it holds nothing back: it is
// raised no more, and ends. One that was set after fewer than 20 were accepted is a guess, which doubles
// each second from 5 s on. The first refusal after 20 accepted sets none. Messages refused at a pace that is
// below what was begun when it was first cut, and has not come back to that, show that the rate is not at
// fault: a higher one is tried, twice as high each 2 s. The trial ends well where the pace holds nothing
// back; it has failed where a share of more than twice the former one is refused, or less is accepted than
// at the old pace. Two such refusals begin the first trial, twice as many the next after each that failed.
//
// Package elastic decides; this package only counts. It does no I/O, reads no clock,
// starts no goroutine, takes no lock, and allocates nothing but new rows.
package slots

import (
	"net/netip"
	"time"
)

// Key names a row: one of our sources and an address and port of a receiver.
type Key struct {
	Source netip.Addr
	Host   netip.AddrPort
}

// nat64 is the well-known prefix of RFC 6052: IPv4 addresses in IPv6.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// Canonical gives the forms of one address the same key: IPv4 in IPv6 (RFC 4291
// section 2.5.5.2) and NAT64.
func (k Key) Canonical() Key {
	k.Source = k.Source.Unmap()
	a := k.Host.Addr().Unmap()
	if nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	k.Host = netip.AddrPortFrom(a, k.Host.Port())
	return k
}

// Address is what is known of one address, whichever site's mail brought it to light.
type Address struct {
	Key Key
	Count
	ended

	// Accepted is the greatest number of slots at which a connect was accepted
	// lately. It bounds only where one more was refused: Limited.
	Accepted int
	Users    int       // destinations that list it; while there are any the row stays
	Strikes  int       // refusals in a row with none up there
	Opens    time.Time // no connect before
	Cut      time.Time // connects begun before it tell nothing new
	Probed   time.Time // when one more was last tried
	Reply    string    // the last refusal
	Limited  bool
	trying   bool // one connect is to show whether it answers again

	Pace   Pace // its own, where it alone refuses
	Bucket Bucket

	failing *Failing // connects in a row that got no answer; nil: none
	noted   time.Time
	until   time.Time
	news    time.Time // when the oldest connect under way began, about
}

const (
	offFirst = 30 * time.Second // doubles with each failure
	offMost  = 10 * time.Minute
	// HangAfter is how long a connect may wait until others go elsewhere. A SYN
	// that was lost is sent again after 1 s.
	HangAfter = 2 * time.Second
)

// Room is how many slots may be held there: what was accepted where one more was
// refused, any number elsewhere. One is always worth a try.
func (a *Address) Room() int {
	if a.Limited {
		return max(1, a.Accepted)
	}
	return 1 << 20
}

// GiveUp lets go of the place that a refused connect was to take, and lowers what counts as
// accepted by it, but not below what is held.
func (a *Address) GiveUp(s *Slot) {
	a.remove(s)
	a.Limited, a.Accepted = true, max(1, a.Held(), a.Accepted-1)
}

// Down says whether connects pass the address by while there is another: it lately gave
// no answer, or a connect there hangs. Of those whose time is over one connect tries it.
func (a *Address) Down(now time.Time) bool {
	return a.trying || now.Before(a.until) || a.Opening > 0 && now.Sub(a.news) >= HangAfter
}

// Busy says whether a connect is about to show whether the address answers again.
func (a *Address) Busy() bool { return a.trying }

// Failed notes a connect that got no answer. Connects begun before the last failure
// was noted saw the same trouble: they do not add to it.
func (a *Address) Failed(began, now time.Time) {
	a.trying = false
	if a.failing != nil && began.Before(a.noted) {
		return
	}
	if a.failing == nil {
		a.failing = &Failing{Since: now}
	}
	a.failing.Times++
	a.noted, a.failing.How, a.failing.Why = now, "", ""
	a.until = now.Add(OffFor(a.failing.Times))
}

// Because keeps how the last connect failed, in words of ours and in those of the error, if it did.
func (a *Address) Because(how, why string) {
	if a.failing != nil {
		a.failing.How, a.failing.Why = how, why
	}
}

// Failing is what is known of an address that is down; of one that is not all of it is zero.
type Failing struct {
	Times    int       // connects in a row that failed
	Since    time.Time // the first of them did; zero: before a restart
	Until    time.Time // others go before it
	How, Why string    // the last one failed: in words of ours ("": no answer), and those of the error
}

// Failing returns that.
func (a *Address) Failing() Failing {
	if a.failing == nil {
		return Failing{}
	}
	f := *a.failing
	f.Until = a.until
	return f
}

// OffFor is how long others go before an address that has failed so many times in a row:
// 30 s, twice as long each time, at most 10 min.
func OffFor(times int) time.Duration { return min(offFirst<<min(times-1, 8), offMost) }

// Answered notes a connect that was answered, if only by a refusal: failures are
// forgotten.
func (a *Address) Answered() { a.failing, a.until, a.trying = nil, time.Time{}, false }

// Retry ends the time for which connects pass the address by, as an admin wants, and says whether
// it was on. One connect tries it; if that fails, too, it is passed by for longer than before.
func (a *Address) Retry(now time.Time) bool {
	was := now.Before(a.until)
	a.until = time.Time{}
	return was
}

// idle says that nothing is lost with the row but what was learned.
func (a *Address) idle(now time.Time) bool {
	a.Look(now)
	return a.Users == 0 && a.Held()+a.Waiting == 0
}

// Table is the rows, by key. It is guarded by the lock of its owner.
type Table struct {
	rows map[Key]*Address
	most int
}

// rowLooks is how many rows are looked at for one that may go.
const rowLooks = 16

// NewTable returns a table of at most so many rows, more only while all are in use.
func NewTable(most int) *Table { return &Table{rows: make(map[Key]*Address), most: most} }

// Row returns the row of an address, new if it is not known. The rows that have no slots
// go first when there are too many.
func (t *Table) Row(k Key, now time.Time) *Address {
	k = k.Canonical()
	if a := t.rows[k]; a != nil {
		return a
	}
	if len(t.rows) >= t.most {
		looks := rowLooks // where nearly all are in use, the table grows
		for key, a := range t.rows {
			if a.idle(now) {
				delete(t.rows, key)
				break
			}
			if looks--; looks == 0 {
				break
			}
		}
	}
	a := &Address{Key: k}
	t.rows[k] = a
	return a
}

// All are all rows, by their keys: to be read, as they come and go by Row alone.
func (t *Table) All() map[Key]*Address { return t.rows }

// Known returns the row of an address; nil if there is none.
func (t *Table) Known(k Key) *Address { return t.rows[k.Canonical()] }

// Forget drops what was learned at an address, but not the slots that are held: those where mail
// was taken are accepted.
func (a *Address) Forget() {
	*a = Address{Key: a.Key, Count: a.Count, ended: a.ended, Accepted: a.Proven, Users: a.Users, Bucket: a.Bucket, news: a.news}
}

// Learned is what was learned at an address, to be kept over a restart.
type Learned struct {
	Source   netip.Addr     `json:"source,omitzero"`
	Host     netip.AddrPort `json:"host"`
	Accepted int            `json:"accepted,omitempty"`
	Limited  bool           `json:"limited,omitempty"`
	Strikes  int            `json:"strikes,omitempty"`
	Opens    time.Time      `json:"opens,omitzero"`
	Failures int            `json:"failures,omitempty"` // connects in a row that got no answer
	Off      time.Time      `json:"off,omitzero"`       // until when others go before it
	Pace     float64        `json:"pace,omitempty"`
	Reply    string         `json:"reply,omitempty"`
	Since    time.Time      `json:"since,omitzero"` // the first of the failures
	How      string         `json:"how,omitempty"`  // the last one, in words of ours
	Why      string         `json:"why,omitempty"`  // and in those of the error
}

// Learned returns what is to be kept of an address; false if nothing is known of it.
func (a *Address) Learned() (Learned, bool) {
	any := a.Accepted > 0 || a.Pace.Value > 0 || a.Limited || a.failing != nil
	f := a.Failing()
	return Learned{a.Key.Source, a.Key.Host, a.Accepted, a.Limited, a.Strikes, a.Opens, f.Times, a.until, a.Pace.Value, a.Reply, f.Since, f.How, f.Why}, any
}

// Restore takes in what was learned before a restart. A clock that has stepped back since
// makes nothing last longer than it could have.
func (t *Table) Restore(now time.Time, list []Learned) {
	for _, l := range list {
		if len(t.rows) >= t.most {
			return
		}
		a := t.Row(Key{l.Source, l.Host}, now)
		a.Accepted, a.Limited, a.Strikes, a.Reply = max(0, l.Accepted), l.Limited, max(0, l.Strikes), l.Reply
		a.Pace.Value, a.Pace.Known = max(0, l.Pace), max(0, l.Pace)
		if latest := now.Add(offMost); l.Opens.Before(latest) {
			a.Opens = l.Opens
		} else {
			a.Opens = latest
		}
		if l.Failures > 0 {
			a.noted, a.until = now, l.Off
			a.failing = &Failing{Times: l.Failures, Since: l.Since, How: l.How, Why: l.Why}
			if latest := now.Add(offMost); l.Off.After(latest) {
				a.until = latest
			}
		}
	}
}
