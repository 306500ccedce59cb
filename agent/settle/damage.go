package settle

import (
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
)

// SettleDamaged gives records that turned out unreadable their outcome: nobody else
// can, as the queue never sees them. It returns how many it has seen.
func (s *Settler) SettleDamaged(seen int) int {
	list := s.store.Damaged()
	for _, d := range list[min(seen, len(list)):] {
		s.log.Error("damaged record in the spool; its segment is kept for you to look at",
			"segment", fmt.Sprintf("%08X", d.Segment), "offset", d.Offset, "id", d.ID.String(), "nrcpt", d.Recipients, "reason", d.Reason)
		if d.ID == 0 || d.Recorded {
			continue
		}
		var events []spool.Event
		for i := range d.Recipients {
			events = append(events, spool.Event{ID: d.ID, Recipient: i, State: spool.State{Status: spool.Damaged, Reply: d.Reason}})
		}
		if s.record(events) {
			for _, e := range events {
				if e.Late {
					continue
				}
				s.damaged.Delivery(&event.Delivery{
					Time: time.Now(), ID: e.ID, Ordinal: e.Recipient, Status: event.Damaged,
					Class: outcome.ClassSystem, Reason: e.Reply,
				})
			}
		}
	}
	return len(list)
}

// Unreadable settles mail whose envelope or content the spool cannot give. A damaged record
// is final and loud; any other error (memory, descriptors, I/O) may pass, so the mail waits.
func (s *Settler) Unreadable(job queue.Job, q *config.Queue, e *spool.Envelope, err error) []queue.Settled {
	if !errors.Is(err, spool.ErrDamaged) && !errors.Is(err, spool.ErrNotFound) {
		s.log.Error("cannot read message from the spool; will try again", "id", job.ID, "err", err)
		done := make([]queue.Settled, 0, len(job.Items))
		for _, item := range job.Items {
			done = append(done, queue.Settled{
				Handle: item.Handle, State: spool.State{Due: time.Now().Add(time.Minute), Reply: "spool: " + err.Error()},
			})
		}
		return done
	}
	return s.failWith(job, q, e, outcome.Attempt{Stage: outcome.Internal, Fault: outcome.Unreadable, Text: err.Error()})
}
