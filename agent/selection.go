package agent

import (
	"strings"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
)

// selection finds what a filter selects. What only the envelope tells is read
// from the spool, once for a message.
type selection struct {
	agent  *Agent
	filter control.Filter
	now    time.Time // that ages are measured from
	last   spool.ID
	env    *spool.Envelope // of last; nil if it cannot be read
}

func (a *Agent) selection(f control.Filter) *selection {
	return &selection{agent: a, filter: f, now: time.Now()}
}

// selects says whether each condition that is given holds for a recipient. What
// cannot be read is not selected by what stands in its envelope.
func (s *selection) selects(e *queue.Entry) bool {
	f := &s.filter
	return (f.ID == "" || strings.EqualFold(f.ID, e.ID.String())) &&
		(f.Stream == "" || f.Stream == e.Stream || e.Shared() && s.ofStream(e)) &&
		(f.Queue == "" || f.Queue == e.Queue) &&
		(f.Site == "" || f.Site == e.Site) &&
		(f.Domain == "" || strings.EqualFold(f.Domain, e.Domain)) &&
		(f.State == "" || f.State == e.State) &&
		(f.OlderThan == 0 || s.now.Sub(e.Born) >= time.Duration(f.OlderThan)) &&
		(!ofEnvelope(*f) && f.Recipient == "" || s.inEnvelope(e)) &&
		(f.Text == "" || s.mentions(e))
}

// ofStream says whether a message whose stream shares its name is of the filter's.
func (s *selection) ofStream(e *queue.Entry) bool {
	env := s.envelope(e.ID)
	return env != nil && env.Stream == s.filter.Stream
}

func (s *selection) inEnvelope(e *queue.Entry) bool {
	env := s.envelope(e.ID)
	return env != nil && fits(&s.filter, env) &&
		(s.filter.Recipient == "" || strings.EqualFold(s.filter.Recipient, env.Recipients[e.Ordinal].Address))
}

// mentions looks for the filter's text where an admin may have it from: a complaint,
// a log.
func (s *selection) mentions(e *queue.Entry) bool {
	text := strings.ToLower(s.filter.Text)
	if strings.HasPrefix(strings.ToLower(e.ID.String()), text) {
		return true
	}
	env := s.envelope(e.ID)
	return env != nil && (strings.Contains(strings.ToLower(env.Recipients[e.Ordinal].Address), text) ||
		strings.Contains(strings.ToLower(env.Sender), text) || strings.Contains(strings.ToLower(env.QueueID), text))
}

// fits looks at what concerns a message as a whole and only its envelope tells.
func fits(f *control.Filter, env *spool.Envelope) bool {
	return (f.Sender == "" || sameAddress(f.Sender, env.Sender)) &&
		(f.User == "" || f.User == env.AuthUser) &&
		(f.Client == "" || f.Client == env.ClientAddr || f.Client == strings.TrimPrefix(env.ClientAddr, "IPv6:"))
}

// envelope reads a message's envelope; nil if the spool cannot give it.
func (s *selection) envelope(id spool.ID) *spool.Envelope {
	if id != s.last {
		s.last = id
		var err error
		if s.env, err = s.agent.store.Envelope(id); err != nil {
			s.env = nil
		}
	}
	return s.env
}
