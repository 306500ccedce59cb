package elastic

import (
	"testing"
	"time"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// at is a time of a test.
func at(d time.Duration) time.Time { return epoch.Add(d) }

// site is a receiver that allows ten connections, answers connects at once and
// takes a tick for a message. Package contrib/sim has those that are like life.
type site struct {
	c       *Control
	now     time.Time
	live    int
	refused int
}

const (
	siteLimit = 10
	siteTick  = 250 * time.Millisecond
)

func newSite() *site { return &site{c: New(epoch, Limits{MaxSessions: 50}), now: epoch} }

// run lets time pass with a backlog.
func (s *site) run(d time.Duration) {
	for end := s.now.Add(d); s.now.Before(end); {
		for t := s.c.Target(s.now, s.load()); s.live < t.Sessions && t.Unproven > 0; t = s.c.Target(s.now, s.load()) {
			x := Signal{Kind: Up, Host: "a", Began: s.now}
			if s.live == siteLimit {
				x.Kind, x.Text = Refused, "421 too many connections"
				s.refused++
			} else {
				s.live++
			}
			s.c.Observe(s.now, x)
		}
		began := s.now
		s.now = s.now.Add(siteTick)
		for range s.live {
			s.c.Observe(s.now, Signal{Kind: Accepted, Host: "a", Began: began})
		}
	}
}

func (s *site) load() Load { return Load{Backlog: 1000, Live: s.live} }

// limited runs a site into its limit and returns it a minute later.
func limited(t *testing.T) *site {
	t.Helper()
	s := newSite()
	s.run(time.Minute)
	if s.live != siteLimit || s.refused == 0 {
		t.Fatalf("%d sessions up, want %d; %d refused", s.live, siteLimit, s.refused)
	}
	return s
}
