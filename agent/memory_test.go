package agent

import (
	"math"
	"runtime/debug"
	"testing"

	"github.com/millrace/millrace/agent/config"
)

// The collector's limit follows from max_recipients, at the start and at a reload.
// Not parallel: the limit is that of the process.
func TestMemoryLimitFollowsFromMaxRecipients(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "")
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(math.MaxInt64))
	s := newStage(t, func(c *config.Config) { c.Spool.MaxRecipients, c.Agent.MaxSessions = 1_000_000, 1024 })
	a := s.start()
	if got := debug.SetMemoryLimit(-1); got != 512<<20+200_000_000 {
		t.Errorf("limit %d", got)
	}
	c := *s.config
	c.Spool.MaxRecipients = 10_000_000
	if err := a.Reload(&c); err != nil {
		t.Fatal(err)
	}
	if got := debug.SetMemoryLimit(-1); got != 512<<20+2_000_000_000 {
		t.Errorf("limit %d after a reload", got)
	}
	t.Setenv("GOMEMLIMIT", "100GiB")
	debug.SetMemoryLimit(100 << 30)
	if err := a.Reload(&c); err != nil {
		t.Fatal(err)
	}
	if got := debug.SetMemoryLimit(-1); got != 100<<30 {
		t.Errorf("limit %d in place of the admin's", got)
	}
}
