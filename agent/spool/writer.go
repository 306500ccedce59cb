package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// blobSize is the content size from which a message gets a file of its own and
// is not held in memory.
const blobSize = 1 << 20

// WriterOptions are the settings of a Writer.
type WriterOptions struct {
	FS            FS               // nil: the real one
	Logger        *slog.Logger     // nil: none
	MinFree       int64            // octets the file system must have free; 0: no limit
	MaxRecipients int64            // queued recipients above which there is no room; 0: no limit
	SegmentSize   int64            // octets; 0: 64 MiB
	Now           func() time.Time // nil: time.Now
}

// Writer appends messages to a spool. One process has one; several processes
// may have one each. Its methods may be called by many goroutines.
type Writer struct {
	tree
	log  *slog.Logger
	opts WriterOptions
	beat File

	pool sync.Pool // of *[]byte

	roomMu      sync.Mutex
	roomAt      time.Time // of the last look
	roomErr     error
	roomBeat    beat
	sinceBeat   atomic.Int64 // recipients appended since roomBeat
	checkedOnce bool

	silenceMu sync.Mutex
	silenceAt time.Time // of the last look
	lastBeat  beat      // as seen last
	changedAt time.Time // when that was first seen, by our own clock

	drainMu sync.Mutex
	drainAt time.Time // of the last look
	drains  bool      // as seen then

	mu      sync.Mutex
	waiting []*entry // not yet taken up by the syncer
	closed  bool
	wake    chan struct{} // capacity 1
	done    chan struct{} // the syncer has ended

	// Only the syncer touches these.
	seg  *output   // takes records; nil: none yet
	full []*output // takes no more, but has receipts that are not settled
}

// OpenWriter opens the spool in dir for appending and makes the directory, with
// mode 0700, if it is missing. Segments are made when they are needed.
func OpenWriter(dir string, o WriterOptions) (*Writer, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.SegmentSize == 0 {
		o.SegmentSize = 64 << 20
	}
	o.SegmentSize = min(o.SegmentSize, 1<<30) // offsets have 32 bits
	t, err := openTree(o.FS, dir)
	if err != nil {
		return nil, err
	}
	b, err := t.fs.Open(t.path(lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	w := &Writer{
		tree: t, log: o.Logger, opts: o, beat: b,
		wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	// What the last agent left, perhaps long ago, is no sign of life.
	w.lastBeat, _ = readBeat(b)
	w.changedAt = o.Now()
	go w.run()
	return w, nil
}

// Append makes a message durable: when it returns nil, content and envelope
// were synced, and so was the entry of their file in its directory. The agent
// takes the message once the receipt is released. After an error the agent
// never sees the message; the error wraps ErrFull if there is no room.
//
// Append fills e.Size, e.HeaderSize and e.EightBit and keeps neither e nor
// content. Calls at the same time share one sync.
func (w *Writer) Append(ctx context.Context, e *Envelope, content io.Reader) (Receipt, error) {
	if err := w.Room(); err != nil {
		return Receipt{}, err
	}
	en, err := w.read(ctx, e, content)
	if err != nil {
		return Receipt{}, full(fmt.Errorf("spool: append: %w", err))
	}
	if err := w.enqueue(en); err != nil {
		en.drop()
		return Receipt{}, err
	}
	select {
	case err = <-en.done:
	case <-ctx.Done():
		err = w.withdraw(ctx, en)
	}
	if err != nil {
		return Receipt{}, full(fmt.Errorf("spool: append: %w", err))
	}
	en.head.fill(e)
	w.sinceBeat.Add(int64(len(e.Recipients)))
	return Receipt{en.receipt}, nil
}

func (w *Writer) enqueue(en *entry) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return ErrClosed
	}
	w.waiting = append(w.waiting, en)
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return nil
}

// withdraw gives an entry up. If the syncer has taken it up already, it voids
// the record when it is done with it; nobody waits for a disk that hangs. If not,
// the entry goes at once, or memory would fill while the disk hangs.
func (w *Writer) withdraw(ctx context.Context, en *entry) error {
	if !en.claimed.CompareAndSwap(false, true) {
		return <-en.done // it was answered just now
	}
	w.mu.Lock()
	i := slices.Index(w.waiting, en)
	if i >= 0 {
		w.waiting = slices.Delete(w.waiting, i, i+1)
	}
	w.mu.Unlock()
	if i >= 0 {
		en.drop()
	}
	return context.Cause(ctx)
}

// full makes errors that say "no space" wrap ErrFull.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

// Room returns nil if there is room for more mail, or else an error that wraps
// ErrFull and says why not. It looks at most once a second.
func (w *Writer) Room() error {
	w.roomMu.Lock()
	defer w.roomMu.Unlock()
	now := w.opts.Now()
	if age := now.Sub(w.roomAt); w.checkedOnce && age >= 0 && age < time.Second {
		return w.roomErr
	}
	w.roomErr = w.look()
	w.roomAt, w.checkedOnce = now, true
	return w.roomErr
}

func (w *Writer) look() error {
	if w.opts.MinFree > 0 {
		n, err := w.fs.Free(w.dir)
		if err != nil {
			return fmt.Errorf("spool: %w", err)
		}
		if n < w.opts.MinFree {
			return fmt.Errorf("%w: %d octets free in %s, min_free is %d", ErrFull, n, w.dir, w.opts.MinFree)
		}
	}
	if w.opts.MaxRecipients > 0 {
		// What the agent counted last, and what came from here since.
		if b, ok := readBeat(w.beat); ok && b != w.roomBeat {
			w.roomBeat = b
			w.sinceBeat.Store(0)
		}
		if n := w.roomBeat.queued + w.sinceBeat.Load(); n >= w.opts.MaxRecipients {
			return fmt.Errorf("%w: %d recipients queued, max_recipients is %d", ErrFull, n, w.opts.MaxRecipients)
		}
	}
	return nil
}

// silenceGap is the least time from one look for a sign of life to the next: a
// message then costs no read of its own, and the agent gives a sign only every
// few seconds.
const silenceGap = 100 * time.Millisecond

// AgentSilence returns how long before now the agent gave its last sign of life
// that this writer saw or, if there was none, this writer was opened. It goes by
// the monotonic clock of now: a sign of life is a change of what the agent
// writes, whatever time it claims, so a step of the clock is no silence. It is
// never negative, and up to silenceGap too long.
func (w *Writer) AgentSilence(now time.Time) time.Duration {
	w.silenceMu.Lock()
	defer w.silenceMu.Unlock()
	if age := now.Sub(w.silenceAt); age < 0 || age >= silenceGap {
		w.silenceAt = now
		if b, ok := readBeat(w.beat); ok && b != w.lastBeat {
			w.lastBeat, w.changedAt = b, now
		}
	}
	return max(0, now.Sub(w.changedAt))
}

// Close commits what was being appended and seals the segment. A receipt that
// was neither released nor voided before makes its message an orphan, which the
// agent sends.
func (w *Writer) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return ErrClosed
	}
	w.closed = true
	close(w.wake)
	w.mu.Unlock()
	<-w.done
	w.roomMu.Lock()
	defer w.roomMu.Unlock()
	return w.beat.Close()
}
