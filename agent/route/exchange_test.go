package route

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// serve runs a DNS server on one loopback port, UDP and TCP, for the test.
func serve(t *testing.T, h dns.HandlerFunc) string {
	t.Helper()
	for range 20 { // the TCP port of the same number may be taken
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", pc.LocalAddr().String())
		if err != nil {
			pc.Close()
			continue
		}
		for _, s := range []*dns.Server{{PacketConn: pc, Handler: h}, {Listener: l, Handler: h}} {
			started, ended := make(chan struct{}), make(chan error, 1)
			s.NotifyStartedFunc = func() { close(started) }
			go func() { ended <- s.ActivateAndServe() }()
			<-started
			t.Cleanup(func() {
				if err := s.Shutdown(); err != nil {
					t.Error(err)
				}
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		}
		return pc.LocalAddr().String()
	}
	t.Fatal("no port is free for both UDP and TCP")
	return ""
}

// fromZone answers as a fakeDNS does, cut to what fits a datagram.
func fromZone(f *fakeDNS) dns.HandlerFunc {
	return func(w dns.ResponseWriter, m *dns.Msg) {
		reply, err := f.Exchange(context.Background(), m)
		if err != nil {
			return // silence
		}
		if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
			size := dns.MinMsgSize
			if opt := m.IsEdns0(); opt != nil {
				size = int(opt.UDPSize())
			}
			reply.Truncate(size)
		}
		_ = w.WriteMsg(reply)
	}
}

func code(rcode int, n *atomic.Int32) dns.HandlerFunc {
	return func(w dns.ResponseWriter, m *dns.Msg) {
		n.Add(1)
		_ = w.WriteMsg(new(dns.Msg).SetRcode(m, rcode))
	}
}

// overServers asks servers that reply, each of which has the time that a slow machine takes.
func overServers(t *testing.T, servers ...string) *Resolver {
	t.Helper()
	return within(t, time.Minute, servers...)
}

func within(t *testing.T, timeout time.Duration, servers ...string) *Resolver {
	t.Helper()
	return newResolver(t, nil, func(o *Options) { o.Resolvers = servers; o.Timeout = timeout })
}

// despiteSilence has a look-up with servers that say nothing, each of which costs the timeout.
// It is short, and longer again and again where others replied too late for it.
func despiteSilence(t *testing.T, lookup func(*Resolver) error, servers ...string) {
	t.Helper()
	for timeout := 200 * time.Millisecond; ; timeout *= 4 {
		err := lookup(within(t, timeout, servers...))
		if err == nil {
			return
		}
		if timeout > 30*time.Second {
			t.Error(err)
			return
		}
	}
}

func TestLookupOverRealSockets(t *testing.T) {
	t.Parallel()
	addr := serve(t, fromZone(newFake(zone{
		"d.example MX":     {"300 MX 20 mx2.example.", "300 MX 10 mx1.example."},
		"mx1.example A":    {"300 A 192.0.2.1"},
		"mx2.example A":    {"300 A 192.0.2.2"},
		"mx2.example AAAA": {"300 AAAA 2001:db8::2"},
	})))
	r := overServers(t, addr)
	p, err := r.Lookup(t.Context(), "d.example")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := show(p), "mx1.example=192.0.2.1 mx2.example=192.0.2.2,2001:db8::2"; got != want {
		t.Errorf("hosts %q, want %q", got, want)
	}
	if _, err := r.Lookup(t.Context(), "gone.example"); reasonOf(t, err) != NXDomain {
		t.Errorf("error %v", err)
	}
}

func TestTruncatedReplyIsAskedForOverTCP(t *testing.T) {
	t.Parallel()
	z := zone{}
	for i := range 30 {
		host := fmt.Sprintf("mx%02d-%s.example", i, strings.Repeat("x", 50))
		z["big.example MX"] = append(z["big.example MX"], "300 MX 10 "+host+".")
		z[host+" A"] = []string{fmt.Sprintf("300 A 192.0.2.%d", i+1)}
	}
	f := newFake(z)
	p, err := overServers(t, serve(t, fromZone(f))).Lookup(t.Context(), "big.example")
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Hosts) != 30 {
		t.Errorf("%d hosts, want 30", len(p.Hosts))
	}
	if n := f.count("big.example MX"); n != 2 {
		t.Errorf("asked %d times, want once over UDP and once over TCP", n)
	}
}

