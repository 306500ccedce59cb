package settle

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/spool"
)

// TestMailWithoutARouteOutlivesAReadError settles mail that has no route, or no session for
// too long, while the spool cannot be read: that may pass, where a damaged record may not.
func TestMailWithoutARouteOutlivesAReadError(t *testing.T) {
	t.Parallel()
	store, err := spool.OpenStore(t.TempDir(), spool.StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil { // from now on every reading fails
		t.Fatal(err)
	}
	c := &config.Config{
		Agent:   config.Agent{Resolvers: []string{"127.0.0.1:9"}, Protocols: []string{"ipv4"}},
		General: config.Queue{Name: "general", Route: config.Route{Kind: config.RouteMX}, Expire: time.Hour, Retry: []time.Duration{time.Minute}},
	}
	set, err := settings.New(c, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	stop, cut := context.WithCancel(t.Context())
	cut() // no wait for a journal that is closed
	s := New(Options{
		Log: slog.New(slog.DiscardHandler), Settings: settings.NewSource(set), Store: store, JournalError: func() {}, Stop: stop,
	})
	job := queue.Job{ID: 1, Domain: "gone.example", Born: time.Now(), Items: []queue.Item{{Handle: 7}, {Handle: 8, Ordinal: 1}}}
	done := s.Fail(job, &c.General, outcome.Attempt{Stage: outcome.Route, Fault: outcome.NXDomain})
	if len(done) != 2 {
		t.Fatalf("%d settled of 2", len(done))
	}
	for _, d := range done {
		if d.State.Status.Final() || !d.State.Due.After(time.Now()) {
			t.Errorf("%+v, want another try", d)
		}
	}
}
