package settings

import (
	"net/netip"
	"testing"

	"github.com/millrace/millrace/agent/queue"
)

// A block holds at the provider that said so, and for all of an IPv6 /64.
func TestBlockHoldsAtItsProvider(t *testing.T) {
	t.Parallel()
	s := pooled(t, threePools)
	s.Presence, s.Blocks = &Presence{bind: func(netip.Addr) error { return nil }}, &Blocks{}
	google := s.Config.Queue("google")
	plan := planOf("gmail.example", "198.51.100.1", "2001:db8:9::1")
	first := s.MXRoute("gmail.example from news", google, plan)
	list := []Block{{"google", first.Sources[0]}, {"google", netip.MustParseAddr("2001:db8:1::ffff")}}
	if !s.Blocks.Set(list) || s.Blocks.Set(list) {
		t.Error("Set does not tell what is new")
	}
	for _, name := range []string{"gmail.example from news", queue.RouteName("gmail.example", first.From)} {
		rt := s.MXRoute(name, google, plan)
		if rt.Sources[0] == first.Sources[0] || rt.Sources[1] != netip.MustParseAddr("2001:db8:2::1") {
			t.Errorf("%s from %v", name, rt.Sources)
		}
		if rt := s.MXRoute(name, &s.Config.General, plan); rt.Sources[0] != first.Sources[0] {
			t.Errorf("%s from %v elsewhere", name, rt.Sources)
		}
	}
	s.Blocks.Set(nil)
	if rt := s.MXRoute(queue.RouteName("gmail.example", first.From), google, plan); rt.From != first.From {
		t.Errorf("from %v when it is over", rt.Sources)
	}
	if (*Blocks)(nil).At("google", list[0].Address) || (*Blocks)(nil).Set(list) {
		t.Error("none has one")
	}
}
