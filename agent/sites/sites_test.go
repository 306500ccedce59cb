package sites

import (
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var start = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// world is a Book and its clock.
type world struct {
	*Book
	t   *testing.T
	now time.Time
}

func newWorld(t *testing.T) *world { return &world{New(), t, start} }

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// tier is hosts of one preference, "mx1.example.net mx2.example.net", and their addresses.
func tier(hosts string, list ...string) Group { return Group{strings.Fields(hosts), addrs(list...)} }

func (w *world) answer(domain string, groups ...Group) Answer {
	var old []string
	for _, g := range groups {
		old = append(old, strings.Join(g.Hosts, ","))
	}
	return Answer{Domain: domain, Groups: groups, Old: strings.Join(old, ";")}
}

func (w *world) site(domain string, groups ...Group) string {
	w.t.Helper()
	a := w.answer(domain, groups...)
	name, _ := w.Site(w.now, &a)
	if name == "" || len(name) > MaxName || plain(name) != name {
		w.t.Fatalf("%s: the site's name is %q", domain, name)
	}
	return name
}

func (w *world) want(name, domain string, groups ...Group) {
	w.t.Helper()
	if got := w.site(domain, groups...); got != name {
		w.t.Errorf("%s: site %q, not %q", domain, got, name)
	}
}

func (w *world) pass(d time.Duration) { w.now = w.now.Add(d) }

// Names, and what they are made of, say nothing of whose a host is: the addresses do.
func TestSitesAreSetsOfAddresses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 200 {
		w.want("d0.test", fmt.Sprintf("d%d.test", i), tier(fmt.Sprintf("mail.d%d.test", i), "192.0.2.1"))
	}
	w.want("d0.test", "mapped.test", tier("mail.mapped.test", "::ffff:192.0.2.1"))
	w.want("d0.test", "nat64.test", tier("mail.nat64.test", "64:ff9b::c000:201"))
	w.want("d0.test", "[192.0.2.1]", tier("192.0.2.1", "192.0.2.1"))
	w.want("two.test", "two.test", tier("mx.two.test", "192.0.2.1", "192.0.2.2"))

	all := make(map[string]bool)
	for i := range 1000 {
		name := w.site(fmt.Sprintf("p%d.test", i), tier(fmt.Sprintf("mx.p%d.test", i), fmt.Sprintf("10.1.%d.%d", i/250, i%250)), tier("backup.example", "192.0.2.99"))
		all[name] = true
	}
	if len(all) != 1000 {
		t.Errorf("1000 domains with a common backup are %d sites", len(all))
	}
}

func TestSiteKeepsItsNameWhileDNSRotates(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rng := rand.New(rand.NewPCG(1, 2))
	pool := make([]string, 100) // more than a set has
	for i := range pool {
		pool[i] = fmt.Sprintf("198.51.100.%d", i)
	}
	first, last := map[string]string{}, map[string]string{}
	own := map[string]bool{}
	for step := range 400 {
		size := 16
		if step >= 300 {
			size = len(pool)
		}
		few := func() []string {
			var list []string
			for _, i := range rng.Perm(size)[:4] {
				list = append(list, pool[i])
			}
			return list
		}
		for _, d := range []string{"a.test", "b.test"} {
			name := w.site(d, tier("mx1.big.example mx2.big.example", few()...))
			if first[d] == "" {
				first[d] = name
			}
			last[d] = name
			w.want(first[d], d, tier("mx1.big.example mx2.big.example"))
		}
		name := w.site("tenant.test", tier("tenant.mail.big.example", few()...)) // a host of its own in the same pool
		if step > 100 && step < 300 {
			own[name] = true
		}
		w.pass(20 * time.Minute)
	}
	if first["a.test"] != "big.example" || !maps.Equal(first, last) || first["a.test"] != first["b.test"] {
		t.Errorf("at first %v, at last %v", first, last)
	}
	if len(own) != 1 || !own["big.example"] {
		t.Errorf("a tenant of the pool is at %v", own)
	}
	if n := len(w.names["big.example"].addrs); n != mostAddresses {
		t.Errorf("%d addresses are known", n)
	}
}

