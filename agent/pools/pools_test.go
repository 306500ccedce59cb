package pools

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"testing"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func pool(name string, list ...any) *Pool {
	p := &Pool{Name: name}
	for i := 0; i < len(list); i += 2 {
		p.Addresses = append(p.Addresses, Address{Addr: addr(list[i].(string)), Weight: list[i+1].(int)})
	}
	return p
}

func keys(n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf("d%d.example", i))
	}
	return list
}

// Shares are as the weights, within 3% of them, in each family by itself.
func TestSharesAreAsTheWeights(t *testing.T) {
	t.Parallel()
	const n = 40_000
	p := pool("news", "192.0.2.1", 1, "192.0.2.2", 2, "192.0.2.3", 5, "2001:db8:1::1", 3, "2001:db8:2::1", 1)
	used := make(map[netip.Addr]float64)
	for _, key := range keys(n) {
		c := p.Choose(key, nil)
		if !c[0].Is4() || !c[1].Is6() {
			t.Fatalf("%v", c)
		}
		used[c[0]]++
		used[c[1]]++
	}
	sum := map[bool]int{true: 8, false: 4}
	for _, a := range p.Addresses {
		want := float64(n*a.Weight) / float64(sum[a.Is4()])
		if got := used[a.Addr]; got < 0.97*want || got > 1.03*want {
			t.Errorf("%v: %v of %v", a.Addr, got, want)
		}
	}
}

// Whatever changes, no key moves but to what has grown, or from what has shrunk.
func TestNothingMovesButItsShare(t *testing.T) {
	t.Parallel()
	before := pool("news", "192.0.2.1", 2, "192.0.2.2", 2, "192.0.2.3", 2)
	for what, x := range map[string]struct {
		after *Pool
		from  func(netip.Addr) bool
		to    func(netip.Addr) bool
		part  float64
	}{
		"an address more": {pool("news", "192.0.2.1", 2, "192.0.2.2", 2, "192.0.2.3", 2, "192.0.2.4", 2), all, is("192.0.2.4"), 0.25},
		"an address less": {pool("news", "192.0.2.1", 2, "192.0.2.2", 2), is("192.0.2.3"), all, 0.333},
		"more weight":     {pool("news", "192.0.2.1", 4, "192.0.2.2", 2, "192.0.2.3", 2), all, is("192.0.2.1"), 0.167},
		"less weight":     {pool("news", "192.0.2.1", 1, "192.0.2.2", 2, "192.0.2.3", 2), is("192.0.2.1"), all, 0.133},
	} {
		moved := 0
		for _, key := range keys(20_000) {
			a, b := before.Choose(key, nil)[0], x.after.Choose(key, nil)[0]
			if a == b {
				continue
			}
			moved++
			if !x.from(a) || !x.to(b) {
				t.Fatalf("%s: %s from %v to %v", what, key, a, b)
			}
		}
		if part := float64(moved) / 20_000; part < 0.9*x.part || part > 1.1*x.part {
			t.Errorf("%s: %.3f moved, want %.3f", what, part, x.part)
		}
	}
	// One that cannot be used is as one that is not there, and comes back.
	for _, key := range keys(1000) {
		a := before.Choose(key, nil)[0]
		b := before.Choose(key, func(x netip.Addr) bool { return x != addr("192.0.2.3") })[0]
		if b == addr("192.0.2.3") || a != b && a != addr("192.0.2.3") {
			t.Fatalf("%s from %v to %v", key, a, b)
		}
		if c := before.Choose(key, func(netip.Addr) bool { return false })[0]; c != a {
			t.Fatalf("%s from %v to %v, where none can be used", key, a, c)
		}
	}
}

func all(netip.Addr) bool { return true }

func is(s string) func(netip.Addr) bool { return func(a netip.Addr) bool { return a == addr(s) } }

