package webhook

import (
	"fmt"
	"net/url"
	"time"
)

// Status is how a webhook stands.
type Status struct {
	Name, Form string
	Host       string // of its URL, with the scheme; the rest may be a secret
	Waiting    uint64 // events of the log, those for others with them
	Taken      uint64
	Lost       uint64
	Gone       uint64  // that had been set aside, and are not listed any more
	Aside      []Aside // the oldest first
	Since      time.Time
	Why        string
	Last       time.Time
	Refused    string // why nothing is posted; "": it is

	unwritten       string
	lostAt, asideAt time.Time
}

func (h *hook) status() Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	st := Status{
		Name: h.config.Name, Form: string(h.config.Form), Taken: h.kept.Taken, Lost: h.lost(), Gone: h.kept.Gone, Aside: h.aside,
		Since: h.since, Why: h.why, Last: h.last, Refused: h.config.Refused, unwritten: h.unwritten, lostAt: h.lostAt, asideAt: h.asideAt,
	}
	if u, err := url.Parse(h.config.URL); err == nil {
		st.Host = u.Scheme + "://" + u.Host
	}
	if end, next := h.log.End().Seq, max(h.kept.Cursor.Seq, h.log.Start().Seq); end > next {
		st.Waiting = end - next
	}
	return st
}

// Failing reports whether nothing is taken, for longer than a receiver needs to start.
func (s *Status) Failing(now time.Time) bool {
	return s.Refused != "" || !s.Since.IsZero() && now.Sub(s.Since) >= failingAfter
}

// trouble is what an admin should know; "" if all is well.
func (s *Status) trouble(now time.Time) string {
	name := "webhook " + s.Name
	switch {
	case s.Refused != "":
		return name + ": nothing is posted, " + s.Refused
	case s.Failing(now):
		lost := ""
		if s.Lost > 0 {
			lost = fmt.Sprintf(", %d are lost", s.Lost)
		}
		return fmt.Sprintf("%s has not been taken since %s, and %d events wait%s: %s", name, s.Since.Format(time.RFC3339), s.Waiting, lost, s.Why)
	case s.unwritten != "":
		return name + ": its place in the log cannot be written: " + s.unwritten
	case !s.lostAt.IsZero() && now.Sub(s.lostAt) < toldFor:
		return fmt.Sprintf("%s: events are lost, %d in all, the last found at %s", name, s.Lost, s.lostAt.Format(time.RFC3339))
	case !s.asideAt.IsZero() && now.Sub(s.asideAt) < toldFor:
		return fmt.Sprintf("%s: an event was refused at %s, and set aside: millrace webhook list", name, s.asideAt.Format(time.RFC3339))
	}
	return ""
}
