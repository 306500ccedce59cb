package spool

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// StoreOptions are the settings of a Store.
type StoreOptions struct {
	FS          FS               // nil: the real one
	Logger      *slog.Logger     // nil: none
	Now         func() time.Time // nil: time.Now
	journalStep int64            // octets of zeros ahead; 0: journalStep
	journalMax  int64            // octets of journals that call for a checkpoint; 0: 32 MiB
	rescan      time.Duration    // between looks at the whole directory; 0: 5 s
	holesAfter  time.Duration    // from when mail of a segment is done to a hole for it; 0: holesAfter, or at once byHand
	byHand      bool             // nothing runs in the background; the test calls Sync and upkeep
}

// Store is the agent's side of a spool. Its calls follow each other: OpenStore,
// Load, Follow until the end; the others from any goroutine, for ids that Load
// or Follow yielded.
type Store struct {
	tree
	log   *slog.Logger
	opts  StoreOptions
	agent File      // agent.lock, locked
	last  time.Time // of life of the agent before this one

	mu       sync.Mutex
	segments map[uint32]*segment
	replies  *textTable
	froms    *textTable
	done     []doneBlob
	damages  []Damage
	table    []byte // of Load and Follow: a footer
	windows  sync.Pool
	large    largeEnvelopes
	noHoles  bool            // the file system cannot punch; told once
	young    bool            // what makeHoles saw last was too young for holes
	unopened map[uint32]bool // of Follow alone: segments that could not be opened, which was told
	loaded   bool
	closed   bool
	most     int      // segments that are open; 0: any number
	failed   error    // why nothing can be recorded now
	journal  *journal // takes events

	logMu sync.Mutex // before mu; held while the current journal is synced or changed

	// Of the journal directory; for OpenStore, then for tidyUp alone.
	old        []uint32 // journals before the current one
	oldSize    int64
	checkpoint uint32 // number of the last; 0: none
	checkSize  int64
	begun      bool      // the current journal waits for its checkpoint
	retryAt    time.Time // not before, after trouble with one

	rounds rounds

	name     string // see identity
	surveyed uint32 // see survey: all segments up to this number are known, or gone
	listed   uint32 // greatest number of a segment in the last listing

	kick chan struct{} // capacity 1: something to sync or to reclaim
	stop chan struct{}
	wg   sync.WaitGroup
}

// segment is what the store knows of a segment. Guarded by Store.mu, but for
// the scanning, which only Load and Follow do, one after the other.
type segment struct {
	number uint32
	salt   uint64
	file   File
	index
	dead    bool           // no writer any more, and read to its end
	sealed  bool           // gets no more records, and read to its end
	damaged bool           // holds something unreadable: nothing of it is ever reclaimed
	reading map[uint32]int // calls and Contents that use the file, by offset
	gone    bool           // reclaimed; the file closes with its last user

	trouble error  // why it could not be read to its end, the last time
	table   bool   // taken up by its footer, of which scanned is no measure before the end
	scanned int64  // offset of the next record
	next    uint32 // index of the next record
	waiting []waiting
	punch   spans // to be given back once the journal is synced
}

// doneBlob is a message that is done and has a blob.
type doneBlob struct {
	id   ID
	void bool
}

// waiting is a record without a verdict.
type waiting struct {
	offset uint32
	index  uint32
	env    *Envelope
}

// state is a State as the journal has it, or the end of a span.
type state struct {
	due      int64 // nanoseconds since 1970, or noTime
	reply    string
	from     string
	tries    uint16
	status   Status
	class    uint8
	handback bool
	stuck    bool
	held     bool
	span     bool
}

func packState(s *State) state {
	reply := s.Reply
	if len(reply) > maxReply {
		reply = reply[:maxReply]
	}
	if strings.ContainsAny(reply, "\r\n") {
		reply = strings.NewReplacer("\r", " ", "\n", " ").Replace(reply)
	}
	from := s.From
	if len(from) > maxFrom || strings.Contains(from, besideReply) {
		from = ""
	}
	return state{due: timeToFile(s.Due), reply: reply, from: from, tries: s.Tries, status: s.Status, class: s.Class, handback: s.Handback, stuck: s.Stuck, held: s.Held}
}

func (s *state) unpack() State {
	return State{Status: s.status, Handback: s.handback, Stuck: s.stuck, Held: s.held, Tries: s.tries, Class: s.class, Due: timeFromFile(s.due), Reply: s.reply, From: s.from}
}

// ErrFinal says that a recipient is final and does not change any more.
var ErrFinal = errors.New("recipient is final")

