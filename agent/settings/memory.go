package settings

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/millrace/millrace/agent/config"
)

// These make up the memory that Go manages for the agent. A recipient that waits takes
// about 100 octets, measured on ten millions with a message each; twice that leaves
// the collector room to work, a start included. A session has buffers for the content,
// for what comes back and for TLS, some 150 KiB. The rest is bounded: caches, metrics.
const (
	memoryBase         = 256 << 20
	memoryPerSession   = 256 << 10
	memoryPerRecipient = 200
)

// MemoryNeed is what the agent may take with max_sessions and a backlog of
// max_recipients, in octets.
func MemoryNeed(c *config.Config) int64 {
	return memoryBase + int64(c.Agent.MaxSessions)*memoryPerSession + c.Spool.MaxRecipients*memoryPerRecipient
}

// LimitMemory tells Go's collector what the agent may need, so that garbage does
// not go far beyond it (GOMEMLIMIT, which an admin's own value overrides). The limit
// is a soft one and derives from max_recipients: one that a full spool exceeds would
// have the collector run without end, and a hard one below it (MemoryMax in the unit)
// has the kernel kill each start anew. Of the latter an admin is told.
func LimitMemory(c *config.Config, log *slog.Logger) {
	need := MemoryNeed(c)
	limit := need
	if allowed, from := memoryMax("/proc/self/cgroup", "/sys/fs/cgroup"); allowed > 0 && allowed < need {
		limit = allowed / 10 * 9 // the rest is for what Go does not manage
		log.Warn(fmt.Sprintf("the agent may use %d MiB of memory, and a spool of spool.max_recipients = %d may need %d MiB: it would be killed at each start; "+
			"remedy: raise MemoryMax of the service, or lower max_recipients", allowed>>20, c.Spool.MaxRecipients, need>>20), "limit", from)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit)
	}
}

// memoryMax is the least hard limit of the control group that a file like
// /proc/self/cgroup names below root, and of those above it (cgroups(7), version 2),
// and the file that has it; 0 if there is none.
func memoryMax(self, root string) (least int64, from string) {
	text, err := os.ReadFile(self)
	if err != nil {
		return 0, ""
	}
	for line := range strings.Lines(string(text)) {
		group, ok := strings.CutPrefix(strings.TrimSpace(line), "0::/")
		if !ok {
			continue
		}
		for dir := filepath.Clean("/" + group); ; dir = filepath.Dir(dir) {
			file := filepath.Join(root, dir, "memory.max")
			text, _ := os.ReadFile(file)
			if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && (least == 0 || n < least) { // not "max"
				least, from = n, file
			}
			if dir == "/" {
				return least, from
			}
		}
	}
	return 0, ""
}
