package queue

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/spool"
)

// crews are how many join a provider, and from how many addresses its mail leaves.
var crews = []struct{ joiners, sources int }{{5, 1}, {199, 1}, {20, 3}}

// A provider's mail, joined by domains whose hosts let us in and take no message for want of room or for
// the rate, goes on as if they were not there: who never took anything is refused for reasons of his own.
func TestJoinersThatAreBusyCostAProviderLittle(t *testing.T) {
	t.Parallel()
	for _, c := range crews {
		for _, reply := range []string{tooBusy, tooMany, rateLimited} {
			t.Run(fmt.Sprintf("%d joiners, %d sources, %s", c.joiners, c.sources, reply), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					p := joinedProvider(t, c.sources, c.joiners, func(int) receiver { return receiver{busy: reply} })
					p.mail(20_000)
					pass(time.Minute)
					p.join(10)
					p.works()
					p.works()
					p.empty()
				})
			})
		}
	}
}

// A provider whose mail comes after that of such joiners is found at once.
func TestProviderIsFoundAmongJoinersThatAreBusy(t *testing.T) {
	t.Parallel()
	silent, busy, refusing := receiver{silent: 5 * time.Minute}, receiver{busy: tooBusy}, receiver{limit: -1}
	for name, bad := range map[string][2]receiver{
		"busy":                {busy, busy},
		"too many":            {{busy: tooMany}, {busy: tooMany}},
		"too fast":            {{busy: rateLimited}, {busy: rateLimited}},
		"too fast or busy":    {{busy: rateLimited}, busy},
		"busy or silent":      {busy, silent},
		"refusing or silent":  {refusing, silent},
		"refusing or busy":    {refusing, busy},
		"busy, late to greet": {{busy: tooBusy, late: 30 * time.Second}, {busy: tooMany, late: time.Minute}},
	} {
		for _, c := range crews {
			t.Run(fmt.Sprintf("%d joiners, %d sources, %s", c.joiners, c.sources, name), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					p := joinedProvider(t, c.sources, c.joiners, func(i int) receiver { return bad[i%2] })
					p.join(10)
					pass(2 * time.Minute)
					p.mail(20_000)
					pass(30 * time.Second)
					p.works()
					p.empty()
				})
			})
		}
	}
}

// Who takes one of a message's recipients, and says too fast to the other, works.
func TestJoinerThatTakesSomeIsNotLeftAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := joinedProvider(t, 1, 1, func(int) receiver { return receiver{busy: rateLimited, partly: true} })
		const n = 20
		p.policy.MaxRecipientsPerMessage = 50
		p.mail(20_000)
		pass(5 * time.Second)
		for i := range n {
			p.add(spool.ID(100_000+i), "s", "j2.example", "j2.example")
		}
		pass(time.Minute)
		if got := p.met(2).taken; got < n {
			t.Errorf("%d recipients taken of %d messages", got, n)
		}
		p.empty()
	})
}

// provider is one that others have joined by the names of their hosts. It takes 20 connections, with
// 29 messages each.
type provider struct {
	*world
	*receivers
	sources, joiners int
}

// joinedProvider is a provider whose mail leaves from so many source addresses.
func joinedProvider(t *testing.T, sources, joiners int, joiner func(i int) receiver) *provider {
	list := []receiver{{limit: 20, messages: 29}}
	for i := range joiners {
		list = append(list, joiner(i))
	}
	p := &provider{receivers: receiversAt(list...), sources: sources, joiners: joiners}
	p.world = worldOf(t, p.receivers, func(w *world, d string) Route {
		n, from := 1, 0
		fmt.Sscanf(d, "w%d", &from)
		if k, _ := fmt.Sscanf(d, "j%d", &n); k > 0 {
			from = n % sources
		}
		at := spot(n, 0)
		at.Source = netip.AddrFrom4([4]byte{198, 51, 100, byte(from + 1)})
		r := w.toPlaces(fmt.Sprintf("provider:%v", at.Source), d, at)
		r.Receiver, r.Sources = "provider", []netip.Addr{at.Source}
		return r
	}, func(w *world) { w.o.MaxSessions, w.policy.MaxSessions, w.service = 500, 200, 500*time.Millisecond })
	return p
}

// mail adds so many messages for the provider.
func (p *provider) mail(n int) {
	for i := range n {
		p.add(spool.ID(i+1), "s", fmt.Sprintf("w%d.example", i%p.sources))
	}
}

// join adds so many messages for each joiner.
func (p *provider) join(each int) {
	for i := range each * p.joiners {
		p.add(spool.ID(100_000+i), "s", fmt.Sprintf("j%d.example", i%p.joiners+2))
	}
}

// works sees that the provider takes nine tenths of what it can in a minute; eight where sources share its
// limit, who come to one of twelve with nobody beside them.
func (p *provider) works() {
	p.t.Helper()
	least := 20 * 2 * 60 * 9 / 10
	if p.sources > 1 {
		least = 20 * 2 * 60 * 8 / 10
	}
	before := p.met(1).taken
	pass(time.Minute)
	if n := p.met(1).taken - before; n < least {
		p.t.Errorf("%d taken in a minute, expected %d", n, least)
	}
}
