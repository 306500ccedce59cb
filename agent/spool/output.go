package spool

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
)

// output is a segment that this process writes. Its file stays locked, which
// tells the agent that the pending records in it are being looked after, until
// it gets no more records and every receipt is settled.
type output struct {
	tree
	number uint32
	salt   uint64
	end    int64  // of the last synced record
	count  uint32 // of records
	footer *footer

	mu     sync.RWMutex // held for reading during a write of a verdict
	file   File         // nil once closed
	open   int          // receipts not settled
	sealed bool         // gets no more records
}

// newOutput makes the next segment. It appears under its name, durably, only
// when its header was synced and its blocks are reserved, and it is locked from
// before that.
func (w *Writer) newOutput() (_ *output, err error) {
	next, err := w.openNext() // and the directory's lock
	if err != nil {
		return nil, err
	}
	defer next.Close()
	o := &output{tree: w.tree, end: recordsAt, footer: newFooter()}
	if o.number, err = w.nextSegment(next, w.opts.Now()); err != nil {
		return nil, err
	}
	var salt [8]byte
	rand.Read(salt[:])
	o.salt = binary.LittleEndian.Uint64(salt[:])

	tmp := w.segment(o.number) + tmpSuffix
	if o.file, err = w.fs.Open(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			w.fs.Remove(tmp)
			w.fs.Remove(w.segment(o.number))
			o.file.Close()
		}
	}()
	if err = o.file.Lock(); err != nil {
		return nil, err
	}
	// The size is given to the file at once, too: a sync then has no inode to
	// write, only the blocks that change from reserved to written.
	if err = o.file.Allocate(0, max(w.opts.SegmentSize, recordsAt)); err != nil {
		return nil, err
	}
	head := make([]byte, recordsAt)
	h := segmentHeader{number: o.number, salt: o.salt, born: w.opts.Now().UnixNano()}.encode()
	copy(head, h)
	copy(head[headerCopyAt:], h)
	copy(head[watermarkAt:], encodeWatermark(o.salt, recordsAt))
	if _, err = o.file.WriteAt(head, 0); err != nil {
		return nil, err
	}
	if err = o.file.Sync(); err != nil {
		return nil, err
	}
	if err = w.fs.Rename(tmp, w.segment(o.number)); err != nil {
		return nil, err
	}
	if err = w.fs.SyncDir(w.path(segmentsDir)); err != nil {
		return nil, err
	}
	return o, nil
}

// commit makes the entries of a batch durable and answers each. Nothing is
// answered before the sync, and the watermark, by which the agent sees the
// records, moves between the two. After an error the segment is sealed and good
// for verdicts only.
func (o *output) commit(batch []*entry) error {
	end, count, err := o.write(batch)
	if err == nil {
		_, err = o.file.WriteAt(encodeWatermark(o.salt, end), watermarkAt)
	}
	if err != nil {
		o.undo(o.count, count)
		for _, en := range batch {
			en.drop()
			en.give(err)
		}
		return err
	}
	o.end, o.count = end, count
	o.mu.Lock()
	o.open += len(batch)
	o.mu.Unlock()
	for _, en := range batch {
		r := en.receipt
		if !en.give(nil) {
			r.settle(void)
		}
		if en.blob != nil {
			en.blob.file.Close()
		}
		o.footer.add(&en.head, en.buf[recordHeaderSize:][:en.head.envelope])
		en.free()
	}
	return nil
}

// write places and syncs a batch. Blobs get their final names, durably, before
// any record is written: the kernel may store a record before we sync it, and a
// record never names a file that might not be there.
func (o *output) write(batch []*entry) (end int64, count uint32, err error) {
	end, count = o.end, o.count
	blobs := false
	for _, en := range batch {
		h := &en.head
		h.id, h.index = MakeID(o.number, uint32(end)), count
		en.receipt = &receipt{out: o, id: h.id, index: count}
		count++
		if b := en.blob; b != nil {
			if err := o.fs.Rename(b.name, o.blob(h.id)); err != nil {
				return end, count, err
			}
			b.name = o.blob(h.id)
			blobs = true
		}
		end = h.end()
	}
	if blobs {
		if err := o.fs.SyncDir(o.path(blobsDir)); err != nil {
			return end, count, err
		}
	}
	for _, en := range batch {
		en.head.put(en.buf, o.salt)
		if _, err := o.file.WriteAt(en.buf, int64(en.head.id.Offset())); err != nil {
			return end, count, err
		}
	}
	return end, count, o.file.Sync()
}

// undo takes a failed batch, the records from index first up to last, out of the
// segment before anybody is told. Each of truncation, verdicts and seal keeps
// it from the agent by itself, for a disk that fails may refuse some of them.
func (o *output) undo(first, last uint32) {
	o.file.Truncate(o.end)
	verdicts := make([]byte, last-first)
	for i := range verdicts {
		verdicts[i] = void
	}
	o.file.WriteAt(verdicts, verdictsAt+int64(first))
	o.writeSeal(seal{end: o.end, count: o.count})
	o.file.Sync()
}

func (o *output) writeSeal(s seal) error {
	_, err := o.file.WriteAt(s.encode(o.salt), sealAt)
	return err
}

// seal ends a full segment. The footer needs no sync before the seal that
// names it: its checksum stands there. Nor does the mail: it was synced.
func (o *output) seal() error {
	s := seal{end: o.end, count: o.count}
	b := o.footer.bytes()
	// On a full disk there may be no room for it; the records are enough.
	if _, err := o.file.WriteAt(b, o.end); err == nil {
		s.footer, s.size, s.crc = o.end, uint32(len(b)), salted(o.salt, o.end, b)
	}
	if err := o.file.Truncate(o.end + int64(s.size)); err != nil {
		return err
	}
	if err := o.writeSeal(s); err != nil {
		return err
	}
	return o.file.Sync()
}

// finish ends a full segment, or one that failed: unused blocks go back, and
// the file is closed as soon as its receipts allow. A segment that never got a
// record goes away.
func (o *output) finish(failed bool) error {
	var err error
	if o.end == recordsAt {
		if err = o.fs.Remove(o.segment(o.number)); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	} else if !failed {
		err = o.seal()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sealed, o.footer = true, nil
	o.release()
	if err != nil {
		return fmt.Errorf("spool: seal segment %s: %w", segmentName(o.number), err)
	}
	return nil
}

// release closes the file, and so unlocks it, when nothing more is written to
// it. Callers hold mu.
func (o *output) release() {
	if o.sealed && o.open == 0 && o.file != nil {
		o.file.Close()
		o.file = nil
	}
}

func (o *output) closed() bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.file == nil
}

// abandon closes the file whatever is open.
func (o *output) abandon() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.open = 0
	o.release()
}
