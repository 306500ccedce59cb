package queue

import (
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// Session is one connection's place in the queue, from the decision to open it
// to its end. Only its own goroutine calls its methods and the queue's methods
// that take it.
type Session struct {
	linked[*Session] // on Queue.idle
	dest             *destination
	route            *Route         // of dest, when the session was launched or last given a job
	wake             chan wake      // one message for each time it leaves the ready list
	among            *connectBudget // where it is counted until it is up; nil: nowhere
	slot             slots.Slot     // of its connection
	place            int            // of its route's places
	holds            bool           // the slot
	foreign          bool           // it was refused, and that is foreign to its site
	onTrial          bool           // counted in site.trying
	stranger         bool           // counted in Queue.strangers
	stalls           bool           // its first transaction has taken so long that it gave its slot back
	hangs            bool           // its connect has been under way for HangAfter
	patience         time.Time      // until then its connect may take long, whoever else waits; zero: it was promised nothing
	silent           bool           // that is a refusal
	retiring         bool           // told to go: counted in Queue.retiring, and what closes after that is our doing
	moves            bool           // its mail goes to another address
	second           bool           // a part of its last job went to another address, see Second
	untried          bool           // its connect tells nothing of the destination
	successor        *site          // gets its place when it has gone; nil: nobody in particular
	up               bool
	idleSinceUp      bool // up, and has not asked for work yet

	permit *permit // of the job; nil: it needed none
	gate   *gate   // that it passed

	job    Job
	stream uint32 // of the job, or of the last one
	before int    // tries of its recipients before it, at the least
	items  []Item
	jobs   int       // transactions taken
	most   int       // then it ends
	tried  int       // of these, settled with at least one recipient tried
	last   time.Time // when the last of them was

	turnJobs int       // transactions taken before its present turn
	turnAt   time.Time // when that began

	messages   int // what the peer announced to take on one connection; 0: nothing
	recipients int // and in one transaction
}

// Announced notes the limits that the peer announced (RFC 9422): messages on one
// connection, recipients of one transaction; 0: none. Called before Opened, and again
// between two Steps when more was found.
func (s *Session) Announced(messages, recipients int) {
	s.messages, s.recipients = messages, recipients
}

// Untried notes that the connect was given up, or could not be made, for reasons of
// our own. It tells nothing of the destination, and no mail expires by it. Called
// before Leave.
func (s *Session) Untried() { s.untried = true }

func (s *Session) link() *linked[*Session] { return &s.linked }

// Route returns where the session connects to, with the policy for its present job.
func (s *Session) Route() Route { return *s.route }

// assign gives the session its next job.
func (q *Queue) assign(s *Session) {
	s.route = s.dest.route
	limit := s.route.Queue.MaxRecipientsPerMessage
	if s.recipients > 0 {
		limit = min(limit, s.recipients)
	}
	var f *flow
	s.job, f, s.permit = q.next(s.dest, limit, s.items)
	s.items = s.job.Items
	if s.permit != nil {
		s.gate = f.gate
		s.permit.useWarmup(s.items, time.Now())
		q.giveBack(s.gate, s.permit, s.permit.n-len(s.items), time.Now())
		q.sleep(f)
	}
	s.jobs++
	for i, x := range s.items { // now: when they are settled, their places may be others'
		if i == 0 {
			s.stream, s.before = (*q.laneByNo.at(q.recipients.at(uint32(x.Handle)).lane)).key.stream, x.Tries
		}
		s.before = min(s.before, x.Tries)
	}
	q.watchFirst(s)
}
