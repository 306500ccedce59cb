package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/sites"
)

const (
	// mostNamed is how many sites are named where several may be meant.
	mostNamed = 10
	// lookUpFor is how long the DNS may take to tell whose site a domain has. That of a domain
	// that had mail lately is in the cache.
	lookUpFor = 5 * time.Second
)

// site is the name of the site that a text means: its name, or a former one, an MX host, an
// address or a domain. The error lists the sites where several may be meant; it is
// control.ErrUnknown if there is none.
func (b *Backend) site(ctx context.Context, text string) (string, error) {
	book := b.settings.Now().Sites
	if book.Has(text) || b.isRelay(text) {
		return text, nil
	}
	found := book.Find(text)
	if len(found) == 0 || found[0].As == sites.Domain {
		switch names := b.sitesOfDomain(ctx, text); len(names) {
		case 0:
		case 1:
			return names[0], nil
		default:
			return "", severalSites{text, names, names}
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("site %s: %w", text, control.ErrUnknown)
	case 1:
		return found[0].Name, nil
	}
	several := severalSites{text: text}
	for i := range found {
		several.names = append(several.names, found[i].Name)
		several.words = append(several.words, inWords(&found[i]))
	}
	return "", several
}

// severalSites is the error that a text means one of some sites.
type severalSites struct {
	text  string
	names []string
	words []string // with which one knows them apart
}

func (s severalSites) Error() string {
	list := s.words
	if n := len(list) - mostNamed; n > 0 {
		list = append(slices.Clone(list[:mostNamed]), fmt.Sprintf("%d more", n))
	}
	return fmt.Sprintf("%s may mean several sites; remedy: name one of them: %s", s.text, strings.Join(list, ", "))
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
	return strings.HasPrefix(name, queue.RelayDomain("")) && b.queue.Why(name) != nil
}

// sitesOfDomain are the sites that mail for a domain waits for, several if it leaves from several
// addresses; if none does, that to which it would go, provided that the queue knows it.
func (b *Backend) sitesOfDomain(ctx context.Context, name string) (found []string) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if !strings.Contains(name, ".") || strings.ContainsAny(name, " ,;:/@") {
		return nil
	}
	if found = b.queue.SitesOf(name); found != nil {
		return found
	}
	ctx, cancel := context.WithTimeout(ctx, lookUpFor)
	defer cancel()
	rt, err := b.settings.Now().Route(ctx, name, true)
	if err != nil || b.queue.Why(rt.Site) == nil {
		return nil
	}
	return []string{rt.Site}
}

// siteOf is a filter with the name of the site that it means, for an order that lasts.
func (b *Backend) siteOf(ctx context.Context, f control.Filter) (control.Filter, error) {
	if f.Site == "" {
		return f, nil
	}
	name, err := b.keptSite(ctx, f.Site)
	if err == nil {
		f.Site = name
	}
	return f, err
}

// keptSite is site, with a name that is kept over a restart: an order is to be about it.
func (b *Backend) keptSite(ctx context.Context, text string) (string, error) {
	name, err := b.site(ctx, text)
	if err == nil {
		err = b.settings.Now().Sites.Save(time.Now(), true)
	}
	return name, err
}

// selected is a filter with the name of the site that it means, for what is done once. One
// that is not known selects nothing.
func (b *Backend) selected(ctx context.Context, f control.Filter) (control.Filter, error) {
	if f.Site == "" {
		return f, nil
	}
	switch name, err := b.site(ctx, f.Site); {
	case err == nil:
		f.Site = name
	case !errors.Is(err, control.ErrUnknown):
		return f, err
	}
	return f, nil
}

// FindSite implements control.Backend.
func (b *Backend) FindSite(ctx context.Context, text string) (control.SiteFound, error) {
	name, err := b.site(ctx, text)
	if several, ok := errors.AsType[severalSites](err); ok {
		return control.SiteFound{Several: several.names}, nil
	}
	if err != nil {
		return control.SiteFound{}, err
	}
	x := control.SiteFound{Name: name}
	for _, s := range b.settings.Now().Sites.Find(name) {
		x.Hosts, x.Domains = s.Hosts, s.Domains
		for _, a := range s.Addresses {
			x.Addresses = append(x.Addresses, a.String())
		}
		if s.Source.IsValid() {
			x.Source = s.Source.String()
		}
	}
	return x, nil
}
