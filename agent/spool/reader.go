package spool

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"slices"
)

// Reader looks at a spool that others may be using: it takes no locks and
// writes nothing, so it disturbs neither writers nor the agent, and it works on
// a spool that none of them has open, or that is mounted read-only. What it
// shows of a spool in use is a moment old.
type Reader struct {
	tree
	segments map[uint32]*segment
	replies  *textTable
	froms    *textTable
	journals []string // and the checkpoint, by name
	size     int64    // of these
}

// OpenReader reads the journal of the spool in dir. It returns ErrNewer if a
// later version wrote it, and ErrDamaged if the journal is.
func OpenReader(dir string) (*Reader, error) { return openReader(nil, dir) }

func openReader(files FS, dir string) (*Reader, error) {
	if files == nil {
		files = confined{dir: dir}
	}
	r := &Reader{tree: tree{files, dir}}
	version, err := r.version()
	if err != nil {
		return nil, fmt.Errorf("spool %s: format: %w", dir, err)
	}
	if version == 0 {
		return nil, fmt.Errorf("spool %s: %w", dir, fs.ErrNotExist)
	}
	if err := r.reload(); err != nil {
		r.Close()
		return nil, fmt.Errorf("spool: %w", err)
	}
	return r, nil
}

// Close ends the reading.
func (r *Reader) Close() error {
	var err error
	for _, seg := range r.segments {
		err = errors.Join(err, seg.file.Close())
	}
	r.segments = nil
	return err
}

// reload reads the journal anew. An agent may replace its files at the same
// time, or be in the middle of a write, so it is tried a few times.
func (r *Reader) reload() error {
	var err error
	for range 5 {
		if err = r.loadOnce(); err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrDamaged) {
			break
		}
	}
	return err
}

func (r *Reader) loadOnce() error {
	r.Close()
	r.segments, r.replies, r.froms, r.journals, r.size = make(map[uint32]*segment), newReplies(), newFroms(), nil, 0
	// Segments come first: those that are made later are not in what we show.
	names, err := r.fs.List(r.path(segmentsDir))
	if err != nil {
		return err
	}
	for _, name := range names {
		n, ok := parseSegmentName(name)
		if !ok {
			continue
		}
		f, err := r.fs.Open(r.tree.segment(n), os.O_RDONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue // reclaimed just now
		}
		if err != nil {
			return err
		}
		seg := &segment{number: n, file: f, index: index{replies: r.replies, froms: r.froms}}
		r.segments[n] = seg
		h, err := readSegmentHeader(f)
		if err == nil && h.number != n {
			err = fmt.Errorf("%w: header has number %d", ErrDamaged, h.number)
		}
		if err != nil && !errors.Is(err, ErrDamaged) {
			return fmt.Errorf("segment %s: %w", name, err)
		}
		seg.salt, seg.damaged = h.salt, err != nil
	}
	if r.journals, err = r.tree.logs(); err != nil {
		return err
	}
	for _, name := range r.journals {
		size, err := r.tree.readLog(name, func(id ID, recipient uint32, st state) {
			seg := r.segments[id.Segment()]
			switch {
			case seg == nil:
			case st.span:
				seg.done = seg.done.add(span{id.Offset(), recipient})
			case recipient <= maxEnvelope:
				seg.replayed(id.Offset(), recipient, &st)
			}
		})
		if err != nil {
			return err
		}
		r.size += size
	}
	return nil
}

// logs lists the last checkpoint and the journals since.
func (t tree) logs() ([]string, error) {
	names, err := t.fs.List(t.path(journalDir))
	if err != nil {
		return nil, err
	}
	first, list := uint32(0), []string(nil)
	for _, name := range names {
		if n, kind, ok := parseLogName(name); ok && kind == "checkpoint" && n >= first {
			first, list = n, []string{name}
		}
	}
	want := max(first, 1)
	for _, name := range names { // sorted
		n, kind, ok := parseLogName(name)
		if !ok || kind != "journal" || n < want {
			continue
		}
		if n > want {
			return nil, fmt.Errorf("%w: %s is missing", ErrDamaged, t.path(journalDir, journalName(want)))
		}
		list = append(list, name)
		want++
	}
	return list, nil
}