func TestEDNSSizeIsOffered(t *testing.T) {
	t.Parallel()
	var size atomic.Int32
	addr := serve(t, func(w dns.ResponseWriter, m *dns.Msg) {
		if opt := m.IsEdns0(); opt != nil {
			size.Store(int32(opt.UDPSize()))
		}
		_ = w.WriteMsg(new(dns.Msg).SetRcode(m, dns.RcodeNameError))
	})
	_, _ = overServers(t, addr).Lookup(t.Context(), "d.example")
	if got := size.Load(); got != udpSize {
		t.Errorf("offered %d octets, want %d", got, udpSize)
	}
}

func TestResolversAreTriedInOrder(t *testing.T) {
	t.Parallel()
	var failures atomic.Int32
	f := newFake(zone{"d.example MX": {"300 MX 10 d.example."}, "d.example A": {"300 A 192.0.2.1"}})
	good := serve(t, fromZone(f))
	silent := serve(t, func(dns.ResponseWriter, *dns.Msg) {})
	for name, first := range map[string]string{
		"servfail": serve(t, code(dns.RcodeServerFailure, &failures)),
		"refused":  serve(t, code(dns.RcodeRefused, &failures)),
		"silent":   silent,
		"nobody":   "127.0.0.1:1",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			despiteSilence(t, func(r *Resolver) error {
				_, err := r.Lookup(t.Context(), "d.example")
				return err
			}, first, good)
		})
	}
	t.Run("the first suffices", func(t *testing.T) {
		t.Parallel()
		var asked atomic.Int32
		second := serve(t, code(dns.RcodeServerFailure, &asked))
		if _, err := overServers(t, good, second).Lookup(t.Context(), "d.example"); err != nil || asked.Load() != 0 {
			t.Errorf("error %v, second resolver asked %d times", err, asked.Load())
		}
	})
}

// Old resolvers refuse a question with EDNS0, or say nothing to it: they are asked without.
func TestResolversWithoutEDNSAreAskedWithout(t *testing.T) {
	t.Parallel()
	f := fromZone(newFake(zone{"d.example MX": {"300 MX 10 d.example."}, "d.example A": {"300 A 192.0.2.1"}}))
	for name, refuse := range map[string]func(w dns.ResponseWriter, m *dns.Msg){
		"FORMERR": func(w dns.ResponseWriter, m *dns.Msg) { _ = w.WriteMsg(new(dns.Msg).SetRcode(m, dns.RcodeFormatError)) },
		"FORMERR, header alone": func(w dns.ResponseWriter, m *dns.Msg) {
			reply := new(dns.Msg).SetRcode(m, dns.RcodeFormatError)
			reply.Question = nil
			_ = w.WriteMsg(reply)
		},
		"NOTIMP": func(w dns.ResponseWriter, m *dns.Msg) {
			_ = w.WriteMsg(new(dns.Msg).SetRcode(m, dns.RcodeNotImplemented))
		},
		"silence": func(dns.ResponseWriter, *dns.Msg) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := serve(t, func(w dns.ResponseWriter, m *dns.Msg) {
				if m.IsEdns0() != nil {
					refuse(w, m)
					return
				}
				f(w, m)
			})
			despiteSilence(t, func(r *Resolver) error {
				p, err := r.Lookup(t.Context(), "d.example")
				if err == nil && show(p) != "d.example=192.0.2.1" {
					err = errors.New(show(p))
				}
				return err
			}, addr)
		})
	}
}

func TestServfailIsNotAskedTwice(t *testing.T) {
	t.Parallel()
	var n atomic.Int32
	_, err := overServers(t, serve(t, code(dns.RcodeServerFailure, &n))).Lookup(t.Context(), "d.example")
	if reasonOf(t, err) != Temporary || n.Load() != 1 {
		t.Errorf("error %v after %d queries", err, n.Load())
	}
}

func TestLostDatagramIsSentAgain(t *testing.T) {
	t.Parallel()
	var n atomic.Int32
	addr := serve(t, func(w dns.ResponseWriter, m *dns.Msg) {
		if n.Add(1) > 1 {
			_ = w.WriteMsg(new(dns.Msg).SetRcode(m, dns.RcodeNameError))
		}
	})
	despiteSilence(t, func(r *Resolver) error {
		n.Store(0)
		if _, err := r.Lookup(t.Context(), "d.example"); reasonOf(t, err) != NXDomain {
			return err
		}
		return nil
	}, addr)
}

func TestReplyToAnotherQuestionIsNoAnswer(t *testing.T) {
	t.Parallel()
	addr := serve(t, func(w dns.ResponseWriter, m *dns.Msg) {
		reply := new(dns.Msg).SetRcode(m, dns.RcodeNameError)
		reply.Question[0].Name = "other.example."
		_ = w.WriteMsg(reply)
	})
	_, err := overServers(t, addr).Lookup(t.Context(), "d.example")
	if reasonOf(t, err) != Temporary || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("error %v", err)
	}
}

