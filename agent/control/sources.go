package control

import (
	"fmt"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/config"
)

// Source is an address that mail leaves from.
type Source struct {
	Address string   `json:"address"`
	Pool    string   `json:"pool,omitempty"` // "": source_addresses
	Hello   string   `json:"hostname"`       // EHLO name
	Weight  int      `json:"weight,omitempty"`
	Absent  bool     `json:"absent,omitempty"`  // it cannot be bound at the moment
	Blocked []Effect `json:"blocked,omitempty"` // by receivers
}

// InWords tells of it in a line.
func (s *Source) InWords() string {
	parts := []string{"of source_addresses, greets as " + s.Hello}
	if s.Pool != "" {
		parts[0] = fmt.Sprintf("of pool %s, weight %d, greets as %s", s.Pool, s.Weight, s.Hello)
	}
	if s.Absent {
		parts = append(parts, "cannot be bound")
	}
	for i := range s.Blocked {
		parts = append(parts, s.Blocked[i].Blocks())
	}
	return strings.Join(parts, "; ")
}

// Blocks tells of a receiver that refuses a source address.
func (e *Effect) Blocks() string {
	becomes := "its mail there waits"
	if e.Queue != "" {
		becomes = "others of its pool take its mail there, but for the stream that earned it"
	}
	return fmt.Sprintf("blocked at %s until %s: %s", e.Site, e.Until.Local().Format(time.DateTime), becomes)
}

// StreamLimits are what a [[stream]] bounds, and how much of it is used.
type StreamLimits struct {
	Name    string    `json:"name"`
	Rate    float64   `json:"max_message_rate,omitempty"` // messages per second; 0: no limit
	Quotas  []Quota   `json:"quotas,omitempty"`
	Window  string    `json:"window,omitempty"`
	Closed  bool      `json:"closed,omitempty"` // the window is
	Changes time.Time `json:"changes,omitzero"` // when it opens or closes next
}

// Quota is how many recipients may accept mail in a period, and how many have.
type Quota struct {
	Queue string    `json:"queue,omitempty"` // "": of all receivers
	Day   bool      `json:"day,omitempty"`   // else in an hour
	Limit int       `json:"limit"`
	Used  int       `json:"used"`
	Next  time.Time `json:"room_at,omitzero"` // when there is room again; zero: there is some
}

// InWords tells of them in a line.
func (l *StreamLimits) InWords() string {
	var parts []string
	if l.Rate > 0 {
		n, unit := config.Rate(l.Rate).Per()
		parts = append(parts, fmt.Sprintf("at most %.3g messages/%s", n, unit[:1]))
	}
	for i := range l.Quotas {
		parts = append(parts, l.Quotas[i].inWords())
	}
	if l.Window != "" {
		state := "open"
		if l.Closed {
			state = "closed"
		}
		parts = append(parts, fmt.Sprintf("%s, %s until %s", l.Window, state, l.Changes.Local().Format("Mon 15:04")))
	}
	return strings.Join(parts, "; ")
}

func (q *Quota) inWords() string {
	text, period := fmt.Sprintf("%d of %d", q.Used, q.Limit), "h"
	if q.Day {
		period = "d"
	}
	if text += "/" + period; q.Queue != "" {
		text = q.Queue + " " + text
	}
	if !q.Next.IsZero() {
		text += ", room at " + q.Next.Local().Format("Mon 15:04")
	}
	return text
}
