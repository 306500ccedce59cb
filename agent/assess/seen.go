package assess

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/durable"
	"github.com/millrace/millrace/agent/spool"
)

// seenFile, in the state directory, remembers the reports that were taken.
const seenFile = "reports"

// maxSeen bounds what is remembered: 10 MB on disk, some 40 in memory. Beyond it the reports
// on the oldest messages are forgotten, and none on messages as old are taken any more.
const maxSeen = 1_000_000

// seen remembers which reports were taken, by the day of the message that they are about.
// What is older than MaxAge need not be remembered, since it does not count.
//
// The file has a line that names it, and then 10 octets for each report: the day since 1970
// (2) and a hash of message, recipient and kind (8), little-endian. It is appended to, and
// synced with each; a record that was cut short is cut off. A file that is mostly of no more
// use is replaced by a new one, synced before it takes the name.
type seen struct {
	path string // "": in memory only
	log  *slog.Logger
	most int

	mu      sync.Mutex
	days    map[uint64]uint16
	records int      // in the file
	from    uint16   // messages before that day are not taken
	out     *os.File // nil: not open
	unread  error    // why the file cannot be read; nil: it was
}

// errNotRemembered says that a report cannot be remembered, as the disk is full.
var errNotRemembered = errors.New("reports that were taken are not remembered")

const (
	seenHeader = "millrace reports 1\n"
	seenRecord = 10
)

func dayOf(t time.Time) uint16 { return uint16(t.Unix() / 86400) }

// openSeen reads what is remembered. A file that cannot be read stops no agent: it is told,
// and until it can be read no report is taken.
func openSeen(path string, now time.Time, log *slog.Logger) *seen {
	s := &seen{path: path, log: log, most: maxSeen, days: make(map[uint64]uint16)}
	if err := s.read(now); err != nil {
		log.Error("reports that come back wait in the spool", "err", err)
	}
	return s
}

// read reads the file. One that was cut short, or is mostly of no more use, counts as without
// records, so that it is written anew before the next one: the disk may take none now.
func (s *seen) read(now time.Time) error {
	s.unread = nil
	if s.path == "" {
		return nil
	}
	b, err := os.ReadFile(s.path)
	if durable.Missing(err) {
		return nil
	}
	rest, ok := strings.CutPrefix(string(b), seenHeader)
	if err == nil && !ok && !strings.HasPrefix(seenHeader, string(b)) {
		err = fmt.Errorf("%s is no such file of this version; remedy: move it away", s.path)
	}
	if err != nil {
		s.unread = err
		return err
	}
	if !ok {
		return nil // cut short before there was a report
	}
	for ; len(rest) >= seenRecord; rest = rest[seenRecord:] {
		s.days[binary.LittleEndian.Uint64([]byte(rest[2:seenRecord]))] = binary.LittleEndian.Uint16([]byte(rest))
		s.records++
	}
	s.forget(now)
	if len(rest) > 0 || s.records > 2*len(s.days)+1000 {
		s.records = 0
	}
	return nil
}

// forget drops what is too old to count, and the oldest day if there is too much.
func (s *seen) forget(now time.Time) {
	s.from = max(s.from, dayOf(now.Add(-MaxAge-48*time.Hour)))
	s.drop()
	for len(s.days) >= s.most {
		oldest := uint16(1<<16 - 1)
		for _, d := range s.days {
			oldest = min(oldest, d)
		}
		s.from = oldest + 1
		s.log.Error("more reports came back than are remembered; those on older messages count no more", "until", time.Unix(int64(s.from)*86400, 0).UTC().Format(time.DateOnly))
		s.drop()
	}
}

func (s *seen) drop() {
	for h, d := range s.days {
		if d < s.from {
			delete(s.days, h)
		}
	}
}

// add remembers a report, durable when it returns nil, and says whether it was known, or
// would not be remembered.
func (s *seen) add(day time.Time, id spool.ID, qid, recipient, kind string, now time.Time) (known bool, err error) {
	sum := sha256.Sum256([]byte(id.String() + "\x00" + qid + "\x00" + strings.ToLower(recipient) + "\x00" + kind))
	h := binary.LittleEndian.Uint64(sum[:])
	d := dayOf(day)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unread != nil {
		if err := s.read(now); err != nil {
			return false, fmt.Errorf("%w: %w", errNotRemembered, err)
		}
	}
	if _, ok := s.days[h]; ok || d < s.from {
		return true, nil
	}
	if len(s.days) >= s.most {
		s.forget(now)
		if err := s.rewrite(); err != nil {
			return false, fmt.Errorf("%w: %w", errNotRemembered, err)
		}
		if d < s.from {
			return true, nil
		}
	}
	if s.path != "" {
		if err := s.write(d, h); err != nil {
			return false, fmt.Errorf("%w: %w", errNotRemembered, err)
		}
	}
	s.days[h] = d
	return false, nil
}

// write appends a record. After an error the file is written anew before the next one, so
// that no part of a record stands in the way of others.
func (s *seen) write(d uint16, h uint64) error {
	if s.out == nil {
		if _, err := os.Stat(s.path); s.records == 0 || err != nil {
			if err := s.rewrite(); err != nil {
				return err
			}
		}
		out, err := os.OpenFile(s.path, os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		s.out = out
	}
	b := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint16(nil, d), h)
	_, err := s.out.Write(b)
	if err == nil {
		err = s.out.Sync()
	}
	if err != nil {
		s.records = 0
		return errors.Join(err, s.shut())
	}
	s.records++
	return nil
}

// rewrite replaces the file by one of what is remembered.
func (s *seen) rewrite() error {
	if s.path == "" {
		return nil
	}
	err := s.shut()
	b := []byte(seenHeader)
	for h, d := range s.days {
		b = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint16(b, d), h)
	}
	if err := errors.Join(err, durable.Replace(s.path, b)); err != nil {
		return fmt.Errorf("reports that were taken: %w", err)
	}
	s.records = len(s.days)
	return nil
}

func (s *seen) shut() error {
	if s.out == nil {
		return nil
	}
	err := s.out.Close()
	s.out = nil
	return err
}

func (s *seen) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shut()
}
