package admin

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/fleet/order"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/sites"
)

// Streams implements control.Backend.
func (b *Backend) Streams() []control.Stream {
	var list []control.Stream
	for _, s := range b.orders.Streams() {
		list = append(list, control.Stream{
			Name: s.Name, Waiting: s.Waiting, Deferred: s.Deferred, Active: s.Active, Held: s.Held,
			Paused: s.Paused, Priority: s.Priority, Limits: s.Limits, Waits: s.Waits, Until: s.Until,
		})
	}
	return list
}

// Standing implements control.Backend.
func (b *Backend) Standing() control.StandingOrders { return b.orders.Standing() }

// Pause implements control.Backend. One of the same filter is replaced.
func (b *Backend) Pause(ctx context.Context, p control.Pause) (failed error) {
	filters, receiver, err := b.pauseFilters(ctx, p.Filter)
	if err != nil {
		return err
	}
	p.Receiver = receiver
	p.Since, p.Who, p.Order = time.Now(), control.PeerOf(ctx).String(), ""
	if p.Reason == "" {
		p.Reason = "by the admin"
	}
	if !p.Until.IsZero() && !p.Until.After(p.Since) {
		return fmt.Errorf("%s is over already", p.Until.Format(time.RFC3339))
	}
	var here []control.Pause // those of this node alone
	for _, p.Filter = range filters {
		common, err := b.orders.PauseInFleet(ctx, p)
		if err != nil {
			failed = errors.Join(failed, err)
		}
		if !common {
			here = append(here, p)
		}
	}
	if here != nil {
		err := b.orders.Change(func(s *control.StandingOrders) error {
			s.Pauses = slices.DeleteFunc(s.Pauses, func(x control.Pause) bool { return slices.Contains(filters, x.Filter) && x.Order == "" })
			s.Pauses = append(s.Pauses, here...)
			return nil
		})
		failed = errors.Join(failed, err)
	}
	if receiver != "" {
		for i := range filters {
			b.follow(filters[i].Site)
		}
	}
	if orders.OfEnvelope(p.Filter) {
		b.orders.ApplyToQueued() // it is in force even if it could not be kept
	}
	return failed
}

// Resume implements control.Backend. Of a site it also ends what reply rules have done.
func (b *Backend) Resume(ctx context.Context, f control.Filter) (left []control.Pause, err error) {
	f = plainFilter(f)
	filters, receiver, err := b.resumed(ctx, f)
	if err != nil {
		return nil, err
	}
	var common []order.ID
	for i := range filters {
		common = append(common, b.orders.CommonPauses(filters[i])...)
	}
	if len(common) > 0 && control.IsHere(ctx) {
		return nil, fmt.Errorf("%s is paused in the whole fleet, and cannot be resumed on one node alone; remedy: leave out --here", f)
	}
	err = b.orders.Change(func(s *control.StandingOrders) error {
		n := len(s.Pauses)
		var ended []control.Pause
		s.Pauses = slices.DeleteFunc(s.Pauses, func(x control.Pause) bool {
			if !slices.Contains(filters, x.Filter) || x.Order != "" {
				return false
			}
			ended = append(ended, x)
			return true
		})
		for i := range s.Pauses {
			if x := &s.Pauses[i]; receiver == "" && slices.ContainsFunc(ended, func(y control.Pause) bool { return orders.SamePause(x, &y) }) {
				x.Receiver = "" // or the site that is resumed would follow it
			}
		}
		lifted := 0
		if f == (control.Filter{Site: f.Site}) && f.Site != "" {
			for i := range filters {
				lifted += b.orders.LiftEffects(s, filters[i].Site)
			}
		}
		if len(s.Pauses) == n && lifted == 0 && len(common) == 0 {
			return fmt.Errorf("no brake is on for %s: %w", f, control.ErrUnknown)
		}
		return nil
	})
	if errors.Is(err, control.ErrUnknown) {
		return nil, err
	}
	if len(common) > 0 {
		err = errors.Join(err, b.orders.ResumeInFleet(ctx, common))
	}
	if orders.OfEnvelope(f) {
		b.orders.ApplyToQueued()
	}
	return b.orders.Standing().Pauses, err
}

