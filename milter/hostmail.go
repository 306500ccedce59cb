package milter

import (
	"strings"
	"sync"
)

// hostMail counts the recipients that stay with the host MTA and that it will send
// to itself, by domain: the agent leaves it the connections it needs at these
// receivers. Only listed domains are counted, so there is a bound to them.
type hostMail struct {
	mu     sync.Mutex
	counts map[string]int
}

// note counts the recipients of a message that were not diverted.
func (h *hostMail) note(m *message, diverted []bool) {
	for i := range m.Recipients {
		if diverted != nil && diverted[i] {
			continue
		}
		r := &m.Recipients[i]
		if !m.setup.classifier.Remote(r.Mailer) {
			continue
		}
		domain := strings.ToLower(r.Address[strings.LastIndexByte(r.Address, '@')+1:])
		if m.setup.cfg.Match(domain) == nil {
			continue
		}
		h.mu.Lock()
		if h.counts == nil {
			h.counts = make(map[string]int)
		}
		h.counts[domain]++
		h.mu.Unlock()
	}
}

// HostMail gives the recipients that were left with the host MTA since the last
// call, by domain; nil if there were none.
func (s *Server) HostMail() map[string]int {
	s.host.mu.Lock()
	defer s.host.mu.Unlock()
	counts := s.host.counts
	s.host.counts = nil
	return counts
}