// readLog yields the events of a checkpoint or a journal, and returns where they
// end.
func (t tree) readLog(name string, yield func(ID, uint32, state)) (size int64, err error) {
	path := t.path(journalDir, name)
	f, err := t.fs.Open(path, os.O_RDONLY, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	number, kind, _ := parseLogName(name)
	magic := journalMagic
	if kind == "checkpoint" {
		magic = checkpointMagic
	}
	frames, err := openFrames(f, magic, number)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	whole := false
	for {
		payload, err := frames.next()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = decodeEvents(payload, yield)
		}
		if err != nil {
			return frames.pos, fmt.Errorf("%s: frame before %d: %w", path, frames.pos, err)
		}
		whole = len(payload) == 0
	}
	if kind == "checkpoint" && !whole {
		return frames.pos, fmt.Errorf("%s: %w: no frame at %d", path, ErrDamaged, frames.pos)
	}
	if kind != "checkpoint" {
		if err := frames.checkTail(); err != nil {
			return frames.pos, fmt.Errorf("%s: %w", path, err)
		}
	}
	return frames.pos, nil
}

// Verdict says whose a message is, by its segment alone.
type Verdict string

// The verdicts.
const (
	Released Verdict = "released" // the agent's
	Pending  Verdict = "pending"  // its transaction with the host goes on, or its writer died
	Orphaned Verdict = "orphaned" // its writer died; the agent's
	Voided   Verdict = "void"     // the host's
)

// Message is one message as a Reader shows it.
type Message struct {
	ID       ID
	Verdict  Verdict
	Envelope *Envelope // nil if damaged
	States   []State   // of its recipients; nil if the envelope is damaged
	Done     bool      // nothing is left to do
	Blob     bool      // content is in a file of its own
}

