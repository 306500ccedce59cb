package settle

import (
	"testing"
	"time"

	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
)

// failures is a part of a report about so many recipients of a message.
func failures(id spool.ID, e *spool.Envelope, n int) Settlement {
	return Settlement{Job: queue.Job{ID: id}, Envelope: e, Results: make([]Result, n)}
}

func TestFailuresOfOneMessageWaitForEachOther(t *testing.T) {
	t.Parallel()
	var ns pendingBounces
	now := time.Unix(1_800_000_000, 0)
	e := &spool.Envelope{Recipients: make([]spool.Recipient, 4)}
	if n := ns.add(failures(1, &spool.Envelope{Recipients: make([]spool.Recipient, 1)}, 1), now); n == nil || n.n != 1 {
		t.Errorf("a message with one recipient waits: %+v", n)
	}
	for _, id := range []spool.ID{2, 3, 2} {
		if n := ns.add(failures(id, e, 1), now); n != nil {
			t.Errorf("%s does not wait: %+v", id, n)
		}
		now = now.Add(mergeFor / 5)
	}
	if list := ns.take(now, false); len(list) != 0 || ns.held != 3 {
		t.Errorf("%d due, %d held", len(list), ns.held)
	}
	// The last recipient that can fail brings its message's report about.
	if n := ns.add(failures(2, e, 2), now); n == nil || n.n != 4 || len(n.parts) != 3 || ns.held != 1 {
		t.Errorf("%+v, %d held", n, ns.held)
	}
	now = now.Add(mergeFor)
	if n := ns.add(failures(2, e, 1), now); n != nil { // a new one
		t.Errorf("%+v", n)
	}
	if list := ns.take(now, false); len(list) != 1 || list[0].id != 3 {
		t.Errorf("due: %+v", list)
	}
	if list := ns.take(time.Time{}, true); len(list) != 1 || list[0].id != 2 || ns.held != 0 || len(ns.open)+len(ns.order) != 0 {
		t.Errorf("all: %+v, %+v", list, &ns)
	}
}

func TestWaitingFailuresAreBounded(t *testing.T) {
	t.Parallel()
	var ns pendingBounces
	now := time.Unix(1_800_000_000, 0)
	large := &spool.Envelope{Recipients: make([]spool.Recipient, 5*maxMerged)}
	for i := range maxMerged/50 - 1 {
		if n := ns.add(failures(1, large, 50), now); n != nil {
			t.Fatalf("part %d: %+v", i, n)
		}
	}
	if n := ns.add(failures(1, large, 50), now); n == nil || n.n != maxMerged || ns.held != 0 {
		t.Errorf("a report has %+v, %d held", n, ns.held)
	}
	id := spool.ID(2)
	for ; ns.held+10 <= maxHeld; id++ {
		if n := ns.add(failures(id, large, 10), now); n != nil {
			t.Fatalf("%d held: %+v", ns.held, n)
		}
	}
	if n := ns.add(failures(id, large, 10), now); n == nil || n.n != 10 || ns.held > maxHeld {
		t.Errorf("with no room: %+v, %d held", n, ns.held)
	}
	if n := ns.add(failures(2, large, 10), now); n == nil || n.n != 20 || ns.held > maxHeld {
		t.Errorf("with no room, of one that waits: %+v, %d held", n, ns.held)
	}
}
