package settings

import (
	"strings"
	"time"

	"github.com/millrace/millrace/agent/dsn"
	"github.com/millrace/millrace/agent/spool"
)

// WarnAt is when each recipient is late, by ordinal; zero for those whose sender
// does not want to know.
func (s *Settings) WarnAt(e *spool.Envelope) []time.Time {
	var list []time.Time
	for i, r := range e.Recipients {
		if !dsn.Owed(e, r, dsn.Delayed) {
			continue
		}
		if list == nil {
			list = make([]time.Time, len(e.Recipients))
		}
		if after := s.QueueOf(Domain(r.Address)).DelayWarningTime; after > 0 {
			list[i] = e.Arrived.Add(time.Duration(after))
		}
	}
	return list
}

// Domains names the domain of each recipient; "" is mail that only the host can route.
func Domains(e *spool.Envelope) []string {
	list := make([]string, len(e.Recipients))
	for i, r := range e.Recipients {
		list[i] = Domain(r.Address)
	}
	return list
}

// Domain is the domain of an address, "" if it has none.
func Domain(address string) string {
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return ""
	}
	return strings.ToLower(strings.TrimSuffix(address[at+1:], "."))
}
