package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// scenario is one question that is put to all variants.
type scenario struct {
	name string
	run  func(ctx context.Context, b *bench) ([]section, error)
}

// scenarios lists them in the order of the report; a new one is a file of its
// own and a line here.
func scenarios() []scenario {
	return []scenario{
		{"throughput", throughput},
		{"inlet", inletThroughput},
		{"tls", encrypted},
		{"blast", blast},
		{"limits", limits},
		{"outage", outage},
		{"outcomes", outcomesKept},
		{"odd", odd},
		{"milter", milterOverhead},
		{"reports", reportsRead},
		{"session", sessions},
		{"appends", appends},
		{"backlog", backlog},
		{"isolation", isolation},
		{"parallel", parallel},
		{"receivers", receivers},
		{"restart", restarts},
	}
}

func scenarioNames() []string {
	var names []string
	for _, s := range scenarios() {
		names = append(names, s.name)
	}
	return names
}

func scenarioNamed(name string) (scenario, bool) {
	all := scenarios()
	i := slices.IndexFunc(all, func(s scenario) bool { return s.name == name })
	if i < 0 {
		return scenario{}, false
	}
	return all[i], true
}

// bench is one run of the command.
type bench struct {
	*settings
	out      io.Writer // sections, as text
	progress io.Writer // a line for each measurement
}

// run runs the chosen scenarios. The report is written anew after each one, so
// that an interrupted run leaves what it has.
func (b *bench) run(ctx context.Context) (err error) {
	g, err := newGround(b.here)
	if err != nil {
		return fmt.Errorf("file system to measure on: %w", err)
	}
	defer func() { err = errors.Join(err, g.remove()) }()
	r := report{machine: describeMachine(ctx, g.kind), settings: b.settings, start: time.Now()}
	if b.quick {
		fmt.Fprintln(b.out, quickWarning)
	}
	r.machine.text(b.out)
	for _, s := range scenarios() {
		if len(b.scenarios) > 0 && !slices.Contains(b.scenarios, s.name) {
			continue
		}
		found, err := s.run(ctx, b)
		if err != nil {
			return fmt.Errorf("scenario %s: %w", s.name, err)
		}
		for _, x := range found {
			x.text(b.out)
		}
		r.sections = append(r.sections, found...)
		if err := b.write(&r); err != nil {
			return err
		}
	}
	return nil
}

// write writes the report's files, if they are wanted.
func (b *bench) write(r *report) error {
	if b.directory == "" {
		return nil
	}
	if err := r.write(b.directory); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// variant is one of the things compared; T is what a round measures of it.
type variant[T any] struct {
	name string
	run  func(ctx context.Context) (T, error)
}

// alternate runs every variant once a round and gives the measurements by
// variant and round. Every second round runs them in reverse, so that a machine
// that grows slower or faster favours none.
func alternate[T any](ctx context.Context, b *bench, title string, variants []variant[T], show func(T) string) ([][]T, error) {
	all := make([][]T, len(variants))
	for round := range b.rounds {
		for k := range variants {
			i := k
			if round%2 == 1 {
				i = len(variants) - 1 - k
			}
			v, err := variants[i].run(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", variants[i].name, err)
			}
			all[i] = append(all[i], v)
			fmt.Fprintf(b.progress, "%s, round %d of %d: %s: %s\n", title, round+1, b.rounds, variants[i].name, show(v))
		}
	}
	return all, nil
}
