package agent

import (
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
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

func TestLeastMemoryMaxCounts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		self  string
		files map[string]string
		want  int64
		from  string
	}{
		{"0::/system.slice/a.service\n", map[string]string{"system.slice/a.service": "1000\n"}, 1000, "system.slice/a.service"},
		{"0::/system.slice/a.service\n", map[string]string{"system.slice/a.service": "max\n", "system.slice": "3000\n", ".": "max\n"}, 3000, "system.slice"},
		{"0::/system.slice/a.service\n", map[string]string{"system.slice/a.service": "1000\n", "system.slice": "500\n"}, 500, "system.slice"},
		{"0::/system.slice/a.service\n", map[string]string{"system.slice/a.service": "max\n"}, 0, ""},
		{"0::/\n", map[string]string{".": "2000\n"}, 2000, "."},
		{"0::/../../x\n", map[string]string{"x": "2000\n"}, 2000, "x"},
		{"12:memory:/a\n0::/b\n", map[string]string{"b": "7\n"}, 7, "b"},
		{"12:memory:/a\n", map[string]string{"a": "7\n"}, 0, ""},
		{"", nil, 0, ""},
	} {
		dir := t.TempDir()
		for name, text := range tt.files {
			if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name, "memory.max"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		self := filepath.Join(dir, "self")
		if err := os.WriteFile(self, []byte(tt.self), 0o600); err != nil {
			t.Fatal(err)
		}
		got, from := memoryMax(self, dir)
		if from != "" {
			from, _ = strings.CutPrefix(filepath.Dir(from), dir)
			from = filepath.Join(".", from)
		}
		if got != tt.want || from != filepath.Clean(tt.from) && tt.from != "" {
			t.Errorf("%q: %d of %q, want %d of %q", tt.self, got, from, tt.want, tt.from)
		}
	}
	if got, _ := memoryMax(filepath.Join(t.TempDir(), "none"), "/"); got != 0 {
		t.Errorf("%d without a file", got)
	}
}
