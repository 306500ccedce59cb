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
	FS     FS               // nil: the real one
	Logger *slog.Logger     // nil: none
	Now    func() time.Time // nil: time.Now

	journalStep int64         // octets of zeros ahead; 0: journalStep
	journalMax  int64         // octets of journals that call for a checkpoint; 0: 32 MiB
	rescan      time.Duration // between looks at the whole directory; 0: 5 s
	byHand      bool          // nothing runs in the background; the test calls Sync and upkeep
}

// Store is the agent's side of a spool. Its calls follow each other: OpenStore,
// Load, Follow until the end; the others from any goroutine, for ids that Load
// or Follow yielded.
type Store struct {
	tree
	log   *slog.Logger
	opts  StoreOptions
	agent File // agent.lock, locked

	mu       sync.Mutex
	segments map[uint32]*segment
	done     []doneBlob
	loaded   bool
	closed   bool
	failed   error    // why nothing can be recorded now
	journal  *journal // takes events

	logMu sync.Mutex // before mu; held while the current journal is synced or changed

	// Of the journal directory; for OpenStore, then for tidyUp alone.
	old        []uint32 // journals before the current one
	oldSize    int64
	checkpoint uint32 // number of the last; 0: none
	checkSize  int64

	kick chan struct{} // capacity 1: something to sync or to reclaim
	stop chan struct{}
	wg   sync.WaitGroup
}

// segment is what the store knows of a segment. Guarded by Store.mu, but for
// the scanning, which only Load and Follow do, one after the other.
type segment struct {
	number  uint32
	salt    uint64
	file    File
	records []record // by offset
	open    int      // records that are not done
	dead    bool     // no writer any more, and read to its end
	damaged bool     // holds something unreadable: never reclaimed
	users   int      // open Contents
	gone    bool     // reclaimed; the file closes with its last user

	scanned int64  // offset of the next record
	next    uint32 // index of the next record
	waiting []waiting
	replay  map[uint32][]state // by offset, from the journal, until scanned
}

// doneBlob is a message that is done and has a blob.
type doneBlob struct {
	id   ID
	void bool
}

// record is the memory cost of a message that is not reclaimed.
type record struct {
	offset     uint32
	recipients uint32
	open       uint32  // recipients that are not final
	flags      uint32  // recordFlags
	states     []state // nil while all are fresh
}

// waiting is a record without a verdict.
type waiting struct {
	record int // in segment.records
	index  uint32
	env    *Envelope
}

// state is a State in memory.
type state struct {
	due      int64 // nanoseconds since 1970, or noTime
	reply    string
	tries    uint16
	status   Status
	class    uint8
	handback bool
}

func packState(s *State) state {
	reply := s.Reply
	if len(reply) > maxReply {
		reply = reply[:maxReply]
	}
	if strings.ContainsAny(reply, "\r\n") {
		reply = strings.NewReplacer("\r", " ", "\n", " ").Replace(reply)
	}
	return state{timeToFile(s.Due), reply, s.Tries, s.Status, s.Class, s.Handback}
}

func (s *state) unpack() State {
	return State{Status: s.status, Handback: s.handback, Tries: s.tries, Class: s.class, Due: timeFromFile(s.due), Reply: s.reply}
}

var fresh = state{due: noTime}

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
		tree: t, log: o.Logger, opts: o, agent: lock, segments: make(map[uint32]*segment),
		kick: make(chan struct{}, 1), stop: make(chan struct{}),
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
	names, err := s.fs.List(s.path(segmentsDir))
	if err != nil {
		return err
	}
	for _, name := range names {
		if n, ok := parseSegmentName(name); ok {
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
	s.journal, err = s.newJournal(last+1, s.opts.journalStep)
	return err
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
	seg := &segment{number: n, salt: h.salt, file: f, scanned: recordsAt}
	if err != nil {
		s.log.Error("spool: segment set aside", slog.String("segment", segmentName(n)), slog.Any("error", err))
		seg.damaged, seg.dead = true, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.segments[n] = seg
	return seg, nil
}

// find returns the record of an id. Callers hold mu.
func (s *Store) find(id ID) (*segment, *record) {
	seg := s.segments[id.Segment()]
	if seg == nil {
		return nil, nil
	}
	return seg, seg.find(id.Offset())
}

func (seg *segment) find(offset uint32) *record {
	lo, hi := 0, len(seg.records)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if seg.records[mid].offset < offset {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(seg.records) && seg.records[lo].offset == offset {
		return &seg.records[lo]
	}
	return nil
}

// Record writes changes of recipients to the journal. On return they are in the
// kernel and survive the end of this process; within 100 ms they are synced.
// What cannot be recorded, because the recipient is final (ErrFinal) or unknown
// (ErrNotFound), is left out and told in the error; the rest is recorded. Any
// other error means that nothing was; ErrFull among them.
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
		part := events[:min(len(events), maxPayload/(eventSize+maxReply))]
		events = events[len(part):]
		accepted, bad := s.check(part)
		refused = append(refused, bad...)
		if len(accepted) == 0 {
			continue
		}
		err := s.journal.append(func(b []byte) []byte {
			for _, c := range accepted {
				b = appendEvent(b, c.id, c.recipient, &c.state)
			}
			return b
		})
		if err != nil {
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
	rec       *record
}

// check sorts out the events that cannot be. Callers hold mu.
func (s *Store) check(events []Event) (good []change, bad []error) {
	good = make([]change, 0, len(events))
	for i := range events {
		ev := &events[i]
		seg, rec := s.find(ev.ID)
		if rec == nil || ev.Recipient >= rec.recipients {
			bad = append(bad, fmt.Errorf("%s, recipient %d: %w", ev.ID, ev.Recipient, ErrNotFound))
			continue
		}
		if rec.final(ev.Recipient) || final(good, ev) {
			bad = append(bad, fmt.Errorf("%s, recipient %d: %w", ev.ID, ev.Recipient, ErrFinal))
			continue
		}
		good = append(good, change{ev.ID, ev.Recipient, packState(&ev.State), seg, rec})
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

func (r *record) final(recipient uint32) bool {
	return r.open == 0 || r.states != nil && r.states[recipient].status.Final()
}

// apply brings a change into memory. Callers hold mu.
func (s *Store) apply(c *change) {
	if c.rec.states == nil {
		c.rec.states = make([]state, c.rec.recipients)
		for i := range c.rec.states {
			c.rec.states[i] = fresh
		}
	}
	c.rec.states[c.recipient] = c.state
	if c.state.status.Final() {
		c.rec.open--
		if c.rec.open == 0 {
			s.finish(c.seg, c.rec)
		}
	}
}

// finish notes that a record is done. Callers hold mu.
func (s *Store) finish(seg *segment, rec *record) {
	seg.open--
	if rec.flags&flagBlob != 0 {
		s.done = append(s.done, doneBlob{MakeID(seg.number, rec.offset), rec.states == nil})
	}
	for i := range rec.states {
		rec.states[i].reply = "" // nobody asks for it any more
	}
}

// wake lets the syncer run.
func (s *Store) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

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
	err := s.journal.close()
	for _, seg := range s.segments {
		err = errors.Join(err, seg.file.Close())
	}
	// The lock goes last: the next agent finds everything in its place.
	if err = errors.Join(err, s.agent.Close()); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	return nil
}
