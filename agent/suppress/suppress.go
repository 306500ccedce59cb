// Package suppress keeps the addresses that have bounced for good too often, so
// that they are not tried again.
//
// Only a hard bounce counts (outcome.Decision.Hard): the receiver said that the
// address or its domain does not exist, or has moved, and not of too many at a time
// (doubt.go). Whatever else a receiver says (full, too fast, distrusted, not authenticated, spam) and whatever is our
// own fault never counts. After Policy.After of them, each at most Policy.Within
// after the one before, the address is suppressed, until Policy.Expire after the
// last one. A delivery makes it good again at once. What an admin adds stays until
// an admin removes it, whatever bounces, expires or is delivered.
//
// A bounce may come late, in a report, from a receiver that had taken the message: then a
// delivery says nothing, and what has bounced so is good again when it has not for
// Policy.Within. A complaint suppresses at once, in its own stream alone, until Policy.Expire
// after it. Package assess says which reports are believed.
//
// An address is suppressed in one stream, or in all: that is the stream "". With
// Policy.Global bounces count for all streams together. Upper and lower case are
// the same, in the local part too: a receiver for which they differ is yet to be met.
//
// The calls: Open reads the list; Use puts a policy into force, at first and after
// a reload; Run keeps the file until its context ends. Before an address is tried
// Check tells whether it is suppressed; Bounced and Delivered tell what became of
// it. Add, Remove and Each are the admin's.
//
// # Memory and disk
//
// In memory an entry is a hash of stream and address, and 8 octets: some tens of
// octets in all, without pointers. Two addresses of one hash (of 64 bits, seeded
// anew at each start) would be taken for each other: with a million entries one
// mail in ten billion. Addresses are on disk only, where Each reads them.
//
// The file is a log of lines, appended to. Who appends does not wait: a goroutine
// writes, some milliseconds later at the most, and syncs each second. So kill -9
// loses some milliseconds of bounces, power loss up to two seconds. That is harmless:
// one bounce more is wanted before the address is suppressed. What an admin adds
// or removes is synced before the call returns. When more than half of the lines
// are of no more use the file is written anew, synced, and renamed into place.
package suppress

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/agent/outcome"
)

// Mode says what happens to addresses that bounce for good.
type Mode uint8

// The modes.
const (
	Off    Mode = iota // bounces are not counted, Check finds nothing
	Advise             // they are counted, Check finds nothing
	Drop               // they are counted, Check finds what is suppressed
)

// Policy says what to count and when it is enough.
type Policy struct {
	Mode
	Streams map[string]Mode // in place of Mode, for some streams

	After  int           // hard bounces that suppress an address
	Within time.Duration // the most time between one and the next
	Expire time.Duration // how long after the last one it stays suppressed
	Global bool          // count for all streams together
}

// ModeOf is the mode for mail of a stream.
func (p *Policy) ModeOf(stream string) Mode {
	if m, ok := p.Streams[stream]; ok {
		return m
	}
	return p.Mode
}

// Entry is an address on the list.
type Entry struct {
	Address string
	Stream  string        // "": all streams
	Last    time.Time     // of the last bounce, or when the admin added it; to the second
	Bounces int           // in a row, up to 255
	Class   outcome.Class // of the last bounce; ClassNone if the admin added it
	Late    bool          // the last bounce came in a report: a delivery does not clear it
}

// complained reports whether the recipient has complained.
func (e *Entry) complained() bool { return e.Class == outcome.ClassComplaint }

// Admin reports whether an admin put it there.
func (e *Entry) Admin() bool { return e.Class == outcome.ClassNone }

// Suppressed reports whether the policy keeps mail from the address.
func (e *Entry) Suppressed(p *Policy, now time.Time) bool {
	return e.Admin() || (e.Bounces >= p.After || e.complained()) && now.Sub(e.Last) < p.Expire
}

// alive reports whether the entry still means something.
func (e *Entry) alive(p *Policy, now time.Time) bool {
	return e.Suppressed(p, now) || e.Bounces < p.After && now.Sub(e.Last) < p.Within
}

// List is a suppression list. All methods may be called at the same time.
type List struct {
	log    *slog.Logger
	policy atomic.Pointer[Policy]
	size   atomic.Int64 // of marks: the price of an empty list is to read this
	wake   chan struct{}

	domains domains // locked for itself, and after mu

	learned func(Entry) // see Learned; nil: nobody is told

	mu    sync.RWMutex // never held over I/O
	table table
	file  file
}

