package route

import "sync/atomic"

// Tally counts questions to the DNS. The zero value is ready; it may be shared by
// the Resolvers that follow each other, so that no count goes back.
type Tally struct {
	cached atomic.Uint64
	asked  [failed + 1]atomic.Uint64 // by the answer's status
}

// Counts are what a Tally has come to.
type Counts struct {
	Cached   uint64 // answered from the cache
	Found    uint64 // queries answered with records
	NoData   uint64 // with none of the kind asked for
	NXDomain uint64 // that there is no such name
	Failed   uint64 // SERVFAIL, no answer in time and the like
}

// Counts returns the counts.
func (t *Tally) Counts() Counts {
	return Counts{
		Cached: t.cached.Load(), Found: t.asked[found].Load(), NoData: t.asked[noData].Load(),
		NXDomain: t.asked[nxDomain].Load(), Failed: t.asked[failed].Load(),
	}
}
