package milter

import (
	"maps"
	"sync"

	"github.com/millrace/millrace/milter/classify"
)

// Counts are counted from the start of the Server.
type Counts struct {
	// Messages are verdicts, by the word that the log has for them: leave, observe,
	// delrcpt, discard, tempfail, inlet; lost are those that the MTA, or the client of the
	// inlet, did not hear.
	Messages map[string]uint64
	// OneFamily are messages that were left as their evidence of bulk was of one family
	// alone, by the family.
	OneFamily   map[string]uint64
	Recipients  uint64 // diverted
	Connections uint64 // of the MTA
	// Reports are messages that may be reports on mail of ours, by what became of them:
	// kept, unverified, none, unread, lost.
	Reports map[string]uint64
}

// tally counts verdicts.
type tally struct {
	mu         sync.Mutex
	messages   map[string]uint64
	oneFamily  map[string]uint64
	recipients uint64
}

func (t *tally) add(verdict string, recipients int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.messages == nil {
		t.messages = make(map[string]uint64)
	}
	t.messages[verdict]++
	t.recipients += uint64(recipients)
}

func (t *tally) addOneFamily(f classify.Family) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.oneFamily == nil {
		t.oneFamily = make(map[string]uint64)
	}
	t.oneFamily[string(f)]++
}

// Counts returns what has been counted so far.
func (s *Server) Counts() Counts {
	s.tally.mu.Lock()
	defer s.tally.mu.Unlock()
	c := Counts{Messages: maps.Clone(s.tally.messages), OneFamily: maps.Clone(s.tally.oneFamily), Recipients: s.tally.recipients, Connections: s.connections.Load()}
	if s.reports != nil {
		c.Reports = s.reports.counted()
	}
	return c
}
