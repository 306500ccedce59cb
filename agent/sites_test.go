package agent

import (
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

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// names serves a zone: what the records of a name and type are.
func names(t *testing.T, zone func(name string, kind uint16) []string) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		r := new(dns.Msg).SetReply(m)
		q := m.Question[0]
		for _, text := range zone(strings.TrimSuffix(strings.ToLower(q.Name), "."), q.Qtype) {
			rr, err := dns.NewRR(fmt.Sprintf("%s 300 IN %s %s", q.Name, dns.TypeToString[q.Qtype], text))
			if err == nil {
				r.Answer = append(r.Answer, rr)
			}
		}
		w.WriteMsg(r)
	})}
	go s.ActivateAndServe()
	t.Cleanup(func() { s.Shutdown() })
	return pc.LocalAddr().String()
}

// siteNames are the sites that the agent has, relays apart.
func (s *stage) siteNames() (list []string) {
	for _, x := range s.status().Sites {
		if !strings.HasPrefix(x.Name, "relay:") {
			list = append(list, x.Name)
		}
	}
	slices.Sort(list)
	return list
}

// Domains with MX names of their own on one shared host are one site, and its connections
// serve them all; those with primaries of their own and a common backup are not.
func TestDomainsOnOneHostShareItsConnections(t *testing.T) {
	t.Parallel()
	const n = 200
	s := newStage(t, nil,
		sink.Provider{Name: "shared", Host: []sink.Host{{Name: "shared.test", Addr: netip.MustParseAddr("127.40.0.1")}}, Domains: []string{"d*.test"}},
		sink.Provider{Name: "own", Hosts: 30, Domains: []string{"p*.test"}},
	)
	s.config.Agent.Resolvers = []string{names(t, func(name string, kind uint16) []string {
		first, rest, _ := strings.Cut(name, ".")
		var i int
		switch {
		case kind == dns.TypeMX && strings.HasPrefix(first, "d"):
			return []string{"10 mail." + name}
		case kind == dns.TypeMX && strings.HasPrefix(first, "p"):
			return []string{"10 mail." + name, "20 backup.test"}
		case kind == dns.TypeA && first == "mail" && strings.HasPrefix(rest, "d"):
			return []string{"127.40.0.1"}
		case kind == dns.TypeA && first == "mail":
			fmt.Sscanf(rest, "p%d", &i)
			return []string{fmt.Sprintf("127.17.0.%d", i+1)}
		case kind == dns.TypeA && first == "backup":
			return []string{"127.40.0.1"}
		}
		return nil
	})}
	s.start()
	to := make([]string, n)
	for i := range to {
		to[i] = fmt.Sprintf("a@d%d.test", i)
	}
	s.send(spool.Envelope{}, letter, to...)
	s.until("delivered", func() bool { return len(s.at("shared")) == n && s.empty() })
	list := s.siteNames()
	if len(list) != 1 || !strings.HasPrefix(list[0], "d") || strings.ContainsAny(list[0], ", ") {
		t.Errorf("sites: %v", list)
	}
	for _, h := range s.net.Stats().Hosts {
		if h.Provider == "shared" && h.Connections > 2*int64(s.config.General.MaxSessions) {
			t.Errorf("%d connections for %d domains", h.Connections, n)
		}
	}
	to = to[:0]
	for i := range 30 {
		to = append(to, fmt.Sprintf("a@p%d.test", i))
	}
	s.send(spool.Envelope{}, letter, to...)
	s.until("delivered", func() bool { return len(s.at("own")) == 30 })
	if got := s.siteNames(); len(got) != 31 {
		t.Errorf("30 domains with a common backup are %d sites: %v", len(got)-1, got)
	}
	// One may say whatever leads there.
	for _, text := range []string{"d7.test", "mail.d150.test", "127.40.0.1", list[0]} {
		if x, err := s.admin().FindSite(t.Context(), text); err != nil || x.Name != list[0] || text == "d7.test" && x.Others == 0 {
			t.Errorf("%s is %q, %v", text, x.Name, err)
		}
		if _, err := s.admin().Why(t.Context(), text); err != nil {
			t.Errorf("why %s: %v", text, err)
		}
	}
}

