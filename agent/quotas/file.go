package quotas

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/durable"
)

// retryWrite is how long after a failure the file is written again.
const retryWrite = time.Second

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

// load reads the file, without the lock: a disk may hang. nil: there is none to go by.
func (b *Book) load(now time.Time) (*saved, error) {
	if b.o.Path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(b.o.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var s *saved
	if err == nil {
		if err = json.Unmarshal(text, &s); err == nil {
			err = s.check()
		}
		if err != nil && b.o.Damaged != nil {
			b.o.Damaged(SetAside(b.o.Path, now, err))
			return nil, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("the counts of quotas cannot be read: %w; remedy: mend %s, or remove it to begin all counts anew", err, b.o.Path)
	}
	return s, nil
}

// merge adds what the file has to the counts. The caller holds mu.
func (b *Book) merge(s *saved, now time.Time) {
	if s == nil {
		return
	}
	for _, x := range s.Counters {
		c := b.counter(x.Key)
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
		b.mu.Unlock()
		s, err := b.load(now)
		b.mu.Lock()
		if err != nil {
			b.tell(err)
			b.mu.Unlock()
			return err
		}
		b.merge(s, now)
		b.unread = false
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