// What was in no answer for a day is no part of the set, and the name stays.
func TestAddressesThatAreGoneLeaveTheSet(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want("moves.test", "a.test", tier("mx.moves.test", "192.0.2.1", "192.0.2.2"))
	w.want("there.test", "b.test", tier("mx.there.test", "192.0.2.3"))
	for range 30 {
		w.pass(time.Hour)
		w.want("moves.test", "a.test", tier("mx.moves.test", "192.0.2.2"))
	}
	w.want("moves.test", "c.test", tier("mx.other.test", "192.0.2.2"))
	for range 30 {
		w.pass(time.Hour)
		w.site("a.test", tier("mx.moves.test", "192.0.2.3"))
	}
	w.want("there.test", "a.test", tier("mx.moves.test", "192.0.2.3"))
	w.pass(48 * time.Hour) // nobody asks: all that is old goes
	w.want("there.test", "b.test", tier("mx.there.test", "192.0.2.77"))
}

// Whoever lists a receiver's addresses among others shares no site with it, whoever came
// first, and whatever was listed before.
func TestStrangersZoneJoinsNoSite(t *testing.T) {
	t.Parallel()
	victim := tier("mx.victim.example", "192.0.2.1", "192.0.2.2")
	for _, before := range []bool{false, true} {
		w := newWorld(t)
		if before {
			w.want("victim.example", "victim.example", victim)
		}
		evil := func(i int, list ...string) string {
			return w.site(fmt.Sprintf("evil%d.test", i), tier(fmt.Sprintf("mx.evil%d.test", i), list...))
		}
		seen := make(map[string]bool)
		for i := range 50 {
			seen[evil(i, "192.0.2.1", "192.0.2.2", fmt.Sprintf("203.0.113.%d", i))] = true
			seen[evil(i+50, "192.0.2.1")] = true
			evil(i+100, "192.0.2.1", "192.0.2.2")                                 // a customer, for now
			seen[evil(i+100, "192.0.2.1", "192.0.2.2", "203.0.113.200")] = true   // not any more
			seen[evil(i+150, "192.0.2.1", "198.51.100.1", "198.51.100.2")] = true // of several victims
		}
		name := w.site("victim.example", victim)
		if seen[name] || before && name != "victim.example" {
			t.Errorf("the victim is at %s, before %v", name, before)
		}
		for range 5 { // it stays there
			w.pass(10 * time.Hour)
			evil(100, "192.0.2.1", "192.0.2.2")
			evil(100, "192.0.2.1", "192.0.2.2", "203.0.113.201")
			w.want(name, "victim.example", victim)
		}
		w.want(name, "another.example", tier("mx.another.example", "192.0.2.1", "192.0.2.2"))
	}
}

// Who was there first and lists more later goes away with the name that is his, and leaves
// the others what is theirs.
func TestStrangerWhoWasFirstLeavesAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	victim := tier("mx.victim.example", "192.0.2.1", "192.0.2.2")
	w.want("evil.test", "evil.test", tier("mx.evil.test", "192.0.2.1", "192.0.2.2"))
	w.want("evil.test", "victim.example", victim) // for lack of a better name
	w.want("evil.test", "evil.test", tier("mx.evil.test", "192.0.2.1", "203.0.113.1"))
	w.want("victim.example", "victim.example", victim)
	w.want("victim.example", "other.example", tier("mx.other.example", "192.0.2.1", "192.0.2.2"))
	if got := w.Find("192.0.2.2"); len(got) != 2 || len(w.Find("203.0.113.1")) != 1 {
		t.Errorf("%+v", got)
	}
	if got := w.Find("mx.victim.example"); len(got) != 1 || got[0].Name != "victim.example" {
		t.Errorf("%+v", got)
	}
	if got := w.Find("mx.evil.test"); len(got) != 1 || got[0].Name != "evil.test" {
		t.Errorf("%+v", got)
	}
	// The set of the victim grows by its own answers.
	w.want("victim.example", "victim.example", tier("mx.victim.example", "192.0.2.3"))
	w.want("evil.test", "evil.test", tier("mx.evil.test", "192.0.2.1"))
}