func TestVerbsTakeADomainAHostOrAnAddress(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) {
		c.Agent.SourceAddresses = []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")}
	}, sink.Provider{Name: "far", Domains: []string{"d*.test"}}, sink.Provider{Name: "other", Domains: []string{"other.test"}})
	s.start()
	s.pause(control.Filter{Stream: "news"}, "for the list")
	var to []string
	for i := range 20 {
		to = append(to, fmt.Sprintf("a@d%d.test", i))
	}
	s.send(spool.Envelope{Stream: "news"}, letter, append(to, "a@other.test")...)
	s.until("all have their sites", func() bool { return len(s.siteNames()) == 3 })
	sites := s.siteNames()
	if sites[0] != "far.test:127.0.0.2" || sites[1] != "far.test:127.0.0.3" || !strings.HasPrefix(sites[2], "other.test:127.0.0.") {
		t.Fatalf("sites: %v", sites)
	}
	host := s.net.Stats().Hosts
	at := host[slices.IndexFunc(host, func(h sink.HostStats) bool { return h.Host == "mx1.far.test" })].Addr
	until := time.Now().Add(time.Hour)
	for _, text := range []string{"mx1.far.test", at, "far.test", "d3.test"} { // one receiver, called from two addresses
		others := 0
		if text == "d3.test" {
			others = 19
		}
		if x, err := s.admin().FindSite(t.Context(), text); err != nil || !slices.Equal(x.Several, sites[:2]) || x.Name != "" || x.Others != others {
			t.Errorf("%s is %+v, %v", text, x, err)
		}
		s.pause(control.Filter{Site: text, Stream: "sale"}, "by "+text)
		if err := s.admin().Limit(t.Context(), control.Limit{Name: text, Sessions: 1, Until: until}); err != nil {
			t.Error(err)
		}
		st, err := s.admin().Standing(t.Context())
		if err != nil || len(st.Pauses) != 3 || len(st.Limits) != 2 {
			t.Fatalf("%s: %+v, %v", text, st, err)
		}
		for i, name := range sites[:2] {
			if st.Pauses[1+i].Filter.Site != name || st.Limits[i].Name != name {
				t.Errorf("%s, site %d: %+v %+v", text, i, st.Pauses[1+i], st.Limits[i])
			}
		}
		n := 0
		if err := s.admin().Messages(t.Context(), control.Filter{Site: text}, func(m *control.Message) error { n += len(m.Recipients); return nil }); err != nil || n != 20 {
			t.Errorf("%s: %d recipients are listed, %v", text, n, err)
		}
		if done, err := s.admin().Act(t.Context(), control.Action{Verb: control.VerbHold, Filter: control.Filter{Site: text}, Dry: true}, nil); err != nil || done.Recipients != 20 {
			t.Errorf("%s: %+v would be held, %v", text, done, err)
		}
		if n, err := s.admin().Forget(t.Context(), text); err != nil || n != 2 {
			t.Errorf("%s: %d sites are forgotten, %v", text, n, err)
		}
		s.resume(control.Filter{Site: text, Stream: "sale"})
		if err := s.admin().Limit(t.Context(), control.Limit{Name: text}); err != nil {
			t.Error(err)
		}
		if st, err := s.admin().Standing(t.Context()); err != nil || len(st.Pauses) != 1 || len(st.Limits) != 0 {
			t.Fatalf("%s: %+v, %v", text, st, err)
		}
	}
	if _, err := s.admin().Why(t.Context(), at); err == nil || !strings.Contains(err.Error(), sites[0]+", "+sites[1]) {
		t.Errorf("why %s, of two sites: %v", at, err)
	}
	for _, text := range []string{"other.test", "mx1.other.test", sites[2]} {
		s.pause(control.Filter{Site: text}, "by "+text)
		st, err := s.admin().Standing(t.Context())
		if err != nil || len(st.Pauses) != 2 || st.Pauses[1].Filter.Site != sites[2] {
			t.Fatalf("%s: %+v, %v", text, st, err)
		}
		n := 0
		s.admin().Messages(t.Context(), control.Filter{Site: text}, func(m *control.Message) error { n += len(m.Recipients); return nil })
		if n != 1 {
			t.Errorf("%s: %d recipients are listed", text, n)
		}
	}
	s.resume(control.Filter{Site: "other.test"})
	if err := s.admin().Limit(t.Context(), control.Limit{Name: "other.test", Sessions: 1, Until: time.Now().Add(time.Hour)}); err != nil {
		t.Error(err)
	}
	if st, err := s.admin().Standing(t.Context()); err != nil || len(st.Pauses) != 1 || len(st.Limits) != 1 || st.Limits[0].Name != sites[2] {
		t.Errorf("%+v, %v", st, err)
	}
	other := host[slices.IndexFunc(host, func(h sink.HostStats) bool { return h.Host == "mx1.other.test" })].Addr
	port := s.config.Agent.Port
	for _, text := range []string{other, fmt.Sprintf("%s:%d", other, port), fmt.Sprintf("[::ffff:%s]:%d", other, port)} {
		if x, err := s.admin().FindSite(t.Context(), text); err != nil || x.Name != sites[2] {
			t.Errorf("%s is %+v, %v", text, x, err)
		}
	}
	if x, err := s.admin().FindSite(t.Context(), fmt.Sprintf("%s:%d", at, port)); err != nil || !slices.Equal(x.Several, sites[:2]) {
		t.Errorf("sites at %s, with a port: %+v, %v", at, x, err)
	}
	for _, text := range []string{"nobody.test", "203.0.113.1", fmt.Sprintf("%s:%d", other, port+1), ":25"} {
		if _, err := s.admin().FindSite(t.Context(), text); err == nil || !strings.Contains(err.Error(), "not known") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// An address that different receivers have is none of their names.
func TestVerbsTakeNoAddressOfDifferentReceivers(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) {
		c.Agent.SourceAddresses = []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")}
	})
	s.config.Agent.Resolvers = []string{names(t, func(name string, kind uint16) []string {
		switch {
		case kind == dns.TypeMX && strings.HasSuffix(name, ".test"):
			return []string{"10 mail." + name, "20 worse." + name}
		case kind == dns.TypeA && name == "worse.two.test":
			return []string{"127.40.1.3"}
		case kind == dns.TypeA && name == "mail.one.test":
			return []string{"127.40.1.1", "127.40.1.2"}
		case kind == dns.TypeA:
			return []string{"127.40.1.1"}
		}
		return nil
	})}
	sites := s.keepAtTwoSites()
	for what, err := range map[string]error{
		"pause": s.admin().Pause(t.Context(), control.Pause{Filter: control.Filter{Site: "127.40.1.1"}}),
		"limit": s.admin().Limit(t.Context(), control.Limit{Name: "127.40.1.1", Sessions: 1, Until: time.Now().Add(time.Hour)}),
		"queue": s.admin().Messages(t.Context(), control.Filter{Site: "127.40.1.1"}, func(*control.Message) error { return nil }),
	} {
		want := "127.40.1.1 may mean several sites, of different receivers; remedy: name one of them: " + sites[0] + " (of one.test), " + sites[1] + " (of two.test)"
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, not %s", what, err, want)
		}
	}
	s.pause(control.Filter{Site: "127.40.1.2"}, "one of them has it")
	if st, err := s.admin().Standing(t.Context()); err != nil || len(st.Pauses) != 2 || st.Pauses[1].Filter.Site != sites[0] {
		t.Errorf("%+v, %v", st, err)
	}
	// That of a worse host is one of the addresses, though it does not tell sites apart.
	if x, err := s.admin().FindSite(t.Context(), "127.40.1.3"); err != nil || x.Name != sites[1] {
		t.Errorf("the backup's address is %+v, %v", x, err)
	}
}

