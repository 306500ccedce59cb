package spool

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// tree is a spool directory.
type tree struct {
	fs  FS
	dir string
}

const (
	formatFile  = "format"
	nextFile    = "next"
	keyFile     = "key"
	lockFile    = "agent.lock"
	drainFile   = "drain"
	segmentsDir = "segments"
	blobsDir    = "blobs"
	journalDir  = "journal"

	// MovesDirectory is where package move keeps its files: open transfers belong to the mail.
	MovesDirectory = "moves"

	tmpSuffix    = ".tmp"
	formatPrefix = "millrace spool "
)

func (t tree) path(parts ...string) string {
	return filepath.Join(append([]string{t.dir}, parts...)...)
}

func (t tree) segment(n uint32) string { return t.path(segmentsDir, segmentName(n)) }
func (t tree) blob(id ID) string       { return t.path(blobsDir, blobName(id)) }

// openTree makes the directory tree where it is missing and checks its format.
// It is safe with other programs that do the same at the same moment.
func openTree(files FS, dir string) (tree, error) {
	if files == nil {
		files = disk{}
	}
	t := tree{files, dir}
	for _, d := range []string{"", segmentsDir, blobsDir, journalDir} {
		if err := files.MkdirAll(t.path(d), 0o700); err != nil {
			return t, fmt.Errorf("spool: %w", err)
		}
	}
	next, err := t.openNext() // and the directory's lock
	if err != nil {
		return t, err
	}
	defer next.Close()
	if err := t.checkFormat(next); err != nil {
		return t, fmt.Errorf("spool %s: %w", dir, err)
	}
	return t, nil
}

// lock takes the lock of the directory: the flock of the file next. Whoever
// creates a file that others could take for a dead one holds it until the new
// file has a lock of its own.
func (t tree) lock() (unlock func(), err error) {
	f, err := t.openNext()
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}

