package smtp

import (
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
)

// A Unix socket takes the place of an address; a source address means nothing there.
func TestSocketIsDialled(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if nc, err := l.Accept(); err == nil {
			pleased{offers: []string{"PIPELINING"}}.serve(nc)
		}
	}()
	t.Cleanup(func() { l.Close(); <-served })
	var said strings.Builder
	c, err := Dial(t.Context(), netip.AddrPort{}, Options{
		Hello: "client.example", Socket: path, Local: netip.MustParseAddr("192.0.2.1"), Timeouts: patient(),
		Trace: func(e TraceEvent) { said.WriteString(e.Line + "\n") },
	})
	if err != nil {
		t.Fatal(err)
	}
	if res, err := c.Send(t.Context(), message("s@a.example", "r@b.example")); err != nil || res.Recipients[0].Fate != Accepted {
		t.Errorf("%+v, %v", res, err)
	}
	if err := c.Check(); err != nil {
		t.Error(err)
	}
	c.Quit(t.Context())
	if want := "connected to " + path + "\n"; !strings.Contains(said.String(), want) {
		t.Errorf("no %q in\n%s", want, said.String())
	}
}