// Of two sites of one registrable domain that turn out to be one the elder stays.
func TestTheElderOfKinStays(t *testing.T) {
	t.Parallel()
	for _, again := range []bool{false, true} {
		w := newWorld(t)
		for i := range 9 { // others, so that chance does not put the elder first
			w.site("x.test", tier(fmt.Sprintf("mx.x%d.test", i), fmt.Sprintf("203.0.113.%d", i)))
		}
		w.want("big.example", "a.test", tier("a.mail.big.example", "192.0.2.1", "192.0.2.2"))
		w.want("big.example-2", "b.test", tier("b.mail.big.example", "192.0.2.1", "192.0.2.2", "192.0.2.3"))
		if again {
			w.restart(filepath.Join(t.TempDir(), "sites.json"))
		}
		w.want("big.example", "a.test", tier("a.mail.big.example", "192.0.2.3", "192.0.2.1"))
		w.want("big.example", "b.test", tier("b.mail.big.example", "192.0.2.2"))
	}
}

func TestNamesAreShortAndUnique(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want("example.net", "a.test", tier("mx.a.example.net", "192.0.2.1"))
	w.want("example.net-2", "b.test", tier("mx.b.example.net", "192.0.2.2"))
	w.want("example.co.uk", "c.test", tier("mx.b.example.co.uk", "192.0.2.3"))
	w.want("192.0.2.4", "[192.0.2.4]", tier("192.0.2.4", "192.0.2.4"))
	w.want("2001:db8::1", "[IPv6:2001:db8::1]", tier("2001:db8::1", "2001:db8::1"))
	w.want("m-x", "d.test", tier("m_x", "192.0.2.5"))
	long := strings.Repeat("x", 63)
	for i := range 3 {
		w.site("e.test", tier(fmt.Sprintf("mx%d.%s.example", i, long), fmt.Sprintf("192.0.2.%d", 10+i)))
	}
	sources := func(from string) string {
		a := w.answer("f.test", tier("mx.many.example", "192.0.2.20"))
		a.Source, a.Several = netip.MustParseAddr(from), true
		name, _ := w.Site(w.now, &a)
		return name
	}
	if a, b := sources("198.51.100.1"), sources("2001:db8::2"); a != "many.example:198.51.100.1" || b != "many.example:2001:db8::2" {
		t.Errorf("with sources: %s, %s", a, b)
	}
	// The name of a queue is the queue's.
	queues := []string{"taken.example"}
	a := w.answer("g.test", tier("mx.taken.example", "192.0.2.30"))
	a.Queue = func(name string) bool { return slices.Contains(queues, name) }
	if name, _ := w.Site(w.now, &a); name != "taken.example-2" {
		t.Errorf("beside a queue of the name: %s", name)
	}
	queues = append(queues, "taken.example-2")
	if name, _ := w.Site(w.now, &a); name != "taken.example-3" {
		t.Errorf("when a queue has got the name: %s", name)
	}
}

func TestProviderIsOneSiteForASource(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 9 {
		a := w.answer("d.test", tier(fmt.Sprintf("mx%d.google.example", i), fmt.Sprintf("192.0.2.%d", i)))
		a.Provider = "google"
		name, hosts := w.Site(w.now, &a)
		if name != "google" || hosts == "" {
			t.Fatalf("%q, %q", name, hosts)
		}
		a.Source, a.Several = netip.MustParseAddr("198.51.100.1"), true
		if name, _ := w.Site(w.now, &a); name != "google:198.51.100.1" {
			t.Fatal(name)
		}
	}
	if len(w.names) != 2 {
		t.Errorf("names: %v", slices.Collect(maps.Keys(w.names)))
	}
}