// resumed are the filters of the pauses that a filter means: of that itself, and of the sites of a
// receiver that it names.
func (b *Backend) resumed(ctx context.Context, f control.Filter) (filters []control.Filter, receiver string, err error) {
	now := b.orders.Standing().Pauses
	exact := slices.ContainsFunc(now, func(x control.Pause) bool { return x.Filter == f })
	filters, receiver, err = b.ofSites(ctx, f)
	switch {
	case err != nil && !exact && !errors.Is(err, control.ErrUnknown):
		return nil, "", err
	case err != nil || filters == nil:
		filters, receiver = []control.Filter{f}, ""
	case exact && !slices.Contains(filters, f):
		filters = append(filters, f)
	}
	if f.Site == "" || exact && err == nil && receiver == "" {
		return filters, receiver, nil
	}
	// Its other sites have them by the order's text, and by that of one that ends, whatever the
	// DNS says of them by now.
	for i := range now {
		x := &now[i]
		same := x.Filter
		same.Site = f.Site
		if x.Receiver != "" && same == f && !slices.Contains(filters, x.Filter) && (x.Receiver == f.Site || receiver != "" && slices.ContainsFunc(now, func(y control.Pause) bool {
			return slices.Contains(filters, y.Filter) && orders.SamePause(x, &y)
		})) {
			filters, receiver = append(filters, x.Filter), f.Site
		}
	}
	return filters, receiver, nil
}

// plainFilter is a filter in the form that names a pause.
func plainFilter(f control.Filter) control.Filter {
	f.Domain, f.Sender = strings.ToLower(f.Domain), strings.ToLower(f.Sender)
	f.All = f.All && f == control.Filter{All: true} // all, and ..., is not all
	return f
}

// pauseFilters checks what a pause is to be on for: each is one of its own, of the receiver's if
// there is one.
func (b *Backend) pauseFilters(ctx context.Context, f control.Filter) (filters []control.Filter, receiver string, err error) {
	f = plainFilter(f)
	lanes := f.Queue != "" || f.Site != "" || f.Stream != "" || f.Domain != ""
	switch {
	case f.Empty():
		return nil, "", errors.New("the filter is empty; say all to pause everything")
	case f.ID != "" || f.Recipient != "" || f.State != "" || f.OlderThan != 0 || f.Text != "":
		return nil, "", errors.New("a pause is by queue, site, stream and domain, or by sender, user and client; remedy: hold is for single messages and recipients")
	case lanes && orders.OfEnvelope(f):
		return nil, "", errors.New("a pause by sender, user or client is for all their mail; remedy: leave out queue, site, stream and domain, or hold what is queued now")
	case f.Queue != "" && !b.isQueue(f.Queue):
		return nil, "", fmt.Errorf("queue %s: %w", f.Queue, control.ErrUnknown)
	}
	return b.ofSites(ctx, f)
}

func (b *Backend) isQueue(name string) bool { return b.settings.Now().IsQueue(name) }

// Limit implements control.Backend. One of the same name is replaced.
func (b *Backend) Limit(ctx context.Context, l control.Limit) error {
	ends := l.Sessions == 0 && l.Rate == 0
	switch {
	case l.Sessions < 0 || l.Rate < 0:
		return errors.New("a limit is not negative; remedy: pause is for nothing at all")
	case !ends && !l.Until.After(time.Now()):
		return errors.New("a temporary limit needs a time in the future at which it ends")
	}
	names := []string{l.Name}
	l.Who, l.Order, l.Receiver = control.PeerOf(ctx).String(), "", ""
	if !b.isQueue(l.Name) {
		now := b.orders.Standing().Limits
		exact := slices.ContainsFunc(now, func(x control.Limit) bool { return x.Name == l.Name })
		list, receiver, err := b.keptSites(ctx, l.Name)
		switch {
		case err == nil:
			names, l.Receiver = list, receiver
		case exact:
		case !errors.Is(err, control.ErrUnknown):
			return err
		case !ends && !slices.ContainsFunc(now, func(x control.Limit) bool { return x.Receiver == l.Name }):
			return fmt.Errorf("site or queue %s: %w", l.Name, control.ErrUnknown)
		}
		for i := range now { // its other sites have them by the order's text, whatever the DNS says by now
			if x := &now[i]; x.Receiver == l.Name && !slices.Contains(names, x.Name) {
				names, l.Receiver = append(names, x.Name), l.Name
			}
		}
	}
	text := l.Name
	var here []control.Limit // those of this node alone
	for _, l.Name = range names {
		common, err := b.orders.LimitInFleet(ctx, l)
		if err != nil {
			return err
		}
		if !common {
			here = append(here, l)
		}
	}
	if !ends && l.Receiver != "" {
		defer func() {
			for _, name := range names {
				b.follow(name)
			}
		}()
	}
	if here == nil {
		return nil
	}
	return b.orders.Change(func(s *control.StandingOrders) error {
		n := len(s.Limits)
		var ended []control.Limit
		s.Limits = slices.DeleteFunc(s.Limits, func(x control.Limit) bool {
			if !slices.Contains(names, x.Name) || x.Order != "" {
				return false
			}
			ended = append(ended, x)
			return true
		})
		for i := range s.Limits {
			if x := &s.Limits[i]; ends && l.Receiver == "" && slices.ContainsFunc(ended, func(y control.Limit) bool { return orders.SameLimit(x, &y) }) {
				x.Receiver = "" // or the site whose limit ends would follow it
			}
		}
		switch {
		case !ends:
			s.Limits = append(s.Limits, here...)
		case len(s.Limits) == n && len(here) == len(names):
			return fmt.Errorf("temporary limit of %s: %w", text, control.ErrUnknown)
		}
		return nil
	})
}

