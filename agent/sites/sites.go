// Package sites gives the units of limits their names. A site is a provider, that is a
// queue with MX patterns, or else all domains whose best-preference hosts have the same
// set of addresses, whatever the hosts are called.
//
// A Book knows the sites. Settings.Route calls Site with each answer of the DNS, and gets
// the name of the domain's site; admins' verbs call Find with a name, an MX host or an
// address. Open reads what an earlier Book has saved; Save, called once a second, writes
// it now and then, and Keep before anything is written that refers to names. Pin keeps the names that an order is about, Expect has orders carried over
// from names of earlier versions, to the parts of a site that falls apart, and to those that
// its mail has when source addresses are configured, exchanged, or no more.
//
// # Groups and sets
//
// DNS rotates: one answer may show a few of many addresses. What the answers have in common
// is who gave them. So a group, the names of the hosts of one preference and the source
// that we call from, is remembered, and its set is the union of its answers of a day, at most
// mostAddresses, the lowest. Groups that have the same set are one site. A subset or an
// overlap makes no site: of an address that stands in two sets nobody knows who of them
// lists it honestly. Only of a group itself a smaller answer is taken for a part of what it
// had before.
//
// A site belongs to the group that was there first, its leader; kin are groups whose first
// host is of the same registrable domain. When an answer has an address that the set lacks:
//
//	of the leader, all others are kin      the set grows, the site stays
//	of the leader, with strangers there    the leader goes to the larger set, with the name;
//	                                       the others stay with theirs, under a new one.
//	                                       Orders about the site hold for both
//	of anybody else                        the group goes to the site of the larger set; if
//	                                       that is new, orders about the old one hold there, too
//	the larger set has a site already      the leader goes there; but where an order names
//	                                       his site it stays apart, and the elder of two
//	                                       sites of one registrable domain takes in the other
//
// An address that was in no answer for a day leaves the set when the leader is looked up
// next. A leader that was not looked up for a day is followed by whichever of its kin is.
// So a stranger's zone that lists a receiver's addresses among its own never shares the
// receiver's site, and one that lists exactly them is a customer like any other, until it
// lists more.
//
// # Memory
//
// A site takes less than 500 octets (TestSitesAreSmall). Groups take 40 octets each in a
// table of their own; there are mostSites sites and groupsPerSite groups for each of them at
// most: those go first that were looked up longest ago. Of domains a site knows a few, to
// be shown; which site a domain has is known to the queue while there is mail for it.
package sites

import (
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	mostSites     = 1 << 17
	groupsPerSite = 4
	mostAddresses = 64    // of a set
	mostHosts     = 8     // names that are known of a site
	mostDomains   = 3     // the same of domains
	day           = 86400 // seconds that an address stays in a set unseen
)

// Group is the hosts of one preference.
type Group struct {
	Hosts []string     // names as published, sorted; the address as text for a literal
	Addrs []netip.Addr // those of them that can be used now, in any order; none while the names have no address
}

// Answer is what the DNS says of a domain, and what our configuration makes of it.
type Answer struct {
	Domain   string
	Provider string       // name of the queue, if it has MX patterns
	Source   netip.Addr   // that connections favour; zero: the kernel's choice
	Several  bool         // there is more than one source: names say which
	Alike    bool         // the sites of one receiver are to have one name, but for the source
	Sources  []netip.Addr // all that are configured
	Groups   []Group      // the best first
	Old      string       // the site's name in versions that named sites by their MX hosts
	Queue    func(name string) bool
}

// Book knows the sites. It may be used by many goroutines.
type Book struct {
	log  *slog.Logger
	path string // of its file; "" for none

	mu       sync.Mutex
	most     int // sites
	sets     map[key]*site
	groups   map[key]member
	names    map[string]*site
	numbers  map[string]int // where to look for a free number of a name, if many are taken
	pinned   map[string]bool
	expected map[string]bool
	sources  map[netip.Addr]bool // that sites have, or had
	orders   Orders

	everywhere map[string]bool // of the pinned, those with orders for all sources

	last    uint64 // id
	left    *site  // lost its name in this look-up, and gets another one
	of      Group  // of hosts there
	changed bool   // since it was saved, for more than times
	touched bool   // for times alone

	saving  sync.Mutex
	saved   time.Time
	written uint32 // number of the last writing of the file that succeeded
	writing uint32 // of the next one, from 1 on
}

