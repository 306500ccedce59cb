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
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/durable"
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

// Counter counts for one quota.
type Counter struct {
	book  *Book
	key   Key
	quota Quota
	spent []block   // finished, the oldest first
	sum   int       // of spent
	open  block     // may be taken from; its n is what was taken
	size  int       // of open; 0: there is none
	asked int       // size of the block that is asked for; 0: none is
	since time.Time // when it was asked for
	last  uint64    // number of the last block
	pace  pace      // of a quota that is spread
}

// pace is what may be taken at once of a quota that is spread over the day.
type pace struct {
	N  float64   `json:"n"`  // recipients
	At time.Time `json:"at"` // when N was found; zero: never yet
}

// hours is how many parts a spread day has. Twilio SendGrid's warm-up, too, goes by the hour
// (package warmup has the source).
const hours = 24

// fill brings the pace up to date. It is full at its first use on a day of which nothing was
// used, and empty else. The file has it: a restart is no reason for another burst, and many of
// them are none to send less.
func (p *pace) fill(now time.Time, limit int, fresh bool) {
	burst := float64(limit)/hours + 1 // a fraction that is left over is not lost
	switch {
	case !p.At.IsZero():
		p.N += max(0, now.Sub(p.At).Seconds()) * p.rate(limit)
	case fresh:
		p.N = burst
	}
	p.N, p.At = min(p.N, burst), now
}

// rate is in recipients per second.
func (*pace) rate(limit int) float64 { return float64(limit) / (hours * 3600) }

// next is when there is one more recipient.
func (p *pace) next(now time.Time, limit int) time.Time {
	return now.Add(time.Millisecond + time.Duration((math.Floor(p.N)+1-p.N)/p.rate(limit)*float64(time.Second)))
}

// block is a number of recipients that were sent to.
type block struct {
	At  time.Time `json:"at,omitzero"`  // last use, of an hour's block
	Day string    `json:"day,omitzero"` // "2026-11-28", of a day's block
	N   int       `json:"n"`
	no  uint64    // since the start; 0: of an earlier run
}

const (
	// part is the part of a quota that is reserved at a time.
	part = 100
	// keptDays is how many days are remembered for clocks that are set back.
	keptDays = 8
	// lookAgain is after how long a bound is asked for again, if Look does not tell before.
	lookAgain = 5 * time.Second
	// retryWrite is how long after a failure the file is written again.
	retryWrite = time.Second
)

// saved is the file.
type saved struct {
	Counters []savedCounter `json:"counters"`
}

type savedCounter struct {
	Key
	Spent    []block `json:"spent,omitempty"`
	Reserved *block  `json:"reserved,omitempty"` // not finished
	Pace     *pace   `json:"pace,omitempty"`     // of a quota that is spread
}

// check says whether a file can be what snapshot made. A count below zero would be room that
// nobody has given.
func (s *saved) check() error {
	if s == nil {
		return errors.New("it has no counters")
	}
	for _, x := range s.Counters {
		if x.Reserved != nil && x.Reserved.N < 0 || slices.ContainsFunc(x.Spent, func(b block) bool { return b.N < 0 }) {
			return fmt.Errorf("a count of stream %q is below zero", x.Stream)
		}
	}
	return nil
}

// Open returns the Book of a file, or an empty one if there is no such file. One that cannot be
// read is tried again before each write, and never replaced: to send more than somebody has
// allowed is worse than to wait.
func Open(o Options, now time.Time) *Book {
	b := &Book{o: o, kick: make(chan struct{}, 1), counters: make(map[Key]*Counter)}
	b.failed = b.read(now)
	b.unread = b.failed != nil
	return b
}