// Forget implements control.Backend. What was learned is a matter of speed alone, but for
// suspensions and what else rules did for a receiver's reply: those end, and may come again.
func (b *Backend) Forget(ctx context.Context, name string) (n int, err error) {
	ofQueue := b.isQueue(name)
	names := []string{name}
	if name != "" && !ofQueue {
		list, err := b.meant(ctx, name)
		switch {
		case err == nil:
			names = list
		case !errors.Is(err, control.ErrUnknown): // else it may be remembered from before the start
			return 0, err
		}
	}
	concerns := make(map[string]bool) // sites
	for _, x := range names {
		concerns[x] = true
	}
	if ofQueue {
		for _, site := range b.queue.QueueSites(name) {
			concerns[site] = true
		}
	}
	var addresses []netip.Addr
	book := b.settings.Now().Sites
	for site := range concerns {
		if !book.Has(site) {
			continue // Find would look at all sites for it
		}
		for _, x := range book.Find(site) {
			if x.As == sites.Name {
				addresses = append(addresses, x.Addresses...)
			}
		}
	}
	err = b.orders.Forget(func(site string) bool { return name == "" || concerns[site] }, func() {
		for _, x := range names {
			n += b.queue.Forget(x, addresses...)
		}
	})
	if n == 0 && name != "" && !ofQueue && !book.Has(names[0]) {
		return 0, fmt.Errorf("site or queue %s: %w", name, control.ErrUnknown)
	}
	// What rules did is off its file by now, and with it off the sites: a crash before the file of
	// what was learned is written brings the rest back, which is learned.
	if saved := b.saveLearned(); err == nil && saved != nil {
		err = fmt.Errorf("what was learned is forgotten, but cannot be written, and is back if the agent crashes before it can: %w", saved)
	}
	return n, err
}

// Prioritize implements control.Backend.
func (b *Backend) Prioritize(ctx context.Context, p control.Priority) error {
	if p.Priority < 1 || p.Priority > config.MaxPriority {
		return fmt.Errorf("priority %d is not between 1 and %d", p.Priority, config.MaxPriority)
	}
	if common, err := b.orders.PrioritizeInFleet(ctx, p); common {
		return err
	}
	return b.orders.Change(func(s *control.StandingOrders) error {
		if s.Priorities == nil {
			s.Priorities = make(map[string]int)
		}
		s.Priorities[p.Stream] = p.Priority
		if p.Priority == 1 {
			delete(s.Priorities, p.Stream)
		}
		return nil
	})
}

// ReloadConfig implements control.Backend.
func (b *Backend) ReloadConfig(context.Context) error {
	if b.reload == nil {
		return errors.New("this agent has no configuration file")
	}
	return b.reload()
}

// Why implements control.Backend.
func (b *Backend) Why(site string) ([]control.Change, error) {
	names, err := b.meant(context.Background(), site)
	switch {
	case err != nil:
		return nil, err
	case len(names) > 1:
		return nil, fmt.Errorf("%s has a site for each of our addresses that it is called from; remedy: name one of them: %s", site, listed(names))
	}
	site = names[0]
	a, ok := b.queue.Explain(site)
	if !ok {
		return nil, fmt.Errorf("site %s: %w", site, control.ErrUnknown)
	}
	list := make([]control.Change, len(a.Changes))
	for i, c := range a.Changes {
		list[i] = control.Change{At: c.At, From: c.From, To: c.To, Pace: c.Pace, Cause: c.Cause}
	}
	if len(list) == 0 { // how it stands belongs to the last change
		n := a.Target.Sessions
		list = []control.Change{{From: n, To: n, Cause: "no change is remembered"}}
	}
	list[len(list)-1].Now = account(&a, b.history.SiteRates(time.Now())[site])
	list[len(list)-1].Now.Breaker = b.breaker.InWords(a.Queue)
	list[len(list)-1].Now.Warmup = b.watch.WarmupOf(a.Source, a.Queue, a.WarmingUp)
	return list, nil
}

// Milter implements control.Backend.
func (b *Backend) Milter(r control.MilterReport) control.MilterAnswer { return b.watch.Milter(r) }

// WebLink implements control.Backend.
func (b *Backend) WebLink() (string, error) { return b.watch.WebLink() }
