package sink

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab/ledger"
)

func TestPresetsRun(t *testing.T) {
	t.Parallel()
	names := Presets()
	if len(names) != 3 {
		t.Errorf("presets %v", names)
	}
	for _, name := range names {
		text, err := PresetText(name)
		if err != nil {
			t.Fatal(err)
		}
		s, err := ParseScenario(text)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		n, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := n.AddScenario(s); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		n.Close()
	}
	if _, err := PresetText("none"); err == nil || !strings.Contains(err.Error(), "ideal, mixed, slow") {
		t.Errorf("got %v", err)
	}
}

func TestBadScenarioIsRefused(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "no [[provider]]",
		"[[provider]]\nname = \"x\"\n[provider.behaviour]\nlatency = \"1s\"\n": "unknown key provider.behaviour.latency",
		"[[provider]]\nhosts = \"x\"\n":                                        "hosts",
	} {
		if _, err := ParseScenario(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestBadProviderIsRefused(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{})
	if err := n.Add(Provider{Name: "q", Domains: []string{"q.test"}}); err != nil {
		t.Fatal(err)
	}
	with := func(b Behaviour) Provider {
		return Provider{Name: "new", Domains: []string{"new.test"}, Behaviour: b}
	}
	for _, c := range []struct {
		p    Provider
		want string
	}{
		{Provider{}, "no name"},
		{Provider{Name: "new"}, "no domains"},
		{Provider{Name: "q", Domains: []string{"z.test"}}, "added twice"},
		{Provider{Name: "new", Domains: []string{"Q.test"}}, "belongs to q"},
		{Provider{Name: "new", Domains: []string{"[z"}}, "pattern"},
		{Provider{Name: "new", Domains: []string{"z.test"}, Host: []Host{{Name: "MX1"}}}, "host mx1 named twice"},
		{Provider{Name: "new", Domains: []string{"z.test"}, Host: []Host{{Name: "z", Addr: netip.MustParseAddr("192.0.2.1")}}}, "not in 127"},
		{with(Behaviour{OverLimit: "x"}), "over_limit"},
		{with(Behaviour{RateAt: "x"}), "rate_at"},
		{with(Behaviour{DNS: "x"}), "dns"},
		{with(Behaviour{Drop: 1.5}), "drop = 1.5"},
		{with(Behaviour{RTT: -1}), "rtt is negative"},
		{with(Behaviour{MaxSize: -1}), "max_size is negative"},
		{with(Behaviour{Say: map[Cause]string{"x": "421 x"}}), "no such cause"},
		{with(Behaviour{Say: map[Cause]string{CauseBan: "hello"}}), "want a 4xx or 5xx"},
	} {
		if err := n.Add(c.p); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want %q, got %v", c.want, err)
		}
	}
	if err := n.Change("p", func(b *Behaviour) { b.TempShare = 2 }); err == nil {
		t.Error("bad change accepted")
	}
	if b, _ := n.Behaviour("p"); b.TempShare != 0 {
		t.Error("bad change made")
	}
	if err := n.Change("nobody", func(b *Behaviour) {}); err == nil {
		t.Error("change of nobody accepted")
	}
}

func TestOverlappingAddressLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{})
	host := func(name, addr string) Host { return Host{Name: name, Addr: netip.MustParseAddr(addr)} }
	p := Provider{Name: "q", Domains: []string{"q.test"}, Host: []Host{host("a", "127.99.0.1"), host("b", "127.16.0.1")}}
	if err := n.Add(p); err == nil {
		t.Fatal("address of another host taken")
	}
	p.Host[1] = host("b", "127.99.0.2")
	if err := n.Add(p); err != nil {
		t.Errorf("after the failure: %v", err)
	}
}

func TestEveryKeyIsExplained(t *testing.T) {
	t.Parallel()
	for _, k := range Keys() {
		if k[0] == "" || k[1] == "" {
			t.Errorf("key %q: %q", k[0], k[1])
		}
	}
}

func TestTwoInternetsKeepTheirPorts(t *testing.T) {
	t.Parallel()
	a, b := start(t, Behaviour{}), start(t, Behaviour{})
	if a.Port() == b.Port() {
		t.Fatal("same port")
	}
	// Nobody else gets the port by chance, and a host may still be added.
	if ln, err := net.Listen("tcp", netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port()).String()); err == nil {
		ln.Close()
		t.Error("port given away")
	}
	if err := a.Add(Provider{Name: "q", Domains: []string{"q.test"}, Hosts: 3}); err != nil {
		t.Error(err)
	}
	c, err := New(Options{Port: a.Port()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Port() != a.Port() {
		t.Error("port not as told")
	}
}

func TestCloseCutsEverything(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{RTT: time.Hour, DNSDelay: time.Hour, HangConnect: 0.5})
	waiting := dialOnly(t, n, "mx1")
	hung := dialOnly(t, n, "mx1")
	n.Close()
	waiting.wants("")
	hung.wants("")
	n.Close()
	if err := n.Add(Provider{Name: "q", Domains: []string{"q.test"}}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("add after close: %v", err)
	}
	if err := n.Change("p", func(*Behaviour) {}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("change after close: %v", err)
	}
}

func TestControlChangesAndTells(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{MaxMessages: 9}, "a", "b")
	server := httptest.NewServer(n.Handler())
	defer server.Close()
	defer server.Client().CloseIdleConnections()
	call := func(method, path, body string) (int, string) {
		t.Helper()
		req, err := http.NewRequest(method, server.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(text)
	}
	if code, text := call("POST", "/behaviour/a", "accept_time = \"1ms\"\nsay.rate = \"421 4.7.0 slow down\"\nhide = [\"DSN\"]"); code != 204 {
		t.Errorf("change: %d %s", code, text)
	}
	a, _ := n.Behaviour("a")
	b, _ := n.Behaviour("b")
	if a.AcceptTime != time.Millisecond || a.MaxMessages != 9 || a.Say[CauseRate] != "421 4.7.0 slow down" || !a.hides("DSN") || b.AcceptTime != 0 {
		t.Errorf("a %+v, b %+v", a, b)
	}
	// What is told can be said again.
	code, text := call("GET", "/behaviour/a", "")
	if code != 200 || !strings.Contains(text, `accept_time = "1ms"`) {
		t.Errorf("got %d %s", code, text)
	}
	if code, text := call("POST", "/behaviour/p", text); code != 204 {
		t.Errorf("repeat: %d %s", code, text)
	}
	if b, _ := n.Behaviour("b"); b.AcceptTime != time.Millisecond {
		t.Errorf("b %+v", b)
	}
	for _, bad := range []string{"nonsense = 1", "rtt = -1", "drop = 3.0", "=", "rtt = \"x\""} {
		if code, _ := call("POST", "/behaviour/a", bad); code != 400 {
			t.Errorf("%q: %d", bad, code)
		}
	}
	if code, _ := call("GET", "/behaviour/nobody", ""); code != 404 {
		t.Errorf("nobody: %d", code)
	}
	dial(t, n, "a").mail("42", "u@x.test", "250")
	if code, text := call("GET", "/stats", ""); code != 200 || !strings.Contains(text, `"messages":1`) {
		t.Errorf("stats: %d %s", code, text)
	}
	_, text = call("GET", "/ledger", "")
	if l, err := ledger.ReadJSON(strings.NewReader(text)); err != nil || l.Len() != 1 {
		t.Errorf("ledger %q: %v", text, err)
	}
	if code, text := call("GET", "/ca", ""); code != 200 || !strings.Contains(text, "BEGIN CERTIFICATE") {
		t.Errorf("CA: %d %s", code, text)
	}
}
