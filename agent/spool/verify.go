package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
)

// Fault is a place in a spool that is not as it was written.
type Fault struct {
	File   string // path
	Offset int64
	ID     ID // of the message it harms, if it can be named; else 0
	Reason string
}

func (f Fault) String() string {
	s := fmt.Sprintf("%s:%d: %s", f.File, f.Offset, f.Reason)
	if f.ID != 0 {
		s = fmt.Sprintf("%s:%d: %s: %s", f.File, f.Offset, f.ID, f.Reason)
	}
	return s
}

// Checked is what Verify looked at.
type Checked struct {
	Segments, Messages int
	Octets             int64 // of contents
}

// Verify compares every checksum in the spool of dir, also those of contents,
// and yields what is wrong. Like a Reader it disturbs nobody, and it can be used
// while others work. What is done and was given back is not looked at; content
// that no message has, as a crash leaves it, is a fault until the next start of
// the agent removes it. The error is for what could not be checked.
func Verify(dir string, yield func(Fault)) (Checked, error) { return verify(nil, dir, yield) }

func verify(files FS, dir string, yield func(Fault)) (c Checked, err error) {
	if files == nil {
		files = confined{dir: dir}
	}
	r := &Reader{tree: tree{files, dir}}
	defer r.Close()
	version, err := r.version()
	switch {
	case errors.Is(err, ErrDamaged):
		yield(Fault{File: r.path(formatFile), Reason: err.Error()})
	case err != nil:
		return c, fmt.Errorf("spool %s: %w", dir, err)
	case version == 0:
		return c, fmt.Errorf("spool %s: format: %w", dir, fs.ErrNotExist)
	}
	if err := r.verifySmall(yield); err != nil {
		return c, fmt.Errorf("spool: %w", err)
	}
	// Before the segments: a segment is there before the blobs of its messages.
	blobs, err := r.fs.List(r.path(blobsDir))
	if err != nil {
		return c, fmt.Errorf("spool: %w", err)
	}
	if err := r.reload(); errors.Is(err, ErrDamaged) {
		file, at := r.badLog()
		yield(Fault{File: file, Offset: at, Reason: err.Error()})
	} else if err != nil {
		return c, fmt.Errorf("spool: %w", err)
	}
	for _, n := range r.numbers() {
		seg := r.segments[n]
		if seg == nil {
			continue // reclaimed since
		}
		one, faults, err := r.verifySegment(seg)
		if err == nil && len(faults) > 0 {
			// Perhaps it was done and given back since the journal was read.
			if err = r.reload(); err != nil && !errors.Is(err, ErrDamaged) {
				return c, fmt.Errorf("spool: %w", err)
			}
			if seg = r.segments[n]; seg == nil {
				continue
			}
			one, faults, err = r.verifySegment(seg)
		}
		if err != nil {
			return c, fmt.Errorf("spool: segment %s: %w", segmentName(n), err)
		}
		for _, f := range faults {
			yield(f)
		}
		c.Segments++
		c.Messages += one.Messages
		c.Octets += one.Octets
	}
	for _, name := range blobs {
		id, ok := parseBlobName(name)
		if !ok || r.mayBeRecord(id) {
			continue
		}
		// A blob goes before its record does: perhaps that was all.
		if _, err := r.sizeOf(filepath.Join(blobsDir, name)); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return c, fmt.Errorf("spool: %w", err)
		}
		yield(Fault{File: r.tree.blob(id), ID: id, Reason: "content of no message"})
	}
	return c, nil
}

// mayBeRecord reports whether there is a record with this id, or can be one soon:
// a writer names a blob before it writes the record.
func (r *Reader) mayBeRecord(id ID) bool {
	seg := r.segments[id.Segment()]
	if seg == nil || seg.damaged {
		return seg != nil
	}
	if _, sealed := readSeal(seg.file, seg.salt); !sealed {
		return true
	}
	_, err := seg.header(seg.file, id)
	return !errors.Is(err, ErrDamaged)
}

