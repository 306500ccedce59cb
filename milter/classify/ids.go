package classify

import (
	"hash/maphash"
	"strings"
	"sync"
)

// A stream is a list or campaign. Some senders write an id of their own for each
// recipient or message into Feedback-ID or List-Id, which would make a stream of each. ids
// finds that out for each field of a sender's domain, and there for the ids that have one
// stable part (within), as a domain may send some of either kind: it remembers the ids that
// were seen, and keeps a score that a new id raises and one seen before lowers.
const (
	// maxIDs is how many ids are known at least, for all senders: when so many are new
	// those before the last so many are forgotten. Some 3 MB.
	maxIDs = 1 << 15
	// maxOwners is how many domains and stable parts are known: at some 200 octets each, 0.8 MB.
	maxOwners = 4096
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
	now, old map[uint64]struct{}     // seen; old is the generation before
	owners   recent[[idFields]score] // by the domain of senders, and with the stable part of their ids
}

// score tells whether ids vary.
type score struct {
	score  uint8
	seen   uint8 // messages, varies at most
	varies bool
}

func newIDs() ids {
	return ids{
		mu: new(sync.Mutex), seed: maphash.MakeSeed(),
		now: map[uint64]struct{}{}, owners: newRecent[[idFields]score](maxOwners),
	}
}

// stable notes the id that a message of a domain has in a field, and reports whether the
// domain's ids there are such that name a list or campaign, and whether this one is new.
// No recipients are those of a message that was noted before: it is not noted again.
func (x *ids) stable(domain string, f idField, id string, recipients int) (stable, fresh bool) {
	var h maphash.Hash
	h.SetSeed(x.seed)
	h.WriteString(domain)
	h.WriteByte(byte(f))
	h.WriteString(id)
	sum := h.Sum64()

	x.mu.Lock()
	defer x.mu.Unlock()
	all := &x.owners.at(domain)[f]
	if recipients > 0 {
		fresh = x.note(sum)
		all.add(fresh, recipients)
	}
	part := within(f, id)
	if part == "" {
		return !all.varies, fresh
	}
	own := &x.owners.at(domain + "\x00" + part)[f]
	if recipients > 0 {
		own.add(fresh, recipients)
	}
	if own.seen < varies { // too few to tell: as the domain's others
		return !all.varies && !own.varies, fresh
	}
	return !own.varies, fresh
}

// add takes in an id that is new or known, of a message to so many.
func (s *score) add(fresh bool, recipients int) {
	s.seen = min(s.seen+1, varies)
	if fresh && recipients <= fewRecipients {
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
}

// within is the part of an id that ids of recipients have in common: of a Feedback-ID the
// right-most field, of a List-Id the domain after its first label.
func within(f idField, id string) string {
	switch f {
	case feedbackField:
		return id[strings.LastIndexByte(id, ':')+1:]
	case listIDField:
		return id[strings.IndexByte(id, '.')+1:]
	}
	return ""
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
