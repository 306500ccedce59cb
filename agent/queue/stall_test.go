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

// Two messages for a joiner that answers EHLO, and then nothing to DATA, come before the
// mail of the provider itself: that must not wait for them.
func TestProviderDoesNotWaitForAJoinerThatStalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := receiversAt(receiver{limit: 5}, receiver{limit: 5}, receiver{})
		route := func(w *world, d string) Route {
			if strings.HasPrefix(d, "j") {
				return w.toPlaces("provider", d, spot(3, 0))
			}
			return w.toPlaces("provider", d, spot(1, 0), spot(2, 0))
		}
		w := worldOf(t, x, route, func(w *world) {
			w.policy.MaxSessions, w.service = 200, 400*time.Millisecond
			serve := w.server
			w.server = func(w *world, s *Session) {
				if !strings.HasPrefix(s.Route().Key, "j") {
					serve(w, s)
					return
				}
				began := time.Now()
				w.Opened(s, []elastic.Signal{{Kind: elastic.Up, Began: began}})
				if _, err := w.Step(context.Background(), s, nil, nil); err == nil {
					time.Sleep(2 * time.Minute) // until the reply to DATA is given up
				}
				w.Leave(s, nil, []elastic.Signal{{Kind: elastic.Lost, Began: began}}, "timed out")
			}
		})
		for i := range 2 {
			w.add(spool.ID(i+1), "s", fmt.Sprintf("j%d.example", i))
		}
		pass(time.Second)
		for i := range 10_000 {
			w.add(spool.ID(i+1000), "s", "provider.example")
		}
		pass(20 * time.Second)
		if up := x.met(1).up + x.met(2).up; up < 8 {
			t.Errorf("%d sessions at the provider", up)
		}
		pass(3 * time.Minute)
		if up := x.met(1).up + x.met(2).up; up < 9 {
			t.Errorf("%d sessions at the provider after the joiners have failed", up)
		}
		if n := len(w.delivered()); n < 3000 {
			t.Errorf("%d messages went", n)
		}
		w.empty()
		pass(30 * time.Minute)
		for _, s := range w.Sites() {
			if s.Sessions != 0 || s.Held != 0 {
				t.Errorf("at the end %d sessions, %d slots", s.Sessions, s.Held)
			}
		}
	})
}