// The choices are part of what outlives restarts and upgrades: these are for ever.
func TestChoicesAreForEver(t *testing.T) {
	t.Parallel()
	p := pool("news", "192.0.2.1", 1, "192.0.2.2", 1, "2001:db8:1::1", 1, "2001:db8:2::1", 1)
	got := ""
	for _, key := range keys(8) {
		got += p.Choose(key, nil).text() + "\n"
	}
	const want = `p 192.0.2.2 2001:db8:2::1
p 192.0.2.2 2001:db8:2::1
p 192.0.2.1 2001:db8:2::1
p 192.0.2.1 2001:db8:2::1
p 192.0.2.1 2001:db8:2::1
p 192.0.2.1 2001:db8:1::1
p 192.0.2.2 2001:db8:2::1
p 192.0.2.1 2001:db8:2::1
`
	if got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func (c Choice) text() string { return From{Pool: "p", Choice: c}.String() }

// Without a name, a pool gives each name the address that the first release gave it.
func TestPoolWithoutNameChoosesAsEver(t *testing.T) {
	t.Parallel()
	for _, p := range []*Pool{
		pool("", "198.51.100.1", 1),
		pool("", "198.51.100.1", 1, "198.51.100.2", 1, "198.51.100.3", 1),
		pool("", "198.51.100.1", 1, "2001:db8:1::1", 1, "198.51.100.2", 1, "2001:db8:1::2", 1),
	} {
		for _, name := range keys(10_000) {
			h := fnv.New32a()
			h.Write([]byte(name))
			if got, want := p.Choose(name, nil)[0], p.Addresses[h.Sum32()%uint32(len(p.Addresses))].Addr; got != want {
				t.Fatalf("%s from %v, not %v", name, got, want)
			}
		}
	}
	if c := new(Pool).Choose("a.example", nil); c != (Choice{}) {
		t.Errorf("an empty pool chooses %v", c)
	}
}

func TestFavouredFamilyComesFirst(t *testing.T) {
	t.Parallel()
	four, six := addr("192.0.2.1"), addr("2001:db8::1")
	p := pool("news", "192.0.2.1", 1, "2001:db8::1", 1)
	p.Favour6 = true
	if c := p.Choose("a.example", nil); c != (Choice{six, four}) {
		t.Errorf("%v", c)
	}
	if c := pool("news", "2001:db8::1", 1).Choose("a.example", nil); c != (Choice{six}) {
		t.Errorf("%v", c)
	}
}

func TestFromIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		f    From
		text string
	}{
		{From{}, ""},
		{From{Pool: "news"}, "news"},
		{From{"news", Choice{addr("192.0.2.1"), addr("2001:db8::1")}}, "news 192.0.2.1 2001:db8::1"},
		{From{"news", Choice{addr("2001:db8::1"), addr("192.0.2.1")}}, "news 2001:db8::1 192.0.2.1"},
		{From{"", Choice{addr("192.0.2.1")}}, "- 192.0.2.1"},
	} {
		if got := tt.f.String(); got != tt.text {
			t.Errorf("%+v is %q", tt.f, got)
		}
		if got := PoolOf(tt.text); got != tt.f.Pool {
			t.Errorf("%q is of pool %q", tt.text, got)
		}
		if f, err := Parse(tt.text); err != nil || f != tt.f {
			t.Errorf("%q is %+v, %v", tt.text, f, err)
		}
	}
	for _, text := range []string{"news 192.0.2.300", "news 192.0.2.1 2001:db8::1 192.0.2.2", "- x"} {
		if f, err := Parse(text); err == nil {
			t.Errorf("%q is %+v", text, f)
		}
	}
}

// A settled choice stays, whatever the weights are by now; what must be replaced is.
func TestSettledChoiceStays(t *testing.T) {
	t.Parallel()
	a, b, six, other6 := addr("192.0.2.1"), addr("192.0.2.2"), addr("2001:db8:1::1"), addr("2001:db8:2::1")
	p := pool("news", "192.0.2.1", 1, "192.0.2.2", 1, "2001:db8:1::1", 1, "2001:db8:2::1", 1)
	for _, key := range keys(100) {
		if c := p.Resettle(Choice{b, six}, key, all, all); c != (Choice{b, six}) {
			t.Fatalf("%v", c)
		}
		not := func(x netip.Addr) bool { return x != b }
		if c := p.Resettle(Choice{b, six}, key, not, not); c != (Choice{a, six}) {
			t.Fatalf("%v without %v", c, b)
		}
		if c := p.Resettle(Choice{six, b}, key, not, not); c != (Choice{six, a}) {
			t.Fatalf("%v without %v", c, b)
		}
		if c := p.Resettle(Choice{}, key, all, all); c != p.Choose(key, nil) {
			t.Fatalf("%v", c)
		}
		if c := p.Resettle(Choice{b}, key, all, all); c[0] != b || c[1] != six && c[1] != other6 {
			t.Fatalf("%v", c)
		}
	}
}

func TestAddressesOfANetworkHaveOneReputation(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"2001:db8::1", "2001:db8::ffff:1", true},
		{"2001:db8::1", "2001:db8:0:1::1", false},
		{"192.0.2.1", "2001:db8::1", false},
	} {
		if Same(addr(tt.a), addr(tt.b)) != tt.same {
			t.Errorf("%s and %s", tt.a, tt.b)
		}
	}
	if Same(netip.Addr{}, addr("2001:db8::1")) {
		t.Error("none and one")
	}
}

func BenchmarkChoose(b *testing.B) {
	p := pool("news", "192.0.2.1", 1, "192.0.2.2", 1, "192.0.2.3", 1, "192.0.2.4", 1)
	for b.Loop() {
		p.Choose("somebody@a.example", nil)
	}
}
