package dialogue

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/control"
)

// What waits for a watcher at most.
const (
	maxLines  = 2000
	maxOctets = 512 << 10
	lineCost  = 100 // octets that a line takes beside its text
)

// Watcher gets the lines that were asked for.
type Watcher struct {
	board    *Board
	question control.WatchQuestion
	wake     chan struct{}

	mu     sync.Mutex
	lines  []control.WatchLine
	octets int
	lost   int // lines since too much waited
	closed bool
	begun  int // dialogues that were shown, or are being
	over   int // of these, ended
}

// push adds a line, if there is room.
func (w *Watcher) push(l control.WatchLine) {
	w.mu.Lock()
	defer w.mu.Unlock()
	cost := len(l.Text) + lineCost
	// Once a line is lost all are until the reader has what waits, so that the gap has a place.
	if w.lost > 0 || len(w.lines) >= maxLines || w.octets+cost > maxOctets {
		w.lost++
		return
	}
	w.lines, w.octets = append(w.lines, l), w.octets+cost
	w.nudge()
}

func (w *Watcher) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// begin reports whether one more dialogue is to be shown.
func (w *Watcher) begin() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || w.question.First > 0 && w.begun >= w.question.First {
		return false
	}
	w.begun++
	return true
}

// end tells that a dialogue is over.
func (w *Watcher) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over++
	w.nudge()
}

// Next waits for lines, and returns those that there are. io.EOF says that the dialogues
// that were asked for are over.
func (w *Watcher) Next(ctx context.Context) ([]control.WatchLine, error) {
	for {
		w.mu.Lock()
		lines := w.lines
		w.lines, w.octets = nil, 0
		if w.lost > 0 {
			lines = append(lines, control.WatchLine{
				Time: time.Now(), From: control.WatchNote, Lost: w.lost,
				Text: fmt.Sprintf("%d lines are left out here: they were not read fast enough", w.lost),
			})
			w.lost = 0
		}
		over := w.question.First > 0 && w.over >= w.question.First
		w.mu.Unlock()
		if len(lines) > 0 {
			return lines, nil
		}
		if over {
			return nil, io.EOF
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Close ends the watching.
func (w *Watcher) Close() {
	w.board.leave(w)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed, w.lines = true, nil
}

// ended reports whether it is closed.
func (w *Watcher) ended() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closed
}
