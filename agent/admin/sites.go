package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/sites"
)

const (
	// mostNamed is how many sites are named where several may be meant.
	mostNamed = 10
	// lookUpFor is how long the DNS may take to tell whose site a domain has. That of a domain
	// that had mail lately is in the cache.
	lookUpFor = 5 * time.Second
)

// meant are the sites that a text means: the one of that name, or a former one; or else those of an
// MX host, an address or a domain, which are one receiver, that has a site for each of our addresses
// that it is called from. The error lists the sites where they are not one; it is
// control.ErrUnknown if there is none.
func (b *Backend) meant(ctx context.Context, text string) (names []string, err error) {
	list, _, err := b.find(ctx, text)
	for i := range list {
		names = append(names, list[i].Name)
	}
	return names, err
}

// find is meant, and says whether the text is a domain.
func (b *Backend) find(ctx context.Context, text string) (found []sites.Info, ofDomain bool, err error) {
	book := b.settings.Now().Sites
	if text == settings.HandbackQueue { // as the queue is called, which has one site
		if names := b.queue.QueueSites(text); len(names) > 0 && b.queue.HasSite(names[0]) {
			return b.infos(names[:1]), false, nil
		}
	}
	if book.Has(text) || b.isRelay(text) {
		return b.infos([]string{text}), len(b.queue.SitesOf(plainDomain(text))) > 0, nil
	}
	found = book.Find(text)
	if len(found) == 0 || found[0].As == sites.Domain {
		if names := b.sitesOfDomain(ctx, text); names != nil {
			found, ofDomain = b.infos(names), true
		}
		ofDomain = ofDomain || len(found) > 0
	}
	if !b.anyQueued(found) { // the Book knows hosts and addresses of the best preference, with no port
		if names := b.sitesAt(ctx, text); names != nil {
			found = b.infos(names)
		}
	}
	if len(found) == 0 {
		return nil, false, fmt.Errorf("site %s: %w", text, control.ErrUnknown)
	}
	if found[0].As == sites.FormerName {
		return found[:1], false, nil
	}
	if !oneReceiver(found, ofDomain) {
		several := severalSites{text: text}
		for i := range found {
			several.names = append(several.names, found[i].Name)
			several.words = append(several.words, inWords(&found[i]))
		}
		return nil, ofDomain, several
	}
	for _, x := range book.Siblings(&found[0]) {
		if !x.Source.IsValid() || !found[0].Source.IsValid() {
			continue // they are not in use at once
		}
		if !slices.ContainsFunc(found, func(y sites.Info) bool { return y.Source == x.Source }) {
			found = append(found, x)
		}
	}
	slices.SortFunc(found, func(x, y sites.Info) int { return cmp.Compare(x.Name, y.Name) })
	return found, ofDomain, nil
}

// oneReceiver says whether sites are one receiver, called from several addresses of ours. Those of
// one domain are, even if the DNS has not said the same to all of them.
func oneReceiver(list []sites.Info, ofDomain bool) bool {
	from := make(map[netip.Addr]bool)
	for i := range list {
		x := &list[i]
		if from[x.Source] || i > 0 && !ofDomain && !x.IsSibling(&list[0]) {
			return false
		}
		from[x.Source] = true
	}
	return true
}

// infos is what is known of sites by their names. A relay's is in no Book.
func (b *Backend) infos(names []string) (list []sites.Info) {
	book := b.settings.Now().Sites
	for _, name := range names {
		if book.Has(name) { // else Find would look at all sites
			list = append(list, book.Find(name)...)
			continue
		}
		list = append(list, sites.Info{Name: name})
	}
	return list
}

// severalSites is the error that a text means one of some sites, of receivers that differ.
type severalSites struct {
	text  string
	names []string
	words []string // with which one knows them apart
}

func (s severalSites) Error() string {
	return fmt.Sprintf("%s may mean several sites, of different receivers; remedy: name one of them: %s", s.text, listed(s.words))
}

// listed names some of many.
func listed(list []string) string {
	if n := len(list) - mostNamed; n > 0 {
		list = append(slices.Clone(list[:mostNamed]), fmt.Sprintf("%d more", n))
	}
	return strings.Join(list, ", ")
}

// inWords tells a site from others.
func inWords(x *sites.Info) string {
	s := x.Name
	if len(x.Domains) > 0 {
		s += " (of " + strings.Join(x.Domains, ", ") + ")"
	}
	return s
}

// isRelay says whether the queue has a site of the name that is a relay's. Those are in no
// Book.
func (b *Backend) isRelay(name string) bool {
	return strings.HasPrefix(name, queue.RelayDomain("")) && b.queue.HasSite(name)
}

// anyQueued says whether the queue has one of some sites.
func (b *Backend) anyQueued(list []sites.Info) bool {
	return slices.ContainsFunc(list, func(x sites.Info) bool { return b.queue.HasSite(x.Name) })
}

// sitesOfDomain are the sites that mail for a domain waits for, several if it leaves from several
// addresses; if none does, that to which it would go, provided that the queue knows it.
func (b *Backend) sitesOfDomain(ctx context.Context, name string) (found []string) {
	name = plainDomain(name)
	if !isDomain(name) {
		return nil
	}
	if found = b.queue.SitesOf(name); found != nil {
		return found
	}
	ctx, cancel := context.WithTimeout(ctx, lookUpFor)
	defer cancel()
	rt, err := b.settings.Now().Ask(ctx, name)
	if err != nil || !b.queue.HasSite(rt.Site) {
		return nil
	}
	return []string{rt.Site}
}