// read adds what the file has to the counts.
func (b *Book) read(now time.Time) error {
	if b.o.Path == "" {
		return nil
	}
	text, err := os.ReadFile(b.o.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var s *saved
	if err == nil {
		if err = json.Unmarshal(text, &s); err == nil {
			err = s.check()
		}
		if err != nil && b.o.Damaged != nil {
			b.o.Damaged(SetAside(b.o.Path, now, err))
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("the counts of quotas cannot be read: %w; remedy: mend %s, or remove it to begin all counts anew", err, b.o.Path)
	}
	for _, x := range s.Counters {
		c := b.counters[x.Key]
		if c == nil {
			c = &Counter{book: b, key: x.Key}
			b.counters[x.Key] = c
		}
		if x.Pace != nil {
			c.pace = *x.Pace
			if c.pace.At.After(now) {
				c.pace.At = now
			}
		}
		if x.Reserved != nil {
			c.pace.N -= float64(x.Reserved.N) // as its block counts as spent
			x.Reserved.At = now
			x.Spent = append(x.Spent, *x.Reserved)
		}
		for _, s := range x.Spent {
			if s.At.After(now) {
				s.At = now
			}
			c.spend(s)
		}
	}
	return nil
}

// SetAside renames a file that makes no sense, so that nobody reads it again and it can be looked
// at. It returns what is to be told.
func SetAside(path string, now time.Time, why error) error {
	aside := path + ".damaged-" + now.UTC().Format("20060102T150405Z")
	if err := os.Rename(path, aside); err != nil {
		return fmt.Errorf("%s is damaged: %w, and cannot be renamed: %w", path, why, err)
	}
	return fmt.Errorf("%s was damaged: %w; it is %s now", path, why, aside)
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
	c := b.counters[k]
	if c == nil {
		c = &Counter{book: b, key: k}
		b.counters[k] = c
	}
	c.quota = q
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

// Room is how many recipients may be taken now. If that is 0, next is when there will be
// some, or the zero time when a block is being reserved, of which Granted tells. Of a quota that
// is spread next is told in any case, and the zero time says that there is more than n as
// soon as the next block is reserved.
func (c *Counter) Room(now time.Time) (n int, next time.Time) {
	c.book.mu.Lock()
	defer c.book.mu.Unlock()
	return c.room(now)
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

// counted is what counts on a day, with all of its open block.
func (c *Counter) counted(day string) (n int) {
	for i := range c.spent {
		if c.spent[i].Day == day {
			n += c.spent[i].N
		}
	}
	if c.size > 0 && c.open.Day == day {
		n += max(c.size, c.open.N)
	}
	return n
}

// Ahead is how many recipients could be taken now of a quota that is spread, if all blocks were
// reserved that this needs.
func (c *Counter) Ahead(now time.Time) int {
	c.book.mu.Lock()
	defer c.book.mu.Unlock()
	c.expire(now)
	used := c.used(now)
	c.pace.fill(now, c.quota.Limit, used == 0)
	return max(0, min(c.limit(now)-used, int(c.pace.N)))
}

// limit is how much this node may count now.
func (c *Counter) limit(now time.Time) int {
	if c.book.o.Bound == nil || c.quota.Limit == 0 {
		return c.quota.Limit
	}
	return min(c.quota.Limit, c.book.o.Bound(c.key, c.day(now), c.quota.Limit))
}

func (c *Counter) room(now time.Time) (n int, next time.Time) {
	c.expire(now)
	used := c.used(now)
	limit := c.limit(now)
	left := limit - used
	if left <= 0 && used < c.quota.Limit {
		return 0, now.Add(lookAgain) // other nodes have the rest
	}
	if left <= 0 {
		return 0, c.next(now)
	}
	if c.quota.Spread {
		c.pace.fill(now, c.quota.Limit, used == 0)
		if n := int(c.pace.N); n < left {
			if left, next = n, c.pace.next(now, c.quota.Limit); left <= 0 {
				return 0, next
			}
		}
	}
	if c.quota.Spread && next.IsZero() {
		next = c.next(now)
	}
	if c.size > 0 && (c.open.N >= c.size || c.open.Day != c.day(now)) {
		c.finish()
	}
	if c.size == 0 {
		c.asked, c.since = min(limit-used, max(1, c.quota.Limit/part)), now
		if c.book.o.Path != "" {
			select {
			case c.book.kick <- struct{}{}:
			default:
			}
			if c.quota.Spread && c.book.failed != nil { // nobody knows when: mail need not wait for it
				return 0, now.Add(retryWrite)
			}
			return 0, time.Time{}
		}
		c.grant(c.asked, now)
	}
	if block := c.size - c.open.N; block < left {
		return block, time.Time{}
	}
	return left, next
}

// Taken says which block recipients were taken from.
type Taken struct {
	no  uint64
	day string
}

// Take counts up to n recipients that are about to be sent to, and says how many those are.
func (c *Counter) Take(now time.Time, n int) (int, Taken) {
	c.book.mu.Lock()
	defer c.book.mu.Unlock()
	room, _ := c.room(now)
	n = min(n, room)
	if n <= 0 {
		return 0, Taken{}
	}
	c.open.N += n
	c.open.At = now
	c.pace.N -= float64(n)
	return n, Taken{c.open.no, c.open.Day}
}

// Renew has n recipients that were taken together count on the day of now, and says how they
// were taken then: they are sent to only now.
func (c *Counter) Renew(now time.Time, from Taken, n int) Taken {
	if today := c.day(now); from.day != today {
		c.Return(from, n)
		c.Add(now, n)
		return Taken{day: today}
	}
	return from
}

// Add counts n recipients that are sent to without room for them. They are in the file with the
// next block.
func (c *Counter) Add(now time.Time, n int) {
	c.book.mu.Lock()
	defer c.book.mu.Unlock()
	c.spend(block{At: now, Day: c.day(now), N: n})
	c.pace.N -= float64(n)
}

// UsedOn is how many recipients counted on a day, "2026-11-28", of the last days.
func (b *Book) UsedOn(k Key, day string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.counters[k]
	if c == nil {
		return 0
	}
	for i := range c.spent {
		if c.spent[i].Day == day {
			n += c.spent[i].N
		}
	}
	if c.size > 0 && c.open.Day == day {
		n += c.open.N
	}
	return n
}

// Return takes back n of the recipients that were taken together: those that have not
// accepted the mail.
func (c *Counter) Return(from Taken, n int) {
	c.book.mu.Lock()
	defer c.book.mu.Unlock()
	c.pace.N += float64(n) // fill bounds it
	if c.size > 0 && c.open.no == from.no {
		c.open.N -= min(n, c.open.N)
		return
	}
	for i := range c.spent {
		if s := &c.spent[i]; from.no > 0 && s.no == from.no || s.Day != "" && s.Day == from.day {
			n = min(n, s.N)
			s.N -= n
			c.sum -= n
			return
		}
	}
}

// day is the day of a moment; "" for an hour's count.
func (c *Counter) day(t time.Time) string {
	if !c.key.Day {
		return ""
	}
	return t.In(c.quota.Zone).Format(time.DateOnly)
}

// used is what counts now.
func (c *Counter) used(now time.Time) (n int) {
	day := c.day(now)
	if day == "" {
		n = c.sum
	}
	for i := range c.spent {
		if day != "" && c.spent[i].Day == day {
			n += c.spent[i].N
		}
	}
	if c.size > 0 && c.open.Day == day {
		n += c.open.N
	}
	return n
}

// expire forgets what counts no more.
func (c *Counter) expire(now time.Time) {
	if c.key.Day {
		return // see spend
	}
	if c.size > 0 && c.open.N > 0 && now.Sub(c.open.At) >= time.Hour {
		c.finish() // what is left of it would count as used with the rest
	}
	n := 0
	for n < len(c.spent) && now.Sub(c.spent[n].At) >= time.Hour {
		c.sum -= c.spent[n].N
		n++
	}
	c.spent = c.spent[n:]
}

// next is when the first of what is used up counts no more.
func (c *Counter) next(now time.Time) time.Time {
	if c.key.Day {
		y, m, d := now.In(c.quota.Zone).Date()
		t := time.Date(y, m, d+1, 0, 0, 0, 0, c.quota.Zone)
		if c.day(t) == c.day(now) { // there is no midnight that night (time.Date)
			_, t = t.ZoneBounds()
		}
		return t
	}
	over := c.used(now) - c.quota.Limit
	for _, s := range c.spent {
		if over -= s.N; over < 0 {
			return s.At.Add(time.Hour)
		}
	}
	return c.open.At.Add(time.Hour)
}

// finish ends the block that is open.
func (c *Counter) finish() {
	if c.open.N > 0 {
		c.spend(c.open)
	}
	c.open, c.size = block{}, 0
}

// spend adds a block to those that are spent: one of a day to that day's.
func (c *Counter) spend(s block) {
	c.sum += s.N
	if s.Day != "" {
		s.At = time.Time{}
		i := slices.IndexFunc(c.spent, func(x block) bool { return x.Day == s.Day })
		if i >= 0 {
			c.spent[i].N += s.N
			return
		}
		if len(c.spent) >= keptDays {
			c.sum -= c.spent[0].N
			c.spent = c.spent[1:]
		}
	}
	c.spent = append(c.spent, s)
	if s.Day == "" {
		slices.SortStableFunc(c.spent, func(a, b block) int { return a.At.Compare(b.At) })
	}
}

// grant opens a block that is durable.
func (c *Counter) grant(size int, since time.Time) {
	c.last++
	c.open, c.size, c.asked = block{At: since, Day: c.day(since), no: c.last}, size, 0
}

// Run writes what is asked for until ctx ends.
func (b *Book) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.kick:
		}
		for b.reserve(time.Now()) != nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(retryWrite):
			}
		}
	}
}