// Open reads the list in the file, which it makes at the first entry. Use comes
// next.
func Open(path string, log *slog.Logger) (*List, error) {
	l := &List{log: log, table: newTable(), wake: make(chan struct{}, 1)}
	l.policy.Store(&Policy{After: math.MaxInt, Expire: math.MaxInt64, Within: math.MaxInt64})
	l.file.path = path
	bad, err := l.file.load(&l.table)
	if err != nil {
		return nil, err
	}
	if bad > 0 {
		log.Error("lines of the suppression list cannot be read and are left out", "file", path, "lines", bad)
	}
	l.size.Store(int64(len(l.table.marks)))
	return l, nil
}

// Use puts a policy into force.
func (l *List) Use(p Policy) { l.policy.Store(&p) }

// Learned has f be told of each entry that bounces or a complaint suppress from then on. It must not
// call the list, and is set before the list is used.
func (l *List) Learned(f func(Entry)) { l.learned = f }

// tell tells of an entry that is suppressed from now on.
func (l *List) tell(e *Entry) {
	if l.learned != nil {
		l.learned(*e)
	}
}

// Merge puts entries on the list that another list has, without Sync. What an admin has added is not
// replaced by what was learned, nor what is newer by what is older.
func (l *List) Merge(entries ...Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range entries {
		e.Address, e.Bounces = fold(e.Address), min(e.Bounces, maxBounces)
		if old, ok := l.table.get(e.Stream, e.Address); ok && !e.Admin() && (old.Admin() || !e.Last.After(old.Last) && old.Bounces >= e.Bounces) {
			continue
		}
		l.set(&e)
	}
}

// Policy is the one in force.
func (l *List) Policy() Policy { return *l.policy.Load() }

// Check returns the entry, without its address, that keeps mail of the stream from
// the address.
func (l *List) Check(stream, address string, now time.Time) (Entry, bool) {
	p := l.policy.Load()
	if l.size.Load() == 0 || p.ModeOf(stream) != Drop {
		return Entry{}, false
	}
	address = fold(address)
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, s := range streams(stream) {
		if e, ok := l.table.get(s, address); ok && e.Suppressed(p, now) {
			return e, true
		}
	}
	return Entry{}, false
}

// streams are those whose entries concern mail of a stream.
func streams(stream string) []string {
	if stream == "" {
		return []string{""}
	}
	return []string{"", stream}
}

// Bounced counts a bounce. Only one of a hard class counts against the address, but any
// against the share of its domain that is hard. It reports whether the address is
// suppressed from now on.
func (l *List) Bounced(stream, address string, class outcome.Class, now time.Time) bool {
	return l.bounced(stream, address, class, now, false)
}

// BouncedLate counts a bounce that came in a report, after the message had been taken.
func (l *List) BouncedLate(stream, address string, class outcome.Class, now time.Time) bool {
	return l.bounced(stream, address, class, now, true)
}

// Complained suppresses an address in a stream. It reports whether that is new.
func (l *List) Complained(stream, address string, now time.Time) bool {
	p := l.policy.Load()
	if p.ModeOf(stream) == Off || stream == "" { // "" would be all streams
		return false
	}
	address = fold(address)
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.table.get(stream, address)
	if ok && e.Admin() {
		return false
	}
	is := ok && e.Suppressed(p, now)
	if !ok || !e.alive(p, now) {
		e.Bounces = 0
	}
	e.Address, e.Stream, e.Class, e.Last, e.Late = address, stream, outcome.ClassComplaint, now, true
	l.set(&e)
	if !is {
		l.tell(&e)
	}
	return !is
}

