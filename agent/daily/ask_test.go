package daily

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
)

// agent answers what a report asks. It has counts of Monday and of the Monday before.
type agent struct {
	control.Backend
	pauses []control.Pause
}

func (a agent) Day(_ context.Context, day time.Time) (control.DayTotals, error) {
	switch {
	case day.Equal(monday):
		return counted(of("sent", "none", "far.test", "news", 2)), nil
	case day.Equal(monday.AddDate(0, 0, -7)):
		return counted(of("sent", "none", "far.test", "news", 1)), nil
	}
	return control.DayTotals{}, errors.New("of no such day")
}

func (a agent) Status() control.Status           { return control.Status{Waiting: 100} }
func (a agent) Standing() control.StandingOrders { return control.StandingOrders{Pauses: a.pauses} }

func (a agent) Shape(_ context.Context, _ string, f control.Filter) ([]control.Shape, error) {
	switch {
	case f == control.Filter{Stream: "sale", State: "held"}:
		return []control.Shape{{Total: 7}, {Total: 5}}, nil
	case f.Stream == "broken":
		return nil, errors.New("the spool cannot be read")
	}
	return []control.Shape{{Total: 100}}, nil
}

// The agent is asked for both days, and for what the first pauses hold, no more.
func TestAsk(t *testing.T) {
	t.Parallel()
	sale := control.Pause{Filter: control.Filter{Stream: "sale"}}
	ask := func(pauses ...control.Pause) *Report {
		t.Helper()
		at := "unix:" + filepath.Join(t.TempDir(), "s")
		s, err := control.Listen(at, agent{pauses: pauses}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- s.Serve() }()
		t.Cleanup(func() {
			s.Close()
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
		return Ask(t.Context(), control.NewClient(at), monday, monday)
	}
	r := ask(slices.Repeat([]control.Pause{sale}, most+5)...)
	if err := errors.Join(r.CountsErr, r.BeforeErr, r.NowErr); err != nil || r.Counts.Totals[0].N != 2 || r.Before.Totals[0].N != 1 || r.Status.Waiting != 100 {
		t.Errorf("%+v, %v", r, err)
	}
	if !slices.Equal(r.Paused, slices.Repeat([]int{12}, most)) {
		t.Errorf("paused: %v", r.Paused)
	}
	if r := ask(sale, control.Pause{Filter: control.Filter{Stream: "broken"}}); r.NowErr == nil {
		t.Errorf("a question that fails: %+v", r)
	}
}