func TestCancelEndsAQueryUnderWay(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 10)
	addr := serve(t, func(dns.ResponseWriter, *dns.Msg) { asked <- struct{}{} })
	r := newResolver(t, nil, func(o *Options) { o.Resolvers = []string{addr}; o.Timeout = time.Hour })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if _, err := r.Lookup(ctx, "d.example"); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestResolverAddresses(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"192.0.2.1": "192.0.2.1:53", "192.0.2.1:5353": "192.0.2.1:5353", "2001:db8::1": "[2001:db8::1]:53",
		"[2001:db8::1]": "[2001:db8::1]:53", "[2001:db8::1]:5353": "[2001:db8::1]:5353", "fe80::1%eth0": "[fe80::1%eth0]:53",
	} {
		if got, err := resolverAddress(in); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", in, got, err, want)
		}
	}
}

// TestSystemResolversFollowTheFile has a resolv.conf that comes after the start, changes in
// place, is replaced and goes.
func TestSystemResolversFollowTheFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	c := &client{system: systemFile{path: path}}
	expect := func(when string, local bool, want ...string) {
		t.Helper()
		if got := c.servers(); !slices.Equal(got, want) || c.local() != local {
			t.Errorf("%s: %v, local %v", when, got, c.local())
		}
	}
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	expect("without a file", true, "127.0.0.1:53")
	write(path, "search example.com\n")
	expect("without a nameserver", true, "127.0.0.1:53")
	write(path, "# x\nnameserver 192.0.2.1\nnameserver 2001:db8::1\noptions edns0\n")
	expect("when the network is up", false, "192.0.2.1:53", "[2001:db8::1]:53")
	write(path+".new", "nameserver 127.0.0.53\nnameserver no-address\n")
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	expect("replaced", true, "127.0.0.53:53")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	expect("gone", true, "127.0.0.1:53")
}

// FuzzRead feeds replies that a hostile name server may have made: what comes
// out must be fit for logs, keys and connects.
func FuzzRead(f *testing.F) {
	for _, records := range [][]string{
		{"300 MX 10 mx.example."},
		{"300 MX 0 ."},
		{"300 CNAME c.example.", "300 @c.example. MX 10 a\\000b.example."},
		{"300 CNAME d.example."},
	} {
		m := new(dns.Msg)
		m.SetQuestion("d.example.", dns.TypeMX)
		for _, text := range records {
			m.Answer = append(m.Answer, record("d.example", text))
		}
		m.Response = true
		wire, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	r, err := New(Options{Exchanger: newFake(zone{})})
	if err != nil {
		f.Fatal(err)
	}
	now := time.Unix(1e9, 0)
	f.Fuzz(func(t *testing.T, wire []byte) {
		m := new(dns.Msg)
		if m.Unpack(wire) != nil {
			return
		}
		for _, kind := range []uint16{dns.TypeMX, dns.TypeA, dns.TypeAAAA} {
			a := read(m, question{"d.example", kind}, now)
			if d := a.expires.Sub(now); d < leastTTL || d > mostTTL {
				t.Errorf("counts for %v", d)
			}
			if (a.status == failed) != (a.err != nil) || a.status == found && kind != dns.TypeMX && len(a.addrs) == 0 {
				t.Errorf("answer %+v", a)
			}
			if a.nullMX && len(a.mx) > 0 || len(a.mx) > maxExchangers || len(a.addrs) > maxAddresses {
				t.Errorf("answer %+v", a)
			}
			for i, x := range a.mx {
				if !isHostName(x.Name) || i > 0 && a.mx[i-1].Preference > x.Preference {
					t.Errorf("exchangers %+v", a.mx)
				}
			}
			for _, addr := range r.judge([]*answer{a}).addrs {
				if addr.Is4In6() || addr.IsLoopback() || addr.IsPrivate() || addr.IsMulticast() || addr.IsUnspecified() || addr.IsLinkLocalUnicast() {
					t.Errorf("address %v", addr)
				}
			}
		}
	})
}

func FuzzDomain(f *testing.F) {
	for _, s := range []string{"example.com", "Bücher.example.", "[192.0.2.1]", "[IPv6:::1]", "[IPv6:fe80::1%x]", "..", "[", "xn--", "a\r\nb"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if name, err := domainName(s); err == nil && !isHostName(name) {
			t.Errorf("%q became %q", s, name)
		}
		if a, err := parseLiteral(s); err == nil && (a.Zone() != "" || a.Is4In6() || a == (netip.Addr{})) {
			t.Errorf("%q became %v", s, a)
		}
	})
}
