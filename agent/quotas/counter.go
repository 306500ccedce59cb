package quotas

import (
	"slices"
	"time"
)

const (
	// part is the part of a quota that is reserved at a time.
	part = 100
	// keptDays is how many days are remembered for clocks that are set back.
	keptDays = 8
	// lookAgain is after how long a bound is asked for again. Who lends more calls the queue before.
	lookAgain = 5 * time.Second
)

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

// block is a number of recipients that were sent to.
type block struct {
	At  time.Time `json:"at,omitzero"`  // last use, of an hour's block
	Day string    `json:"day,omitzero"` // "2026-11-28", of a day's block
	N   int       `json:"n"`
	no  uint64    // since the start; 0: of an earlier run
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
func (c *Counter) used(now time.Time) int {
	if c.key.Day {
		return c.usedOn(c.day(now))
	}
	if c.size > 0 {
		return c.sum + c.open.N
	}
	return c.sum
}

// usedOn is what counts on a day.
func (c *Counter) usedOn(day string) (n int) {
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

// counted is usedOn with all of the open block.
func (c *Counter) counted(day string) int {
	n := c.usedOn(day)
	if c.size > 0 && c.open.Day == day {
		n += max(0, c.size-c.open.N)
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