func (l *List) bounced(stream, address string, class outcome.Class, now time.Time, late bool) bool {
	p := l.policy.Load()
	if p.ModeOf(stream) == Off {
		return false
	}
	address = fold(address)
	if !class.Hard() {
		l.domains.delivered(address, now)
		return false
	}
	if p.Global {
		stream = ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.table.get(stream, address)
	if ok && (e.Admin() || e.complained() && e.Suppressed(p, now)) {
		return false
	}
	confirmed := ok && e.alive(p, now) && now.Sub(e.Last) >= anotherDay
	trouble, back := l.domains.bounced(bounced{stream, address, now}, confirmed)
	l.takeBack(back)
	if e, ok = l.table.get(stream, address); !ok || !e.alive(p, now) {
		e.Bounces = 0
	}
	before := e.Bounces
	if confirmed {
		e.Bounces = max(e.Bounces, 1) // one in doubt until now
	}
	if confirmed || !trouble {
		e.Bounces = min(e.Bounces+1, maxBounces)
	}
	e.Address, e.Stream, e.Class, e.Last, e.Late = address, stream, class, now, late
	l.set(&e)
	is := before < p.After && e.Bounces >= p.After
	if is {
		l.tell(&e)
	}
	return is
}

// takeBack has bounces count no more, as their domain is in trouble. The caller holds mu.
func (l *List) takeBack(list []bounced) {
	if len(list) == 0 {
		return
	}
	taken := 0
	for _, b := range list {
		e, ok := l.table.get(b.stream, b.address)
		if !ok || e.Admin() || e.Bounces == 0 {
			continue
		}
		e.Stream, e.Address = b.stream, b.address
		e.Bounces--
		l.set(&e)
		taken++
	}
	l.log.Warn("so many recipients of a domain bounce that it is taken for the domain's trouble; they count once they bounce another day",
		"domain", list[0].address[strings.LastIndexByte(list[0].address, '@')+1:], "bounces", taken)
}

// Delivered takes an address off the list that has bounced before, unless that came late.
func (l *List) Delivered(stream, address string, now time.Time) {
	address = fold(address)
	if l.policy.Load().ModeOf(stream) != Off {
		l.domains.delivered(address, now)
	}
	if l.size.Load() == 0 {
		return
	}
	for _, s := range streams(stream) {
		l.mu.RLock()
		e, ok := l.table.get(s, address)
		l.mu.RUnlock()
		if ok && !e.Admin() && !e.Late {
			l.mu.Lock()
			l.drop(s, address)
			l.mu.Unlock()
		}
	}
}

// Add puts entries on the list, in place of what it says of them. It is durable
// when it returns nil. With an error the entries are in force all the same, and may not
// outlive the process.
func (l *List) Add(entries ...Entry) error {
	l.Put(entries...)
	return l.Sync()
}

// Put is Add without Sync, for a long list.
func (l *List) Put(entries ...Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range entries {
		e.Address = fold(e.Address)
		e.Bounces = min(e.Bounces, maxBounces)
		l.set(&e)
	}
}

// Remove takes addresses off the list and returns how many entries that were: of
// one stream, or with stream nil of any. It is durable when it returns nil.
func (l *List) Remove(stream *string, addresses ...string) (n int, err error) {
	remove := func(stream, address string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.drop(stream, address) {
			n++
		}
	}
	if stream != nil {
		for _, a := range addresses {
			remove(*stream, fold(a))
		}
		return n, l.Sync()
	}
	wanted := make(map[string]bool, len(addresses))
	for _, a := range addresses {
		wanted[fold(a)] = true
	}
	var found []Entry
	err = l.Each(context.Background(), time.Time{}, func(e *Entry) error {
		if wanted[e.Address] {
			found = append(found, *e)
		}
		return nil
	})
	for _, e := range found {
		remove(e.Stream, e.Address)
	}
	return n, errors.Join(err, l.Sync())
}

// Each calls yield for every entry that means something at that time, in the
// order they came, until it returns an error. With the zero time those that
// expired long ago come too. An entry that changes meanwhile may be left out or
// come as it was.
func (l *List) Each(ctx context.Context, now time.Time, yield func(*Entry) error) error {
	if err := l.Flush(); err != nil {
		return err
	}
	p := l.policy.Load()
	return l.file.each(func(e *Entry, m mark) error {
		l.mu.RLock()
		current := l.table.current(e.Stream, e.Address, m)
		l.mu.RUnlock()
		if !current || !now.IsZero() && !e.alive(p, now) {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return yield(e)
	})
}

// Stats counts entries.
type Stats struct {
	Suppressed int   // in all
	Admin      int   // of these, added by an admin
	Counted    int   // have bounced, but not often enough
	Octets     int64 // of the file
}

// Stats counts the entries that mean something.
func (l *List) Stats(now time.Time) Stats {
	p := l.policy.Load()
	st := Stats{Octets: l.file.octets()}
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, m := range l.table.marks {
		switch e := m.entry(); {
		case e.Admin():
			st.Admin++
			st.Suppressed++
		case e.Suppressed(p, now):
			st.Suppressed++
		case e.alive(p, now):
			st.Counted++
		}
	}
	return st
}

// set and drop change an entry and have that written. Callers hold mu.
func (l *List) set(e *Entry) {
	l.file.add(l.table.set(e), e)
	l.changed()
}

func (l *List) drop(stream, address string) bool {
	if !l.table.drop(stream, address) {
		return false
	}
	l.file.remove(stream, address)
	l.changed()
	return true
}

func (l *List) changed() {
	l.size.Store(int64(len(l.table.marks)))
	select {
	case l.wake <- struct{}{}:
	default:
	}
}
