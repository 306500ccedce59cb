package admin

import (
	"context"
	"errors"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/fleet"
)

// mostLent bounds the limits that are told of: a fleet may have as many as there are sites.
const mostLent = 1000

// Fleet implements control.Backend.
func (b *Backend) Fleet() control.Fleet {
	s := b.fleet.Status()
	f := control.Fleet{Fleet: s.Fleet, Node: s.Node, Members: append([]string{}, s.Table.Members...), Limits: []control.Lent{}}
	if s.Fleet == "" {
		return f
	}
	f.Server, f.Since, f.State = s.Server, s.Since, s.State()
	f.Lease, f.Calls, f.Errors, f.Warnings = s.Runs, s.Calls, s.Errors, s.Warnings()
	if s.Active && !s.Doubts {
		f.Divisor = s.Table.Divisor
	}
	if s.Away != nil {
		f.Away = s.Away.Error()
	}
	loans, more := b.queue.Loans(mostLent)
	f.More = more
	for _, x := range loans {
		f.Limits = append(f.Limits, control.Lent{Name: x.Key, Limit: x.Limit, Floor: x.Floor, May: x.May, Has: x.Has, Want: x.Want})
	}
	return f
}

// errNoFleet answers verbs on a host without a fleet.
var errNoFleet = errors.New("this host is of no fleet; remedy: see [fleet] in millrace.toml(5)")

// ForgetNode implements control.Backend.
func (b *Backend) ForgetNode(ctx context.Context, n control.FleetNode) error {
	if b.fleet == nil {
		return errNoFleet
	}
	return b.fleet.Forget(ctx, n.Node)
}

// LeaveFleet implements control.Backend.
func (b *Backend) LeaveFleet(ctx context.Context) error {
	if b.fleet == nil {
		return errNoFleet
	}
	return b.fleet.Leave(ctx, fleet.Work{Wanted: b.queue.Wanted, Lent: b.queue.Lent})
}

// BootstrapFleet implements control.Backend.
func (b *Backend) BootstrapFleet(context.Context) error {
	if b.fleet == nil {
		return errNoFleet
	}
	return b.fleet.Bootstrap()
}
