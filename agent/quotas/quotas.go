// Package quotas counts what streams may send in an hour and in a day, over crashes,
// restarts, reloads and clocks that are set.
//
// A Book has the counts, one Counter for each stream, provider and period. Who is about
// to send asks Room, then calls Take for what it sends, before it does, and Return for what
// was not accepted in the end; so what is under way is counted, and no quota is ever
// exceeded. None of the three waits for anything. Run writes, Close writes for the last
// time, List tells.
//
// # Periods
//
// An hour rolls: in no hour, whenever it begins, is more accepted than the quota. A day is
// that of the calendar in the quota's time zone, of 23 or 25 hours where the clocks are
// set there; its count begins anew at midnight.
//
// # What is durable
//
// A write for each message would cost more than the message, so counts are reserved by
// blocks of a hundredth of the quota. The order is this:
//
//  1. Room finds the block spent, and asks for one; it says 0, and mail of that stream waits;
//  2. Run replaces the file, in which the new block is noted as reserved, and syncs it and
//     its directory (durable.Replace); all blocks asked for since the last time are in it;
//  3. only then may the block be taken from, and Granted is called.
//
// So after a crash the file knows of every recipient that was sent to, and of some that were
// not: a block that is not finished counts as spent, in a day's count on its day, in an
// hour's as if all of it had been used in the moment of the start, since nobody knows when
// it was. At most a hundredth of a quota is lost that way. Close notes what was really
// used. While the file cannot be written, or read at first, no block is granted: streams with a
// quota wait, all others go on.
//
// # Clocks
//
// Within one run the ages of an hour's blocks are measured by the monotonic clock that
// time.Now keeps, so setting the host's clock moves nothing. A block is as old as its last
// use: an hour's count may be late by one block to fall, and never early. What the
// file says of the future, as the clock was set back since, counts as of now. Counts of the
// last days are kept as long as there are few of them, not by their age, so that a
// clock that shows tomorrow for a minute does not make today begin anew.
package quotas

import (
	"cmp"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Quota is how many recipients may accept mail in a period.
type Quota struct {
	Limit int
	Zone  *time.Location // whose days, for a quota of a day; nil: the host's
	// Spread spreads a quota of a day over it: an hour's part may be taken at once, and what
	// was taken comes back evenly.
	Spread bool
}

// Key names a count. It stays when the quota changes.
type Key struct {
	Stream   string `json:"stream"`             // whose count it is: a stream as the configuration calls it, or an address (package warmup)
	Provider string `json:"provider,omitempty"` // "": all receivers together
	Day      bool   `json:"day,omitempty"`      // else an hour
}

// Count is what List tells of a count.
type Count struct {
	Key
	Limit, Used int
	Next        time.Time // when there is room again; zero: there is some, or will be when a block is written
}

// Options are what a Book needs.
type Options struct {
	Path string // of the file; "": counts are kept in memory alone
	Log  *slog.Logger
	// Granted is called when blocks were granted that Room had to ask for.
	Granted func()
	// Bound, if there is one, is how much of a limit this node may count, of one that it shares with
	// others (package fleet); day is "" for an hour's. It is called with locks held, and must
	// wait for nothing. nil: all limits are this node's own.
	Bound func(k Key, day string, limit int) int
	// Damaged, if there is one, is told of a file that can be read and makes no sense. It was
	// renamed then, all is counted anew, and who is told must see that nothing is sent on the
	// strength of that. nil: such a file stays, and streams wait.
	Damaged func(error)
}

// Book holds the counts. It may be used by many goroutines.
type Book struct {
	o    Options
	kick chan struct{}

	mu       sync.Mutex
	counters map[Key]*Counter
	unread   bool  // the file could not be read, and may have counts
	failed   error // why the file could not be read or written at the last try
	told     bool  // the log has it
}

// Open returns the Book of a file, or an empty one if there is no such file. One that cannot be
// read is tried again before each write, and never replaced: to send more than somebody has
// allowed is worse than to wait.
func Open(o Options, now time.Time) *Book {
	b := &Book{o: o, kick: make(chan struct{}, 1), counters: make(map[Key]*Counter)}
	s, err := b.load(now)
	b.merge(s, now)
	b.failed, b.unread = err, err != nil
	return b
}

// Use puts quotas into force. What was counted for the same key counts on, also when the key was
// without a quota for a while.
func (b *Book) Use(list map[Key]Quota) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.counters {
		c.quota = Quota{}
	}
	for k, q := range list {
		b.set(k, q)
	}
}

// Set puts one quota into force beside those that are, and returns its count. A limit of 0 lets
// nothing go.
func (b *Book) Set(k Key, q Quota) *Counter {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.set(k, q)
}

func (b *Book) set(k Key, q Quota) *Counter {
	if q.Zone == nil {
		q.Zone = time.Local
	}
	c := b.counter(k)
	c.quota = q
	return c
}

// counter is the count of a key, made if there is none. The caller holds mu.
func (b *Book) counter(k Key) *Counter {
	c := b.counters[k]
	if c == nil {
		c = &Counter{book: b, key: k}
		b.counters[k] = c
	}
	return c
}

// Counter is the count of a quota that Use has put into force; nil if there is none.
func (b *Book) Counter(k Key) *Counter {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.counters[k]; c != nil && c.quota.Limit > 0 {
		return c
	}
	return nil
}

// Counted calls yield with what this node has counted of each quota of a day in force, blocks that
// are reserved included, with the lock held: today's, and of days that may still go on elsewhere,
// by another clock, those that have any.
func (b *Book) Counted(now time.Time, yield func(k Key, day string, limit, counted int)) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, c := range b.counters {
		if !k.Day || c.quota.Limit == 0 {
			continue
		}
		today := c.day(now)
		yield(k, today, c.quota.Limit, c.counted(today))
		for _, day := range [...]string{c.day(now.AddDate(0, 0, -1)), c.day(now.AddDate(0, 0, 1))} {
			if n := c.counted(day); n > 0 {
				yield(k, day, c.quota.Limit, n)
			}
		}
	}
}

// UsedOn is how many recipients counted on a day, "2026-11-28", of the last days.
func (b *Book) UsedOn(k Key, day string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.counters[k]; c != nil {
		n = c.usedOn(day)
	}
	return n
}

// Failed says why the file could not be read or written at the last try; nil if it could, or
// there is no Book or no quota in force.
func (b *Book) Failed() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.counters {
		if c.quota.Limit > 0 {
			return b.failed
		}
	}
	return nil
}

// compare is the order of keys.
func compare(a, b Key) int {
	days := 0
	switch {
	case a.Day && !b.Day:
		days = 1
	case b.Day && !a.Day:
		days = -1
	}
	return cmp.Or(cmp.Compare(a.Stream, b.Stream), cmp.Compare(a.Provider, b.Provider), days)
}

// List tells all counts of quotas that are in use, by their keys; none if there is no Book.
func (b *Book) List(now time.Time) (list []Count) {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, c := range b.counters {
		if c.quota.Limit == 0 {
			continue // of an earlier configuration
		}
		c.expire(now)
		x := Count{Key: k, Limit: c.quota.Limit, Used: c.used(now)}
		if x.Used >= x.Limit {
			x.Next = c.next(now)
		}
		list = append(list, x)
	}
	slices.SortFunc(list, func(a, b Count) int { return compare(a.Key, b.Key) })
	return list
}