// Domains share sessions where all their hosts have the same addresses.
func TestSetsOfAllPreferencesAreTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	hosts := func(domain string, groups ...Group) string {
		a := w.answer(domain, groups...)
		_, hosts := w.Site(w.now, &a)
		return hosts
	}
	one := hosts("a.test", tier("mx.a.test", "192.0.2.1"), tier("b1.a.test", "192.0.2.9"))
	if two := hosts("b.test", tier("mx.b.test", "192.0.2.1"), tier("b1.b.test", "192.0.2.9")); two != one {
		t.Errorf("the same addresses: %s, %s", one, two)
	}
	if two := hosts("c.test", tier("mx.c.test", "192.0.2.1")); two == one {
		t.Error("with and without a backup are the same")
	}
	w.pass(time.Hour) // the backup has no address for now
	if again := hosts("a.test", tier("mx.a.test", "192.0.2.1"), tier("b1.a.test")); again != one {
		t.Errorf("%s became %s", one, again)
	}
}

func (w *world) restart(path string) {
	w.t.Helper()
	w.path = path
	if err := w.Save(w.now, true); err != nil {
		w.t.Fatal(err)
	}
	w.Book = Open(path, slog.New(slog.DiscardHandler), w.now)
}

func TestNamesOutliveARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "sites.json")
	w.want("example.net", "a.test", tier("mx.a.example.net", "192.0.2.1"))
	w.want("example.net-2", "b.test", tier("mx.b.example.net", "192.0.2.2", "192.0.2.3"))
	w.want("example.net-2", "c.test", tier("mail.c.test", "192.0.2.2", "192.0.2.3"))
	w.restart(path)
	w.want("example.net-2", "c.test", tier("mail.c.test", "192.0.2.3")) // rotated
	w.want("example.net-2", "b.test", tier("mx.b.example.net", "192.0.2.4"))
	w.want("example.net", "a.test", tier("mx.a.example.net", "192.0.2.1"))
	w.want("example.net-3", "d.test", tier("mx.d.example.net", "192.0.2.9"))
	w.restart(path)
	w.want("example.net-3", "d.test", tier("mx.d.example.net", "192.0.2.9"))

	for _, text := range []string{"", "{", `{"version":2}`, `{"version":1,"sites":[{"name":"a"},{"name":"a"}]}`, "\x00\x00\x00"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var log strings.Builder
		w.Book = Open(path, slog.New(slog.NewTextHandler(&log, nil)), w.now)
		if !strings.Contains(log.String(), path) {
			t.Errorf("%q: nobody was told: %s", text, log.String())
		}
		w.Pin([]string{"example.net"})
		w.want("example.net", "b.test", tier("mx.b.example.net", "192.0.2.2")) // the order's name is to be had
		w.restart(path)
		w.want("example.net", "b.test", tier("mx.b.example.net", "192.0.2.2"))
	}
}

func TestFileIsWrittenNowAndThen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Book = Open(filepath.Join(t.TempDir(), "sites.json"), slog.New(slog.DiscardHandler), w.now)
	saved := func(want bool) {
		t.Helper()
		os.Remove(w.path)
		if err := w.Save(w.now, false); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(w.path); (err == nil) != want {
			t.Errorf("written: %v", err)
		}
	}
	a := func() { w.want("a.test", "a.test", tier("mx.a.test", "192.0.2.1")) }
	a()
	saved(false)
	w.pass(saveGap)
	saved(true)
	w.pass(saveGap)
	a()
	saved(false)
	w.pass(restGap)
	saved(true)
	saved(false)
}

// An order's site keeps its name, and is never joined to another while that stands.
func TestOrdersKeepTheirSite(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want("a.test", "a.test", tier("mx.a.test", "192.0.2.1"))
	w.want("b.test", "b.test", tier("mx.b.test", "192.0.2.2"))
	w.Pin([]string{"b.test"})
	for range 30 {
		w.pass(time.Hour)
		w.want("b.test", "b.test", tier("mx.b.test", "192.0.2.1"))
	}
	w.Pin(nil)
	w.most = 16
	w.want("x.example", "x1.test", tier("mx1.x.example", "192.0.2.51"))
	w.want("x.example-2", "x2.test", tier("mx2.x.example", "192.0.2.52"))
	w.Pin([]string{"x.example-2"})
	for i := range 100 {
		w.pass(time.Minute)
		w.site("x.test", tier(fmt.Sprintf("mx.x%d.test", i), fmt.Sprintf("203.0.113.%d", i)))
	}
	if len(w.sets) > w.most || len(w.groups) > w.most*groupsPerSite || len(w.names) > w.most {
		t.Errorf("%d sets, %d groups, %d names", len(w.sets), len(w.groups), len(w.names))
	}
	w.want("x.example-2", "x2.test", tier("mx2.x.example", "192.0.2.52"))
	w.want("x99.test", "x.test", tier("mx.x99.test", "203.0.113.99"))
	if w.Has("x0.test") {
		t.Error("the one that was not looked up longest is still there")
	}
}

