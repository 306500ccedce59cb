package elastic

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// Give passes the place of a session that has just ended to the site of another of our sources, at
// that one's address of the same host: a receiver that counts all sources together would else be had
// by whichever came first. One slot less is wanted here then, and one more there, where it is replaced
// as any that has ended: when it is free, and if it is refused, it waits or is given up as they are. No
// round of probes of either begins at once. It is false where no limit is known, so that there is
// nothing to share.
func (s *Site) Give(now time.Time, x *slots.Slot, to *Site, at *slots.Address) bool {
	if s.state == growing {
		return false
	}
	next := now.Add(gapMin)
	s.set(now, s.want-1, fmt.Sprintf("a slot at %s is left to another of our addresses", at.Key.Host.Addr()))
	s.probe.at = later(s.probe.at, next)
	to.run(now)
	to.at(at)
	x.Pass(at, &to.Count, now)
	at.Strikes, at.Opens = min(at.Strikes, 1), earlier(at.Opens, now)
	to.refusals.opens = earlier(to.refusals.opens, now)
	to.probe.at = later(to.probe.at, next)
	if to.state != growing {
		to.set(now, to.want+1, fmt.Sprintf("a slot at %s is had from another of our addresses", at.Key.Host.Addr()))
	}
	return true
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
