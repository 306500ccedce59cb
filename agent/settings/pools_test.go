package settings

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/sites"
	"github.com/millrace/millrace/agent/spool"
)

// pooled are settings of a configuration file.
func pooled(t *testing.T, text string) *Settings {
	t.Helper()
	path := filepath.Join(t.TempDir(), "millrace.toml")
	if err := os.WriteFile(path, []byte("hostname = \"mail.example.com\"\n"+text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return &Settings{Config: c, Sites: sites.New()}
}

const threePools = `
[[pool]]
name = "news"
addresses = ["192.0.2.1", "192.0.2.2", "2001:db8:1::1", "2001:db8:2::1"]
hostnames = ["n1.example.com", "n2.example.com", "n3.example.com", "n4.example.com"]
weights = [1, 3, 1, 1]
[[pool]]
name = "orders"
addresses = ["192.0.2.9"]
[[pool]]
name = "spare"
addresses = ["192.0.2.11", "192.0.2.12"]
[general]
pool = "orders"
[[queue]]
name = "google"
domains = ["gmail.example"]
mx = ["*.google.example"]
pool = "news"
spread = "recipient"
[[stream]]
name = "weekly"
streams = ["news-*"]
pool = "news"
`

func planOf(domain string, addrs ...string) *route.Plan {
	return &route.Plan{Domain: domain, Hosts: []route.Host{{Name: "mx." + domain, Addrs: addresses(addrs...)}}}
}

// A rule's pool counts before a stream's, and this before a queue's.
func TestWhoNamesThePool(t *testing.T) {
	t.Parallel()
	s := pooled(t, threePools)
	for _, tt := range []struct {
		e      spool.Envelope
		domain string
		want   string // of addresses
	}{
		{spool.Envelope{Stream: "news-7", Pool: "spare"}, "a.example", "192.0.2.11 192.0.2.12"},
		{spool.Envelope{Stream: "news-7"}, "a.example", "192.0.2.1 192.0.2.2"},
		{spool.Envelope{Stream: "other"}, "a.example", "192.0.2.9"},
		{spool.Envelope{Stream: "other", Pool: "gone"}, "a.example", "192.0.2.9"},
		{spool.Envelope{Stream: "other"}, "gmail.example", "192.0.2.1 192.0.2.2"},
		{spool.Envelope{Stream: "other", Pool: "spare"}, "gmail.example", "192.0.2.11 192.0.2.12"},
	} {
		tt.e.Recipients = []spool.Recipient{{Address: "u@" + tt.domain}}
		name := queue.RouteName(tt.domain, s.FromOf(&tt.e, 0, tt.domain))
		rt := s.MXRoute(name, s.QueueOf(tt.domain), planOf(tt.domain, "198.51.100.1"))
		if len(rt.Sources) != 1 || !strings.Contains(tt.want, rt.Sources[0].String()) || !rt.Sources[0].Is4() {
			t.Errorf("%+v to %s leaves from %v, want one of %s", tt.e, tt.domain, rt.Sources, tt.want)
		}
		if !strings.Contains(rt.From, rt.Sources[0].String()) || !strings.HasSuffix(rt.Site, ":"+rt.Sources[0].String()) {
			t.Errorf("%+v: journalled as from %q, at site %q", tt.e, rt.From, rt.Site)
		}
	}
}

// Recipients of a listed domain share the addresses of its pool as the weights say; each always
// has the same. One message to another domain leaves from one address.
func TestRecipientsAreSpread(t *testing.T) {
	t.Parallel()
	s := pooled(t, threePools)
	const n = 10_000
	used := make(map[netip.Addr]int)
	for i := range n {
		e := &spool.Envelope{Stream: "other", Recipients: []spool.Recipient{{Address: fmt.Sprintf("u%d@gmail.example", i)}, {Address: fmt.Sprintf("U%d@GMAIL.example", i)}}}
		from := s.FromOf(e, 0, "gmail.example")
		if again := s.FromOf(e, 1, "gmail.example"); again != from {
			t.Fatalf("%s, then %s", from, again)
		}
		rt := s.MXRoute(queue.RouteName("gmail.example", from), s.Config.Queue("google"), planOf("gmail.example", "198.51.100.1"))
		used[rt.Sources[0]]++
		if rt.From != from {
			t.Fatalf("settled as %q, journalled as %q", from, rt.From)
		}
	}
	for addr, want := range map[string]int{"192.0.2.1": n / 4, "192.0.2.2": 3 * n / 4} {
		if got := used[netip.MustParseAddr(addr)]; got < want*97/100 || got > want*103/100 {
			t.Errorf("%s: %d of %d", addr, got, want)
		}
	}
	e := &spool.Envelope{Stream: "news-1", Recipients: []spool.Recipient{{Address: "a@b.example"}, {Address: "c@b.example"}}}
	if a, b := s.FromOf(e, 0, "b.example"), s.FromOf(e, 1, "b.example"); a != b {
		t.Errorf("%q and %q", a, b)
	}
}

// What the first try has settled holds, whatever the weights and pools are by now; but for an
// address that is not configured any more.
func TestSettledAddressHolds(t *testing.T) {
	t.Parallel()
	before := pooled(t, threePools)
	changed := strings.NewReplacer("weights = [1, 3, 1, 1]", "weights = [1000, 1, 1, 1000]", `["192.0.2.11", "192.0.2.12"]`, `["192.0.2.11", "192.0.2.12", "192.0.2.13"]`)
	after := pooled(t, changed.Replace(threePools))
	less := pooled(t, strings.NewReplacer(`["192.0.2.1", "192.0.2.2", `, `["192.0.2.1", `, `["n1.example.com", `, "[", "weights = [1, 3, 1, 1]", "").Replace(threePools))
	for i := range 500 {
		domain := fmt.Sprintf("d%d.example", i)
		plan := planOf(domain, "198.51.100.1", "2001:db8:9::1")
		for _, pool := range []string{"news", "spare"} {
			first := before.MXRoute(queue.RouteName(domain, pool), &before.Config.General, plan)
			next := after.MXRoute(queue.RouteName(domain, first.From), &after.Config.General, plan)
			if next.From != first.From || fmt.Sprint(next.Sources) != fmt.Sprint(first.Sources) || next.Key != first.Key {
				t.Fatalf("%s from %v, then from %v", domain, first.Sources, next.Sources)
			}
			last := less.MXRoute(queue.RouteName(domain, first.From), &less.Config.General, plan)
			for _, a := range last.Sources {
				if a == netip.MustParseAddr("192.0.2.2") {
					t.Fatalf("%s from %v, which is gone", domain, last.Sources)
				}
			}
			if pool == "spare" && last.From != first.From {
				t.Fatalf("%s from %v moved", domain, first.Sources)
			}
		}
	}
}

// An address that cannot be bound is left out as long as that is so, where the pool has another
// one of its family.
func TestAbsentAddressIsLeftOut(t *testing.T) {
	t.Parallel()
	s := pooled(t, threePools)
	gone := make(map[netip.Addr]bool)
	s.Presence = &Presence{bind: func(a netip.Addr) error {
		if gone[a] {
			return syscall.EADDRNOTAVAIL
		}
		return nil
	}}
	s.Presence.Look(s.SourceAddresses())
	plan := planOf("a.example", "198.51.100.1")
	first := s.MXRoute("a.example from news", &s.Config.General, plan)
	alone := s.MXRoute("a.example from orders", &s.Config.General, plan)
	gone[first.Sources[0]], gone[alone.Sources[0]] = true, true
	if come, lost := s.Presence.Look(s.SourceAddresses()); len(come) != 0 || len(lost) != 2 || len(s.Presence.Absent()) != 2 {
		t.Fatalf("%v came, %v went", come, lost)
	}
	for _, name := range []string{"a.example from news", queue.RouteName("a.example", first.From)} {
		rt := s.MXRoute(name, &s.Config.General, plan)
		if len(rt.Sources) != 1 || rt.Sources[0] == first.Sources[0] || rt.From == first.From {
			t.Errorf("%s: from %v (%s)", name, rt.Sources, rt.From)
		}
	}
	if rt := s.MXRoute("a.example from orders", &s.Config.General, plan); rt.From != alone.From {
		t.Errorf("from %v: the only one of its pool", rt.Sources)
	}
	bind := s.Presence.bind
	s.Presence.bind = func(netip.Addr) error { return syscall.EMFILE } // tells nothing of the addresses
	if come, lost := s.Presence.Look(s.SourceAddresses()); len(come)+len(lost) != 0 {
		t.Errorf("%v came, %v went, for want of descriptors", come, lost)
	}
	s.Presence.bind = bind
	clear(gone)
	if come, _ := s.Presence.Look(s.SourceAddresses()); len(come) != 2 {
		t.Fatalf("%v came", come)
	}
	for _, name := range []string{"a.example from news", queue.RouteName("a.example", first.From)} {
		if rt := s.MXRoute(name, &s.Config.General, plan); rt.From != first.From {
			t.Errorf("%s: from %v", name, rt.Sources)
		}
	}
}

func TestPresenceBindsForReal(t *testing.T) {
	t.Parallel()
	p := NewPresence()
	here, not := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("192.0.2.77")
	if _, gone := p.Look([]netip.Addr{here, not}); len(gone) != 1 || gone[0] != not || !p.Here(here) || p.Here(not) {
		t.Errorf("%v cannot be bound", gone)
	}
}

func TestPoolsHaveTheirNames(t *testing.T) {
	t.Parallel()
	s := pooled(t, threePools)
	for addr, want := range map[string]string{"192.0.2.2": "n2.example.com", "2001:db8:2::1": "n4.example.com", "192.0.2.9": "mail.example.com", "198.51.100.1": "mail.example.com"} {
		if got := s.hello(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %s", addr, got)
		}
	}
}

// A pool of one address beside the system's choice makes two sites of one receiver.
func TestPoolBesideTheSystemsChoice(t *testing.T) {
	t.Parallel()
	s := pooled(t, "[[pool]]\nname = \"one\"\naddresses = [\"192.0.2.1\"]\n")
	for i, from := range []string{"", "one", "", "one"} {
		domain := fmt.Sprintf("d%d.example", i/2)
		rt := s.MXRoute(queue.RouteName(domain, from), &s.Config.General, planOf(domain, fmt.Sprintf("198.51.100.%d", i/2)))
		name := domain
		if from != "" {
			name += ":192.0.2.1"
		}
		if rt.Site != name || rt.Receiver != domain || (rt.From == "") != (from == "") {
			t.Errorf("%s from %q: site %s of %s, %q", domain, from, rt.Site, rt.Receiver, rt.From)
		}
	}
}

// A journal that nobody understands is as one that does not say.
func TestUnknownFromIsChosenAnew(t *testing.T) {
	t.Parallel()
	s := pooled(t, threePools)
	plan := planOf("a.example", "198.51.100.1")
	want := s.MXRoute("a.example", &s.Config.General, plan)
	for _, from := range []string{"news 1 2 3 4", "gone", "gone 203.0.113.1"} {
		if rt := s.MXRoute(queue.RouteName("a.example", from), &s.Config.General, plan); rt.From != want.From {
			t.Errorf("%q: %q, want %q", from, rt.From, want.From)
		}
	}
}

// Without [[pool]] nothing is journalled, and lanes are by domain, as ever.
func TestWithoutPoolsNothingIsSettled(t *testing.T) {
	t.Parallel()
	s := pooled(t, "[agent]\nsource_addresses = [\"192.0.2.1\", \"192.0.2.2\"]\n")
	e := &spool.Envelope{Stream: "news", Pool: "gone", Recipients: []spool.Recipient{{Address: "a@b.example"}}}
	rt := s.MXRoute("b.example", &s.Config.General, planOf("b.example", "198.51.100.1"))
	if from := s.FromOf(e, 0, "b.example"); from != "" || rt.From != "" || len(rt.Sources) != 1 {
		t.Errorf("%q, %+v", from, rt)
	}
}

func TestRejectingQueueIsAnError(t *testing.T) {
	t.Parallel()
	s := pooled(t, "[[queue]]\nname = \"never\"\ndomains = [\"never.example\"]\nroute = \"reject: 550 5.7.9 we send no mail there\"\n")
	_, err := s.Route(context.Background(), "never.example", false)
	r, ok := errors.AsType[Rejected](err)
	if !ok || r.Reply != "550 5.7.9 we send no mail there" || r.Enhanced() != "5.7.9" {
		t.Errorf("%v", err)
	}
}

func TestAgeOfAStreamsMail(t *testing.T) {
	t.Parallel()
	s := pooled(t, `
[[stream]]
name = "day"
window = "08:00-20:00"
zone = "UTC"
expire = "1d"
[[stream]]
name = "always"
window = "08:00-20:00"
zone = "UTC"
expire_always = true
`)
	born := time.Date(2026, 11, 27, 19, 0, 0, 0, time.UTC)
	now := time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC)
	for stream, want := range map[string]time.Duration{"day": 2 * time.Hour, "always": 14 * time.Hour, "other": 14 * time.Hour} {
		if age := now.Sub(s.BornOf(stream, born, now)); age != want {
			t.Errorf("%s: %v old", stream, age)
		}
	}
	if p := s.PolicyOf(&s.Config.General, "day"); p.Expire != 24*time.Hour {
		t.Errorf("expires after %v", p.Expire)
	}
	if p := s.PolicyOf(&s.Config.General, "other"); p.Expire != s.Config.General.Expire {
		t.Errorf("expires after %v", p.Expire)
	}
}