// Orders that the agent of version 0.2 has kept (testdata/standing-0.2.json, written by it)
// hold on, under the names that the sites have now, before any mail is sent there.
func TestOrdersOfLongNamesHoldOn(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) {
		c.Agent.SourceAddresses = []netip.Addr{netip.MustParseAddr("127.0.0.2")}
		q := c.General
		q.Name, q.MX = "provider", []string{"*.provider.test"}
		c.Queues = []config.Queue{q}
	}, sink.Provider{Name: "paused", Domains: []string{"paused.test"}, Hosts: 2},
		sink.Provider{Name: "provider", Domains: []string{"big.test"}, Hosts: 2},
		sink.Provider{Name: "limited", Domains: []string{"limited.test"}, Hosts: 1},
		sink.Provider{Name: "streamed", Domains: []string{"streamed.test"}, Hosts: 3})
	text, err := os.ReadFile("testdata/standing-0.2.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(s.config.Agent.StateDirectory, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(s.config.Agent.StateDirectory, orders.StandingFile)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	s.start()
	for _, d := range []string{"paused", "big", "streamed"} {
		s.send(spool.Envelope{Stream: "news"}, letter, "a@"+d+".test")
	}
	s.send(spool.Envelope{Stream: "other"}, letter, "b@streamed.test")
	s.send(spool.Envelope{Stream: "news"}, letter, "b@limited.test")
	in := func(want string) {
		t.Helper()
		st, err := s.admin().Standing(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for _, p := range st.Pauses {
			list = append(list, p.Filter.String())
		}
		for _, l := range st.Limits {
			list = append(list, fmt.Sprintf("%s: %d", l.Name, l.Sessions))
		}
		if got := strings.Join(list, "; "); got != want || st.Priorities["news"] != 4 {
			t.Errorf("in force: %s, %v\nnot %s", got, st.Priorities, want)
		}
	}
	const all = "site paused.test; site provider; stream news, site streamed.test; limited.test: 1; provider: 3"
	goes := func() {
		t.Helper()
		s.until("what no pause is on for goes", func() bool { return s.arrivals("streamed") == "b" && s.arrivals("limited") == "b" })
		s.until("the rest is held", func() bool { return s.listed(control.Filter{State: "held"}) == "a a a" })
		if a, b := s.arrivals("paused"), s.arrivals("provider"); a+b != "" {
			t.Errorf("sent: %s %s", a, b)
		}
		in(all)
	}
	goes()
	s.stop()
	s.start()
	goes()
	s.resume(control.Filter{Site: "mx1.paused.test,mx2.paused.test from 127.0.0.2"}) // as a script of before has it
	s.until("it goes", func() bool { return s.arrivals("paused") == "a" })
	s.resume(control.Filter{Site: "mx2.provider.test"})
	s.until("it goes", func() bool { return s.arrivals("provider") == "a" })
	s.resume(control.Filter{Site: "streamed.test", Stream: "news"})
	s.until("it goes", func() bool { return s.arrivals("streamed") == "a b" })
	in("limited.test: 1; provider: 3")
}

// A domain of a paused site that comes to other addresses is paused there, too, before any
// of its mail is sent.
func TestPauseFollowsADomainToItsNewSite(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"*.far.test"}, Hosts: 2})
	var at [2]string
	for _, h := range s.net.Stats().Hosts {
		switch h.Host {
		case "mx1.far.test":
			at[0] = h.Addr
		case "mx2.far.test":
			at[1] = h.Addr
		}
	}
	var moved atomic.Bool
	answers := func(name string, kind uint16) []string {
		switch {
		case kind == dns.TypeMX && strings.HasSuffix(name, ".far.test"):
			return []string{"10 mail-" + strings.ReplaceAll(name, ".far.test", ".test")}
		case kind == dns.TypeA && name == "mail-b.test" && moved.Load():
			return at[:]
		case kind == dns.TypeA && strings.HasPrefix(name, "mail-"):
			return at[:1]
		}
		return nil
	}
	s.config.Agent.Resolvers = []string{names(t, answers)}
	s.start()
	s.pause(control.Filter{Stream: "news"}, "until the site is known")
	s.send(spool.Envelope{Stream: "news"}, letter, "a@a.far.test")
	s.until("it has its site", func() bool { return slices.Equal(s.siteNames(), []string{"mail-a.test"}) })
	s.pause(control.Filter{Site: "mail-a.test"}, "wrong price")
	s.resume(control.Filter{Stream: "news"})
	s.send(spool.Envelope{Stream: "news"}, letter, "a@b.far.test")
	s.until("both are held", func() bool { return s.listed(control.Filter{State: "held"}) == "a a" && len(s.siteNames()) == 1 })
	moved.Store(true)
	s.config.Agent.Resolvers = []string{names(t, answers)} // the old one's answers outlive a reload
	if err := s.agent.Reload(s.config); err != nil {
		t.Fatal(err)
	}
	s.until("the other has a site of its own", func() bool { return len(s.siteNames()) == 2 })
	if got := s.listed(control.Filter{State: "held"}); got != "a a" || len(s.at("far")) != 0 {
		t.Errorf("held: %s; sent: %v", got, s.at("far"))
	}
	s.resume(control.Filter{Site: "mail-a.test"})
	s.resume(control.Filter{Site: "mail-b.test"})
	s.until("all goes", func() bool { return len(s.at("far")) == 2 })
}

