package milter_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	emersion "github.com/emersion/go-milter"

	"github.com/millrace/millrace/contrib/lab"
)

// TestOtherHostsAreServedOnlyAsPeers listens at all addresses, as it may be
// configured since long, and takes this host's connections alone until a reload names
// a peer. Connections between two addresses are those of another host here.
func TestOtherHostsAreServedOnlyAsPeers(t *testing.T) {
	t.Parallel()
	const here, there = "192.0.2.1", "192.0.2.2"
	for _, a := range []string{here, there} {
		if out, err := exec.CommandContext(t.Context(), "ip", "address", "replace", a, "dev", "lo").CombinedOutput(); err != nil {
			t.Fatalf("ip address replace %s: %v: %s", a, err, out)
		}
	}
	ln, err := net.Listen("tcp", "[::]:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s := serveOn(t, divertAll(), &fakeSpool{}, ln)
	served := func(from, to string) error {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := emersion.NewClientWithOptions("tcp", net.JoinHostPort(to, port), emersion.ClientOptions{
			Dialer: &d, ActionMask: emersion.OptRemoveRcpt,
		}).Session()
		if err == nil {
			err = c.Close()
		}
		return err
	}
	for _, own := range []string{"127.0.0.1", "::1", here} {
		if err := served(own, own); err != nil {
			t.Errorf("this host is not served at %s: %v", own, err)
		}
	}
	for range 5 {
		if served(there, here) == nil {
			t.Fatal("another host is served")
		}
	}
	if l := s.log.Lines("level=WARN", "another host", "from="+there); len(l) != 1 {
		t.Errorf("log has %d lines about it", len(l))
	}
	cfg := divertAll()
	cfg.Milter.Peers = []netip.Prefix{netip.MustParsePrefix(there + "/32")}
	if err := s.server.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	if err := served(there, here); err != nil {
		t.Errorf("a peer is not served: %v", err)
	}
	if served(here, there) == nil {
		t.Error("another host than the peer is served")
	}
}

// TestMailPassesWhileSilentConnectionsAreHeld: somebody holds a thousand connections
// to the milter, as many as it serves, and makes new ones as they are closed.
func TestMailPassesWhileSilentConnectionsAreHeld(t *testing.T) {
	t.Parallel()
	const held = 1000
	cfg := divertAll()
	cfg.Milter.MaxConnections = held
	s := serve(t, cfg, &fakeSpool{})
	flood, end := context.WithCancel(t.Context())
	var attackers sync.WaitGroup
	defer attackers.Wait()
	defer end()
	var up sync.WaitGroup
	for range held {
		up.Add(1)
		attackers.Go(func() {
			first := sync.OnceFunc(up.Done)
			defer first()
			for flood.Err() == nil {
				var d net.Dialer
				c, err := d.DialContext(flood, "tcp", s.addr)
				if err != nil { // not even an attacker gets through always
					select {
					case <-flood.Done():
					case <-time.After(10 * time.Millisecond):
					}
					continue
				}
				first()
				unhook := context.AfterFunc(flood, func() { c.SetDeadline(time.Unix(1, 0)) })
				_, _ = io.Copy(io.Discard, c) // until it is closed
				unhook()
				c.Close()
			}
		})
	}
	up.Wait()
	began := time.Now()
	ctx, p := postfix(t, s, lab.PostfixOptions{Extra: map[string]string{"milter_connect_timeout": "5s"}})
	// A connection gives way to later ones until it has negotiated, and a Postfix that gets no
	// processor for as long as a thousand take to come has not: its client tries again, as
	// clients do.
	send := func() error {
		c, err := lab.Dial(ctx, p.SMTPAddr())
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Send(ctx, "a@lab.test", []string{"ann@example.net"}, []byte(simple))
		return err
	}
	for range 20 {
		for err := send(); err != nil; err = send() {
			if ctx.Err() != nil {
				t.Fatal(err)
			}
			t.Log(err)
		}
	}
	if n := len(s.spool.all()); n != 20 {
		t.Errorf("%d of 20 messages met the milter", n)
	}
	most := 2 + int(time.Since(began).Minutes())
	if l := s.log.Lines("level=WARN", "say nothing"); len(l) == 0 || len(l) > most {
		t.Errorf("log has %d lines about it:\n%s", len(l), strings.Join(l, "\n"))
	}
}
