package spool

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Stats are the sums of a spool.
type Stats struct {
	Segments      int
	SegmentOctets int64 // in records
	Live          int64 // of these, of messages that are not done
	Holes         int64 // of these, given back to the file system
	Dead          int64 // of these, the rest: they go with their neighbours
	Blobs         int   // files of large messages
	BlobOctets    int64

	Messages   int64            // that are not done
	Done       int64            // messages that are, and still have their record
	Pending    int64            // messages that wait for their verdict
	Recipients map[Status]int64 // of the messages that are not done
	Deferred   int64            // of those queued, how many were tried or have to wait
	Damaged    int64            // messages and segments that cannot be read

	JournalFiles  int
	JournalOctets int64
}

// Stats sums up the spool.
func (r *Reader) Stats() (st Stats, err error) {
	st.Recipients = make(map[Status]int64)
	st.JournalFiles, st.JournalOctets = len(r.journals), r.size
	for _, n := range r.numbers() {
		seg := r.segments[n]
		st.Segments++
		if seg.damaged {
			st.Damaged++
			continue
		}
		if err := r.sum(seg, &st); err != nil {
			return st, err
		}
	}
	names, err := r.fs.List(r.path(blobsDir))
	if err != nil {
		return st, err
	}
	for _, name := range names {
		if size, err := r.sizeOf(filepath.Join(blobsDir, name)); err == nil {
			st.Blobs++
			st.BlobOctets += size
		} else if !errors.Is(err, fs.ErrNotExist) {
			return st, err
		}
	}
	return st, nil
}

func (r *Reader) sizeOf(name string) (int64, error) {
	f, err := r.fs.Open(r.path(name), os.O_RDONLY, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.Size()
}

// sum adds one segment.
func (r *Reader) sum(seg *segment, st *Stats) error {
	end := int64(recordsAt)
	var live *span // the last message, whose end is not known yet
	settle := func(at int64) {
		if live != nil {
			if i := seg.done.after(live.from); i < len(seg.done) {
				at = min(at, int64(seg.done[i].from))
			}
			st.Live += at - int64(live.from)
			live = nil
		}
	}
	err := r.walk(seg, true, func(rec *scanned) error {
		if rec.head.id == 0 {
			st.Damaged++
			return nil
		}
		offset := rec.head.id.Offset()
		settle(int64(offset))
		m, err := r.message(seg, rec)
		if err != nil {
			return err
		}
		if rec.head.envelope > 0 {
			end = rec.head.end()
		}
		if m.Done {
			st.Done++
			return nil
		}
		live = &span{from: offset}
		st.Messages++
		if m.Verdict == Pending {
			st.Pending++
		}
		if m.Envelope == nil {
			st.Damaged++
		}
		for _, s := range m.States {
			st.Recipients[s.Status]++
			if s.Status == Queued && (s.Tries > 0 || !s.Due.IsZero()) {
				st.Deferred++
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if sealed, ok := readSeal(seg.file, seg.salt); ok {
		end = sealed.end
	} else if n := len(seg.done); n > 0 {
		end = max(end, int64(seg.done[n-1].to))
	}
	settle(end)
	st.SegmentOctets += end - recordsAt
	st.Holes += seg.done.blocks()
	st.Dead = st.SegmentOctets - st.Live - st.Holes
	return nil
}
