package wire

import (
	"log/slog"
	"slices"
	"sync"
	"time"
)

// newcomers are the connections that have not negotiated, in the order in which
// they came. An MTA negotiates as soon as it is connected, so a newcomer that is
// old is not one: where places are short it gives way to the next, and silent
// connections, however many, keep no MTA waiting.
type newcomers struct {
	mu    sync.Mutex
	conns []*Conn
}

func (n *newcomers) add(c *Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns = append(n.conns, c)
}

// remove takes out a connection that has negotiated, or has ended.
func (n *newcomers) remove(c *Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if i := slices.Index(n.conns, c); i >= 0 {
		n.conns = slices.Delete(n.conns, i, i+1)
	}
}

func (n *newcomers) none() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.conns) == 0
}

// yield closes the oldest, if there is one.
func (n *newcomers) yield() {
	n.mu.Lock()
	var oldest *Conn
	if len(n.conns) > 0 {
		oldest = n.conns[0]
		n.conns = slices.Delete(n.conns, 0, 1)
	}
	n.mu.Unlock()
	if oldest != nil {
		oldest.end(errSilent)
	}
}

// silentLog warns of connections that were closed because they said nothing: once a
// minute at most, as there may be thousands.
type silentLog struct {
	log *slog.Logger

	mu     sync.Mutex
	closed int // since the last warning
	last   time.Time
}

func (l *silentLog) note(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed++
	if !l.last.IsZero() && time.Since(l.last) < time.Minute {
		return
	}
	from := "unknown"
	if a := c.RemoteAddr(); a != nil && a.String() != "" {
		from = a.String()
	}
	l.log.Warn("closing connections to the milter that say nothing", "closed", l.closed, "latest", from)
	l.closed, l.last = 0, time.Now()
}