// site is a set of addresses, or a provider. It has a name once it is the best set of a domain.
type site struct {
	id        uint64
	name      string
	was       string // name of the site that it was a part of, until orders about that hold here
	provider  string // queue
	source    netip.Addr
	addrs     []address // sorted
	hosts     []string  // the leader's first
	domains   []string
	leader    key    // group; 0: who is looked up next
	base      key    // of the leader's registrable domain; 0 without a leader
	led       uint32 // when the leader was looked up; seconds, as all times here
	used      uint32
	named     uint32 // number of the first writing of the file that has the name for it; 0: an earlier Book's
	strangers bool   // groups of other registrable domains are members
	gone      bool   // it is no site any more
	heir      *site  // where the members of one that is gone belong; nil: nowhere
}

// member is a group's place.
type member struct {
	site *site
	base key
	used uint32
}

// New returns a Book that is kept nowhere.
func New() *Book {
	return &Book{
		log: slog.New(slog.DiscardHandler), most: mostSites,
		sets: make(map[key]*site), groups: make(map[key]member), names: make(map[string]*site), numbers: make(map[string]int),
		sources: make(map[netip.Addr]bool), writing: 1,
	}
}

// Orders hears what orders about sites must follow. It is called before Site returns the
// name, so that they are in force before mail is sent; perhaps several times with the same.
type Orders interface {
	Moved(old, name string)  // the site that an earlier version called old
	Split(name, also string) // also was a part of a site that Pin has named, or has its mail now
	// Follow: also is a site of the same receiver for another source as one of which Pin was told
	// that an order holds for all sources.
	Follow(name, also string)
}

// Expect says who hears, and which names of earlier versions (Answer.Old) orders have.
// Nobody else gets one of these meanwhile.
func (b *Book) Expect(old []string, orders Orders) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.orders = orders
	b.expected = make(map[string]bool)
	for _, name := range old {
		b.expected[name] = true
	}
}

// Pin says which names orders are about: no others get them, however long the sites are not
// looked up, and the sites are not joined to others. Orders about those that are named
// everywhere, too, hold for the receiver's sites of all sources, whenever these get their first
// mail.
func (b *Book) Pin(names []string, everywhere ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pinned, b.everywhere = make(map[string]bool), make(map[string]bool)
	for _, name := range names {
		b.pinned[name] = true
	}
	for _, name := range everywhere {
		b.everywhere[name] = true
	}
}

