package milter

import (
	"log/slog"
	"sync"
	"time"
)

// flowDelay notices from the outside that Postfix's in_flow_delay is not 0.
//
// For each message cleanup(8) takes a flow token, which qmgr(8) gives back when
// it takes the message up; of a discarded one it never hears. When the tokens
// are gone, cleanup waits in_flow_delay, a second by default, before it gives a
// message its queue id, and does so until Postfix is started again. The client
// waits then for the reply to its first RCPT. Postfix keeps MAIL and RCPT back
// from us until it needs our answer, so what the milter sees is a pause between
// its DISCARD and the next message of the same connection. Measured on Postfix
// 3.7, 210 messages over 30 connections at once: the first 82 pauses were under
// 50 ms, and then every one from 1.003 to 1.010 s.
//
// A client that sends one message a second by itself looks the same, so the
// evidence asked for is that of the whole: the last flowPauses pauses, over
// several connections, none of them shorter than a second and nearly all hardly
// longer. A first message is no evidence: the time before it is also that of
// TLS and AUTH. So nothing is noticed while each message has a connection of
// its own, as those of sendmail(1) have; nor are other values than the default.
// "millrace check" reads the setting itself.
type flowDelay struct {
	mu     sync.Mutex
	recent [flowPauses]pause // a ring
	n      int               // how many were noted
	warned time.Time
}

// pause is how long a client was silent after a discarded message.
type pause struct {
	connection uint64
	length     time.Duration
}

const (
	flowPauses      = 20
	flowConnections = 3 // that the pauses must be of, at least
	// A sleep is never shorter than asked for, but our clock may be read late.
	flowLeast = 980 * time.Millisecond
	// On a busy host it is longer; one pause in ten may be longer than this.
	flowMost   = 1500 * time.Millisecond
	flowLonger = flowPauses / 10
	// flowWarnEvery is how often the one warning is given.
	flowWarnEvery = time.Hour
)

// note takes the pause of a connection that began with the verdict and ended
// now. It reports whether the admin should be told.
func (f *flowDelay) note(connection uint64, verdict, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.recent[f.n%flowPauses] = pause{connection, now.Sub(verdict)}
	f.n++
	if f.n < flowPauses || !f.warned.IsZero() && now.Sub(f.warned) < flowWarnEvery {
		return false
	}
	connections := map[uint64]bool{}
	longer := 0
	for _, p := range f.recent {
		if p.length < flowLeast {
			return false
		}
		if p.length > flowMost {
			longer++
		}
		connections[p.connection] = true
	}
	if len(connections) < flowConnections || longer > flowLonger {
		return false
	}
	f.warned = now
	return true
}

// resumed ends the pause after a discarded message, if there is one.
func (s *session) resumed(now time.Time) {
	if s.discarded.IsZero() {
		return
	}
	if s.server.flow.note(s.id, s.discarded, now) {
		s.server.log.LogAttrs(s.conn.Context(), slog.LevelWarn,
			"clients wait a second after each message that is discarded, as Postfix's in_flow_delay makes them",
			slog.String("remedy", "postconf -e in_flow_delay=0"))
	}
	s.discarded = time.Time{}
}
