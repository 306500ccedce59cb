package admin

import (
	"context"
	"encoding/json"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/fleet/exchange"
	"github.com/millrace/millrace/agent/fleet/order"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
)

// Exchange is who the other nodes are, and what they have heard (exchange.Exchange).
type Exchange interface {
	// Spread waits until all nodes have what this one has ordered, or ctx ends.
	Spread(ctx context.Context) exchange.Spread
	// IsMember reports whether a node belongs to the fleet now.
	IsMember(node string) bool
}

// spreadFor is how long an admin waits for the other nodes.
const spreadFor = 2 * time.Second

// Spread implements control.CommonBackend.
func (b *Backend) Spread(ctx context.Context) control.Spread {
	if b.exchange == nil {
		return control.Spread{Alone: b.alone}
	}
	ctx, done := context.WithTimeout(ctx, spreadFor)
	defer done()
	s := b.exchange.Spread(ctx)
	return control.Spread{Fleet: b.orders.Common().Fleet(), Confirmed: s.Confirmed, Missing: s.Missing}
}

// commonCancel is the body of a cancel: what, and for each node how far into its spool it reaches
// (spool.Position). A node that is not named is not reached.
type commonCancel struct {
	Filter control.Filter    `json:"filter"`
	Reach  map[string]string `json:"reach"`
	Who    string            `json:"who"`
}

// isCommonCancel reports whether an action is to be done on all nodes. The id of a message is that
// of a node's own spool, and a dry run counts here.
func (b *Backend) isCommonCancel(ctx context.Context, a control.Action) bool {
	return b.orders.Common() != nil && a.Verb == control.VerbCancel && !a.Dry && a.Filter.ID == "" && !control.IsHere(ctx)
}

// cancelInFleet orders a cancel, and does it here. What stops it here is made up for by
// FollowCancels, at the next start too. Of a site that has several names, for our addresses, each
// is an order of its own; their sum counts a message of several once for each.
func (b *Backend) cancelInFleet(ctx context.Context, a control.Action, sel *orders.Selection, tell func(control.Selected)) (all control.Selected, err error) {
	filter, names := sel.Filter, sel.Sites
	if len(names) == 0 {
		names = []string{filter.Site}
	}
	for _, filter.Site = range names {
		done, err := b.cancelOneInFleet(ctx, a, filter, func(n control.Selected) { tell(sum(all, n)) })
		all = sum(all, done)
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

func sum(a, b control.Selected) control.Selected {
	return control.Selected{Messages: a.Messages + b.Messages, Recipients: a.Recipients + b.Recipients, Active: a.Active + b.Active}
}

func (b *Backend) cancelOneInFleet(ctx context.Context, a control.Action, filter control.Filter, tell func(control.Selected)) (control.Selected, error) {
	log := b.orders.Common()
	body := commonCancel{Filter: filter, Reach: map[string]string{log.Node(): b.store.Position().String()}, Who: control.PeerOf(ctx).String()}
	for node, r := range log.Reports() {
		if r.Position != "" && b.isMember(node) {
			body.Reach[node] = r.Position
		}
	}
	b.cancelling.Lock() // before FollowCancels sees it
	defer b.cancelling.Unlock()
	id, err := log.Issue(body.Who, order.Cancel, body, time.Time{})
	if id.Number == 0 {
		return control.Selected{}, err
	}
	if err != nil {
		b.log.Error("cancel in the fleet", "err", err)
	}
	done, err := b.pass(ctx, actionOf(control.VerbCancel), orders.NewSelection(b.store, filter), false, tell)
	if err == nil && done.Active == 0 {
		err = log.Done(id)
	}
	return done, err
}

func (b *Backend) isMember(node string) bool {
	return b.exchange == nil || node == b.orders.Common().Node() || b.exchange.IsMember(node)
}

const (
	// cancelAgain is the time between tries at recipients that were in a transaction, and
	// cancelTries how many there are. A transaction takes minutes at most.
	cancelAgain = 5 * time.Second
	cancelTries = 120
)

// FollowCancels does what cancels of other nodes say, and the rest of our own, until ctx ends.
// That one was done is durable; an agent that stops before begins it anew at its next start, unless
// it is over then.
func (b *Backend) FollowCancels(ctx context.Context) {
	log := b.orders.Common()
	if log == nil {
		return
	}
	tries := make(map[order.ID]int)
	changes := log.Changes()
	tick := time.NewTicker(cancelAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changes:
		case <-tick.C:
		}
		if !b.watch.Loaded() {
			continue // the tick comes again
		}
		b.cancelling.Lock()
		for _, o := range log.Pending(order.Cancel) {
			tries[o.ID]++
			if left := b.cancelFor(ctx, &o); (!left || tries[o.ID] >= cancelTries) && ctx.Err() == nil {
				delete(tries, o.ID)
				if err := log.Done(o.ID); err != nil {
					b.log.Error("cancel in the fleet", "err", err)
				}
			}
		}
		b.cancelling.Unlock()
	}
}

// cancelFor cancels what an order is about, and says whether something is left to try again:
// recipients in transactions. The cancel of a node that is no member, as it was dropped or as this
// node does not know of it yet, waits.
func (b *Backend) cancelFor(ctx context.Context, o *order.Order) (left bool) {
	if !b.isMember(o.ID.Node) {
		return true
	}
	var body commonCancel
	if err := json.Unmarshal(o.Body, &body); err != nil || body.Filter.Empty() {
		b.log.Warn("a cancel of the fleet is left out: it cannot be read", "order", o.ID, "err", err)
		return false
	}
	reach, err := spool.ParsePosition(body.Reach[b.orders.Common().Node()])
	if err != nil || !b.store.IsAt(reach) {
		b.log.Warn("a cancel of the fleet does not reach this node: it names no position of this spool", "order", o.ID, "filter", body.Filter.String())
		return false
	}
	a := actionOf(control.VerbCancel)
	a.steps[0].picks = func(_ *Backend, _ *orders.Selection, e *queue.Entry) bool { return reach.Has(e.ID) }
	sel := orders.NewSelection(b.store, body.Filter)
	sel.Now = o.At // an age is of then
	done, err := b.pass(ctx, a, sel, false, func(control.Selected) {})
	if done.Recipients > 0 || err != nil {
		b.log.Info("cancelled for the fleet", "order", o.ID, "who", body.Who, "filter", body.Filter.String(), "recipients", done.Recipients, "active", done.Active, "err", err)
	}
	return done.Active > 0 || err != nil
}
