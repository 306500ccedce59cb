package classify

import (
	"sync"
	"time"
)

// maxTallies is how many senders with a subject a Volume counts at a time: at some
// 700 octets each, 3 MB. A host that sends more campaigns than that within
// one window forgets those it has not seen for longest, and leaves them.
const maxTallies = 4096

// slots is into how many parts a window is divided. What is older than the
// window is never counted; up to a tenth of what is younger may not be.
const slots = 10

// Volume is what is remembered of the mail that was judged. It counts recipients by
// SASL user, sender and subject, in a window that slides: the memory behind the evidence
// that much mail of a kind is bulk. Only mail that nothing else decides, because its marks of bulk
// are of one family, is counted. A host's receipts cannot become bulk by its
// newsletters. It also remembers which ids of List-Id and Feedback-ID were seen (ids.go).
//
// It is made once and outlives the Classifiers that use it, so a reload forgets
// nothing. Any number of goroutines may use it.
type Volume struct {
	mu      sync.Mutex
	tallies recent[tally]
	ids     ids // has a lock of its own
}

// tally is the count of one key.
type tally struct {
	width  time.Duration // of a slot; another window starts anew
	newest int64         // number of the newest slot since the epoch
	n      [slots]int    // recipients, the newest slot first
}

// NewVolume returns a Volume that has seen nothing.
func NewVolume() *Volume { return &Volume{tallies: newRecent[tally](maxTallies), ids: newIDs()} }

// add counts n recipients more for a key (0: only looks) and returns how many there were within
// the window that ends now.
func (v *Volume) add(key string, n int, now time.Time, window time.Duration) int {
	width := max(window/slots, 1)
	v.mu.Lock()
	defer v.mu.Unlock()
	t := v.tallies.at(key)
	t.turn(now.UnixNano()/int64(width), width)
	t.n[0] += n
	sum := 0
	for _, n := range t.n {
		sum += n
	}
	return sum
}

// turn makes slot s the newest one. Messages of parallel sessions come a little
// out of order and count as now; a clock that was set back starts the tally anew.
func (t *tally) turn(s int64, width time.Duration) {
	if t.width != width || s < t.newest-slots || s >= t.newest+slots {
		t.width, t.newest, t.n = width, s, [slots]int{}
	}
	if age := s - t.newest; age > 0 {
		copy(t.n[age:], t.n[:])
		clear(t.n[:age])
		t.newest = s
	}
}
