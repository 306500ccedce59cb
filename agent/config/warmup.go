package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// StandardWarmup is the name of the shipped plan.
const StandardWarmup = "standard"

// Warmup is one [[warmup]]: how an address of a [[pool]] that names it begins. It may send so
// many recipients their first try on its first day with mail, so many on the next, and so on,
// to each provider by itself (a [[queue]]; domains that none lists are one), spread over the
// day of the host's zone. Days of which too much was refused or complained about, or on
// which the share was not used, are repeated; far above a bar it goes a day back. After the
// last day it is warm, until it has sent that provider nothing for more than 30 days. A queue that
// is new or gets another name is another provider: an address that is warm begins anew there
// while its pool has a plan for it, so take that out first. An IPv6 /64 is one address in this.
type Warmup struct {
	// Name names the plan; required, and each name once. One that is named "standard" takes
	// the place of the shipped plan.
	Name string `toml:"name"`
	// Days are the recipients of each day: [50, 100, 500]; none may be less than the one
	// before. Required, but for "standard", whose own are 480 and then 1.4 times as many each day, for
	// thirty days (24 times the hours of SendGrid's automated warm-up).
	Days Days `toml:"days"`
	// Deferrals is the share of a day's tries that may be refused for reputation or volume
	// (replies of class "reputation" or "ratelimited", as the large providers tell the first by
	// the second); "" is no bar. Greylisting does not count. Default: "5%".
	Deferrals Percent `toml:"deferrals"`
	// HardBounces is the share of its recipients whose addresses may turn out to be useless;
	// "" is no bar. Default: "3%".
	HardBounces Percent `toml:"hard_bounces"`
	// Complaints is the share of a provider's recipients that may complain, of those who
	// got the mail of one day (UTC) from any address, as no report tells the address; a day is bad
	// on which complaints come about mail above the bar. "" is no
	// bar. Where no reports come from, as from Google, there is nothing to count. Default: "0.1%".
	Complaints Percent `toml:"complaints"`

	File string `toml:"-"` // where the plan stands, for messages
	Line int    `toml:"-"`
}

// The defaults of a plan; package warmup has the sources.
const (
	warmupDeferrals   = 0.05
	warmupHardBounces = 0.03
	warmupComplaints  = 0.001
)

// Days are the shares of a plan's days.
type Days []int

// PoolWarmup is the plan of each address of a pool, or of all of them.
type PoolWarmup struct {
	All  string
	Each []string // "": that address is warm
}

// Zero says whether no address warms up.
func (w *PoolWarmup) Zero() bool {
	return w.All == "" && !slices.ContainsFunc(w.Each, func(s string) bool { return s != "" })
}

// Of is the plan of the address of a number; "" if it is warm.
func (w *PoolWarmup) Of(i int) string {
	if i < len(w.Each) {
		return w.Each[i]
	}
	return w.All
}

// Overflow says what becomes of mail for which a warming address has no room.
type Overflow string

// The ways.
const (
	OverflowWarm     Overflow = "warm"     // the pool's warm addresses send it, at once
	OverflowWait     Overflow = "wait"     // it waits
	OverflowHandback Overflow = "handback" // the host MTA gets it
)

// WarmupOf is the plan of an address, and the pool that has it; nil if it is warm.
func (c *Config) WarmupOf(a netip.Addr) (string, *Pool) {
	for i := range c.Pools {
		p := &c.Pools[i]
		if j := slices.Index(p.Addresses, a); j >= 0 && p.Warmup.Of(j) != "" {
			return p.Warmup.Of(j), p
		}
	}
	return "", nil
}

