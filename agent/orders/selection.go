package orders

import (
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
)

// Selection finds what a filter selects. What only the envelope tells is read
// from the spool, once for a message.
type Selection struct {
	store  *spool.Store
	Filter control.Filter
	Sites  []string  // those that Filter.Site means; none: the one of that name
	Now    time.Time // that ages are measured from
	last   spool.ID
	env    *spool.Envelope // of last; nil if it cannot be read

	kept map[spool.ID]*spool.Envelope // those of the page, nil before the first Page
	room int                          // for so many recipients of further ones
}

// keptRecipients bounds the envelopes that are kept by the recipients that they name, some 200
// octets each: a page lists 4,096 recipients, but their messages may have more.
const keptRecipients = 4 * 4096

// NewSelection returns the selection of a filter at this moment. It is for one goroutine.
func NewSelection(store *spool.Store, f control.Filter) *Selection {
	return &Selection{store: store, Filter: f, Now: time.Now()}
}

// Selects says whether each condition that is given holds for a recipient. What
// cannot be read is not selected by what stands in its envelope.
func (s *Selection) Selects(e *queue.Entry) bool {
	f := &s.Filter
	return (f.ID == "" || strings.EqualFold(f.ID, e.ID.String())) &&
		(f.Stream == "" || f.Stream == e.Stream || e.Shared() && s.ofStream(e)) &&
		(f.Queue == "" || f.Queue == e.Queue) &&
		(f.Site == "" || s.atSite(e.Site)) &&
		(f.Domain == "" || strings.EqualFold(f.Domain, e.Domain)) &&
		(f.State == "" || f.State == e.State) &&
		(f.OlderThan == 0 || s.Now.Sub(e.Born) >= time.Duration(f.OlderThan)) &&
		(!OfEnvelope(*f) && f.Recipient == "" || s.inEnvelope(e)) &&
		(f.Text == "" || s.mentions(e))
}

func (s *Selection) atSite(name string) bool {
	if len(s.Sites) == 0 {
		return s.Filter.Site == name
	}
	return slices.Contains(s.Sites, name)
}

// ofStream says whether a message whose stream shares its name is of the filter's.
func (s *Selection) ofStream(e *queue.Entry) bool {
	env := s.Envelope(e.ID)
	return env != nil && (env.Stream == s.Filter.Stream || env.Formerly == s.Filter.Stream)
}

func (s *Selection) inEnvelope(e *queue.Entry) bool {
	env := s.Envelope(e.ID)
	return env != nil && fits(&s.Filter, env) &&
		(s.Filter.Recipient == "" || strings.EqualFold(s.Filter.Recipient, env.Recipients[e.Ordinal].Address))
}

// mentions looks for the filter's text where an admin may have it from: a complaint,
// a log.
func (s *Selection) mentions(e *queue.Entry) bool {
	text := strings.ToLower(s.Filter.Text)
	if strings.HasPrefix(strings.ToLower(e.ID.String()), text) {
		return true
	}
	env := s.Envelope(e.ID)
	return env != nil && (strings.Contains(strings.ToLower(env.Recipients[e.Ordinal].Address), text) ||
		strings.Contains(strings.ToLower(env.Sender), text) || strings.Contains(strings.ToLower(env.QueueID), text))
}

// fits looks at what concerns a message as a whole and only its envelope tells.
func fits(f *control.Filter, env *spool.Envelope) bool {
	return (f.Sender == "" || sameAddress(f.Sender, env.Sender)) &&
		(f.User == "" || f.User == env.AuthUser) &&
		(f.Client == "" || f.Client == env.ClientAddr || f.Client == strings.TrimPrefix(env.ClientAddr, "IPv6:"))
}

// Page begins a page of the queue. The envelopes that are read from now on are kept to its end,
// up to a bound: a verb asks for each of them twice, to select recipients and to settle them,
// and between the two come all others of the page.
func (s *Selection) Page() {
	if s.kept == nil {
		s.kept = make(map[spool.ID]*spool.Envelope)
	}
	clear(s.kept)
	s.room = keptRecipients
}

// Envelope reads a message's envelope; nil if the spool cannot give it.
func (s *Selection) Envelope(id spool.ID) *spool.Envelope {
	if id == s.last {
		return s.env
	}
	s.last, s.env = id, s.kept[id]
	if s.env != nil {
		return s.env
	}
	e, err := s.store.Envelope(id)
	if err != nil {
		return nil
	}
	s.env = e
	if n := len(e.Recipients); s.kept != nil && n <= s.room {
		s.kept[id] = e
		s.room -= n
	}
	return e
}

// SenderDomain is the domain of an entry's sender, in lower case.
func (s *Selection) SenderDomain(e *queue.Entry) string {
	env := s.Envelope(e.ID)
	if env == nil {
		return "" // done since the page was read
	}
	if env.Sender == "" {
		return "MAILER-DAEMON"
	}
	return strings.ToLower(env.Sender[strings.LastIndexByte(env.Sender, '@')+1:])
}
