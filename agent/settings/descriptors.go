package settings

import (
	"log/slog"
	"math"
	"syscall"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/route"
)

// Each thing that opens files or sockets has a share of the descriptors and keeps to it:
// what a stranger can make us open then never takes away what mail needs to move.
//
// A session has its connection, and a large message that it sends a file of its own. A
// lookup has its sockets; the owner of a domain decides how many exchangers there are. A
// connection to the control socket or over HTTP costs one, and their number is bounded.
// Segments of the spool stay open. The journal, reports that are being written, the
// files of events and suppressions, postconf's pipes and what the runtime has are few.
const (
	sessionDescriptors = 2
	ownDescriptors     = 96

	// MaxHTTP is how many connections one listener of [agent.http] has at most.
	MaxHTTP = 64

	// lookups is how many domains are looked up at once; a quarter of them may be slow
	// ones.
	lookups = 128
	// fewSockets do for one lookup, though a domain with many exchangers then takes longer.
	fewSockets = 4
	// spareSegments may come while those that are open are not done.
	spareSegments = 16
)

// Shares are how the descriptors are used.
type Shares struct {
	Sessions int // of agent.max_sessions
	Lookups  int // at once
	sockets  int // of one lookup
	Segments int // of the spool that are open
}

// share divides a limit on open files. open are the segments that are open already.
func share(limit uint64, c *config.Agent, open int) Shares {
	fixed := ownDescriptors + control.MaxConnections + MaxHTTP*len(c.HTTP.Listen)
	rest := max(16, int(min(limit, math.MaxInt32))-fixed)
	var s Shares
	// Lookups get a quarter at most, segments an eighth at least.
	sockets := min(lookups*route.MostSockets, rest/4)
	s.Lookups = min(max(sockets/fewSockets, 1), lookups)
	s.sockets = max(sockets/s.Lookups, 1)
	rest -= s.Lookups * s.sockets
	segments := max(rest/6, open+spareSegments)
	s.Sessions = min(c.MaxSessions, max((rest-segments)/sessionDescriptors, 1))
	s.Segments = max(rest-s.Sessions*sessionDescriptors, spareSegments)
	return s
}

// needed is the least limit on open files that takes nothing from the sessions.
func needed(c *config.Agent, open int) int {
	low, high := uint64(1), uint64(math.MaxInt32)
	for low < high {
		if middle := (low + high) / 2; share(middle, c, open).Sessions < c.MaxSessions {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return int(low)
}

// mayOpen is the limit on open files. The runtime has raised the soft limit to the
// hard one by now.
func mayOpen() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1024 // the least that is usual
	}
	return limit.Cur
}

// Descriptors divides what this process may open, and tells when that is too little.
func Descriptors(c *config.Agent, open int, log *slog.Logger) Shares {
	limit := mayOpen()
	s := share(limit, c, open)
	if s.Sessions < c.MaxSessions {
		log.Warn("too few file descriptors for agent.max_sessions; raise the limit (LimitNOFILE= in the unit, ulimit -n)",
			"limit", limit, "needed", needed(c, open), "max_sessions", c.MaxSessions, "used", s.Sessions)
	}
	return s
}
