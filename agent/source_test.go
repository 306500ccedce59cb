package agent

import (
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/metrics"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/sink"
)

func addresses(list ...string) (all []netip.Addr) {
	for _, a := range list {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}

// What receivers have learned of a domain's mail from an address stays true over
// an upgrade: a domain has the address that the first release gave it wherever that
// could reach its hosts, and with it the same name of its site.
func TestDomainsKeepTheAddressTheyHad(t *testing.T) {
	t.Parallel()
	four, six, both := addresses("192.0.2.1"), addresses("2001:db8::1"), addresses("192.0.2.1", "2001:db8::1")
	before := func(pool []netip.Addr, name string) netip.Addr {
		h := fnv.New32a()
		h.Write([]byte(name))
		return pool[h.Sum32()%uint32(len(pool))]
	}
	for _, pool := range [][]netip.Addr{
		addresses("198.51.100.1"),
		addresses("198.51.100.1", "198.51.100.2"),
		addresses("198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.4", "198.51.100.5", "198.51.100.6", "198.51.100.7"),
		addresses("2001:db8:1::1", "2001:db8:1::2", "2001:db8:1::3"),
		addresses("198.51.100.1", "2001:db8:1::1"),
		addresses("198.51.100.1", "2001:db8:1::1", "198.51.100.2", "2001:db8:1::2"),
	} {
		s := &settings{config: &config.Config{Agent: config.Agent{SourceAddresses: pool}}}
		used := make(map[netip.Addr]int) // by domains with IPv4 hosts, or IPv6 hosts, alone
		for i := range 10_000 {
			name := fmt.Sprintf("d%d.example", i)
			had := before(pool, name)
			for _, hosts := range [][]netip.Addr{four, six, both} {
				plan := &route.Plan{Domain: name, Hosts: []route.Host{{Name: "mx.example", Addrs: hosts}}}
				way := s.direct(name, &config.Queue{Name: "general"}, plan)
				for _, h := range hosts {
					from := source(&way, h)
					if from.IsValid() && from.Is4() != h.Is4() {
						t.Fatalf("pool %v, %s: from %v to %v", pool, name, from, h)
					}
					if has := slices.ContainsFunc(pool, func(a netip.Addr) bool { return a.Is4() == h.Is4() }); has != from.IsValid() {
						t.Fatalf("pool %v, %s: from %v to %v", pool, name, from, h)
					}
					if h.Is4() == had.Is4() && (from != had || way.Site != "mx.example from "+had.String()) {
						t.Fatalf("pool %v, %s: from %v, site %q; it was from %v", pool, name, from, way.Site, had)
					}
					if len(hosts) == 1 && from.IsValid() {
						used[from]++
					}
				}
			}
		}
		for _, a := range pool {
			family := 0
			for _, b := range pool {
				if a.Is4() == b.Is4() {
					family++
				}
			}
			if n := used[a]; n < 9_000/family || n > 11_000/family {
				t.Errorf("pool %v: %v has %d of 10000 domains of its family", pool, a, n)
			}
		}
	}
}

// A pool that lacks a family, for some domains or altogether, keeps no mail from
// hosts of that family.
func TestPoolReachesHostsOfEveryFamily(t *testing.T) {
	t.Parallel()
	for _, pool := range [][]netip.Addr{addresses("127.0.0.2", "::1"), addresses("::1"), addresses("127.0.0.2")} {
		t.Run(fmt.Sprint(pool), func(t *testing.T) {
			t.Parallel()
			const n = 20
			s := newStage(t, func(c *config.Config) { c.Agent.SourceAddresses = pool },
				sink.Provider{Name: "far", Domains: []string{"d*.test"}}) // has IPv4 alone
			s.start()
			for i := range n {
				s.send(spool.Envelope{Sender: "n@news.test"}, letter, fmt.Sprintf("a@d%d.test", i))
			}
			s.until("all delivered", func() bool { return len(s.at("far")) == n })
		})
	}
}

// Seen from the receivers: every connection comes from the pool's address of its
// family, or from where the kernel says; and the host that the favoured source
// reaches is called first.
func TestConnectionLeavesFromItsPeersFamily(t *testing.T) {
	t.Parallel()
	four := (&listener{}).listen(t, "127.0.0.1:0")
	six := (&listener{}).listen(t, fmt.Sprintf("[::1]:%d", four.addr.Port()))
	hosts := addresses("127.0.0.1", "::1")
	for _, tt := range []struct {
		pool  []netip.Addr
		hosts []netip.Addr
		from  string // any of them
	}{
		{addresses("127.0.0.2", "::1"), hosts[:1], "127.0.0.2"},
		{addresses("127.0.0.2", "::1"), hosts[1:], "::1"},
		{addresses("127.0.0.2", "::1"), hosts, "127.0.0.2 ::1"},
		{addresses("127.0.0.2"), hosts, "127.0.0.2"},
		{addresses("127.0.0.2"), hosts[1:], "::1"},
		{addresses("::1"), hosts, "::1"},
		{addresses("::1"), hosts[:1], "127.0.0.1"},
	} {
		s := newStage(t, func(c *config.Config) { c.Agent.Port, c.Agent.SourceAddresses = four.addr.Port(), tt.pool })
		set, err := newSettings(s.config, s.log.logger(), nil)
		if err != nil {
			t.Fatal(err)
		}
		a := &Agent{log: s.log.logger(), metrics: metrics.New("test", nil)}
		a.now.Store(set)
		seen := make(map[string]bool)
		for i := range 16 {
			name := fmt.Sprintf("d%d.test", i)
			way := set.direct(name, &config.Queue{TLS: config.TLSNone}, &route.Plan{Domain: name, Hosts: []route.Host{{Name: "mx.test", Addrs: tt.hosts}}})
			var first string
			for try := range 3 { // more connections are up each time
				c, _, _, err := a.connect(t.Context(), way)
				if err != nil {
					t.Fatalf("pool %v, hosts %v: %v", tt.pool, tt.hosts, err)
				}
				defer c.Close()
				from := four.last() + six.last()
				if try == 0 {
					first = from
				} else if from != first {
					t.Errorf("pool %v, hosts %v, %s: from %s, then from %s", tt.pool, tt.hosts, name, first, from)
				}
				seen[from] = true
			}
		}
		want := strings.Fields(tt.from)
		for _, from := range want {
			if !seen[from] {
				t.Errorf("pool %v, hosts %v: never from %s", tt.pool, tt.hosts, from)
			}
		}
		if len(seen) != len(want) {
			t.Errorf("pool %v, hosts %v: from %v, want %s", tt.pool, tt.hosts, seen, tt.from)
		}
	}
}

// With the favoured source's family unreachable, the other one serves.
func TestOtherFamilyServesWhereTheFavouredOneIsSilent(t *testing.T) {
	t.Parallel()
	four := (&listener{}).listen(t, "127.0.0.1:0")
	s := newStage(t, func(c *config.Config) { c.Agent.Port, c.Agent.SourceAddresses = four.addr.Port(), addresses("::1") })
	set, err := newSettings(s.config, s.log.logger(), nil)
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{log: s.log.logger(), metrics: metrics.New("test", nil)}
	a.now.Store(set)
	way := set.direct("d.test", &config.Queue{TLS: config.TLSNone}, &route.Plan{Domain: "d.test", Hosts: []route.Host{{Name: "mx.test", Addrs: addresses("127.0.0.1", "::1")}}})
	c, p, _, err := a.connect(t.Context(), way)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if from := four.last(); p.addr.Addr() != four.addr.Addr() || from != "127.0.0.1" {
		t.Errorf("at %v from %s", p.addr, from)
	}
}

// listener greets and says yes to everything, and knows where the last connection
// that nobody has asked for came from.
type listener struct {
	addr netip.AddrPort
	mu   sync.Mutex
	from string
}

func (l *listener) listen(t *testing.T, at string) *listener {
	t.Helper()
	nl, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	l.addr = netip.MustParseAddrPort(nl.Addr().String())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := nl.Accept()
			if err != nil {
				return
			}
			l.mu.Lock()
			l.from = netip.MustParseAddrPort(nc.RemoteAddr().String()).Addr().String()
			l.mu.Unlock()
			wg.Go(func() { new(speaker).serve(nc) })
		}
	})
	t.Cleanup(func() { nl.Close(); wg.Wait() })
	return l
}

// last is where the last connection came from, once.
func (l *listener) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := l.from
	l.from = ""
	return from
}
