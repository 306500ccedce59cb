package settle

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/spool"
)

// account is a listener that remembers of whom it heard.
type account struct{ ids []spool.ID }

func (a *account) Delivery(d *event.Delivery) { a.ids = append(a.ids, d.ID) }

// TestOneLateOutcomeHidesNoOther cancels many messages at once, one of which has been
// settled meanwhile: of all others the listeners hear.
func TestOneLateOutcomeHidesNoOther(t *testing.T) {
	t.Parallel()
	const n = 20
	dir := t.TempDir()
	w, err := spool.OpenWriter(dir, spool.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		e := &spool.Envelope{Arrived: time.Now(), Recipients: []spool.Recipient{{Address: "a@far.example"}}}
		r, err := w.Append(t.Context(), e, strings.NewReader("Subject: x\r\n\r\nx\r\n"))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Release(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	store, err := spool.OpenStore(dir, spool.StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	q := queue.New(queue.Options{Resolve: func(string) {}, Launch: func(*queue.Session) {}, MaxSessions: 1})
	var want []spool.ID
	if err := store.Load(func(id spool.ID, e *spool.Envelope, st []spool.State) error {
		want = append(want, id)
		q.Add(id, e, []string{"far.example"}, st, false)
		return nil
	}); err != nil || len(want) != n {
		t.Fatalf("%d loaded, %v", len(want), err)
	}
	log := slog.New(slog.DiscardHandler)
	set, err := settings.New(&config.Config{Agent: config.Agent{Resolvers: []string{"127.0.0.1:9"}, Protocols: []string{"ipv4"}}}, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	var told account
	s := New(Options{
		Log: log, Mail: event.NewLog(log, config.Log{}, time.Now()), Settings: settings.NewSource(set), Store: store, Queue: q,
		Listeners: []event.Listener{&told}, JournalError: func() {}, Stop: context.Background(),
	})
	late := want[n/2]
	if err := store.Record(spool.Event{ID: late, State: spool.State{Status: spool.Delivered}}); err != nil {
		t.Fatal(err)
	}
	var jobs []queue.Job
	q.List(func(page []queue.Entry) bool { jobs = append(jobs, q.Take(page)...); return true })
	envelope := func(id spool.ID) *spool.Envelope { e, _ := store.Envelope(id); return e }
	s.Decide(jobs, envelope, func(string) outcome.Decision { return outcome.Decision{Action: outcome.Cancel} })
	want = slices.DeleteFunc(want, func(id spool.ID) bool { return id == late })
	slices.Sort(told.ids)
	if !slices.Equal(told.ids, want) {
		t.Errorf("%d are told of, want the %d that were cancelled", len(told.ids), len(want))
	}
}
