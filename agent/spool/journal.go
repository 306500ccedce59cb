package spool

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
)

// journalStep is how far ahead of its end a journal file is filled with zeros.
const journalStep = 4 << 20

// journal is the file that takes the events now.
type journal struct {
	file   File
	name   string
	number uint32
	salt   uint64
	step   int64

	growMu sync.Mutex // before flushMu

	flushMu sync.Mutex // before mu; held during a sync

	mu     sync.Mutex
	end    int64 // of the last frame
	room   int64 // end of the synced zeros
	synced int64
	buf    []byte
	failed error // of a sync: what was not synced before may be lost
}

func journalName(n uint32) string    { return fmt.Sprintf("%08X.journal", n) }
func checkpointName(n uint32) string { return fmt.Sprintf("%08X.checkpoint", n) }

// parseLogName splits the name of a file of the journal directory.
func parseLogName(name string) (n uint32, kind string, ok bool) {
	num, kind, _ := strings.Cut(name, ".")
	v, err := strconv.ParseUint(num, 16, 32)
	return uint32(v), kind, err == nil && (name == journalName(uint32(v)) || name == checkpointName(uint32(v)))
}

// newJournal makes a journal file with its first zeros; file, zeros and name are
// durable on return, and the name shows only a file that is whole.
func (t tree) newJournal(number uint32, step int64) (*journal, error) {
	j := &journal{name: t.path(journalDir, journalName(number)), number: number, step: step, end: framesAt, room: framesAt}
	var salt [8]byte
	rand.Read(salt[:])
	j.salt = binary.LittleEndian.Uint64(salt[:])
	var err error
	tmp := j.name + tmpSuffix
	if j.file, err = t.fs.Open(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return nil, err
	}
	_, err = j.file.WriteAt(logHeader{journalMagic, number, j.salt}.encode(), 0)
	if err == nil {
		err = j.grow(step)
	}
	if err == nil {
		err = t.fs.Rename(tmp, j.name)
	}
	if err == nil {
		err = t.fs.SyncDir(t.path(journalDir))
	}
	if err != nil {
		j.file.Close()
		t.fs.Remove(tmp)
		t.fs.Remove(j.name)
		return nil, err
	}
	j.synced = framesAt
	return j, nil
}

// grow sees to at least n octets of synced zeros behind the end. The blocks are
// reserved and written before an event needs them, so a full disk cannot stop
// the journal between two steps, and a sync of events has only data to write.
func (j *journal) grow(n int64) error {
	j.growMu.Lock()
	defer j.growMu.Unlock()
	j.mu.Lock()
	from, to := j.room, j.end+n
	j.mu.Unlock()
	if to <= from {
		return nil
	}
	to = align(to, 4096)
	if err := j.file.Allocate(from, to-from); err != nil {
		return err
	}
	zeros := make([]byte, min(to-from, 1<<20))
	for off := from; off < to; off += int64(len(zeros)) {
		if _, err := j.file.WriteAt(zeros[:min(int64(len(zeros)), to-off)], off); err != nil {
			return err
		}
	}
	if err := j.flush(); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.room = to
	return nil
}

// flush syncs the file. The kernel tells of a failure only once, to whoever
// syncs next, and calls clean what it has dropped. So syncs go one by one, and
// each after one that failed fails too: it may have been about any event.
func (j *journal) flush() error {
	j.flushMu.Lock()
	defer j.flushMu.Unlock()
	j.mu.Lock()
	err := j.failed
	j.mu.Unlock()
	if err == nil {
		err = j.file.Sync()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.failed = err
	return err
}

// low reports whether it is time to grow ahead.
func (j *journal) low() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.room-j.end < j.step
}

func (j *journal) size() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.end
}

// append writes one frame; encode adds the events to the buffer it is given.
// The frame is in the kernel on return, not yet on disk. A frame that failed is
// overwritten by the next. keep octets of the room ahead are left for others.
func (j *journal) append(keep int64, encode func(b []byte) []byte) error {
	for {
		j.mu.Lock()
		b := encode(startFrame(j.buf[:0]))
		b = endFrame(b, 0, j.salt, j.end, j.synced)
		j.buf = b
		if j.end+int64(len(b))+keep <= j.room {
			_, err := j.file.WriteAt(b, j.end)
			if err == nil {
				j.end += int64(len(b))
			}
			j.mu.Unlock()
			return err
		}
		j.mu.Unlock()
		need := int64(len(b)) + keep
		err := j.grow(need + j.step)
		if err != nil && errors.Is(full(err), ErrFull) {
			err = j.grow(need) // nearly full, perhaps
		}
		if err != nil {
			return err
		}
	}
}

// reserve is how much of the room ahead outcomes leave for what frees room: a
// hole needs an event first.
func (j *journal) reserve() int64 { return min(64<<10, j.step/4) }

// sync makes all frames up to now durable.
func (j *journal) sync() error {
	j.mu.Lock()
	end, synced, failed := j.end, j.synced, j.failed
	j.mu.Unlock()
	if end == synced || failed != nil {
		return failed
	}
	if err := j.flush(); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.synced = max(j.synced, end)
	return nil
}

func (j *journal) broken() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.failed != nil
}

// close syncs and closes the file. The empty frame at the end says that all
// before it was synced. The zeros stay: the next agent gives them back just
// before it needs as many, and so starts on a full disk too.
func (j *journal) close() error { return j.finish(false) }

// retire closes a journal that another one follows. Its zeros go back: should
// checkpoints fail for long, old journals take no more than they must.
func (j *journal) retire() error { return j.finish(true) }

func (j *journal) finish(truncate bool) error {
	err := j.sync()
	if err == nil {
		// The events are safe, and no more is promised: a full disk may refuse
		// the rest.
		j.append(0, func(b []byte) []byte { return b })
		if truncate {
			j.file.Truncate(j.size())
		}
		j.flush()
	}
	return errors.Join(err, j.file.Close())
}

// replay reads a journal file of an earlier agent, then cuts off what follows
// its last frame, zeros or torn. It returns the size that is left.
func (t tree) replay(number uint32, yield func(ID, uint32, state)) (size int64, err error) {
	name := t.path(journalDir, journalName(number))
	f, err := t.fs.Open(name, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	r, err := openFrames(f, journalMagic, number)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	for {
		payload, err := r.next()
		if err == nil {
			err = decodeEvents(payload, yield)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, fmt.Errorf("%s: frame before %d: %w", name, r.pos, err)
		}
	}
	if err := r.checkTail(); err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	if r.pos < r.size {
		if err := f.Truncate(r.pos); err != nil {
			return 0, err
		}
	}
	// What we go on from must be durable, also if it was not before.
	if err := f.Sync(); err != nil {
		return 0, err
	}
	return r.pos, nil
}

func openFrames(f File, magic string, number uint32) (*frameReader, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	h, err := readLogHeader(f, magic)
	if err != nil {
		return nil, err
	}
	if h.number != number {
		return nil, fmt.Errorf("%w: header has number %d", ErrDamaged, h.number)
	}
	return &frameReader{r: f, salt: h.salt, pos: framesAt, size: size}, nil
}