// verifySmall looks at the files of the directory itself.
func (r *Reader) verifySmall(yield func(Fault)) error {
	next, err := r.readSmall(nextFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for slot := range int64(2) {
		off := slot * 512
		if int64(len(next)) < off+8 {
			break
		}
		b := next[off : off+8]
		if n := binary.LittleEndian.Uint64(b); n != 0 && binary.LittleEndian.Uint32(b[4:]) != salted(0, slot, b[:4]) {
			yield(Fault{File: r.path(nextFile), Offset: off, Reason: "checksum"})
		}
	}
	key, err := r.readSmall(keyFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && len(key) != 32 {
		yield(Fault{File: r.path(keyFile), Reason: fmt.Sprintf("%d octets, not 32", len(key))})
	}
	return nil
}

// badLog returns the first file of the journal directory that is damaged.
func (r *Reader) badLog() (file string, at int64) {
	for _, name := range r.journals {
		if at, err := r.readLog(name, func(ID, uint32, state) {}); err != nil {
			return r.path(journalDir, name), at
		}
	}
	return r.path(journalDir), 0
}

// verifySegment checks all of one segment, and the blobs of its messages.
func (r *Reader) verifySegment(seg *segment) (c Checked, faults []Fault, err error) {
	name := r.tree.segment(seg.number)
	add := func(at int64, id ID, err error) error {
		if !errors.Is(err, ErrDamaged) {
			return err
		}
		faults = append(faults, Fault{File: name, Offset: at, ID: id, Reason: err.Error()})
		return nil
	}
	for _, off := range []int64{0, headerCopyAt} {
		if _, err := segmentHeaderAt(seg.file, off); err != nil && add(off, 0, err) != nil {
			return c, faults, err
		}
	}
	if seg.damaged {
		return c, faults, nil // without its salt nothing can be read
	}
	if _, err := readWatermark(seg.file, seg.salt); err != nil && err != io.EOF && add(watermarkAt, 0, err) != nil {
		return c, faults, err
	}
	if sealed, ok := readSeal(seg.file, seg.salt); ok {
		if sealed.footer != 0 {
			if _, err := readFooter(seg.file, seg.salt, sealed, nil); err != nil && add(sealed.footer, 0, err) != nil {
				return c, faults, err
			}
		}
		if size, err := seg.file.Size(); err != nil {
			return c, faults, err
		} else if size < sealed.end {
			add(size, 0, fmt.Errorf("%w: the segment ends here and not at %d", ErrDamaged, sealed.end))
		}
	} else {
		var b [sealSize]byte
		if _, err := seg.file.ReadAt(b[:], sealAt); err != nil && err != io.EOF {
			return c, faults, err
		}
		if b != ([sealSize]byte{}) {
			add(sealAt, 0, fmt.Errorf("%w: seal", ErrDamaged))
		}
	}
	err = r.walk(seg, false, func(rec *scanned) error {
		h := &rec.head
		if h.id == 0 {
			return add(h.header, 0, fmt.Errorf("%w: %d octets are no record", ErrDamaged, rec.skipped))
		}
		c.Messages++
		m, err := r.message(seg, rec)
		if err != nil {
			return err
		}
		at := int64(h.id.Offset())
		if m.Envelope == nil {
			if err := add(at+recordHeaderSize, h.id, fmt.Errorf("%w: envelope", ErrDamaged)); err != nil {
				return err
			}
		}
		if m.Done && m.Blob {
			return nil // its file is gone
		}
		n, err := r.readContent(seg, h)
		c.Octets += n
		if err == nil || !errors.Is(err, ErrDamaged) {
			return err
		}
		f := Fault{File: name, Offset: h.contentAt(), ID: h.id, Reason: "content: " + ErrDamaged.Error()}
		if h.blob() {
			f.File, f.Offset = r.tree.blob(h.id), 0
			if errors.Is(err, fs.ErrNotExist) {
				f.Reason = "content file is missing"
			}
		}
		faults = append(faults, f)
		return nil
	})
	return c, faults, err
}

func (r *Reader) readContent(seg *segment, h *recordHeader) (int64, error) {
	content, err := r.content(seg.file, h, func() error { return nil })
	if err != nil {
		return 0, err
	}
	defer content.Close()
	return io.Copy(io.Discard, content)
}