func (t tree) openNext() (File, error) {
	f, err := t.fs.Open(t.path(nextFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	if err := f.Lock(); err != nil {
		f.Close()
		return nil, fmt.Errorf("spool: %w", err)
	}
	return f, nil
}

func (t tree) checkFormat(next File) error {
	version, err := t.version()
	if err != nil {
		return err
	}
	if version == 0 {
		return t.create(next)
	}
	// Who wrote it may have died before it was durable. Without it all mail
	// would be refused, or even be gone, after a power loss.
	return t.fs.SyncDir(t.dir)
}

// version reads the format file: 0 if there is none. One that we do not know is
// an error.
func (t tree) version() (version int, err error) {
	b, err := t.readSmall(formatFile)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if n, err := fmt.Sscanf(string(b), formatPrefix+"%d\n", &version); n != 1 || err != nil || version < 1 {
		return 0, fmt.Errorf("%w: file %s says %q", ErrDamaged, formatFile, b)
	}
	if version > formatVersion {
		return 0, fmt.Errorf("%w: it has version %d, we know %d", ErrNewer, version, formatVersion)
	}
	return version, nil
}

// create writes the format file into an empty spool. It comes last: a directory
// without it was never used, and one with mail but without it is refused.
func (t tree) create(next File) error {
	for _, d := range []string{segmentsDir, journalDir} {
		names, err := t.fs.List(t.path(d))
		if err != nil {
			return err
		}
		if len(names) > 0 {
			return fmt.Errorf("%w: file %s is missing, but %s is not empty", ErrDamaged, formatFile, d)
		}
	}
	// A spool without any number has lost it.
	if err := writeNumber(next, 0); err != nil {
		return err
	}
	if err := t.fs.SyncDir(filepath.Dir(filepath.Clean(t.dir))); err != nil {
		return err
	}
	return t.writeSmall(formatFile, fmt.Appendf(nil, "%s%d\n", formatPrefix, formatVersion))
}

// writeSmall replaces a small file durably: the data is synced before the name
// shows it, the name before we return. The directory's lock must be held.
func (t tree) writeSmall(name string, data []byte) error {
	tmp := t.path(name + tmpSuffix)
	f, err := t.fs.Open(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = t.fs.Rename(tmp, t.path(name))
	}
	if err != nil {
		t.fs.Remove(tmp)
		return err
	}
	return t.fs.SyncDir(t.dir)
}

func (t tree) readSmall(name string) ([]byte, error) {
	f, err := t.fs.Open(t.path(name), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.NewSectionReader(f, 0, 4096))
}

// nextSegment returns a number that no segment of this spool ever had, and
// makes that durable first: ids must stay unique even when every segment was
// reclaimed. The file, locked by the caller, has two slots a sector apart, used
// in turn, so that a torn write spoils only the number nobody got.
//
// Should the file be lost, the journal may still know segments that are gone, and
// what it says of their ids must not be taken for news of others: the numbers go on
// from the seconds since 1970, as nobody ever makes a segment every second.
func (t tree) nextSegment(f File, now time.Time) (uint32, error) {
	last, known := uint32(0), false
	for slot := range int64(2) {
		var b [numberSize]byte
		if _, err := f.ReadAt(b[:], slot*numberStep); err != nil && err != io.EOF {
			return 0, err
		}
		if n := binary.LittleEndian.Uint32(b[:]); binary.LittleEndian.Uint32(b[4:]) == salted(0, slot, b[:4]) {
			last, known = max(last, n), true
		}
	}
	if !known {
		last = uint32(now.Unix())
	}
	names, err := t.fs.List(t.path(segmentsDir))
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		if n, ok := parseSegmentName(strings.TrimSuffix(name, tmpSuffix)); ok {
			last = max(last, n)
		}
	}
	if last == ^uint32(0) {
		return 0, errors.New("no segment numbers left")
	}
	return last + 1, writeNumber(f, last+1)
}

// The slots of the file next.
const numberSize, numberStep = 8, 512

// writeNumber makes a segment number the last one, durably.
func writeNumber(f File, n uint32) error {
	slot := int64(n % 2)
	b := binary.LittleEndian.AppendUint32(nil, n)
	b = binary.LittleEndian.AppendUint32(b, salted(0, slot, b))
	if _, err := f.WriteAt(b, slot*numberStep); err != nil {
		return err
	}
	return f.Sync()
}

// LoopKey returns the secret of this spool, 32 octets, that marks our own
// Received fields. The first caller of all processes makes it; it is durable
// when LoopKey returns.
func LoopKey(dir string) ([]byte, error) { return loopKey(nil, dir) }

func loopKey(files FS, dir string) ([]byte, error) {
	t, err := openTree(files, dir)
	if err != nil {
		return nil, err
	}
	unlock, err := t.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	key, err := t.readSmall(keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		key = make([]byte, 32)
		rand.Read(key)
		err = t.writeSmall(keyFile, key)
	}
	if err != nil {
		return nil, fmt.Errorf("spool: loop key: %w", err)
	}
	if len(key) != 32 {
		return nil, fmt.Errorf("spool: loop key: %w: %s has %d octets, not 32", ErrDamaged, t.path(keyFile), len(key))
	}
	return key, nil
}

// beat is the agent's sign of life, in the file that it holds locked.
type beat struct {
	at     time.Time
	queued int64 // recipients
}

const beatSize = 20

func (b beat) encode() []byte {
	p := binary.LittleEndian.AppendUint64(make([]byte, 0, beatSize), uint64(b.at.UnixNano()))
	p = binary.LittleEndian.AppendUint64(p, uint64(b.queued))
	return binary.LittleEndian.AppendUint32(p, salted(0, 0, p))
}

// readBeat returns the last sign of life; ok is false if there never was one.
func readBeat(r io.ReaderAt) (b beat, ok bool) {
	var p [beatSize]byte
	le := binary.LittleEndian
	for range 3 { // a read in the middle of a write shows as a wrong checksum
		if _, err := r.ReadAt(p[:], 0); err != nil {
			return b, false
		}
		if le.Uint32(p[16:]) == salted(0, 0, p[:16]) {
			return beat{time.Unix(0, int64(le.Uint64(p[:]))), int64(le.Uint64(p[8:]))}, true
		}
	}
	return b, false
}
