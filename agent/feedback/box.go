package feedback

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/durable"
)

// The bounds of a Box. Where reports wait because the agent is away, the oldest go first of
// those about the copy of which the most wait: who has one copy, and sends reports on it
// without end, takes no place from reports on others.
const (
	MaxWaiting       = 4096
	MaxWaitingOctets = 64 << 20
)

// Box is the directory of the spool in which messages that are reports wait for the agent.
// One program puts them there, the milter, and one takes them, the agent. Their names tell
// when they came, how large they are and, by a number, which copy of a message they are about, so
// that nobody has to look at each: no name comes from mail.
//
// A message is written and synced under another name before it gets its own, and the
// directory is synced then: what the agent finds is whole. It removes a message only when
// all that follows from it is durable (package assess), so a crash has it read once more and
// counted once.
type Box struct {
	dir    string
	most   int   // messages
	octets int64 // of all
}

// NewBox returns the box of a spool directory. The directory is made with the first message.
func NewBox(spool string) *Box {
	return &Box{filepath.Join(spool, "reports"), MaxWaiting, MaxWaitingOctets}
}

// suffix ends the names of messages.
const suffix = ".eml"

// waiting is a message in the box.
type waiting struct {
	name  string
	size  int64
	about uint64
}

// Put adds a message, about a copy that has a number, and returns how many older ones had to
// go for it.
func (b *Box) Put(message []byte, about uint64, now time.Time) (gone int, err error) {
	list, err := b.list()
	if err != nil {
		return 0, err
	}
	octets := int64(len(message))
	for _, w := range list {
		octets += w.size
	}
	list = append(list, waiting{about: about}) // the new one
	for len(list) > b.most || octets > b.octets && len(list) > 1 {
		i := leastMissed(list)
		if err := b.Remove(list[i].name); err != nil {
			return gone, err
		}
		octets -= list[i].size
		list = slices.Delete(list, i, i+1)
		gone++
	}
	name := fmt.Sprintf("%016x-%x-%x%s", now.UnixNano(), len(message), about, suffix)
	return gone, durable.Replace(filepath.Join(b.dir, name), message)
}

// leastMissed is the oldest of those about the copy of which the most are there.
func leastMissed(list []waiting) int {
	count := make(map[uint64]int)
	for _, w := range list {
		count[w.about]++
	}
	best := 0
	for i, w := range list {
		if count[w.about] > count[list[best].about] {
			best = i
		}
	}
	return best
}

// Clean removes what a crash has left behind in the making. The program that puts messages
// there calls it before the first.
func (b *Box) Clean() error {
	left, err := filepath.Glob(filepath.Join(b.dir, "*"+durable.Suffix))
	if err != nil {
		return err
	}
	for _, path := range left {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// Waiting lists the names of the messages, the oldest first.
func (b *Box) Waiting() ([]string, error) {
	list, err := b.list()
	names := make([]string, 0, len(list))
	for _, w := range list {
		names = append(names, w.name)
	}
	return names, err
}

func (b *Box) list() ([]waiting, error) {
	entries, err := os.ReadDir(b.dir) // in the order of names, which is that of time
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []waiting
	for _, e := range entries {
		at, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok {
			continue
		}
		w := waiting{name: e.Name()}
		var nano uint64
		if n, _ := fmt.Sscanf(at, "%016x-%x-%x", &nano, &w.size, &w.about); n < 2 {
			continue // not ours; names of before have no third number
		}
		list = append(list, w)
	}
	return slices.Clip(list), nil
}

// Read returns a message, and not more than MaxSize octets of it.
func (b *Box) Read(name string) ([]byte, error) {
	f, err := os.Open(filepath.Join(b.dir, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, MaxSize))
}

// Remove takes a message out.
func (b *Box) Remove(name string) error {
	err := os.Remove(filepath.Join(b.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the other side was faster
	}
	return err
}