// reserve grants all blocks that are asked for, once they are durable.
func (b *Book) reserve(now time.Time) error {
	type wish struct {
		size  int
		since time.Time
	}
	b.mu.Lock()
	if b.unread {
		err := b.read(now)
		if b.unread = err != nil; b.unread {
			b.tell(err)
			b.mu.Unlock()
			return err
		}
	}
	asked := make(map[*Counter]wish)
	s := b.snapshot(now)
	for _, c := range b.counters {
		if c.asked > 0 {
			asked[c] = wish{c.asked, c.since}
		}
	}
	b.mu.Unlock()
	if len(asked) == 0 {
		return nil // it was granted with others
	}
	err := b.write(s)
	b.mu.Lock()
	b.tell(err)
	if err == nil {
		for c, x := range asked {
			if b.o.Bound != nil && c.used(now)+x.size > c.limit(now) {
				c.asked = 0 // the bound was lowered meanwhile; to the file the block is spent until the next write
				continue
			}
			c.grant(x.size, x.since)
		}
	}
	b.mu.Unlock()
	if err == nil && b.o.Granted != nil {
		b.o.Granted()
	}
	return err
}

// tell notes how reading or writing ended, and logs the first failure of several. The caller holds
// mu.
func (b *Book) tell(err error) {
	if b.failed = err; err != nil && !b.told {
		b.o.Log.Error("streams that have quotas wait", "err", err)
	}
	b.told = err != nil
}

