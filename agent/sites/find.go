package sites

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Info is what is known of a site.
type Info struct {
	Name      string
	Provider  bool
	Source    netip.Addr // zero: the kernel's choice
	Hosts     []string   // some, best preference only
	Addresses []netip.Addr
	Domains   []string // a few
	As        As       // what Find's text is to it
}

// As is what a text is to a site.
type As uint8

// The kinds.
const (
	Name As = iota
	FormerName
	Host
	Address
	Domain
)

// Has says whether a site has the name.
func (b *Book) Has(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.names[name] != nil
}

// Known returns what Site would, of sites that have a name already: a question leaves nothing
// behind. The name is "" if the answer would make a new site.
func (b *Book) Known(now time.Time, a *Answer) (name, hosts string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	source := canonical(a.Source)
	if a.Provider != "" {
		if s := b.sets[keyOf("provider", source, a.Provider)]; s != nil {
			name = s.name
		}
		return name, ""
	}
	for i := range a.Groups {
		g := &a.Groups[i]
		if m, ok := b.groups[keyOf("group", source, g.Hosts...)]; ok && (len(g.Addrs) > 0 || age(seconds(now), m.used) <= day) {
			if s := m.follow(); s != nil {
				return s.name, ""
			}
		}
		if len(g.Addrs) == 0 {
			continue
		}
		if s := b.sets[setKey(source, union(nil, g.Addrs, 0))]; s != nil {
			name = s.name
		}
		return name, ""
	}
	return "", ""
}

// Find returns the sites that a text may mean, by name: the one that is called so; else
// the one that an earlier version called so (Answer.Old); else those that have a host or an
// address, or else a domain, of the name. It looks at all sites.
func (b *Book) Find(text string) []Info {
	lower := strings.ToLower(strings.TrimSuffix(text, "."))
	if x, ok := b.called(text, lower); ok {
		return []Info{x}
	}
	text = lower
	ip, err := netip.ParseAddr(strings.TrimPrefix(strings.Trim(text, "[]"), "ipv6:"))
	ip = canonical(ip)
	var list, domains, siblings []Info
	sources := make(map[netip.Addr]bool)
	b.each(func(s *site) {
		sources[s.source] = true
		_, in := slices.BinarySearchFunc(s.addrs, ip.As16(), compare)
		switch {
		case err == nil && in:
			list = append(list, s.info(Address))
		case slices.Contains(s.hosts, text):
			list = append(list, s.info(Host))
		case slices.Contains(s.domains, text):
			domains = append(domains, s.info(Domain))
		case s.source.IsValid() && s.name == text+":"+s.source.String():
			siblings = append(siblings, s.info(Name))
		}
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	for from := range sources { // hosts are many more than a site lists
		if s := b.member(from, text); s != nil && !slices.ContainsFunc(list, func(x Info) bool { return x.Name == s.name }) {
			list = append(list, s.info(Host))
		}
	}
	if len(list) == 0 {
		list = domains
	}
	if len(list) == 0 { // one receiver, called from several addresses
		list = siblings
	}
	slices.SortFunc(list, func(a, b Info) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// IsSibling says whether two sites are one receiver, called from two addresses of ours: they have
// the same addresses, or the same name but for the source and, as the DNS may answer with some of
// many, one address at least.
func (x *Info) IsSibling(y *Info) bool {
	if x.Source == y.Source || x.Provider != y.Provider {
		return false
	}
	alike := x.stem() == y.stem()
	if x.Provider {
		return alike
	}
	return slices.Equal(x.Addresses, y.Addresses) && len(x.Addresses) > 0 ||
		alike && slices.ContainsFunc(x.Addresses, func(a netip.Addr) bool { return slices.Contains(y.Addresses, a) })
}

// NamesSource says whether the name is that of one source's site, not what a receiver is called.
func (x *Info) NamesSource() bool { return x.stem() != x.Name }

// stem is a name without the source.
func (x *Info) stem() string { return strings.TrimSuffix(x.Name, ":"+x.Source.String()) }

// Siblings returns the sites of the same receiver that it has for other sources, in no order, that
// of the kernel's choice among them. It looks at all sites.
func (b *Book) Siblings(x *Info) (list []Info) {
	b.each(func(s *site) {
		if s.source == x.Source || (s.provider != "") != x.Provider {
			return
		}
		if y := s.info(Name); y.IsSibling(x) {
			list = append(list, y)
		}
	})
	return list
}

// called is the site that has one of the names, or had the last.
func (b *Book) called(names ...string) (Info, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range names {
		if s := b.names[name]; s != nil {
			return s.info(Name), true
		}
	}
	if s := b.former(names[len(names)-1]); s != nil {
		return s.info(FormerName), true
	}
	return Info{}, false
}

// atATime sites are looked at under the lock.
const atATime = 1000

// each calls f for all sites that have a name, the elder first, under the lock, which is
// given up now and then.
func (b *Book) each(f func(*site)) {
	type elder struct {
		*site
		id uint64
	}
	b.mu.Lock()
	all := make([]elder, 0, len(b.names))
	for _, s := range b.names {
		all = append(all, elder{s, s.id})
	}
	b.mu.Unlock()
	slices.SortFunc(all, func(a, b elder) int { return cmp.Compare(a.id, b.id) })
	for part := range slices.Chunk(all, atATime) {
		b.mu.Lock()
		for _, s := range part {
			if b.names[s.name] == s.site {
				f(s.site)
			}
		}
		b.mu.Unlock()
	}
}

// former is the site that was called by all MX hosts of its domains, those of equal
// preference joined by commas, the worse after a semicolon, and its source after " from ".
func (b *Book) former(text string) *site {
	hosts, from, _ := strings.Cut(text, " from ")
	source, err := netip.ParseAddr(from)
	if from != "" && err != nil {
		return nil
	}
	source = canonical(source)
	if s := b.sets[keyOf("provider", source, hosts)]; s != nil {
		return s
	}
	if from == "" && !strings.ContainsAny(hosts, ",;") {
		return nil // the name of a host, which several sites may have
	}
	for set := range strings.SplitSeq(hosts, ";") {
		if s := b.member(source, strings.Split(set, ",")...); s != nil {
			return s
		}
	}
	return nil
}

// member is the site with a name of a group.
func (b *Book) member(source netip.Addr, hosts ...string) *site {
	m := b.groups[keyOf("group", source, hosts...)]
	if s := m.follow(); s != nil && s.name != "" {
		return s
	}
	return nil
}

func (s *site) info(as As) Info {
	x := Info{Name: s.name, Provider: s.provider != "", Source: s.source, Hosts: slices.Clone(s.hosts), Domains: slices.Clone(s.domains), As: as}
	for i := range s.addrs {
		x.Addresses = append(x.Addresses, s.addrs[i].addr())
	}
	return x
}
