package admin

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/fleet/order"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/suppress"
)

// In a fleet an address that is suppressed on one node is so on all: orders have entries that
// admins add or remove, and those that bounces and complaints have suppressed; counts below that
// stay where they are, and so does a delivery that clears one. A removal says which additions it
// knew: one that it did not know stays, whichever comes first.

// commonEntry is an entry of the suppression list in an order.
type commonEntry struct {
	Address string    `json:"a"`
	Stream  string    `json:"s,omitempty"`
	Last    time.Time `json:"t,omitzero"`
	Bounces int       `json:"n,omitempty"`
	Class   string    `json:"c,omitempty"`
	Late    bool      `json:"l,omitempty"`
}

// commonRemoval is the body of an Unsuppress: addresses of one stream, or of any.
type commonRemoval struct {
	Addresses []string `json:"addresses"`
	Stream    *string  `json:"stream,omitempty"`
}

func (r *commonRemoval) removes(e *commonEntry, addresses map[string]bool) bool {
	return addresses[strings.ToLower(e.Address)] && (r.Stream == nil || *r.Stream == e.Stream)
}

const (
	// entriesAtOnce is how many entries an order has at most, and entriesSize of how many octets
	// their addresses and streams are together.
	entriesAtOnce = 500
	entriesSize   = 24 << 10
	// learnEvery is how often entries that were learned go to the others. A crash may cost so
	// much of it.
	learnEvery = 2 * time.Second
	// maxLearned bounds the entries that wait for that.
	maxLearned = 100_000
)

// Learn takes an entry that bounces or a complaint have suppressed, for the other nodes.
func (b *Backend) Learn(e suppress.Entry) {
	b.learnedMu.Lock()
	defer b.learnedMu.Unlock()
	if len(b.learned) < maxLearned {
		b.learned = append(b.learned, e)
	}
}

// shareLearned orders what was learned.
func (b *Backend) shareLearned() {
	b.learnedMu.Lock()
	list := b.learned
	b.learned = nil
	b.learnedMu.Unlock()
	b.shareEntries("", list)
}

// shareEntries orders entries that somebody has added, or that were learned, in batches. They are on
// the list of this node already.
func (b *Backend) shareEntries(who string, list []suppress.Entry) {
	log := b.orders.Common()
	for len(list) > 0 {
		var body []commonEntry
		size := 0
		for _, e := range list {
			if size += len(e.Address) + len(e.Stream); len(body) == entriesAtOnce || size > entriesSize && len(body) > 0 {
				break
			}
			body = append(body, commonEntry{e.Address, e.Stream, e.Last.UTC().Truncate(time.Second), e.Bounces, e.Class.String(), e.Late})
		}
		list = list[len(body):]
		id, err := log.Issue(who, order.Suppress, body, time.Time{})
		if err == nil {
			err = log.Done(id)
		}
		if err != nil {
			b.log.Error("suppression list: not told to the fleet", "entries", len(body), "err", err)
		}
	}
}

// removeInFleet orders a removal. It is done on this node already.
func (b *Backend) removeInFleet(who string, r commonRemoval) error {
	log := b.orders.Common()
	for rest := r.Addresses; len(rest) > 0; {
		n := min(entriesAtOnce, len(rest))
		size := 0
		for i, a := range rest[:n] {
			if size += len(a); size > entriesSize && i > 0 {
				n = i
				break
			}
		}
		part := commonRemoval{rest[:n], r.Stream}
		rest = rest[n:]
		id, err := log.Issue(who, order.Unsuppress, part, time.Time{})
		if err == nil {
			err = log.Done(id)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// FollowSuppression has the list of this node follow those of the others, and tells them what it
// learns, until ctx ends.
func (b *Backend) FollowSuppression(ctx context.Context) {
	log := b.orders.Common()
	if log == nil {
		return
	}
	changes := log.Changes()
	tick := time.NewTicker(learnEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			b.shareLearned()
			return
		case <-changes:
			b.followSuppression()
		case <-tick.C:
			b.shareLearned()
		}
	}
}

// followSuppression does what orders about the list say. The list is durable before it is noted that
// they were done.
func (b *Backend) followSuppression() {
	log := b.orders.Common()
	pending := log.Pending(order.Suppress, order.Unsuppress)
	if len(pending) == 0 {
		return
	}
	// What is learned here and nobody knows yet must not be removed by who could not know it.
	b.shareLearned()
	type removal struct {
		commonRemoval
		seen      order.Known
		addresses map[string]bool
	}
	var removals []removal
	for _, o := range log.Live(order.Unsuppress) {
		r := removal{seen: o.Seen, addresses: make(map[string]bool)}
		if json.Unmarshal(o.Body, &r.commonRemoval) == nil {
			for _, a := range r.Addresses {
				r.addresses[strings.ToLower(a)] = true
			}
			removals = append(removals, r)
		}
	}
	var ids []order.ID
	for _, o := range pending {
		ids = append(ids, o.ID)
		if o.Kind == order.Unsuppress {
			b.removeFor(&o)
			continue
		}
		var list []commonEntry
		if json.Unmarshal(o.Body, &list) != nil {
			continue
		}
		var entries []suppress.Entry
	next:
		for i := range list {
			for _, r := range removals {
				if r.seen.Has(o.ID) && r.removes(&list[i], r.addresses) {
					continue next
				}
			}
			if class, ok := outcome.ParseClass(list[i].Class); ok && list[i].Address != "" {
				entries = append(entries, suppress.Entry{
					Address: list[i].Address, Stream: list[i].Stream, Last: list[i].Last, Bounces: max(0, list[i].Bounces), Class: class, Late: list[i].Late,
				})
			}
		}
		b.bounced.Merge(entries...)
	}
	err := b.bounced.Sync()
	if err == nil {
		err = log.Done(ids...)
	}
	if err != nil {
		b.log.Error("suppression list: what the fleet has changed is in force, and is done again at the next start", "err", err)
		return
	}
	b.log.Info("suppression list: changed by the fleet", "orders", len(ids))
}

// removeFor removes what an order says, but for what an addition has that its issuer did not know.
func (b *Backend) removeFor(o *order.Order) {
	var r commonRemoval
	if json.Unmarshal(o.Body, &r) != nil {
		return
	}
	addresses := make(map[string]bool)
	for _, a := range r.Addresses {
		addresses[strings.ToLower(a)] = true
	}
	stays := make(map[[2]string]bool) // stream and address
	var streams []string
	for _, x := range b.orders.Common().Live(order.Suppress) {
		var list []commonEntry
		if o.Seen.Has(x.ID) || json.Unmarshal(x.Body, &list) != nil {
			continue
		}
		for i := range list {
			if r.removes(&list[i], addresses) {
				stays[[2]string{list[i].Stream, strings.ToLower(list[i].Address)}] = true
				streams = append(streams, list[i].Stream)
			}
		}
	}
	if len(streams) == 0 {
		if _, err := b.bounced.Remove(r.Stream, r.Addresses...); err != nil {
			b.log.Error("suppression list", "err", err)
		}
		return
	}
	err := b.bounced.Each(context.Background(), time.Time{}, func(e *suppress.Entry) error {
		if addresses[e.Address] && (r.Stream == nil || *r.Stream == e.Stream) && !stays[[2]string{e.Stream, e.Address}] {
			addresses := []string{e.Address}
			_, err := b.bounced.Remove(&e.Stream, addresses...)
			return err
		}
		return nil
	})
	if err != nil {
		b.log.Error("suppression list", "err", err)
	}
}