func (l *loader) checkWarmups() {
	names := map[string]Notice{}
	for i := range l.cfg.Warmups {
		w, path := &l.cfg.Warmups[i], fmt.Sprintf("warmup[%d]", i)
		l.checkUnique("plan", "careful", path, w.Name, 0, names)
		if len(w.Days) == 0 && w.Name != StandardWarmup && !l.bad[path+".days"] {
			l.fail(path, remedy(fmt.Sprintf("plan %q has no days", w.Name), "add the recipients of each day: days = [50, 100, 500, 1000]"))
		}
		for j := 1; j < len(w.Days); j++ {
			if w.Days[j] < w.Days[j-1] {
				l.failElement(path+".days", j, remedy(fmt.Sprintf("days: %d is less than the day before", w.Days[j]), "let no day have less than the one before"))
				break
			}
		}
	}
	for i := range l.cfg.Pools {
		l.checkPoolWarmup(&l.cfg.Pools[i], fmt.Sprintf("pool[%d]", i))
	}
}

func (l *loader) checkPoolWarmup(p *Pool, path string) {
	known := []string{StandardWarmup}
	for i := range l.cfg.Warmups {
		if n := l.cfg.Warmups[i].Name; isPlainName(n) && !slices.Contains(known, n) {
			known = append(known, n)
		}
	}
	if n := len(p.Warmup.Each); n > 0 && n != len(p.Addresses) && !l.bad[path+".addresses"] {
		l.fail(path+".warmup", remedy(fmt.Sprintf("warmup: %d plans for %d addresses", n, len(p.Addresses)),
			`give one for each address, in the same order, and "" for one that is warm`))
		return
	}
	warm := 0
	for i := range p.Addresses {
		name := p.Warmup.Of(i)
		if name == "" {
			warm++
			continue
		}
		if !slices.Contains(known, name) {
			text := remedy(fmt.Sprintf("warmup: there is no plan %q", name), "name one of "+strings.Join(known, ", ")+", or add a [[warmup]] with this name")
			if p.Warmup.All != "" {
				l.fail(path+".warmup", text)
				return
			}
			l.failElement(path+".warmup", i, text)
		}
		for j, b := range p.Addresses[:i] {
			if other := p.Warmup.Of(j); other != name && !b.Is4() && !p.Addresses[i].Is4() && netip.PrefixFrom(b, 64).Masked().Contains(p.Addresses[i]) {
				l.fail(path+".warmup", remedy(fmt.Sprintf("warmup: %s and %s are of one /64, which is one address to receivers, and have different plans", b, p.Addresses[i]), "give both the same"))
			}
		}
	}
	at := path + ".warmup"
	switch {
	case p.Warmup.Zero() && p.Overflow != "":
		l.fail(path+".overflow", remedy("overflow: no address of this pool warms up", `name a plan, as with warmup = "standard", or remove the line`))
	case p.Warmup.Zero():
	case p.Overflow == "" && !l.bad[path+".overflow"]:
		l.fail(at, remedy(fmt.Sprintf("pool %q does not say what becomes of mail beyond the day's share of an address that warms up", p.Name),
			`add overflow = "warm" (its warm addresses send it), "wait" or "handback" (the host's MTA sends it)`))
	case p.Overflow == OverflowWarm && warm == 0:
		l.fail(path+".overflow", remedy(fmt.Sprintf("overflow: pool %q has no warm address", p.Name), `write "wait" or "handback", or add an address that is warm`))
	}
}

// remarkWarmups is about pools that leave receivers of one family to addresses that warm up.
func (l *loader) remarkWarmups() {
	for i := range l.cfg.Pools {
		p := &l.cfg.Pools[i]
		if p.Overflow != OverflowWarm {
			continue
		}
		for _, four := range [...]bool{true, false} {
			all, warm := 0, 0
			for j, a := range p.Addresses {
				if a.Is4() == four {
					all++
					if p.Warmup.Of(j) == "" {
						warm++
					}
				}
			}
			if all > 0 && warm == 0 {
				at := l.place(fmt.Sprintf("pool[%d].overflow", i))
				family := map[bool]string{true: "IPv4", false: "IPv6"}[four]
				at.Text = remedy(fmt.Sprintf("overflow: pool %q has no warm %s address: mail beyond the day's share waits for receivers that have no other", p.Name, family),
					"add a warm address of that family, if there are such receivers")
				l.notices = append(l.notices, at)
			}
		}
	}
}
