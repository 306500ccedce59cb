package deliver

import (
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/contrib/lab/smtptest"
)

// A host that refuses us for being one too many is left alone where an equal one
// takes us, and called all the same where there is only one that stands in.
func TestRefusingHostIsPassedByForItsEquals(t *testing.T) {
	t.Parallel()
	takes := new(smtptest.Server).Listen(t)
	full := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), takes.Addr.Port())
	refused := refuse(t, full)
	set := testSettings(t, func(c *config.Config) { c.Agent.Port = full.Port() })
	const connects = 20
	for _, tt := range []struct {
		name       string
		preference uint16 // of the host that takes us
		min, max   int64  // refusals
	}{{"equal", 10, 0, 1}, {"backup", 20, connects, connects}} {
		d := testDeliverer(t, set, nil)
		rt := queue.Route{Site: "far", Queue: &config.Queue{TLS: config.TLSNone}, Plan: &route.Plan{Domain: "far.test", Hosts: []route.Host{
			{Name: "mx1.test", Preference: 10, Addrs: []netip.Addr{full.Addr()}},
			{Name: "mx2.test", Preference: tt.preference, Addrs: []netip.Addr{takes.Addr.Addr()}},
		}}}
		before := refused.Load()
		for range connects {
			if c, _, _, err := d.connect(t.Context(), rt); err == nil {
				c.Quit(t.Context())
			}
		}
		if n := refused.Load() - before; n < tt.min || n > tt.max {
			t.Errorf("%s: refused %d times in %d connects, want %d to %d", tt.name, n, connects, tt.min, tt.max)
		}
	}
}

// refuse listens and refuses every connection until the test ends, counting them.
func refuse(t *testing.T, addr netip.AddrPort) *atomic.Int64 {
	t.Helper()
	var n atomic.Int64
	smtptest.ServeAt(t, addr.String(), func(nc net.Conn) {
		n.Add(1)
		io.WriteString(nc, "421 4.7.0 too many connections\r\n")
	})
	return &n
}