// OpenStore opens the spool in dir for its one agent and replays the journal;
// the directory is made if it is missing. It returns ErrLocked if another agent
// has it, ErrNewer if it was written by a later version, and ErrDamaged, with
// file and offset, if the journal lost something that was durable.
func OpenStore(dir string, o StoreOptions) (*Store, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.journalStep == 0 {
		o.journalStep = journalStep
	}
	if o.holesAfter == 0 && !o.byHand {
		o.holesAfter = holesAfter
	}
	if o.journalMax == 0 {
		o.journalMax = 32 << 20
	}
	if o.rescan == 0 {
		o.rescan = 5 * time.Second
	}
	t, err := openTree(o.FS, dir)
	if err != nil {
		return nil, err
	}
	lock, err := t.fs.Open(t.path(lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	if ok, err := lock.TryLock(); err != nil || !ok {
		lock.Close()
		if err == nil {
			err = ErrLocked
		}
		return nil, fmt.Errorf("spool %s: %w", dir, err)
	}
	s := &Store{
		tree: t, log: o.Logger, opts: o, agent: lock, segments: make(map[uint32]*segment), replies: newReplies(), froms: newFroms(),
		unopened: make(map[uint32]bool), rounds: rounds{began: time.Now()},
		kick: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	if b, ok := readBeat(lock); ok {
		s.last = b.at
	}
	if err := s.recover(); err != nil {
		lock.Close()
		for _, seg := range s.segments {
			seg.file.Close()
		}
		return nil, fmt.Errorf("spool: %w", err)
	}
	if !o.byHand {
		s.wg.Go(s.run)
	}
	return s, nil
}

// recover finds the segments, replays the journal and starts a new one.
func (s *Store) recover() error {
	// The last agent may have died before its changes of the directories were
	// durable: a segment that it removed must not come back when the journal
	// has forgotten it, nor what it put in place of older journals go.
	for _, dir := range []string{segmentsDir, journalDir} {
		if err := s.fs.SyncDir(s.path(dir)); err != nil {
			return err
		}
	}
	names, err := s.fs.List(s.path(segmentsDir))
	if err != nil {
		return err
	}
	for _, name := range names {
		if n, ok := parseSegmentName(name); ok {
			s.listed = max(s.listed, n)
			if _, err := s.openSegment(n); err != nil {
				return err
			}
		}
	}
	if err := s.replayAll(); err != nil {
		return err
	}
	last := s.checkpoint
	for _, n := range s.old {
		last = max(last, n)
	}
	s.journal, err = s.startJournal(last + 1)
	return err
}

// startJournal makes a journal where there must be one. On a full disk it has
// as much room ahead as there is, and grows when things were reclaimed.
func (s *Store) startJournal(number uint32) (*journal, error) {
	for step := s.opts.journalStep; ; step /= 2 {
		j, err := s.newJournal(number, step)
		if err == nil {
			j.step = s.opts.journalStep
		}
		if err == nil || !errors.Is(full(err), ErrFull) || step < 2*blockSize {
			return j, err
		}
	}
}

// openSegment takes up a segment. One whose header is unreadable is set aside:
// it stays as it is, and nothing in it is delivered. gone: it is not there.
func (s *Store) openSegment(n uint32) (*segment, error) {
	f, err := s.fs.Open(s.segment(n), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	h, err := readSegmentHeader(f)
	if err == nil && h.number != n {
		err = fmt.Errorf("%w: header has number %d", ErrDamaged, h.number)
	}
	if err != nil && !errors.Is(err, ErrDamaged) {
		f.Close()
		return nil, fmt.Errorf("segment %s: %w", segmentName(n), err)
	}
	seg := &segment{number: n, salt: h.salt, file: f, scanned: recordsAt, index: index{replies: s.replies, froms: s.froms}}
	s.mu.Lock()
	s.segments[n] = seg
	s.mu.Unlock()
	if err != nil {
		seg.dead = true
		s.damage(seg, Damage{Reason: err.Error()})
	}
	return seg, nil
}

// find returns where a message is. Callers hold mu.
func (s *Store) find(id ID) (seg *segment, i int, err error) {
	if seg = s.segments[id.Segment()]; seg != nil {
		if i, ok := seg.find(id.Offset()); ok {
			return seg, i, nil
		}
	}
	return nil, 0, fmt.Errorf("%s: %w", id, ErrNotFound)
}

// Record writes changes of recipients to the journal. On return they are in the
// kernel and survive the end of this process; within 100 ms they are synced.
// What cannot be recorded, because the recipient is final (ErrFinal) or unknown
// (ErrNotFound), is left out and told in the error; the rest is recorded. Any
// other error means that nothing was; ErrFull among them. Record sets Last and Late in events.
func (s *Store) Record(events ...Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if s.failed != nil {
		return s.failed
	}
	var refused []error
	for len(events) > 0 {
		part := events[:min(len(events), maxPayload/(eventSize+maxReply+1+maxFrom))]
		events = events[len(part):]
		accepted, bad := s.check(part)
		refused = append(refused, bad...)
		if len(accepted) == 0 {
			continue
		}
		err := s.journal.append(s.journal.reserve(), func(b []byte) []byte {
			for _, c := range accepted {
				b = appendEvent(b, c.id, c.recipient, &c.state)
			}
			return b
		})
		if err != nil {
			s.wake() // perhaps something can be reclaimed
			return full(fmt.Errorf("spool: journal: %w", err))
		}
		for i := range accepted {
			s.apply(&accepted[i])
		}
	}
	s.wake()
	return errors.Join(refused...)
}

// change is an event that was found good.
type change struct {
	id        ID
	recipient uint32
	state     state
	seg       *segment
	i         int
	event     *Event
}

// check sorts out the events that cannot be. Callers hold mu.
func (s *Store) check(events []Event) (good []change, bad []error) {
	good = make([]change, 0, len(events))
	for n := range events {
		ev := &events[n]
		seg, i, err := s.find(ev.ID)
		switch {
		case err != nil:
		case seg.isDone(i):
			err = fmt.Errorf("%s, recipient %d: %w", ev.ID, ev.Recipient, ErrFinal)
		case ev.Recipient >= seg.recipients(i):
			err = fmt.Errorf("%s, recipient %d: %w", ev.ID, ev.Recipient, ErrNotFound)
		case seg.isFinal(i, ev.Recipient), final(good, ev):
			err = fmt.Errorf("%s, recipient %d: %w", ev.ID, ev.Recipient, ErrFinal)
		}
		if ev.Late = err != nil; ev.Late {
			bad = append(bad, err)
			continue
		}
		st := packState(&ev.State)
		if st.from == "" {
			was, _ := seg.state(i, ev.Recipient)
			st.from = was.from
		}
		good = append(good, change{ev.ID, ev.Recipient, st, seg, i, ev})
	}
	return good, bad
}

func final(before []change, ev *Event) bool {
	for i := range before {
		if c := &before[i]; c.id == ev.ID && c.recipient == ev.Recipient && c.state.status.Final() {
			return true
		}
	}
	return false
}

// apply brings a change into memory. Callers hold mu.
func (s *Store) apply(c *change) {
	if c.state.status == Damaged {
		c.seg.damaged = true // kept for the admin
		s.recorded(c)
	}
	if c.seg.set(c.i, c.recipient, &c.state) {
		c.event.Last = true
		s.finish(c.seg, c.i, false)
	}
}

// finish notes that a message is done. Callers hold mu.
func (s *Store) finish(seg *segment, i int, void bool) {
	offset := seg.offset(i)
	if seg.recipients(i) >= largeFrom {
		s.large.drop(MakeID(seg.number, offset))
	}
	if seg.blob(i) {
		s.done = append(s.done, doneBlob{MakeID(seg.number, offset), void})
	}
	seg.finish(i)
	s.freed(seg, seg.behind(i, seg.scanned)-int64(offset))
}

// freed notes octets of a segment that may be given back. Callers hold mu.
func (s *Store) freed(seg *segment, octets int64) {
	if seg.freed == 0 {
		seg.freedAt = s.opts.Now()
	}
	seg.freed += octets
}

// wake lets the syncer run.
func (s *Store) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// LimitSegments says how many segments may be open, each with a descriptor. Those that
// are open stay so; the mail of new ones beyond that waits in the spool for others to be
// done. 0, and at the start: any number.
func (s *Store) LimitSegments(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.most = n
}

// LastAlive is when the agent before this one gave its last sign of life; zero if
// there was none.
func (s *Store) LastAlive() time.Time { return s.last }

// Beat gives a sign of life to the writers and tells them how many recipients
// are queued.
func (s *Store) Beat(queued int64) error {
	if _, err := s.agent.WriteAt(beat{s.opts.Now(), queued}.encode(), 0); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	return nil
}

// Close syncs the journal and gives the spool up. Follow must have returned.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.closed = true
	s.mu.Unlock()
	close(s.stop)
	s.wg.Wait()
	s.mu.Lock()
	err := s.failed
	s.mu.Unlock()
	err = errors.Join(err, s.journal.close())
	for _, seg := range s.segments {
		err = errors.Join(err, seg.file.Close())
	}
	// The lock goes last: the next agent finds everything in its place.
	if err = errors.Join(err, s.agent.Close()); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	return nil
}