// sitesAt are the sites in the queue that have a host or an address, of whatever preference.
func (b *Backend) sitesAt(ctx context.Context, text string) (names []string) {
	if at := addressOf(text); at.IsValid() {
		return b.queue.SitesAt(at)
	}
	name := plainDomain(text)
	if !isDomain(name) {
		return nil
	}
	if names = b.queue.SitesOn(name); len(names) > 0 {
		return names
	}
	// A name with addresses of its own and no MX is a host.
	ctx, cancel := context.WithTimeout(ctx, lookUpFor)
	defer cancel()
	rt, err := b.settings.Now().Ask(ctx, name)
	if err != nil || rt.Plan == nil || len(rt.Plan.Hosts) != 1 || rt.Plan.Hosts[0].Name != name {
		return nil
	}
	for _, a := range rt.Plan.Hosts[0].Addrs {
		for _, x := range b.queue.SitesAt(netip.AddrPortFrom(a.Unmap(), 0)) {
			if !slices.Contains(names, x) {
				names = append(names, x)
			}
		}
	}
	return names
}

// isDomain says whether a text may name a domain or a host: an address does not.
func isDomain(name string) bool {
	return strings.Contains(name, ".") && !strings.ContainsAny(name, " ,;:/@") && !addressOf(name).IsValid()
}

// addressOf reads an address as listings have it, or as a literal, with a port or without.
func addressOf(text string) netip.AddrPort {
	if a, err := netip.ParseAddrPort(text); err == nil {
		return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	a, err := netip.ParseAddr(strings.TrimPrefix(strings.Trim(strings.ToLower(text), "[]"), "ipv6:"))
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Unmap(), 0)
}

// plainDomain is a domain as the queue has it.
func plainDomain(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// ofSites is a filter for each site that it means, for an order that lasts, and the receiver that
// they are of (keptSites).
func (b *Backend) ofSites(ctx context.Context, f control.Filter) (list []control.Filter, receiver string, err error) {
	if f.Site == "" {
		return []control.Filter{f}, "", nil
	}
	names, receiver, err := b.keptSites(ctx, f.Site)
	for _, f.Site = range names {
		list = append(list, f)
	}
	return list, receiver, err
}

// keptSites is meant, with names that are kept over a restart: an order is to be about them. Unless
// the text is the name of one source's site, or of a relay's, the order is about a receiver, as the
// text has it: about all of its sites that are known, in use now or not, and about those to come
// (control.Pause.Receiver).
func (b *Backend) keptSites(ctx context.Context, text string) (names []string, receiver string, err error) {
	found, _, err := b.find(ctx, text)
	if err != nil {
		return nil, "", err
	}
	book := b.settings.Now().Sites
	if x := &found[0]; book.Has(x.Name) && (x.As != sites.FormerName && !strings.EqualFold(strings.TrimSuffix(text, "."), x.Name) || !x.NamesSource()) {
		receiver = text
	}
	for i := range found {
		names = append(names, found[i].Name)
		if receiver == "" {
			continue
		}
		for _, x := range book.Siblings(&found[i]) {
			if !slices.Contains(names, x.Name) {
				names = append(names, x.Name)
			}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return names, receiver, book.Save(time.Now(), true)
}

// follow has an order for a receiver, about one of its sites, hold for those of its sites, too, that
// have come since they were asked for: before the Book knew of the order.
func (b *Backend) follow(name string) {
	book := b.settings.Now().Sites
	for _, x := range b.infos([]string{name}) {
		for _, y := range book.Siblings(&x) {
			b.orders.Follow(name, y.Name)
		}
	}
}

// selection selects what a filter does now, at each site that it means, for what is done once. One
// that is not known selects nothing.
func (b *Backend) selection(ctx context.Context, f control.Filter) (*orders.Selection, error) {
	s := orders.NewSelection(b.store, f)
	if f.Site == "" {
		return s, nil
	}
	names, err := b.meant(ctx, f.Site)
	if err != nil && !errors.Is(err, control.ErrUnknown) {
		return nil, err
	}
	s.Sites = names
	return s, nil
}

// FindSite implements control.Backend.
func (b *Backend) FindSite(ctx context.Context, text string) (control.SiteFound, error) {
	found, ofDomain, err := b.find(ctx, text)
	if several, ok := errors.AsType[severalSites](err); ok {
		return control.SiteFound{Several: several.names}, nil
	}
	if err != nil {
		return control.SiteFound{}, err
	}
	x := control.SiteFound{}
	if ofDomain {
		x.Others = b.others(found, plainDomain(text))
	}
	if len(found) > 1 {
		for i := range found {
			x.Several = append(x.Several, found[i].Name)
		}
		return x, nil
	}
	s := &found[0]
	x.Name, x.Hosts, x.Domains = s.Name, s.Hosts, s.Domains
	for _, a := range s.Addresses {
		x.Addresses = append(x.Addresses, a.String())
	}
	if s.Source.IsValid() {
		x.Source = s.Source.String()
	}
	return x, nil
}

// others is how many domains are known to have some sites, beside one.
func (b *Backend) others(list []sites.Info, domain string) int {
	all := map[string]bool{domain: true}
	var names []string
	for i := range list {
		names = append(names, list[i].Name)
		for _, x := range list[i].Domains {
			all[x] = true
		}
	}
	b.queue.DomainsAt(names, func(x string) { all[x] = true })
	return len(all) - 1
}
