package queue

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/spool"
)

// Receivers that answer EHLO, which costs them nothing, and then no more have at most the
// part of the sessions that unproven ones share: a receiver that is well keeps its own.
func TestReceiversThatStallAfterEHLOLeaveRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stalled := 0
		w := newWorld(t, func(w *world) {
			w.policy.MaxSessions = 8
			w.o.MaxSessions = 20
			w.server = func(w *world, s *Session) {
				if !strings.HasPrefix(s.Route().Site, "tar") {
					w.serveSession(s)
					return
				}
				w.Opened(s, []elastic.Signal{{Kind: elastic.Up}})
				if _, err := w.Step(t.Context(), s, nil, nil); err == nil {
					w.set(func() { stalled++ })
					select { // as the timeout of MAIL ends it
					case <-time.After(5 * time.Minute):
					case <-t.Context().Done():
					}
				}
				w.Leave(s, nil, []elastic.Signal{{Kind: elastic.Lost}}, "timeout")
			}
		})
		for i := range 20_000 {
			w.add(spool.ID(i+1), "s", "well.example")
		}
		pass(10 * time.Second)
		for i := range 40 {
			w.add(spool.ID(100_000+i), "s", fmt.Sprintf("tar%d.example", i))
		}
		pass(5 * time.Second)
		before := len(w.delivered())
		pass(time.Minute)
		rate := float64(len(w.delivered())-before) / 60
		if rate < 0.9*8/w.service.Seconds() {
			t.Errorf("%.0f messages a second beside %d receivers that stall; 8 sessions make %.0f", rate, stalled, 8/w.service.Seconds())
		}
		if stalled == 0 {
			t.Error("no receiver stalls")
		}
		w.Close(context.Background())
	})
}