func TestFindTakesWhateverNamesASite(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.want("example.net", "a.test", tier("mx1.example.net mx2.example.net", "192.0.2.1", "2001:db8::1"), tier("backup.example", "192.0.2.99"))
	w.want("d0.test", "d0.test", tier("mail.d0.test", "192.0.2.5"))
	for i := range 200 {
		w.want("d0.test", "d.test", tier(fmt.Sprintf("mail.d%d.test", i), "192.0.2.5"))
	}
	p := w.answer("g.test", tier("mx.google.example", "192.0.2.7"))
	p.Provider, p.Source, p.Old = "google", netip.MustParseAddr("198.51.100.1"), "google from 198.51.100.1"
	w.Site(w.now, &p)
	two := w.answer("h.test", tier("mx.two.example", "192.0.2.8"))
	for _, s := range addrs("198.51.100.1", "198.51.100.2") {
		two.Source, two.Several = s, true
		w.Site(w.now, &two)
	}
	for text, want := range map[string]string{
		"example.net": "example.net", "EXAMPLE.net.": "example.net", "a.test": "example.net", "mx2.example.net": "example.net",
		"192.0.2.1": "example.net", "::ffff:192.0.2.1": "example.net", "[IPv6:2001:db8:0::1]": "example.net",
		"mx1.example.net,mx2.example.net;backup.example": "example.net",
		"mail.d199.test": "d0.test", "192.0.2.5": "d0.test",
		"google": "google", "google from 198.51.100.1": "google", "192.0.2.7": "google", "mx.google.example": "google",
		"192.0.2.8": "two.example:198.51.100.1 two.example:198.51.100.2", "mx.two.example": "two.example:198.51.100.1 two.example:198.51.100.2",
		"mx.two.example from 198.51.100.2": "two.example:198.51.100.2",
		"nobody.test":                      "", "192.0.2.200": "", "": "", " from ": "", "x from y": "", ",;": "",
	} {
		var got []string
		for _, x := range w.Find(text) {
			got = append(got, x.Name)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %v, not %q", text, got, want)
		}
	}
}

// Whatever the DNS answers, names are unique, and who has the same set has the same name.
func TestBookHoldsTogether(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 19))
		w := newWorld(t)
		w.most = 12
		var told told
		w.Expect(nil, &told)
		for range 300 {
			host := rng.IntN(12)
			var list []netip.Addr
			for range 1 + rng.IntN(3) {
				list = append(list, netip.AddrFrom4([4]byte{192, 0, 2, byte(rng.IntN(4))}))
			}
			g := Group{[]string{fmt.Sprintf("mx%d.d%d.test", host, host/4)}, list}
			name := w.site("x.test", g)
			if again := w.site("y.test", g); again != name {
				t.Fatalf("seed %d: %s, and then %s", seed, name, again)
			}
			w.pass(time.Duration(rng.IntN(10)) * time.Hour)
			if rng.IntN(10) == 0 {
				w.Pin([]string{name})
			}
			for name, s := range w.names {
				if s.name != name || s.gone {
					t.Fatalf("seed %d: %s is the name of %s", seed, name, s.name)
				}
			}
			for k, s := range w.sets {
				if s.key() != k || s.gone || len(s.addrs) == 0 {
					t.Fatalf("seed %d: %s is in the place of another", seed, s.name)
				}
			}
			if len(w.sets) > w.most || len(w.groups) > w.most*groupsPerSite {
				t.Fatalf("seed %d: %d sets, %d groups", seed, len(w.sets), len(w.groups))
			}
		}
	}
}

