package queue

import "slices"

// A look at all sites, destinations or domains goes page by page: at most pageSize of them
// under the mutex at a time, so that a hundred thousand hold no session up for longer than
// one page takes, some hundred microseconds. What comes or goes meanwhile is seen or not;
// what is there all the time is seen once.

// pageSize is how many records are looked at in one turn under the mutex.
const pageSize = 256

// walk visits the records of a slab of pointers with the mutex held; between is called
// without it after each page, and says whether to go on.
func walk[T any](q *Queue, s *slab[*T], visit func(*T), between func() bool) {
	for next := uint32(1); ; {
		q.mu.Lock()
		last := min(s.used, next+pageSize-1)
		for ; next <= last; next++ {
			if x := *s.at(next); x != nil {
				visit(x)
			}
		}
		done := next > s.used
		q.mu.Unlock()
		if !between() || done {
			return
		}
	}
}

// each is walk for a map, whose range goes on behind what comes and goes meanwhile.
func each[K comparable, V any](q *Queue, m map[K]V, visit func(K, V), between func() bool) {
	q.mu.Lock()
	n, more := 0, true
	for k, v := range m {
		visit(k, v)
		if n++; n%pageSize == 0 {
			q.mu.Unlock()
			more = between()
			q.mu.Lock()
		}
		if !more {
			break
		}
	}
	q.mu.Unlock()
	if more {
		between()
	}
}

// eachPage is walk for keys that were collected before: visit has a page of them, with the
// mutex held.
func eachPage[K any](q *Queue, keys []K, visit func(page []K)) {
	for page := range slices.Chunk(keys, pageSize) {
		q.mu.Lock()
		visit(page)
		q.mu.Unlock()
	}
}

func always() bool { return true }
