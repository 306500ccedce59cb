package warmup

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/outcome"
)

// Delivery implements event.Listener.
func (w *Warmup) Delivery(d *event.Delivery) {
	if d.Queue == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.plans) == 0 {
		return
	}
	switch d.Status {
	case event.Complaint:
		if d.Uncounted == "" {
			p, arrived := w.provider(d.Queue), d.Arrived
			if arrived.IsZero() {
				arrived = d.Time
			}
			p.Reported = true
			if s := p.on(arrived); s != nil {
				s.Complaints++
				s.Last = w.date(d.Time)
			}
			w.dirty = true
		}
		return
	case event.Sent:
		arrived := d.Time
		if d.Envelope != nil {
			arrived = d.Envelope.Arrived
		}
		if s := w.provider(d.Queue).on(arrived); s != nil {
			s.Accepted++
		}
		w.dirty = true
	case event.Deferred, event.Bounced:
	default:
		return
	}
	if !d.Source.IsValid() {
		return
	}
	address := Address(d.Source)
	plan, ok := w.plans[address]
	if !ok {
		return
	}
	c := w.course(Key{address, d.Queue})
	c.share.asked = true
	w.turn(c, plan, d.Time)
	w.dirty = true
	x := c.today()
	if x == nil {
		return
	}
	x.Last = max(x.Last, w.date(d.Time))
	if x.Warm {
		return
	}
	switch {
	case d.Status == event.Sent:
		x.Accepted++
		x.Attempts++
	case d.Class == outcome.ClassGreylisted: // it says nothing of us, and the next try is taken
	default:
		x.Attempts++
		if d.Class == outcome.ClassReputation || d.Class == outcome.ClassRateLimited {
			x.Deferrals++ // the large providers say distrust as a limit: Google 4.7.28, Yahoo TSS04, Microsoft 4.7.650
		}
		if d.Status == event.Bounced && d.Hard {
			x.HardBounces++
		}
	}
}

// provider is what is counted of a provider.
func (w *Warmup) provider(name string) *provider {
	p := w.providers[name]
	if p == nil {
		p = &provider{}
		w.providers[strings.Clone(name)] = p
	}
	return p
}

// complaints is how many a provider had about the mail of which some came on a day.
func (w *Warmup) complaints(name, day string) (n int) {
	if p := w.providers[name]; p != nil {
		for _, x := range p.Days {
			if x.Last == day {
				n += x.Complaints
			}
		}
	}
	return n
}

// on is what is counted of the mail that arrived on the day of a moment; nil if that is too long
// ago.
func (p *provider) on(arrived time.Time) *seen {
	day := arrived.UTC().Format(time.DateOnly)
	i, ok := slices.BinarySearchFunc(p.Days, day, func(x seen, day string) int { return cmp.Compare(x.Date, day) })
	switch {
	case ok:
		return &p.Days[i]
	case len(p.Days) < keptMail:
		p.Days = slices.Insert(p.Days, i, seen{Date: day})
		return &p.Days[i]
	case i == 0:
		return nil
	}
	p.Days = slices.Insert(slices.Delete(p.Days, 0, 1), i-1, seen{Date: day})
	return &p.Days[i-1]
}

// worst is the mail about which complaints came on a day, of the day of which most of those that
// got it complained.
func (p *provider) worst(day string) (worst seen) {
	for _, x := range p.Days {
		if x.Last == day && x.Complaints > 1 && x.Complaints*max(1, worst.Accepted) > worst.Complaints*x.Accepted {
			worst = x
		}
	}
	return worst
}
