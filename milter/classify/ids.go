package classify

import (
	"container/list"
	"hash/maphash"
	"sync"
)

// A stream is a list or campaign. Some senders write an id of their own for each
// recipient or message into Feedback-ID or List-Id, which would make a stream of each. ids
// finds that out for each field of a sender's domain: it remembers the ids that were seen,
// and keeps a score that a new id raises and one seen before lowers.
const (
	// maxIDs is how many ids are known at least, for all senders: when so many are new
	// those before the last so many are forgotten. Some 3 MB.
	maxIDs = 1 << 15
	// maxOwners is how many domains are known: at some 200 octets each, 0.4 MB.
	maxOwners = 2048
	// varies is the score from which on a field's ids are taken for ids of recipients;
	// they are until the score is 0 again. So many streams a sender makes before.
	varies = 16
	// seenAgain is what an id that was seen before takes off: a field varies if more than
	// two of three messages bring a new id.
	seenAgain = 2
	// maxScore bounds how long a sender that has changed his ways takes to be believed.
	maxScore = 64
	// fewRecipients is to how many recipients at most a message may go whose id can be
	// theirs. A list's post to more is one of its list's.
	fewRecipients = 3
)

// idField is one kind of id.
type idField int

const (
	listIDField idField = iota
	feedbackField
	feedbackSenderField
	idFields
)

type ids struct {
	mu       *sync.Mutex
	seed     maphash.Seed
	now, old map[uint64]struct{} // seen; old is the generation before
	owners   map[string]*list.Element
	order    *list.List // of *owner, seen last at the front
}

// owner is the domain of senders.
type owner struct {
	domain string
	fields [idFields]struct {
		score  uint8
		varies bool
	}
}

func newIDs() ids {
	return ids{
		mu: new(sync.Mutex), seed: maphash.MakeSeed(),
		now: map[uint64]struct{}{}, owners: map[string]*list.Element{}, order: list.New(),
	}
}

// stable notes the id that a message of a domain has in a field, and reports whether the
// domain's ids there are such that name a list or campaign, and whether this one is new.
func (x *ids) stable(domain string, f idField, id string, recipients int) (stable, fresh bool) {
	var h maphash.Hash
	h.SetSeed(x.seed)
	h.WriteString(domain)
	h.WriteByte(byte(f))
	h.WriteString(id)
	sum := h.Sum64()

	x.mu.Lock()
	defer x.mu.Unlock()
	s := &x.owner(domain).fields[f]
	if fresh = x.note(sum); fresh && recipients <= fewRecipients {
		s.score = min(s.score+1, maxScore)
	} else if s.score >= seenAgain {
		s.score -= seenAgain
	} else {
		s.score = 0
	}
	if s.score >= varies {
		s.varies = true
	} else if s.score == 0 {
		s.varies = false
	}
	return !s.varies, fresh
}

// note remembers an id and reports whether it is new.
func (x *ids) note(sum uint64) bool {
	if _, ok := x.now[sum]; ok {
		return false
	}
	_, known := x.old[sum]
	if len(x.now) >= maxIDs {
		x.now, x.old = map[uint64]struct{}{}, x.now
	}
	x.now[sum] = struct{}{}
	return !known
}

// owner finds or makes the owner of a domain, and forgets the oldest if there are too
// many.
func (x *ids) owner(domain string) *owner {
	if e, ok := x.owners[domain]; ok {
		x.order.MoveToFront(e)
		return e.Value.(*owner)
	}
	if len(x.owners) >= maxOwners {
		oldest := x.order.Back()
		delete(x.owners, oldest.Value.(*owner).domain)
		x.order.Remove(oldest)
	}
	o := &owner{domain: domain}
	x.owners[domain] = x.order.PushFront(o)
	return o
}
