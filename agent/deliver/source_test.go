package deliver

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/dialogue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/contrib/lab/smtptest"
)

// Seen from the receivers: every connection comes from the pool's address of its
// family, or from where the kernel says; and the host that the favoured source
// reaches is called first.
func TestConnectionLeavesFromItsPeersFamily(t *testing.T) {
	t.Parallel()
	four := (&listener{}).listen(t, "127.0.0.1:0")
	six := (&listener{}).listen(t, fmt.Sprintf("[::1]:%d", four.addr.Port()))
	addrs := addresses("127.0.0.1", "::1")
	for _, tt := range []struct {
		pool  []netip.Addr
		hosts []netip.Addr
		from  string // any of them
	}{
		{addresses("127.0.0.2", "::1"), addrs[:1], "127.0.0.2"},
		{addresses("127.0.0.2", "::1"), addrs[1:], "::1"},
		{addresses("127.0.0.2", "::1"), addrs, "127.0.0.2 ::1"},
		{addresses("127.0.0.2"), addrs, "127.0.0.2"},
		{addresses("127.0.0.2"), addrs[1:], "::1"},
		{addresses("::1"), addrs, "::1"},
		{addresses("::1"), addrs[:1], "127.0.0.1"},
	} {
		set := testSettings(t, func(c *config.Config) { c.Agent.Port, c.Agent.SourceAddresses = four.addr.Port(), tt.pool })
		d := testDeliverer(t, set, nil)
		seen := make(map[string]bool)
		for i := range 16 {
			name := fmt.Sprintf("d%d.test", i)
			rt := set.MXRoute(name, &config.Queue{TLS: config.TLSNone}, &route.Plan{Domain: name, Hosts: []route.Host{{Name: "mx.test", Addrs: tt.hosts}}})
			var first string
			for try := range 3 { // more connections are up each time
				c, _, _, err := d.connect(t.Context(), rt, rt.Places[0], new(dialogue.Board).Session(""))
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

// With the favoured source's family unreachable, the other one serves: it is the next tier.
func TestOtherFamilyServesWhereTheFavouredOneIsSilent(t *testing.T) {
	t.Parallel()
	four := (&listener{}).listen(t, "127.0.0.1:0")
	set := testSettings(t, func(c *config.Config) { c.Agent.Port, c.Agent.SourceAddresses = four.addr.Port(), addresses("::1") })
	d := testDeliverer(t, set, nil)
	rt := set.MXRoute("d.test", &config.Queue{TLS: config.TLSNone}, &route.Plan{Domain: "d.test", Hosts: []route.Host{{Name: "mx.test", Addrs: addresses("127.0.0.1", "::1")}}})
	if len(rt.Places) != 2 || !rt.Places[0].Addr.Addr().Is6() || rt.Places[0].Tier >= rt.Places[1].Tier {
		t.Fatalf("places %+v", rt.Places)
	}
	if _, _, _, err := d.connect(t.Context(), rt, rt.Places[0], new(dialogue.Board).Session("")); err == nil {
		t.Fatal("connected where nobody listens")
	}
	c, p, _, err := d.connect(t.Context(), rt, rt.Places[1], new(dialogue.Board).Session(""))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if from := four.last(); p.Addr.Addr() != four.addr.Addr() || from != "127.0.0.1" {
		t.Errorf("at %v from %s", p.Addr, from)
	}
}

func addresses(list ...string) (all []netip.Addr) {
	for _, a := range list {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
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
			wg.Go(func() { new(smtptest.Server).Serve(nc) })
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
