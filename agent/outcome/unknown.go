package outcome

import (
	"hash/maphash"
	"slices"
	"sync"
	"time"
)

// Unknown keeps an example of each reply that no rule or reading knew (NoRule), for an
// admin who wants to write a rule, and for us. Its methods may be called by many
// goroutines. The zero value is ready.
type Unknown struct {
	mu     sync.Mutex
	seed   maphash.Seed
	total  int
	byForm map[uint64]*UnknownReply
}

// UnknownReply is one form of a reply that nothing knew.
type UnknownReply struct {
	Example     string // the first one, with the host that spoke
	Site        string
	Count       int
	First, Last time.Time
}

// maxUnknown bounds the forms that are kept: the one seen longest ago gives way.
const maxUnknown = 200

// Add counts a reply. Those that differ in numbers, names and addresses only are one.
func (u *Unknown) Add(now time.Time, site, reply string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.byForm == nil {
		u.byForm, u.seed = make(map[uint64]*UnknownReply), maphash.MakeSeed()
	}
	u.total++
	k := u.form(reply)
	x := u.byForm[k]
	if x == nil {
		if len(u.byForm) >= maxUnknown {
			u.forgetOldest()
		}
		x = &UnknownReply{Example: reply, Site: site, First: now}
		u.byForm[k] = x
	}
	x.Count++
	x.Last = now
}

// form is a hash of the words of a reply that are not names or have digits.
func (u *Unknown) form(reply string) uint64 {
	var r reader
	r.split(reply, "")
	var h maphash.Hash
	h.SetSeed(u.seed)
	for i := range r.n {
		w := r.word(i)
		if r.words[i].inName || slices.ContainsFunc(w, func(c byte) bool { return '0' <= c && c <= '9' }) && len(w) != 3 {
			continue
		}
		h.Write(w)
		h.WriteByte(' ')
	}
	return h.Sum64()
}

func (u *Unknown) forgetOldest() {
	var oldest uint64
	var at time.Time
	for k, x := range u.byForm {
		if at.IsZero() || x.Last.Before(at) {
			oldest, at = k, x.Last
		}
	}
	delete(u.byForm, oldest)
}

// Total is how many replies nothing knew.
func (u *Unknown) Total() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.total
}

// List returns the forms, the most frequent first, and of equal ones the latest.
func (u *Unknown) List() []UnknownReply {
	u.mu.Lock()
	defer u.mu.Unlock()
	list := make([]UnknownReply, 0, len(u.byForm))
	for _, x := range u.byForm {
		list = append(list, *x)
	}
	slices.SortFunc(list, func(a, b UnknownReply) int {
		if a.Count != b.Count {
			return b.Count - a.Count
		}
		return b.Last.Compare(a.Last)
	})
	return list
}
