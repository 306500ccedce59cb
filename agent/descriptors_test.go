package agent

import (
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/route"
)

// Whatever the limit, all users of descriptors together stay below it, each has some, and
// with the limit of the packaged unit nobody has less than he wants.
func TestAllUsersOfDescriptorsFitTheLimit(t *testing.T) {
	t.Parallel()
	for _, limit := range []uint64{300, 512, 1024, 2048, 4096, 8192, 16384, 65536, 1 << 20, 1<<63 - 1} {
		for _, configured := range []int{1, 50, 200, 2000, 20_000} {
			for _, open := range []int{0, 3, 100} {
				c := &config.Agent{MaxSessions: configured, HTTP: config.HTTP{Listen: config.Listeners{"127.0.0.1:8891"}}}
				s := share(limit, c, open)
				if s.sessions < 1 || s.sessions > configured || s.lookups < 1 || s.sockets < 1 || s.segments < spareSegments {
					t.Errorf("%d, %d sessions, %d segments: %+v", limit, configured, open, s)
				}
				sum := ownDescriptors + control.MaxConnections + maxHTTP + s.sessions*sessionDescriptors + s.lookups*s.sockets + s.segments
				if uint64(sum) > limit && limit >= 512 {
					t.Errorf("%d, %d sessions, %d segments: %d in all, %+v", limit, configured, open, sum, s)
				}
				if fits := s.sessions == configured; limit >= 512 && fits != (uint64(needed(c, open)) <= limit) {
					t.Errorf("%d, %d sessions, %d segments: %d are told as needed, %+v", limit, configured, open, needed(c, open), s)
				}
			}
		}
	}
	c := &config.Agent{MaxSessions: 2000, HTTP: config.HTTP{Listen: config.Listeners{"127.0.0.1:8891"}}}
	if s := share(65536, c, 1000); s.sessions != 2000 || s.lookups != lookups || s.sockets != route.MostSockets || s.segments < 10_000 {
		t.Errorf("with the packaged limit: %+v", s)
	}
	if s := share(4512, c, 3); s.sessions < 1000 {
		t.Errorf("with little: %+v", s)
	}
}
