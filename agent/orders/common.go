package orders

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/fleet/order"
)

// In a fleet pauses, limits and priorities are common orders (package order), those of rules and of
// the breaker too, as far as they last until somebody resumes them. Each that stands is one of
// what is in force here, with its identity (control.Pause.Order), beside those of this node alone.
//
// An order is durable in the file of common orders before it is in force, and then in
// standing.json like any other: a crash in between has it in force at the next start. Both files
// have a pause, so that it stays if one of them is damaged: follow takes away only what is known to
// be lifted or over. Effects of rules on sites, and what ends by itself, are of this node alone.

// Common are the common orders of the fleet; nil if this node is in none.
func (o *Orders) Common() *order.Log { return o.common }

// isCommon reports whether what an admin asks for is to be a common order.
func (o *Orders) isCommon(ctx context.Context) bool { return o.common != nil && !control.IsHere(ctx) }

// PauseInFleet pauses on all nodes, in place of common pauses of the same filter that are known.
// Durable on return, and in force here. It is false if the pause is to be of this node alone.
func (o *Orders) PauseInFleet(ctx context.Context, p control.Pause) (bool, error) {
	if !o.isCommon(ctx) {
		return false, nil
	}
	return true, o.issue(p.Who, order.Pause, p, p.Until, o.CommonPauses(p.Filter))
}

// CommonPauses are the identities of the common pauses of a filter.
func (o *Orders) CommonPauses(f control.Filter) (ids []order.ID) {
	for _, x := range o.now.Load().Pauses {
		if x.Filter == f {
			ids = appendID(ids, x.Order)
		}
	}
	return ids
}

// ResumeInFleet resumes on all nodes: pauses with these identities.
func (o *Orders) ResumeInFleet(ctx context.Context, ids []order.ID) error {
	return o.issue(control.PeerOf(ctx).String(), order.Lift, nil, time.Time{}, ids)
}

// LimitInFleet bounds a site or queue on all nodes, in place of what bounds it; with neither
// sessions nor rate it ends that. It is false if the limit is to be of this node alone.
func (o *Orders) LimitInFleet(ctx context.Context, l control.Limit) (bool, error) {
	if !o.isCommon(ctx) {
		return false, nil
	}
	var before []order.ID
	here := false
	for _, x := range o.now.Load().Limits {
		if x.Name == l.Name {
			before = appendID(before, x.Order)
			here = here || x.Order == ""
		}
	}
	ends := l.Sessions == 0 && l.Rate == 0
	if ends && len(before) == 0 {
		return false, nil // it is of this node alone, or there is none
	}
	if here {
		err := o.Change(func(s *control.StandingOrders) error {
			s.Limits = slices.DeleteFunc(s.Limits, func(x control.Limit) bool { return x.Name == l.Name && x.Order == "" })
			return nil
		})
		if err != nil {
			return true, err
		}
	}
	if ends {
		return true, o.issue(l.Who, order.Lift, nil, time.Time{}, before)
	}
	return true, o.issue(l.Who, order.Limit, l, l.Until, before)
}

// PrioritizeInFleet sets a stream's share on all nodes. It is false if that is to be on this node
// alone.
func (o *Orders) PrioritizeInFleet(ctx context.Context, p control.Priority) (bool, error) {
	if !o.isCommon(ctx) {
		return false, nil
	}
	var before []order.ID
	for _, x := range o.common.Live(order.Priority) {
		var old control.Priority
		if json.Unmarshal(x.Body, &old) == nil && old.Stream == p.Stream {
			before = append(before, x.ID)
		}
	}
	return true, o.issue(control.PeerOf(ctx).String(), order.Priority, p, time.Time{}, before)
}

// issue makes a common order and puts it into force here.
func (o *Orders) issue(who string, kind order.Kind, body any, until time.Time, lifts []order.ID) error {
	_, err := o.common.Issue(who, kind, body, until, lifts...)
	if errors.Is(err, order.ErrFull) {
		return err
	}
	return errors.Join(err, o.follow())
}

// appendID appends the identity of a common order; "" is none.
func appendID(list []order.ID, text string) []order.ID {
	if id, err := order.ParseID(text); err == nil {
		return append(list, id)
	}
	return list
}

// FollowFleet brings into force what other nodes order, until ctx ends.
func (o *Orders) FollowFleet(ctx context.Context) {
	if o.common == nil {
		return
	}
	changes := o.common.Changes()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changes:
			if err := o.follow(); err != nil {
				o.log.Error("orders of the fleet", "err", err)
			}
		}
	}
}

var errNothing = errors.New("nothing is to be changed")

// follow has what is in force here be what the common orders say.
func (o *Orders) follow() error {
	ofEnvelope := false
	err := o.Change(func(s *control.StandingOrders) error {
		any := false
		// What is neither known nor lifted stays: the file of common orders may have been damaged.
		over := func(live []order.Order, text string) bool {
			id, err := order.ParseID(text)
			return text != "" && err == nil && !slices.ContainsFunc(live, func(x order.Order) bool { return x.ID == id }) &&
				(o.common.IsLifted(id) || o.common.Has(id))
		}
		live := o.common.Live(order.Pause)
		s.Pauses = slices.DeleteFunc(s.Pauses, func(p control.Pause) bool {
			gone := over(live, p.Order)
			any = any || gone
			ofEnvelope = ofEnvelope || gone && OfEnvelope(p.Filter)
			return gone
		})
		for _, x := range live {
			var p control.Pause
			if slices.ContainsFunc(s.Pauses, func(p control.Pause) bool { return p.Order == x.ID.String() }) || json.Unmarshal(x.Body, &p) != nil || p.Filter.Empty() {
				continue
			}
			p.Order, p.Until = x.ID.String(), x.Until
			s.Pauses = append(s.Pauses, p)
			any, ofEnvelope = true, ofEnvelope || OfEnvelope(p.Filter)
		}
		live = o.common.Live(order.Limit)
		s.Limits = slices.DeleteFunc(s.Limits, func(l control.Limit) bool {
			gone := over(live, l.Order)
			any = any || gone
			return gone
		})
		for _, x := range live {
			var l control.Limit
			if slices.ContainsFunc(s.Limits, func(l control.Limit) bool { return l.Order == x.ID.String() }) || json.Unmarshal(x.Body, &l) != nil || l.Name == "" {
				continue
			}
			l.Order, l.Until = x.ID.String(), x.Until
			s.Limits = append(s.Limits, l)
			any = true
		}
		if o.followPriorities(s) {
			any = true
		}
		if !any {
			return errNothing
		}
		return nil
	})
	if errors.Is(err, errNothing) {
		return nil
	}
	if ofEnvelope {
		o.passAgain()
	}
	return err
}

// followPriorities sets the shares that the fleet has changed since the last time, and says whether
// there were any: what was set on this node alone since then stays. Of several that did not know
// each other the last by identity counts.
func (o *Orders) followPriorities(s *control.StandingOrders) (any bool) {
	shares := make(map[string]int)
	for _, x := range o.common.Live(order.Priority) {
		var p control.Priority
		if json.Unmarshal(x.Body, &p) == nil && p.Stream != "" && p.Priority > 0 {
			shares[p.Stream] = p.Priority
		}
	}
	for stream, n := range shares {
		if o.shares[stream] == n || max(1, s.Priorities[stream]) == n {
			continue
		}
		if s.Priorities == nil {
			s.Priorities = make(map[string]int)
		}
		if s.Priorities[stream] = n; n == 1 {
			delete(s.Priorities, stream)
		}
		any = true
	}
	o.shares = shares
	return any
}
