package agent

import (
	"log/slog"
	"syscall"
)

// What descriptors are for: a session has its connection, and a large message
// that it sends a file of its own; segments, the journal, sockets of ours and
// DNS queries under way share the rest.
const (
	descriptorsEach  = 2
	descriptorsOther = 512
)

// sessionsFor is how many of the configured sessions the limit on open files
// allows. The runtime has raised the soft limit to the hard one by now.
func sessionsFor(limit uint64, configured int) int {
	fit := 1
	if limit > descriptorsOther {
		fit = max(1, int(min((limit-descriptorsOther)/descriptorsEach, 1<<30)))
	}
	return min(configured, fit)
}

// budget is max_sessions, or what there are file descriptors for.
func budget(configured int, log *slog.Logger) int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return configured
	}
	n := sessionsFor(limit.Cur, configured)
	if n < configured {
		log.Warn("too few file descriptors for agent.max_sessions; raise the limit (LimitNOFILE= in the unit, ulimit -n)",
			"limit", limit.Cur, "needed", configured*descriptorsEach+descriptorsOther, "max_sessions", configured, "used", n)
	}
	return n
}
