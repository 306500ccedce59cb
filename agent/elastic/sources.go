package elastic

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// Yield gives up a slot at an address, once a session there ends, to another of our sources
// that was refused there with fewer: a receiver that counts all of them together would else
// be had by whoever came first.
func (s *Site) Yield(now time.Time, a *slots.Address) {
	if s.want < 2 || s.state != bounded {
		return
	}
	if a.Limited && a.Accepted > 1 {
		a.Accepted--
	}
	s.set(now, s.want-1, fmt.Sprintf("a slot at %s is left to another of our addresses", a.Key.Host.Addr()))
}

// Granted notes that another source has yielded a slot at an address that refused this one:
// it is free once a session there has ended.
func (s *Site) Granted(now time.Time, a *slots.Address) {
	soon := now.Add(gapMin)
	a.Strikes, a.Opens = min(a.Strikes, 1), earlier(a.Opens, soon)
	s.refusals.opens = earlier(s.refusals.opens, soon)
	s.probe.gap, s.probe.at = gapMin, earlier(s.probe.at, soon)
	s.credit = max(s.credit, 1)
}
