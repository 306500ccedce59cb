package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/sink"
	"github.com/millrace/millrace/contrib/sim"
)

const aboutRestart = `The first six of the ten ordinary receivers are drained at once by Millrace alone, with ` + "`max_sessions = 200`" + `. After
%.0f s the agent is stopped, or killed with SIGKILL, and started again at once. The rate in the %.0f s from the start of the new process,
its own start-up counted, is held against that of the %.0f s before the end of the old one. Beside them a receiver has caused a suspension by
a reply rule; *connections to it* are those that it saw after the restart, until the end of that time.`

// suspending is the receiver that a rule of ours suspends at its first reply.
const (
	suspending = "suspending"
	suspension = `[[reply]]
name = "lab"
text = "lab suspends"
action = "suspend"
for = "1h"
`
)

// restarted is how a restart went.
type restarted struct {
	each   []float64 // rate after / before
	all    float64
	called int64 // connections to the suspended receiver after it
}

func (r restarted) String() string {
	return fmt.Sprintf("%.2f of the rate before, each %.2f, %d connections to a suspended receiver", r.all, r.each, r.called)
}

// around is the time before and after the restart that is held against each other.
func (b *bench) around() time.Duration { return min(10*time.Second, b.measured) }

func restarts(ctx context.Context, b *bench) ([]section, error) {
	var list []*target
	for i, k := range sim.Table()[:6] {
		list = append(list, b.newTarget(k, fmt.Sprintf("r%d", i+1), 1, mostOffered))
	}
	found, err := alternate(ctx, b, "Restart", []variant[restarted]{
		{"stopped", func(ctx context.Context) (restarted, error) { return b.restart(ctx, list, false) }},
		{"killed", func(ctx context.Context) (restarted, error) { return b.restart(ctx, list, true) }},
	}, restarted.String)
	if err != nil {
		return nil, err
	}
	t := table{title: "Rate after the restart / before", columns: []string{"receiver", "stopped", "killed"}}
	row := func(what string, figure func(restarted) float64, format func(float64) string) {
		t.rows = append(t.rows, []string{what, over(found[0], figure).cell(format), over(found[1], figure).cell(format)})
	}
	for i, x := range list {
		row(x.what, func(r restarted) float64 { return r.each[i] }, hundredth)
	}
	all := func(r restarted) float64 { return r.all }
	row("all", all, hundredth)
	row("connections to a suspended one", func(r restarted) float64 { return float64(r.called) }, count)
	worse := series{min(over(found[0], all).median(), over(found[1], all).median())}
	return []section{{
		title:  "Restart in the middle of a drain",
		about:  fmt.Sprintf(aboutRestart, b.watched().Seconds(), b.around().Seconds(), b.around().Seconds()),
		tables: []table{t},
		claims: []claim{restartRate.claim(worse)},
	}}, nil
}

// restart is a round of one variant.
func (b *bench) restart(ctx context.Context, list []*target, kill bool) (r restarted, err error) {
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	providers, err := providersOf(list)
	if err != nil {
		return r, err
	}
	providers = append(providers, sink.Provider{Name: suspending, Domains: []string{suspending + ".example"}, Behaviour: sink.Behaviour{
		RTT: 20 * time.Millisecond, TempShare: 1, Say: map[sink.Cause]string{sink.CauseTemp: "450 4.7.1 the lab suspends you"},
	}})
	h, err := b.newRacer(ctx, ourselves, providers, lab.MillraceOptions{Extra: suspension})
	if err != nil {
		return r, err
	}
	defer func() { err = joinClose(err, h.host) }()
	suspended := &target{name: suspending, waiting: 50}
	began, stop, err := h.begin(ctx, b, append(slices.Clone(list), suspended))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	at := func(after time.Duration) (sink.Stats, error) {
		if !waitUntil(ctx, began.Add(after)) {
			return sink.Stats{}, ctx.Err()
		}
		return h.Internet.Stats(), nil
	}
	from, err := at(b.watched() - b.around())
	if err != nil {
		return r, err
	}
	to, err := at(b.watched())
	if err != nil {
		return r, err
	}
	if kill {
		h.Millrace.Agent.Kill()
	} else if err := h.Millrace.Agent.Stop(); err != nil {
		return r, err
	}
	again, start := h.Internet.Stats(), time.Now()
	if err := h.Millrace.Agent.Start(ctx); err != nil {
		return r, err
	}
	began = start
	end, err := at(b.around())
	if err != nil {
		return r, err
	}
	var before, after float64
	for _, t := range list {
		x := float64(to.Provider(t.name).Messages - from.Provider(t.name).Messages)
		y := float64(end.Provider(t.name).Messages - again.Provider(t.name).Messages)
		before, after = before+x, after+y
		r.each = append(r.each, y/max(x, 1))
	}
	r.all = after / max(before, 1)
	calls := func(s sink.Stats) int64 {
		p := s.Provider(suspending)
		return p.Connections + p.RefusedConnections()
	}
	r.called = calls(end) - calls(again)
	if calls(again) == 0 {
		return r, errors.New("nothing was sent to the receiver that is to be suspended")
	}
	return r, nil
}