// Look-ups, orders, listings and the file are at work at the same time.
func TestManyUseABook(t *testing.T) {
	t.Parallel()
	b := Open(filepath.Join(t.TempDir(), "sites.json"), slog.New(slog.DiscardHandler), start)
	b.most = 200
	b.Expect([]string{"mx.d7.example"}, new(deaf))
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			for i := range 2000 {
				one(b, (i*7+worker)%400, start.Add(time.Duration(i)*time.Minute))
				switch i % 100 {
				case 10:
					b.Pin([]string{"d7.example", "d8.example"})
				case 20:
					b.Find("10.0.0.7")
				case 30:
					if err := b.Save(start.Add(time.Duration(i)*time.Minute), i%200 == 30); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
}

// deaf forgets what it is told.
type deaf struct{}

func (*deaf) Moved(string, string)  {}
func (*deaf) Follow(string, string) {}
func (*deaf) Split(string, string)  {}

// told is what orders are told.
type told []string

func (t *told) Moved(old, name string)  { *t = append(*t, old+" -> "+name) }
func (t *told) Split(name, also string) { *t = append(*t, name+" + "+also) }

func (t *told) Follow(name, also string) { *t = append(*t, name+" = "+also) }

// Orders about a site hold on for each part of it when it falls apart.
func TestOrdersFollowThePartsOfASite(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var told told
	w.Expect(nil, &told)
	same := []string{"192.0.2.1", "192.0.2.2"}
	for _, d := range []string{"a.test", "b.test", "c.test", "d.test"} {
		w.want("a.test", d, tier("mx."+d, same...))
	}
	w.Pin([]string{"a.test"})
	w.want("b.test", "b.test", tier("mx.b.test", "192.0.2.1", "192.0.2.3"))
	w.want("a.test", "a.test", tier("mx.a.test", "192.0.2.1", "192.0.2.4"))
	w.restart(filepath.Join(t.TempDir(), "sites.json")) // before the others are looked up
	w.Expect(nil, &told)
	w.Pin([]string{"a.test"})
	w.want("c.test", "c.test", tier("mx.c.test", same...))
	w.want("c.test", "d.test", tier("mx.d.test", same...))
	w.want("e.test", "e.test", tier("mx.e.test", "192.0.2.1", "192.0.2.5"))
	if got := fmt.Sprint(told); got != "[a.test + b.test a.test + c.test]" {
		t.Error(got)
	}
	w.Pin(nil)
	w.want("b.test", "b.test", tier("mx.b.test", "192.0.2.6"))
	w.want("d.test", "d.test", tier("mx.d.test", "192.0.2.1", "192.0.2.7"))
	if len(told) != 2 {
		t.Error(told)
	}
}

// An order under a name of before is told of the new one before anybody sends there, and
// nobody else has got that name.
func TestFormerNamesAreCarriedOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var moves told
	w.Expect([]string{"mx1.example.net,mx2.example.net", "example.org"}, &moves)
	w.want("example.org-2", "a.test", tier("mx.example.org", "192.0.2.1"))
	if moves != nil {
		t.Errorf("moved: %v", moves)
	}
	w.want("example.org", "example.org", tier("example.org", "192.0.2.2"))
	w.want("example.net", "b.test", tier("mx1.example.net mx2.example.net", "192.0.2.3"))
	w.want("example.net", "c.test", tier("mx1.example.net mx2.example.net", "192.0.2.3"))
	if got := fmt.Sprint(moves); got != "[example.org -> example.org mx1.example.net,mx2.example.net -> example.net]" {
		t.Error(got)
	}
}

// It runs alone, as it looks at the heap.
func TestSitesAreSmall(t *testing.T) {
	const n = 100_000
	before := heap()
	b := New()
	for i := range n {
		one(b, i, start)
	}
	per := int(heap()-before) / n
	t.Logf("%d octets a site", per)
	if per >= 500 {
		t.Errorf("a site takes %d octets", per)
	}
	if len(b.names) != n {
		t.Errorf("%d sites", len(b.names))
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func one(b *Book, i int, now time.Time) {
	d := fmt.Sprintf("d%d.example", i)
	b.Site(now, &Answer{Domain: d, Groups: []Group{{[]string{"mx." + d}, []netip.Addr{
		netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}),
	}}}})
}

func BenchmarkLookUp(b *testing.B) {
	book := New()
	const n = 100_000
	answers := make([]Answer, n)
	for i := range answers {
		d := fmt.Sprintf("d%d.example", i)
		answers[i] = Answer{Domain: d, Groups: []Group{{[]string{"mx." + d}, []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}}}}
		book.Site(start, &answers[i])
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		book.Site(start, &answers[i%n])
	}
}