// snapshot is the file: what is spent, and what is reserved or about to be. The caller holds mu.
func (b *Book) snapshot(now time.Time) (s saved) {
	for k, c := range b.counters {
		c.expire(now)
		x := savedCounter{Key: k, Spent: slices.Clone(c.spent)}
		switch {
		case c.size > 0:
			x.Reserved = &block{At: c.open.At, Day: c.open.Day, N: c.size}
		case c.asked > 0:
			x.Reserved = &block{At: c.since, Day: c.day(c.since), N: c.asked}
		}
		if c.quota.Spread && !c.pace.At.IsZero() {
			p := c.pace
			if x.Reserved != nil {
				p.N += float64(c.open.N) // what was taken of it
			}
			x.Pace = &p
		}
		if len(x.Spent) > 0 || x.Reserved != nil {
			s.Counters = append(s.Counters, x)
		}
	}
	slices.SortFunc(s.Counters, func(a, b savedCounter) int { return compare(a.Key, b.Key) })
	return s
}

func compare(a, b Key) int {
	day := map[bool]int{true: 1}
	return cmp.Or(cmp.Compare(a.Stream, b.Stream), cmp.Compare(a.Provider, b.Provider), cmp.Compare(day[a.Day], day[b.Day]))
}

func (b *Book) write(s saved) error {
	text, err := json.MarshalIndent(s, "", "\t")
	if err != nil {
		return err
	}
	if err := durable.Replace(b.o.Path, append(text, '\n')); err != nil {
		return fmt.Errorf("the counts of quotas cannot be written: %w; remedy: see that the agent may write to state_directory (millrace check)", err)
	}
	return nil
}

// Close notes what was really used. Nothing is taken after it.
func (b *Book) Close(now time.Time) error {
	if b.o.Path == "" {
		return nil
	}
	b.mu.Lock()
	if len(b.counters) == 0 || b.unread { // there is nothing to note
		b.mu.Unlock()
		return nil
	}
	for _, c := range b.counters {
		c.finish()
		c.asked = 0
	}
	s := b.snapshot(now)
	b.mu.Unlock()
	return b.write(s) // else up to a hundredth of each counts as used
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
