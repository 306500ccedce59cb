package spool

import (
	"log/slog"
	"slices"
)

// maxBatch bounds what one sync covers, in octets, so that a small message that
// comes with many big ones is answered soon.
const maxBatch = 16 << 20

// run is the syncer: it alone writes records, in batches. All that came while
// one batch was being synced makes the next, so writers share syncs when there
// are many, and one that is alone never waits for company.
func (w *Writer) run() {
	defer close(w.done)
	for range w.wake {
		for batch := w.take(); len(batch) > 0; batch = w.take() {
			w.commit(batch)
		}
	}
	// Closed; what came before that is committed still.
	for batch := w.take(); len(batch) > 0; batch = w.take() {
		w.commit(batch)
	}
	w.finishSegment(false)
	for _, o := range w.full {
		o.abandon()
	}
}

// take removes a batch from the waiting entries.
func (w *Writer) take() []*entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	size, n := 0, 0
	for n < len(w.waiting) && (n == 0 || size < maxBatch) {
		size += len(w.waiting[n].buf)
		n++
	}
	batch := w.waiting[:n:n]
	if w.waiting = w.waiting[n:]; len(w.waiting) == 0 {
		w.waiting = nil
	}
	return batch
}

// commit writes a batch to the segment, or to several where one gets full.
func (w *Writer) commit(batch []*entry) {
	live := batch[:0]
	for _, en := range batch {
		if en.claimed.Load() { // given up in the meantime
			en.drop()
			continue
		}
		live = append(live, en)
	}
	for len(live) > 0 {
		n, err := w.place(live)
		if err != nil {
			w.log.Error("spool: no new segment", slog.Any("error", err))
			for _, en := range live {
				en.give(err)
				en.drop()
			}
			return
		}
		if err := w.seg.commit(live[:n]); err != nil {
			w.log.Error("spool: batch failed, segment sealed",
				slog.String("segment", segmentName(w.seg.number)), slog.Int("messages", n), slog.Any("error", err))
			w.finishSegment(true)
		}
		live = live[n:]
	}
}

// place makes sure of a segment with room for the first entry and returns how
// many of them fit. A record too big for any segment gets one for itself.
func (w *Writer) place(batch []*entry) (n int, err error) {
	fits := func() int {
		end, count := w.seg.end, w.seg.count
		for n, en := range batch {
			end = align(end+int64(len(en.buf)), recordAlign)
			if count++; count > maxRecords || end > w.opts.SegmentSize && (n > 0 || count > 1) {
				return n
			}
		}
		return len(batch)
	}
	if w.seg != nil && fits() == 0 {
		w.finishSegment(false)
	}
	if w.seg == nil {
		if w.seg, err = w.newOutput(); err != nil {
			w.seg = nil
			return 0, err
		}
	}
	return fits(), nil
}

func (w *Writer) finishSegment(failed bool) {
	if w.seg == nil {
		return
	}
	if err := w.seg.finish(failed); err != nil {
		// The agent seals it when we are gone; no record is in danger.
		w.log.Warn("spool: segment not sealed", slog.Any("error", err))
	}
	w.full = slices.DeleteFunc(append(w.full, w.seg), (*output).closed)
	w.seg = nil
}
