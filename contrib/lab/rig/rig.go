// Package rig puts the lab's parts together: receivers on an internet of their
// own, a host MTA before them, and Millrace beside it. Tests, soak, demo and
// benchmarks start and end their worlds with it.
//
// A Rig owns what it has started. Its calls follow the way of a message backwards, so
// that each part finds running what it talks to: StartInternet, then StartPostfix,
// StartSendmail or StartOffering, then NewMillrace or StartMillrace; each may be left out. What else a
// world needs (a resolver, a proxy, a disk) is started between them and given to Defer.
// Close ends everything, the last first, and may be called after any of them has failed.
//
// The program must be isolated (lab.Isolate): nothing of a rig leaves the machine.
package rig

import (
	"context"
	"errors"
	"slices"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// Rig is a world in which mail flows. The zero value is empty.
type Rig struct {
	Internet *sink.Internet
	Host     lab.Host
	Postfix  *lab.Postfix // the host, if it is one
	Millrace *lab.Millrace

	ends []func() error
}

// Defer has Close call end, before it ends what was started earlier.
func (r *Rig) Defer(end func() error) { r.ends = append(r.ends, end) }

// Close ends and removes everything that was started. A second call does nothing.
func (r *Rig) Close() error {
	var errs []error
	for _, end := range slices.Backward(r.ends) {
		errs = append(errs, end())
	}
	r.ends = nil
	return errors.Join(errs...)
}

// StartInternet starts the receivers, on port 25 unless o says otherwise.
func (r *Rig) StartInternet(o sink.Options, providers ...sink.Provider) error {
	if o.Port == 0 {
		o.Port = 25
	}
	internet, err := sink.New(o)
	if err != nil {
		return err
	}
	for _, p := range providers {
		if err := internet.Add(p); err != nil {
			internet.Close()
			return err
		}
	}
	r.Internet = internet
	r.Defer(func() error { internet.Close(); return nil })
	return nil
}

// StartPostfix starts the host MTA.
func (r *Rig) StartPostfix(ctx context.Context, o lab.PostfixOptions) error {
	p, err := lab.StartPostfix(ctx, o)
	if err != nil {
		return err
	}
	r.Postfix, r.Host = p, p
	r.Defer(p.Stop)
	return nil
}

// StartSendmail starts a Sendmail as the host MTA.
func (r *Rig) StartSendmail(ctx context.Context, o lab.SendmailOptions) error {
	s, err := lab.StartSendmail(ctx, o)
	if err != nil {
		return err
	}
	r.Host = s
	r.Defer(s.Stop)
	return nil
}

// StartOffering starts an Exim or OpenSMTPD as the host MTA.
func (r *Rig) StartOffering(ctx context.Context, o lab.OfferingOptions) error {
	h, err := lab.StartOffering(ctx, o)
	if err != nil {
		return err
	}
	r.Host = h
	r.Defer(h.Stop)
	return nil
}

// NewMillrace makes a Millrace beside the host, if there is one. Its daemons do not
// run yet; Close kills them.
func (r *Rig) NewMillrace(o lab.MillraceOptions) error {
	if r.Host != nil {
		o.Host = r.Host
	}
	m, err := lab.NewMillrace(o)
	if err != nil {
		return err
	}
	r.Millrace = m
	r.Defer(m.Close)
	return nil
}

// StartMillrace is NewMillrace, and then the start of agent and milter. Close stops
// them in order.
func (r *Rig) StartMillrace(ctx context.Context, o lab.MillraceOptions) error {
	if err := r.NewMillrace(o); err != nil {
		return err
	}
	agent, milter := r.Millrace.Agent, r.Millrace.Milter
	r.Defer(func() error { return errors.Join(milter.Stop(), agent.Stop()) })
	if err := agent.Start(ctx); err != nil {
		return err
	}
	return milter.Start(ctx)
}