// When a site falls apart, orders about it hold for both parts, over a restart too.
func TestOrdersHoldForThePartsOfASite(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.start()
	s.pause(control.Filter{Stream: "news"}, "for the list")
	s.send(spool.Envelope{Stream: "news"}, letter, "a@far.test")
	s.until("it has its site", func() bool { return len(s.siteNames()) == 1 })
	s.resume(control.Filter{Stream: "news"})
	s.until("it goes", func() bool { return s.arrivals("far") == "a" })
	s.pause(control.Filter{Site: "far.test"}, "the first")
	if err := s.admin().Limit(t.Context(), control.Limit{Name: "far.test", Sessions: 2, Until: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // several look-ups may tell of it
		s.agent.orders.Split("far.test", "part.test")
		s.agent.orders.Split("nobody.test", "nothing.test")
	}
	for range 2 {
		st, err := s.admin().Standing(t.Context())
		if err != nil || len(st.Pauses) != 2 || len(st.Limits) != 2 {
			t.Fatalf("%+v, %v", st, err)
		}
		if p, l := st.Pauses[1], st.Limits[1]; p.Filter.Site != "part.test" || p.Reason != "the first" || l.Name != "part.test" || l.Sessions != 2 {
			t.Errorf("%+v, %+v", p, l)
		}
		s.stop()
		s.start()
	}
}

// keepAtTwoSites starts with paused mail for one.test and two.test, and returns the names of their
// sites once both have one.
func (s *stage) keepAtTwoSites() []string {
	s.start()
	s.pause(control.Filter{Stream: "news"}, "for the list")
	s.send(spool.Envelope{Stream: "news"}, letter, "a@one.test", "a@two.test")
	s.until("both have their sites", func() bool { return len(s.siteNames()) == 2 })
	return s.siteNames()
}

// A worse host and its address mean the sites that have it; what nobody knows is an error; and to
// ask makes no site, so that the second question is answered as the first.
func TestVerbsMakeNoSites(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) {
		c.Agent.SourceAddresses = []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")}
	})
	s.config.Agent.Resolvers = []string{names(t, func(name string, kind uint16) []string {
		switch {
		case kind == dns.TypeMX && (name == "one.test" || name == "two.test"):
			return []string{"10 mail." + name, "20 backup." + name}
		case kind == dns.TypeA && name == "mail.one.test", kind == dns.TypeA && name == "www.one.test":
			return []string{"127.40.2.1"}
		case kind == dns.TypeA && name == "mail.two.test":
			return []string{"127.40.2.2"}
		case kind == dns.TypeA && name == "backup.two.test":
			return []string{"127.40.2.4"}
		case kind == dns.TypeA: // also of what looks like an address
			return []string{"127.40.2.3"}
		}
		return nil
	})}
	sites := s.keepAtTwoSites()
	until := time.Now().Add(time.Hour)
	for range 2 { // the second time with what the first one has left
		for text, want := range map[string]string{
			"backup.one.test": sites[0], "BACKUP.two.test.": sites[1], "127.40.2.3": sites[0], "127.40.2.4": sites[1], "other.one.test": sites[0], "www.one.test": sites[0],
			"1.2.3.4": "", "127.0.0.2": "", "127.0.0.3:25": "", "127.40.2.5": "", "two.example": sites[0],
		} {
			x, err := s.admin().FindSite(t.Context(), text)
			if x.Name != want || want == "" && (!errors.Is(err, control.ErrUnknown) || x.Several != nil) {
				t.Errorf("%s is %+v, %v, not %q", text, x, err, want)
			}
			if want != "" {
				continue
			}
			for what, err := range map[string]error{
				"pause": s.admin().Pause(t.Context(), control.Pause{Filter: control.Filter{Site: text}}),
				"limit": s.admin().Limit(t.Context(), control.Limit{Name: text, Sessions: 1, Until: until}),
			} {
				if !errors.Is(err, control.ErrUnknown) {
					t.Errorf("%s %s: %v", what, text, err)
				}
			}
		}
	}
	if st, err := s.admin().Standing(t.Context()); err != nil || len(st.Pauses) != 1 || len(st.Limits) != 0 {
		t.Errorf("%+v, %v", st, err)
	}
	s.pause(control.Filter{Site: "backup.one.test"}, "by its worse host")
	if st, err := s.admin().Standing(t.Context()); err != nil || len(st.Pauses) != 2 || st.Pauses[1].Filter.Site != sites[0] {
		t.Errorf("%+v, %v", st, err)
	}
	changes, err := s.admin().Why(t.Context(), "one.test")
	if err != nil {
		t.Fatal(err)
	}
	if len(changes) != 1 || !changes[0].At.IsZero() {
		t.Errorf("a question has made a change of a site that was never called: %+v", changes)
	}
	if x, err := s.admin().FindSite(t.Context(), "handback"); err == nil && !strings.HasPrefix(x.Name, "relay:") {
		t.Errorf("handback is %+v", x)
	}
	if now := changes[len(changes)-1].Now; now.Paused != 1 || len(now.PausedBy) != 2 || now.PausedBy[0].Filter != (control.Filter{Stream: "news"}) || now.PausedBy[1].Filter != (control.Filter{Site: sites[0]}) || now.PausedBy[1].Reason != "by its worse host" {
		t.Errorf("%+v", now)
	}
}