// Messages yields the messages of the spool by id; also those that are done but
// still there, if their record can be read. An error of yield ends it.
func (r *Reader) Messages(yield func(*Message) error) error {
	for _, n := range r.numbers() {
		seg := r.segments[n]
		if seg.damaged {
			continue // Verify tells
		}
		if err := r.walk(seg, true, func(rec *scanned) error {
			if rec.head.id == 0 {
				return nil
			}
			m, err := r.message(seg, rec)
			if err != nil {
				return err
			}
			return yield(m)
		}); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reader) numbers() []uint32 {
	list := make([]uint32, 0, len(r.segments))
	for n := range r.segments {
		list = append(list, n)
	}
	slices.Sort(list)
	return list
}

// walk yields the records of a segment that are not in spans: from the footer,
// if quick and there is one, or else from the records themselves. Octets that
// are no record come as one without id, with skipped.
func (r *Reader) walk(seg *segment, quick bool, yield func(*scanned) error) error {
	size, err := seg.file.Size()
	if err != nil {
		return err
	}
	sealed, isSealed := readSeal(seg.file, seg.salt)
	if isSealed && sealed.footer != 0 && quick {
		if table, err := readFooter(seg.file, seg.salt, sealed, nil); err == nil {
			for entries := readEntries(seg.number, table); len(entries.rest) > 0; {
				rec, _ := entries.next()
				if _, done := seg.done.find(rec.head.id.Offset()); done {
					continue
				}
				if err := yield(&rec); err != nil {
					return err
				}
			}
			return nil
		}
	}
	end := sealed.end
	if !isSealed {
		if end, err = readWatermark(seg.file, seg.salt); errors.Is(err, ErrDamaged) {
			end, err = recordsAt, nil
		}
		if err != nil {
			return err
		}
	}
	sc := &scanner{r: seg.file, number: seg.number, salt: seg.salt, pos: recordsAt, end: min(end, size), done: seg.done}
	for {
		rec, err := sc.next()
		if rec.skipped > 0 && !sc.verify {
			at := sc.pos
			if err == nil {
				at = int64(rec.head.id.Offset())
			}
			gap := scanned{skipped: rec.skipped, head: recordHeader{header: at - rec.skipped}}
			if err := yield(&gap); err != nil {
				return err
			}
		}
		if err == io.EOF && !isSealed && !sc.verify {
			// Perhaps the writer died, and power failed: what is whole counts.
			sc.verify, sc.end = true, size
			continue
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := yield(&rec); err != nil {
			return err
		}
	}
}

// message joins a record with its verdict and what the journal says.
func (r *Reader) message(seg *segment, rec *scanned) (*Message, error) {
	h := &rec.head
	m := &Message{ID: h.id, Blob: h.blob(), Verdict: Pending}
	verdict := pending
	if err := readVerdict(seg.file, h.index, &verdict); err != nil && err != io.EOF {
		return nil, err
	}
	switch verdict {
	case released:
		m.Verdict = Released
	case orphaned:
		m.Verdict = Orphaned
	case void:
		m.Verdict = Voided
	}
	b, err := rec.envelope, error(nil)
	if b == nil {
		b, err = seg.envelope(h.id)
	}
	if err == nil {
		m.Envelope, err = decodeEnvelope(b)
	}
	if err != nil && !errors.Is(err, ErrDamaged) {
		return nil, err
	}
	states, known := seg.statesOf(h.id.Offset(), h.recipients)
	if m.Verdict == Voided && known {
		m.Verdict = Released // the journal knows better
	}
	m.Done = m.Verdict == Voided || !slices.ContainsFunc(states, func(s State) bool { return !s.Status.Final() })
	if m.Envelope != nil {
		m.States = states
		h.fill(m.Envelope)
	}
	return m, nil
}

// statesOf returns what the journal says of a record not yet read.
func (x *index) statesOf(offset, recipients uint32) (states []State, known bool) {
	states = make([]State, recipients)
	if place, ok := x.replay[offset]; ok && recipients > 0 {
		st := x.unpack(x.states[place])
		states[0], known = st.unpack(), true
	}
	if m := x.replayMulti[offset]; m != nil {
		for i := 1; i < min(len(states), len(m.states)); i++ {
			st := x.unpack(m.states[i])
			states[i] = st.unpack()
		}
		known = true
	}
	return states, known
}

// Message returns one message. ErrNotFound says that there is none, or that it
// is done and given back; ErrDamaged that its record cannot be read.
func (r *Reader) Message(id ID) (*Message, error) {
	seg := r.segments[id.Segment()]
	if seg == nil {
		return nil, fmt.Errorf("%s: %w", id, ErrNotFound)
	}
	h, err := seg.header(seg.file, id)
	if _, done := seg.done.find(id.Offset()); done && err != nil {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	m, err := r.message(seg, &scanned{head: h})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	if m.Envelope == nil {
		return nil, fmt.Errorf("%s: envelope: %w", id, ErrDamaged)
	}
	return m, nil
}

// Open returns the content of a message, as Store.Open does.
func (r *Reader) Open(id ID) (*Content, error) {
	seg := r.segments[id.Segment()]
	if seg == nil {
		return nil, fmt.Errorf("%s: %w", id, ErrNotFound)
	}
	h, err := seg.header(seg.file, id)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	return r.tree.content(seg.file, &h, func() error { return nil })
}

// content opens the content of a record; done ends the use of its segment, which r
// reads.
func (t tree) content(r io.ReaderAt, h *recordHeader, done func() error) (*Content, error) {
	c := &Content{id: h.id, size: h.content, want: h.contentCRC, sum: crc32.New(castagnoli()), close: done}
	if !h.blob() {
		c.r = io.NewSectionReader(r, h.contentAt(), h.content)
		return c, nil
	}
	done()
	f, err := t.fs.Open(t.blob(h.id), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: content file: %w", ErrDamaged, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.id, err)
	}
	c.r, c.close = io.NewSectionReader(f, 0, h.content), f.Close
	return c, nil
}
