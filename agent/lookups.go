package agent

import (
	"sync"
	"time"
)

// lookups are the domains whose routes the queue has asked for. A look-up may hang, and it
// is not known before it does; whoever sends to thousands of domains whose name servers
// are silent must not keep the others waiting. So each has a short time first, for the DNS
// alone. What takes longer begins anew among its like, which have all the time they need
// and a part of the workers: domains of slow name servers, and those whose MTA-STS policy
// has to be fetched from a web server. A domain that was slow is not tried as a quick one
// again before it has answered.
//
// A worker takes from both ends of a line in turn: whoever comes last, behind thousands,
// is among the next two, and whoever came first waits twice as long at most. put never
// blocks.
type lookups struct {
	mu       sync.Mutex
	more     sync.Cond
	lines    [lookupKinds]line
	setbacks map[string]setback // of domains that had no answer lately
	swept    int                // setbacks that were kept the last time that old ones went
	closed   bool
}

// lookupKind is what a look-up may take.
type lookupKind uint8

const (
	quick    lookupKind = iota // firstLookup
	slow                       // longestLookup
	fetching                   // that, and of a policy too
	lookupKinds
)

// line are domains of one kind.
type line struct {
	names []string
	last  bool // the next one is taken from the end
	busy  int  // look-ups under way
	most  int  // of these at a time
}

// setback is what is known of a domain that had no answer.
type setback struct {
	n    int // in a row
	slow bool
	at   time.Time // of the last
}

func newLookups(workers int) *lookups {
	part := max(1, workers/4)
	q := &lookups{setbacks: make(map[string]setback)}
	q.lines[quick].most, q.lines[slow].most, q.lines[fetching].most = workers, part, part
	q.more.L = &q.mu
	return q
}

// put has a domain looked up.
func (q *lookups) put(name string) {
	q.mu.Lock()
	k := quick
	if q.setbacks[name].slow {
		k = slow
	}
	q.add(name, k)
	q.mu.Unlock()
	q.more.Signal()
}

// again has a domain looked up as one of another kind.
func (q *lookups) again(name string, k lookupKind) {
	q.mu.Lock()
	q.add(name, k)
	q.mu.Unlock()
	q.more.Signal()
}

func (q *lookups) add(name string, k lookupKind) {
	q.lines[k].names = append(q.lines[k].names, name)
}

// get waits for a domain to look up. done is to be called in the end.
func (q *lookups) get() (name string, k lookupKind, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.closed {
		for _, k := range [...]lookupKind{slow, fetching, quick} {
			if l := &q.lines[k]; len(l.names) > 0 && l.busy < l.most {
				l.busy++
				return l.take(), k, true
			}
		}
		q.more.Wait()
	}
	return "", 0, false
}

// take takes a domain from the one end of the line or the other.
func (l *line) take() (name string) {
	n := len(l.names) - 1
	if l.last {
		name, l.names[n] = l.names[n], ""
		l.names = l.names[:n]
	} else {
		name, l.names[0] = l.names[0], ""
		l.names = l.names[1:]
	}
	l.last = !l.last
	return name
}

// done ends a look-up.
func (q *lookups) done(k lookupKind) {
	q.mu.Lock()
	q.lines[k].busy--
	q.mu.Unlock()
	q.more.Signal()
}

// answered forgets what is known of a domain that had no answer.
func (q *lookups) answered(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.setbacks, name)
}

// failed notes that a domain had no answer, and returns when to ask again: after least,
// and twice as long each time up to most.
func (q *lookups) failed(name string, k lookupKind, now time.Time, least, most time.Duration) time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	b := q.setbacks[name]
	b.at, b.slow = now, b.slow || k == slow
	wait := min(most, least<<min(b.n, 10))
	b.n++
	if len(q.setbacks) > 2*q.swept+1000 { // of domains without mail by now
		for name, x := range q.setbacks {
			if now.Sub(x.at) > 2*longestRetry {
				delete(q.setbacks, name)
			}
		}
		q.swept = len(q.setbacks)
	}
	q.setbacks[name] = b
	return now.Add(wait)
}

func (q *lookups) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.more.Broadcast()
}
