package agent

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// An agent whose follower stands still is not alive: systemd hears so, and the milter soon
// leaves mail with the host. Nor is one whose queue does.
func TestProbeHearsOfTheQueueAndTheFollower(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	a := s.start()
	probe := func() string {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := a.Probe(ctx); err != nil {
			return err.Error()
		}
		return ""
	}
	if got := probe(); got != "" {
		t.Error(got)
	}
	held, release := make(chan struct{}), make(chan struct{})
	go a.orders.Exclusively(func() { close(held); <-release }) // the follower waits for it with the mail that comes
	<-held
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	s.until("the follower is missed", func() bool { return strings.Contains(probe(), "the spool has not been looked at for") })
	s.until("the milter is not told that we live", func() bool { err := a.beat(); return err != nil })
	if text := strings.Join(a.watch.NotReady(), "\n"); !strings.Contains(text, "new mail in the spool has not been seen for") {
		t.Errorf("/readyz: %s", text)
	}
	close(release)
	s.until("delivered", func() bool { return len(s.at("far")) == 1 })
	s.until("it goes on", func() bool { return probe() == "" && a.beat() == nil })
	s.stop()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := a.Probe(ctx); err == nil || !strings.Contains(err.Error(), "the queue stands still") {
		t.Errorf("when it has stopped: %v", err)
	}
}

// TestTheSignOfLifeWaitsForNothing ends a pause while that takes long: the orders cannot
// be changed, as mail is on its way into the queue.
func TestTheSignOfLifeWaitsForNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	a := s.start()
	end := time.Now().Add(5 * time.Second) // the change is on disk before, and Exclusively has begun
	if err := a.orders.Change(func(st *control.StandingOrders) error {
		st.Pauses = append(st.Pauses, control.Pause{Filter: control.Filter{Sender: "bad@news.test"}, Until: end})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	held, release := make(chan struct{}), make(chan struct{})
	let := sync.OnceFunc(func() { close(release) })
	t.Cleanup(let) // before the stop, which waits for it
	go a.orders.Exclusively(func() { close(held); <-release })
	<-held
	late := end.Add(3 * time.Second) // two ticks later the pause is being ended
	s.until("the milter is told that we live", func() bool {
		now := time.Now()
		return s.writer.AgentSilence(now) < 2*time.Second && now.After(late)
	})
	if n := len(a.orders.Standing().Pauses); n != 1 {
		t.Errorf("%d pauses are on, so nothing was held up", n)
	}
	let()
	s.until("the pause has ended", func() bool { return len(a.orders.Standing().Pauses) == 0 })
}
