//go:build long

package agent

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
)

// TestCancelOf300000OnThreeNodes cancels on one node what waits on three, a third of it on each, and
// tells how long that took, and how much CPU: a busy machine says little by the clock.
func TestCancelOf300000OnThreeNodes(t *testing.T) {
	const each, atOnce = 100_000, 256
	nodes, port := ofFleet(t, "a", "b", "c", "none") // the last has no certificate
	delete(nodes, "none")
	redisServer(t, port)
	a := nodes["a"]
	for _, s := range nodes {
		s.config.Fleet.Nodes = 3
		s.start()
		s.pauseHere(control.Filter{All: true}, "it waits")
	}
	for _, s := range nodes {
		s.until("it has its part", func() bool {
			f, err := s.admin().Fleet(t.Context())
			return err == nil && len(f.Members) == 3
		})
	}
	began := time.Now()
	for name, s := range nodes {
		done := make(chan error)
		for i := range atOnce {
			go func() {
				var err error
				for n := i; n < each && err == nil; n += atOnce {
					e := spool.Envelope{Sender: "n@news.test", Stream: "news", AuthUser: "hacked", Arrived: time.Now(), QueueID: fmt.Sprint("4Q", n), Recipients: []spool.Recipient{{Address: fmt.Sprintf("%s%d@far.test", name, n)}}}
					var r spool.Receipt
					if r, err = s.writer.Append(t.Context(), &e, strings.NewReader(letter)); err == nil {
						err = r.Release()
					}
				}
				done <- err
			}()
		}
		for range atOnce {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("in the spools after %v", time.Since(began))
	left := func() (n int) {
		for _, s := range nodes {
			n += s.status().Queued()
		}
		return n
	}
	for _, s := range nodes {
		s.until("all is queued", func() bool { return s.status().Queued() == each })
	}
	for _, other := range []string{"b", "c"} {
		a.until("a knows how far the others are filled", func() bool {
			r := a.agent.orders.Common().Reports()[other]
			return r != nil && r.Position == nodes[other].agent.store.Position().String()
		})
	}
	spent := cpuOf(t)
	began = time.Now()
	n := a.act(control.VerbCancel, control.Filter{User: "hacked"})
	t.Logf("%d were cancelled on one node after %v", n, time.Since(began))
	for left() > 0 {
		if time.Since(began) > 5*time.Minute {
			t.Fatalf("%d are left", left())
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("on all nodes after %v, with %v of CPU", time.Since(began), cpuOf(t)-spent)
}

// cpuOf is the CPU time of this process, with all nodes in it.
func cpuOf(t *testing.T) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
