package watch

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/warmup"
)

// Sources are the addresses that mail leaves from; none where the system chooses.
func (w *Watch) Sources() (list []control.Source) {
	set := w.settings.Now()
	absent, blocked := w.absent(), w.blocked()
	for _, p := range set.Pools() {
		for i := range p.Addresses {
			a := &p.Addresses[i]
			x := control.Source{
				Address: a.Addr.String(), Pool: p.Name, Hello: cmp.Or(a.Hello, set.Config.Hostname), Weight: a.Weight,
				Absent: slices.Contains(absent, a.Addr),
			}
			for _, e := range blocked {
				if e.Address == x.Address {
					x.Blocked = append(x.Blocked, e)
				}
			}
			list = append(list, x)
		}
	}
	return list
}

// StreamLimits are what the [[stream]]s of the configuration bound; those that only name a pool,
// a priority or an age are left out.
func (w *Watch) StreamLimits() (list []control.StreamLimits) {
	now := time.Now()
	counts := w.quotas.List(now)
	streams := w.settings.Now().Config.Streams
	for i := range streams {
		st := &streams[i]
		x := control.StreamLimits{Name: st.Name, Rate: float64(st.MaxMessageRate)}
		for _, c := range counts {
			if c.Stream == st.Name {
				x.Quotas = append(x.Quotas, control.Quota{Queue: c.Provider, Day: c.Day, Limit: c.Limit, Used: c.Used, Next: c.Next})
			}
		}
		if !st.Open.Zero() {
			x.Window, x.Closed, x.Changes = st.Open.String(), !st.Open.Open(now), st.Open.Next(now)
		}
		if x.Rate > 0 || x.Quotas != nil || x.Window != "" {
			list = append(list, x)
		}
	}
	return list
}

// Warmups are the courses of addresses that have a plan.
func (w *Watch) Warmups() (list []control.Warmup) {
	now := time.Now()
	for _, c := range w.warmup.List(now) {
		x := control.Warmup{Address: c.Address, Queue: c.Provider, Plan: c.Plan, Shares: c.Shares, Done: c.Done, Lost: c.Lost, Reports: c.Knows, HeldDays: c.BadDays}
		for _, d := range c.Days {
			x.Days = append(x.Days, control.WarmupDay{
				Date: d.Date, Day: d.Step + 1, Share: d.Share, Used: d.Used, Accepted: d.Accepted, Refused: d.Deferrals, HardBounces: d.HardBounces, Complaints: d.Complaints, Verdict: d.Verdict, Bad: d.Bad,
			})
		}
		if n := len(x.Days); n > 0 && x.Done == "" {
			x.Day, x.Share, x.Used = x.Days[n-1].Day, x.Days[n-1].Share, x.Days[n-1].Used
		}
		list = append(list, x)
	}
	return list
}

// WarmupOf tells of the warm-up of an address at a queue, where so many recipients of a site wait
// for it; "" if it is warm.
func (w *Watch) WarmupOf(a netip.Addr, queue string, waiting int) string {
	if !a.IsValid() {
		return ""
	}
	for _, x := range w.Warmups() {
		if x.Address == warmup.Address(a) && x.Queue == queue && x.Done == "" {
			text := x.Address + " is on " + x.InWords()
			if waiting > 0 {
				text += fmt.Sprintf("; %d recipients wait for room", waiting)
			}
			return text
		}
	}
	return ""
}

// blocked are the effects of rules by which receivers refuse source addresses of ours.
func (w *Watch) blocked() []control.Effect {
	now := time.Now()
	return slices.DeleteFunc(slices.Clone(w.orders.Standing().Effects), func(e control.Effect) bool { return e.Address == "" || !now.Before(e.Until) })
}

// absent are the source addresses that are not on this host at the moment.
func (w *Watch) absent() []netip.Addr {
	if p := w.settings.Now().Presence; p != nil {
		return p.Absent()
	}
	return nil
}