// Site returns the name of a domain's site, and a word for the sets of all its groups: the
// same for two domains exactly if their hosts of each preference have the same sets. The
// name is "" if no host has an address.
func (b *Book) Site(now time.Time, a *Answer) (name, hosts string) {
	s, name, hosts, was, elsewhere, old := b.look(seconds(now), a)
	for _, other := range elsewhere {
		b.orders.Follow(other, name)
	}
	if s == nil || !old && was == "" {
		return name, hosts
	}
	if old {
		b.orders.Moved(a.Old, name)
	}
	if was != "" {
		b.orders.Split(was, name)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.was == was {
		s.was = ""
	}
	if old {
		delete(b.expected, a.Old)
	}
	return name, hosts
}

// look is Site. old says that orders have the site's name of an earlier version; was is the
// name of another site, orders about which are to hold for this one; of those elsewhere, the
// receiver's for other sources, orders that are for all sources.
func (b *Book) look(now uint32, a *Answer) (s *site, name, hosts, was string, elsewhere []string, old bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if most := 2 * (len(a.Groups) + 1); len(b.sets)+most > b.most || len(b.groups)+most > b.most*groupsPerSite {
		b.prune() // before any of what follows is held in hand
	}
	source := canonical(a.Source)
	until := b.until(source, a)
	var ids [64]byte
	list := ids[:0]
	var best *site
	var of *Group
	for i := range a.Groups {
		g := &a.Groups[i]
		s := b.group(now, source, g)
		if s == nil {
			continue
		}
		list = strconv.AppendUint(append(list, '#'), s.id, 36)
		if best == nil {
			best, of = s, g
		}
	}
	if b.left != nil { // at once, or a restart would not know it, nor what orders hold there
		others := *a
		others.Old = ""
		b.rename(b.left, &others, &b.of)
		b.left, b.of = nil, Group{}
	}
	if best == nil {
		return nil, "", "", "", nil, false
	}
	if a.Provider != "" {
		best = b.provider(now, source, a.Provider, of)
	}
	if best.was == "" {
		best.was = until
	}
	if best.name == "" || best.provider == "" && a.Queue != nil && a.Queue(best.name) {
		b.rename(best, a, of)
	}
	if len(best.domains) < mostDomains {
		best.domains = note(best.domains, a.Domain, mostDomains)
	}
	if !b.pinned[best.was] || b.orders == nil {
		best.was = ""
	}
	return best, best.name, string(list), best.was, b.elsewhere(best, of), b.expected[a.Old]
}

// elsewhere are the sites that a site's receiver has for other sources, of those with orders for
// all sources: by name, sorted. They have the same set, or had an answer with the same hosts, as the
// DNS may show each source a part of the set.
func (b *Book) elsewhere(s *site, of *Group) (names []string) {
	if len(b.everywhere) == 0 || b.orders == nil {
		return nil
	}
	for from := range b.sources {
		if from == s.source {
			continue
		}
		var found [2]*site
		if s.provider != "" {
			found[0] = b.sets[keyOf("provider", from, s.provider)]
		} else {
			found = [...]*site{b.sets[setKey(from, s.addrs)], b.member(from, of.Hosts...)}
		}
		for _, x := range found {
			if x != nil && b.everywhere[x.name] && !slices.Contains(names, x.name) {
				names = append(names, x.name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// until is the name of the site that an answer had until sources were configured, until
// they were no more, or until one was exchanged for another, if orders are about it: "" once it
// has been looked up since. Sites with a source and without are not in use at once, as the
// addresses of a set that a source fits favour one.
func (b *Book) until(source netip.Addr, a *Answer) (name string) {
	if b.orders == nil || len(b.pinned) == 0 || len(a.Groups) == 0 {
		return ""
	}
	at := func(from netip.Addr) *site {
		if a.Provider != "" {
			return b.sets[keyOf("provider", from, a.Provider)]
		}
		return b.member(from, a.Groups[0].Hosts...)
	}
	var since uint32
	if s := at(source); s != nil {
		since = s.used
	}
	for from := range b.sources {
		if from == source || from.IsValid() == source.IsValid() && slices.ContainsFunc(a.Sources, func(x netip.Addr) bool { return canonical(x) == from }) {
			continue
		}
		if s := at(from); s != nil && b.pinned[s.name] && s.used >= since {
			name, since = s.name, s.used
		}
	}
	return name
}

// provider is the site of a queue with MX patterns. Its addresses and hosts are some of a
// day, for Find.
func (b *Book) provider(now uint32, source netip.Addr, queue string, g *Group) *site {
	k := keyOf("provider", source, queue)
	s := b.sets[k]
	if s == nil {
		s = b.add(k, &site{provider: strings.Clone(queue), source: source})
	}
	s.used = now
	if set, ok := s.with(g.Addrs, now, true); !ok {
		s.addrs = set
		b.changed = true
	}
	s.noteHosts(g)
	return s
}

// group returns the set of a group; nil if it has none. The caller holds mu.
func (b *Book) group(now uint32, source netip.Addr, g *Group) *site {
	k := keyOf("group", source, g.Hosts...)
	m, known := b.groups[k]
	if known {
		m.site = m.follow()
	}
	if !known || m.site == nil {
		if len(g.Addrs) == 0 {
			return nil
		}
		return b.join(now, source, k, g, keyOf("base", netip.Addr{}, baseOf(g.Hosts)), nil, "")
	}
	s := m.site
	if len(g.Addrs) == 0 {
		if age(now, m.used) > day {
			return nil
		}
		s.used = now
		return s
	}
	if b.groups[k].site != s || age(now, m.used) > 60 {
		m.used = now
		b.groups[k] = m
	}
	s.used = now
	s.succeed(now, k, m.base, g)
	leads := s.leader == k
	set, ok := s.with(g.Addrs, now, leads)
	if leads {
		b.touched = b.touched || s.led != now
		s.led = now
	}
	switch {
	case ok:
		return s
	case leads:
		return b.lead(now, source, k, m, g, set)
	}
	s.hosts = without(s.hosts, g.Hosts)
	return b.join(now, source, k, g, m.base, set, s.name)
}

// succeed makes a group the leader of its site, if there is none any more.
func (s *site) succeed(now uint32, k, base key, g *Group) bool {
	if s.leader != 0 && (s.leader == k || base != s.base || age(now, s.led) <= day) {
		return false
	}
	s.leader, s.base, s.hosts = k, base, nil
	s.noteHosts(g)
	return true
}

// join brings a group to the site of its set, that of its answer if set is nil; was is the
// name of the site where it was before.
func (b *Book) join(now uint32, source netip.Addr, k key, g *Group, base key, set []address, was string) *site {
	if set == nil {
		set = union(nil, g.Addrs, now)
	}
	at := setKey(source, set)
	s := b.sets[at]
	if s == nil {
		s = b.add(at, &site{source: source, was: was, addrs: set, leader: k, base: base, led: now})
	}
	s.used = now
	if s.succeed(now, k, base, g) {
		s.addrs, s.led = set, now
	}
	s.strangers = s.strangers || base != s.base
	s.noteHosts(g)
	b.groups[k] = member{s, base, now}
	b.changed = true
	return s
}

// lead brings the leader of a site, or all of it, to another set.
func (b *Book) lead(now uint32, source netip.Addr, k key, m member, g *Group, set []address) *site {
	b.changed = true
	s, was, at := m.site, setKey(source, m.site.addrs), setKey(source, set)
	there := b.sets[at]
	apart, elder := false, false
	switch {
	case there == nil || there == s:
	case b.pinned[s.name]:
		apart = true
	case there.base == s.base && s.id < there.id && !b.pinned[there.name]:
		elder = true
	default:
		if s.strangers {
			s.leader, s.base, s.hosts = 0, 0, without(s.hosts, g.Hosts)
		} else {
			b.remove(s)
			s.heir = there
		}
		return b.join(now, source, k, g, m.base, set, "")
	}
	if s.strangers && was != at {
		left := s
		s = &site{id: left.id, name: left.name, source: source, domains: left.domains, leader: k, base: m.base, led: now, used: now}
		b.last++
		left.id, left.name, left.domains, left.leader, left.base = b.last, "", nil, 0, 0
		left.was, left.hosts = s.name, without(left.hosts, g.Hosts)
		s.noteHosts(g)
		if s.name != "" {
			b.names[s.name], s.named = s, b.writing
			b.left, b.of.Hosts = left, left.hosts
			if len(left.hosts) == 0 {
				b.of.Hosts = g.Hosts
			}
		}
		b.groups[k] = member{s, m.base, now}
	} else if b.sets[was] == s {
		delete(b.sets, was)
	}
	if elder {
		b.remove(there)
		there.heir = s // its set is the same, whoever is there
		s.strangers = s.strangers || there.strangers
	}
	s.addrs = set
	if !apart {
		b.sets[at] = s
	}
	return s
}

// follow is the site where a member belongs; nil if that is gone.
func (m *member) follow() *site {
	s := m.site
	for s != nil && s.gone {
		s = s.heir
	}
	return s
}

// add takes a site in.
func (b *Book) add(k key, s *site) *site {
	b.last++
	s.id = b.last
	b.sets[k] = s
	b.sources[s.source] = true
	b.changed = true
	return s
}

// remove takes a site out.
func (b *Book) remove(s *site) {
	s.gone = true
	if b.names[s.name] == s {
		delete(b.names, s.name)
	}
	if k := s.key(); b.sets[k] == s {
		delete(b.sets, k)
	}
	b.changed = true
}

func (s *site) key() key {
	if s.provider != "" {
		return keyOf("provider", s.source, s.provider)
	}
	return setKey(s.source, s.addrs)
}

// prune forgets sites, and groups, that were looked up longest ago, so that an eighth of the
// places is free; those that orders are about stay.
func (b *Book) prune() {
	clear(b.numbers)
	var used []uint32
	for _, s := range b.sets {
		if !b.pinned[s.name] {
			used = append(used, s.used)
		}
	}
	slices.Sort(used)
	left := b.most * 7 / 8
	if n := len(b.sets) - left; n > 0 && len(used) > 0 {
		oldest := used[min(n, len(used))-1]
		for _, s := range b.sets {
			if s.used <= oldest && !b.pinned[s.name] && len(b.sets) > left {
				b.remove(s)
			}
		}
	}
	for k, m := range b.groups {
		if m.follow() == nil {
			delete(b.groups, k)
		}
	}
	used, left = used[:0], b.most*groupsPerSite*7/8
	for k, m := range b.groups {
		if m.follow().leader != k {
			used = append(used, m.used)
		}
	}
	slices.Sort(used)
	if n := len(b.groups) - left; n > 0 && len(used) > 0 {
		oldest := used[min(n, len(used))-1]
		for k, m := range b.groups {
			if m.used <= oldest && m.follow().leader != k && len(b.groups) > left {
				delete(b.groups, k)
			}
		}
	}
}
