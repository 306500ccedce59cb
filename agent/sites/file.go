package sites

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/durable"
)

const (
	// saveGap is the least time from one writing of the file to the next when sites have
	// come or changed; when all that is new is when they were looked up, restGap.
	saveGap = time.Minute
	restGap = time.Hour
	// savedGroups of a site are kept over a restart.
	savedGroups = 64
	version     = 1
)

// file is the Book on disk.
type file struct {
	Version int         `json:"version"`
	Sites   []savedSite `json:"sites"` // the elder first
}

type savedSite struct {
	Name      string         `json:"name"`
	Was       string         `json:"was,omitempty"` // orders about this site are to hold here
	Provider  string         `json:"provider,omitempty"`
	Source    netip.Addr     `json:"source,omitzero"`
	Addresses []savedAddress `json:"addresses"`
	Hosts     []string       `json:"hosts"`
	Domains   []string       `json:"domains,omitempty"`
	Leader    key            `json:"leader,omitempty"`
	Base      key            `json:"base,omitempty"`
	Led       uint32         `json:"led,omitempty"` // unix seconds, as all times here
	Used      uint32         `json:"used"`
	Strangers bool           `json:"strangers,omitempty"`
	Groups    []savedGroup   `json:"groups,omitempty"`
}

type savedAddress struct {
	Address netip.Addr `json:"address"`
	Seen    uint32     `json:"seen"`
}

type savedGroup struct {
	Group key    `json:"group"`
	Base  key    `json:"base"`
	Used  uint32 `json:"used"`
}

// Open returns the Book of a file, "" for none. A file that cannot be read is told to the log,
// and the Book begins anew: names come back as far as they are of registrable domains.
func Open(path string, log *slog.Logger, now time.Time) *Book {
	b := New()
	b.path, b.log, b.saved = path, log, now
	if path == "" {
		return b
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return b
	}
	var f file
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	if err == nil && f.Version != version {
		err = fmt.Errorf("version %d, not %d", f.Version, version)
	}
	if err == nil {
		err = b.restore(&f, seconds(now))
	}
	if err != nil {
		log.Error("the names of sites cannot be read; they are given anew", "file", path, "err", err)
		fresh := New()
		fresh.path, fresh.log, fresh.saved = path, log, now
		return fresh
	}
	return b
}

func (b *Book) restore(f *file, now uint32) error {
	for i := range f.Sites {
		x := &f.Sites[i]
		if len(x.Addresses) > mostAddresses || x.Name == "" || b.names[x.Name] != nil {
			return fmt.Errorf("site %d, %q, is none", i, x.Name)
		}
		if len(b.sets) >= b.most {
			return nil
		}
		s := &site{
			name: x.Name, was: x.Was, provider: x.Provider, source: canonical(x.Source), hosts: slices.Clip(x.Hosts), domains: slices.Clip(x.Domains),
			leader: x.Leader, base: x.Base, led: min(now, x.Led), used: min(now, x.Used), strangers: x.Strangers,
		}
		for _, a := range x.Addresses {
			s.addrs = append(s.addrs, address{canonical(a.Address).As16(), min(now, a.Seen)})
		}
		slices.SortFunc(s.addrs, func(a, b address) int { return compare(a, b.ip) })
		s.addrs = slices.Clip(s.addrs)
		b.last++
		s.id = b.last
		b.names[s.name] = s
		b.sources[s.source] = true
		if k := s.key(); b.sets[k] == nil {
			b.sets[k] = s
		}
		for _, g := range x.Groups {
			b.groups[g.Group] = member{s, g.Base, min(now, g.Used)}
		}
	}
	return nil
}

// Keep writes the file if one of the names is not in it yet. Whoever writes a file of his own
// that refers to sites calls it before: after a crash between the two a name is then known
// that nothing refers to, and none is given to another site that something refers to.
func (b *Book) Keep(now time.Time, names []string) error {
	for part := range slices.Chunk(names, atATime) {
		b.mu.Lock()
		known := !slices.ContainsFunc(part, func(name string) bool {
			s := b.names[name]
			return s != nil && s.named > b.written
		})
		b.mu.Unlock()
		if !known {
			return b.Save(now, true)
		}
	}
	return nil
}

// Save writes the file if something has changed, and it is time, or must be. On return
// it will outlive a crash. The lock is not held while it is written.
func (b *Book) Save(now time.Time, must bool) error {
	b.saving.Lock()
	defer b.saving.Unlock()
	b.mu.Lock()
	passed := now.Sub(b.saved)
	due := b.path != "" && (b.changed && (must || passed >= saveGap) || b.touched && passed >= restGap)
	if !due {
		b.mu.Unlock()
		return nil
	}
	b.changed, b.touched, b.saved = false, false, now
	number := b.writing
	b.writing++
	type placed struct {
		site   *site
		leads  bool
		member savedGroup
	}
	members := make([]placed, 0, len(b.groups))
	for k, m := range b.groups {
		if s := m.follow(); s != nil && s.name != "" {
			members = append(members, placed{s, k == s.leader, savedGroup{k, m.base, m.used}})
		}
	}
	b.mu.Unlock()
	groups := make(map[*site][]savedGroup, len(members))
	for _, m := range members {
		if list := groups[m.site]; len(list) < savedGroups || m.leads {
			groups[m.site] = append(list, m.member)
		}
	}
	f := file{Version: version}
	b.each(func(s *site) { f.Sites = append(f.Sites, s.save(groups[s])) })
	text, err := json.Marshal(f)
	if err == nil {
		err = durable.Replace(b.path, append(text, '\n'))
	}
	if err != nil {
		b.mu.Lock()
		b.changed = true
		b.mu.Unlock()
		return fmt.Errorf("the names of sites: %w", err)
	}
	b.mu.Lock()
	b.written = number
	b.mu.Unlock()
	return nil
}

func (s *site) save(groups []savedGroup) savedSite {
	x := savedSite{
		Name: s.name, Was: s.was, Provider: s.provider, Source: s.source, Hosts: s.hosts, Domains: s.domains,
		Leader: s.leader, Base: s.base, Led: s.led, Used: s.used, Strangers: s.strangers, Groups: groups,
	}
	for _, a := range s.addrs {
		x.Addresses = append(x.Addresses, savedAddress{a.addr(), a.seen})
	}
	return x
}