// How long the lock is held while 100,000 sites are saved and found.
func BenchmarkLookUpWhileSaving(b *testing.B) {
	book := Open(filepath.Join(b.TempDir(), "sites.json"), slog.New(slog.DiscardHandler), start)
	const n = 100_000
	for i := range n {
		one(book, i, start)
	}
	for b.Loop() {
		book.changed = true
		done := make(chan error)
		began := time.Now()
		go func() { done <- book.Save(start, true) }()
		longest := time.Duration(0)
		for i := 0; ; i++ {
			from := time.Now()
			one(book, i%n, start)
			longest = max(longest, time.Since(from))
			select {
			case err := <-done:
				if err != nil {
					b.Fatal(err)
				}
			default:
				continue
			}
			break
		}
		b.ReportMetric(float64(longest.Microseconds())/1000, "ms-longest")
		b.ReportMetric(time.Since(began).Seconds(), "s-save")
	}
	from := time.Now()
	book.Find("nobody.test")
	b.ReportMetric(float64(time.Since(from).Microseconds())/1000, "ms-find")
	if st, err := os.Stat(book.path); err == nil {
		b.ReportMetric(float64(st.Size())/n, "octets/site")
	}
}

// Orders about a site hold when source addresses are configured, or are no more: its mail
// has another site then.
func TestOrdersHoldWhenSourcesComeAndGo(t *testing.T) {
	t.Parallel()
	for _, provider := range []string{"", "big"} {
		for _, restart := range []bool{false, true} {
			w := newWorld(t)
			source, other, third := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("198.51.100.3")
			sources := []netip.Addr{source}
			site := func(from netip.Addr, list ...string) string {
				a := w.answer("a.test", tier("mx.a.test", list...))
				a.Provider, a.Source, a.Several, a.Sources = provider, from, from.IsValid(), sources
				name, _ := w.Site(w.now, &a)
				return name
			}
			before := site(netip.Addr{}, "192.0.2.1", "192.0.2.2")
			if restart {
				w.restart(filepath.Join(t.TempDir(), "sites.json"))
			}
			var heard told
			w.Expect(nil, &heard)
			w.Pin([]string{before})
			after := site(source, "192.0.2.1") // an answer of part of them
			if got := strings.Join(heard, "; "); got != before+" + "+after || after == before {
				t.Errorf("restart %t: %q, and then %q: orders hold for %q", restart, before, after, got)
			}
			heard = nil
			w.Pin([]string{after})
			if site(source, "192.0.2.1"); len(heard) > 0 {
				t.Errorf("told again: %q", heard)
			}
			w.pass(time.Minute)
			if site(netip.Addr{}, "192.0.2.1"); strings.Join(heard, "; ") != after+" + "+before {
				t.Errorf("and back: %q", heard)
			}
			w.pass(time.Minute)
			heard = nil
			if site(netip.Addr{}, "192.0.2.1"); len(heard) > 0 {
				t.Errorf("told again: %q", heard)
			}
			if site(source, "192.0.2.1"); len(heard) > 0 {
				t.Errorf("no order is about it: %q", heard)
			}
			// Another source beside it is another site, by the admin's own word.
			w.Pin([]string{after})
			sources = []netip.Addr{source, other}
			if site(other, "192.0.2.1"); len(heard) > 0 {
				t.Errorf("of another source: %q", heard)
			}
			// One that has taken its place is sent the same mail.
			sources = []netip.Addr{third}
			if got := site(third, "192.0.2.1"); strings.Join(heard, "; ") != after+" + "+got {
				t.Errorf("of a source in its stead: %q", heard)
			}
		}
	}
	// And back, to the site of before if that is known.
	w := newWorld(t)
	a := w.answer("a.test", tier("mx.a.test", "192.0.2.1"))
	a.Source, a.Several = netip.MustParseAddr("198.51.100.1"), true
	before, _ := w.Site(w.now, &a)
	var heard told
	w.Expect(nil, &heard)
	w.Pin([]string{before})
	a.Source, a.Several = netip.Addr{}, false
	after, _ := w.Site(w.now, &a)
	if got := strings.Join(heard, "; "); got != before+" + "+after {
		t.Errorf("%q, and then %q: orders hold for %q", before, after, got)
	}
}

