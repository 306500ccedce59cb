package suppress

import (
	"strings"
	"sync"
	"time"
)

// One receiver's bad day must not take its users off the lists: a directory that is away
// makes each of them unknown. When more than a fifth and at least fifty of the recipients
// in a domain bounce for good within an hour, that is taken for the domain's trouble.
// Those bounces, the ones of that hour before included, do not count until the address
// has bounced another day too.

const (
	// troubleBounces and troubleShare are how many hard bounces, and which part of all
	// recipients, make a domain's trouble.
	troubleBounces = 50
	troubleShare   = 5 // one in so many
	// troubleTime is the time that is looked at, in steps of which a full one may be
	// missing.
	troubleTime  = time.Hour
	troubleSteps = 6
	// anotherDay is the least time to a bounce that confirms an earlier one.
	anotherDay = 20 * time.Hour

	// maxDomains bounds the domains that are watched at a time, maxDoubtful the bounces
	// of one that can be taken back. What is beyond counts as it comes.
	maxDomains  = 100_000
	maxDoubtful = 10_000
)

// domains counts the recipients of each domain within the last hour.
type domains struct {
	mu     sync.Mutex
	byName map[string]*domain
	swept  time.Time
}

// domain is one of them.
type domain struct {
	steps    [troubleSteps]step
	doubtful []bounced // hard bounces of this hour that count, and would not in trouble
	trouble  bool
}

// step counts a sixth of an hour.
type step struct {
	at        int64 // number of the step since 1970
	all, hard int
}

// bounced is a hard bounce that counted.
type bounced struct {
	stream, address string
	at              time.Time
}

// stepAt is the number of the step that a time is in.
func stepAt(now time.Time) int64 { return now.Unix() / int64(troubleTime/troubleSteps/time.Second) }

// count counts a recipient, and says whether its domain is in trouble now, and whether that
// is new. The caller holds mu.
func (d *domain) count(now time.Time, hard bool) (trouble, began bool) {
	at := stepAt(now)
	s := &d.steps[at%troubleSteps]
	if s.at != at {
		*s = step{at: at}
	}
	s.all++
	if hard {
		s.hard++
	}
	all, bad := 0, 0
	for i := range d.steps {
		if x := &d.steps[i]; at-x.at < troubleSteps {
			all += x.all
			bad += x.hard
		}
	}
	was := d.trouble
	d.trouble = bad >= troubleBounces && bad*troubleShare > all
	return d.trouble, d.trouble && !was
}

// of is the domain of an address, made if need be; nil if too many are watched.
// The caller holds mu.
func (ds *domains) of(address string, now time.Time) *domain {
	name := address[strings.LastIndexByte(address, '@')+1:]
	d := ds.byName[name]
	if d != nil {
		return d
	}
	if now.Sub(ds.swept) >= troubleTime/troubleSteps {
		ds.swept = now
		for name, d := range ds.byName {
			if d.idle(now) {
				delete(ds.byName, name)
			}
		}
	}
	if len(ds.byName) >= maxDomains {
		return nil
	}
	if ds.byName == nil {
		ds.byName = make(map[string]*domain)
	}
	d = new(domain)
	ds.byName[strings.Clone(name)] = d
	return d
}

func (d *domain) idle(now time.Time) bool {
	for i := range d.steps {
		if stepAt(now)-d.steps[i].at < troubleSteps {
			return false
		}
	}
	return true
}

// delivered counts a recipient that was accepted, or bounced for another reason.
func (ds *domains) delivered(address string, now time.Time) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if d := ds.of(address, now); d != nil {
		d.count(now, false)
	}
}

// bounced counts a hard bounce. It says whether the domain is in trouble, and returns the
// bounces that are to be taken back as that is new.
func (ds *domains) bounced(b bounced, confirmed bool) (trouble bool, back []bounced) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	d := ds.of(b.address, b.at)
	if d == nil {
		return false, nil
	}
	trouble, began := d.count(b.at, true)
	if began {
		back, d.doubtful = d.doubtful, nil
	}
	if !trouble && !confirmed && len(d.doubtful) < maxDoubtful {
		for len(d.doubtful) > 0 && b.at.Sub(d.doubtful[0].at) > troubleTime {
			d.doubtful = d.doubtful[1:]
		}
		d.doubtful = append(d.doubtful, b)
	}
	return trouble, back
}
