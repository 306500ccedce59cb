package sites

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// MaxName bounds a name in octets. That of a provider is its queue's, however long.
const MaxName = 64

// baseOf is the registrable domain of a group's first host, or its address.
func baseOf(hosts []string) string {
	if len(hosts) == 0 {
		return ""
	}
	if _, err := netip.ParseAddr(hosts[0]); err == nil {
		return hosts[0]
	}
	base, err := publicsuffix.EffectiveTLDPlusOne(hosts[0])
	if err != nil { // a name that is a public suffix itself
		base = hosts[0]
	}
	return base
}

// Base is what the name of a group's site begins with, before it is made to differ from others:
// the same on every host that has the same answer of the DNS.
func Base(hosts []string) string {
	if base := plain(baseOf(hosts)); base != "" {
		return base
	}
	return "site"
}

// plain has nothing in it that would have to be quoted, and begins with a letter or digit.
func plain(name string) string {
	return strings.TrimLeft(strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '.', r == ':', r == '-':
			return r
		}
		return '-'
	}, strings.ToLower(name)), "-.:")
}

// rename gives a site a name that no other has, in place of one that a queue has got
// meanwhile.
func (b *Book) rename(s *site, a *Answer, of *Group) {
	if s.name != "" {
		delete(b.names, s.name)
		s.was = s.name
	}
	base, from := s.provider, ""
	if s.provider == "" {
		base = Base(of.Hosts)
	}
	if a.Several && a.Source.IsValid() {
		from = ":" + canonical(a.Source).String()
	}
	if a.Alike && from != "" {
		stem := b.sibling(s, of)
		if name := stem + from; stem != "" && len(name) <= MaxName && b.names[name] == nil && (!b.expected[name] || name == a.Old) {
			s.name, s.named = name, b.writing
			b.names[name] = s
			b.changed = true
			return
		}
	}
	for n := max(1, b.numbers[base]); ; n++ {
		number := ""
		if n > 1 {
			number = "-" + strconv.Itoa(n)
		}
		name := base + number + from
		if s.provider == "" {
			name = strings.TrimRight(base[:min(len(base), MaxName-len(number)-len(from))], "-.:") + number + from
			if a.Queue != nil && a.Queue(strings.TrimSuffix(name, from)) {
				continue
			}
		}
		if b.names[name] == nil && (!b.expected[name] || name == a.Old) {
			s.name, s.named = name, b.writing
			b.names[name] = s
			b.changed = true
			if n > 8 {
				b.numbers[base] = n
			}
			return
		}
	}
}

// sibling is the name, without its source, of a site that has the same hosts called from another
// source: the two are one receiver, and their names say so. It is "" if there is none.
func (b *Book) sibling(s *site, of *Group) (stem string) {
	for from := range b.sources {
		if from == s.source || s.provider != "" {
			continue
		}
		x := b.sets[setKey(from, s.addrs)]
		if x == nil || x.provider != "" {
			x = b.member(from, of.Hosts...)
		}
		if x == nil || x.provider != "" {
			continue
		}
		if name := strings.TrimSuffix(x.name, ":"+from.String()); stem == "" || name != "" && name < stem {
			stem = name
		}
	}
	return stem
}

// note adds a name to some that are known.
func note(list []string, name string, most int) []string {
	if name == "" || len(list) >= most || slices.Contains(list, name) {
		return list
	}
	return append(slices.Clip(list), strings.Clone(name))
}

// without is a list without some names.
func without(list, names []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(x string) bool { return slices.Contains(names, x) })
}

func (s *site) noteHosts(g *Group) {
	if len(s.hosts) == 0 {
		s.hosts = make([]string, len(g.Hosts)) // the leader's, all
		for i, h := range g.Hosts {
			s.hosts[i] = strings.Clone(h)
		}
		return
	}
	for _, h := range g.Hosts {
		s.hosts = note(s.hosts, h, mostHosts)
	}
}