// An order for all sources follows to the sites that a receiver gets for others: those of the same
// hosts, or of the same set; one about a source's site does not.
func TestOrdersForAllSourcesFollow(t *testing.T) {
	t.Parallel()
	for _, provider := range []string{"", "big"} {
		w := newWorld(t)
		var heard told
		w.Expect(nil, &heard)
		first, second := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")
		site := func(domain, host string, from netip.Addr, list ...string) string {
			a := w.answer(domain, tier(host, list...))
			a.Provider, a.Source, a.Several, a.Sources = provider, from, true, []netip.Addr{first, second}
			name, _ := w.Site(w.now, &a)
			return name
		}
		before := site("a.test", "mx.a.test", first, "192.0.2.1", "192.0.2.2")
		w.Pin([]string{before})
		hosts := site("a.test", "mx.a.test", second, "192.0.2.1")
		if len(heard) > 0 {
			t.Errorf("an order for one source: %q", heard)
		}
		w.Pin([]string{before}, before)
		if site("a.test", "mx.a.test", second, "192.0.2.1"); strings.Join(heard, "; ") != before+" = "+hosts {
			t.Errorf("the same hosts: %q", heard)
		}
		heard = nil
		set := site("b.test", "mx.b.test", second, "192.0.2.2", "192.0.2.1")
		if strings.Join(heard, "; ") != before+" = "+set {
			t.Errorf("the same set: %q", heard)
		}
		heard = nil
		if site("c.test", "mx.c.test", second, "192.0.2.3"); provider == "" && len(heard) > 0 {
			t.Errorf("another receiver: %q", heard)
		}
	}
}

// What refers to a name has it written first, and no more often than there are new ones.
func TestKeepWritesNamesThatAreNew(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sites.json")
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	b := Open(path, slog.New(slog.DiscardHandler), now)
	site := func(domain, addr string) string {
		name, _ := b.Site(now, &Answer{Domain: domain, Groups: []Group{{Hosts: []string{"mx." + domain}, Addrs: []netip.Addr{netip.MustParseAddr(addr)}}}})
		return name
	}
	has := func(name string) bool { return Open(path, slog.New(slog.DiscardHandler), now).Has(name) }
	for i := range 2 { // the second time as known from the file
		a := site("a.example", "192.0.2.1")
		if err := b.Keep(now, []string{"general", a}); err != nil || !has(a) {
			t.Fatalf("%d: %s is not kept: %v", i, a, err)
		}
		before, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		other := site(fmt.Sprintf("b%d.example", i), fmt.Sprintf("192.0.2.%d", 10+i))
		if err := b.Keep(now, []string{"general", a}); err != nil {
			t.Fatal(err)
		}
		if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) || has(other) {
			t.Errorf("%d: the file is written for a name that nothing refers to: %v", i, err)
		}
		b = Open(path, slog.New(slog.DiscardHandler), now)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.Keep(now, []string{site("c.example", "192.0.2.3")}); err == nil {
			t.Error("no error though it cannot be written")
		}
	}
}
