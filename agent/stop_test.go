package agent

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/sink"
)

// TestSendingStopsWithTheHost has the host stopped at the start, started, and stopped
// again; an agent that is not asked to does not care.
func TestSendingStopsWithTheHost(t *testing.T) {
	t.Parallel()
	far := sink.Provider{Name: "far", Domains: []string{"far.test"}}
	s := newStage(t, func(c *config.Config) { c.Agent.StopWithHost = true }, far)
	careless := newStage(t, nil, far)
	host := func(down bool) {
		for _, s := range []*stage{s, careless} {
			if err := s.net.Change("host", func(b *sink.Behaviour) { b.Down = down }); err != nil {
				t.Fatal(err)
			}
		}
	}
	paused := func() bool {
		st, err := s.admin().Standing(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(st.Brakes) == 1 && st.Brakes[0].Reason == "the host MTA is stopped"
	}
	host(true)
	s.start()
	careless.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	careless.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	careless.until("delivered", func() bool { return len(careless.at("far")) == 1 })
	s.until("held", func() bool { return s.listed(control.Filter{State: "held"}) == "a" })
	if !paused() || len(s.at("far")) != 0 {
		t.Errorf("%d sent while the host is stopped", len(s.at("far")))
	}
	host(false)
	s.until("delivered", func() bool { return len(s.at("far")) == 1 })
	host(true)
	s.until("stopped again", paused)
}

func TestListenerIsSeenWithoutAConnection(t *testing.T) {
	t.Parallel()
	for _, x := range []struct{ listen, ask string }{{"127.0.0.1:0", "127.0.0.1"}, {"0.0.0.0:0", "127.0.0.1"}, {"[::1]:0", "::1"}} {
		l, err := net.Listen("tcp", x.listen)
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ask := net.JoinHostPort(x.ask, port)
		if up, err := listening(ask); err != nil || !up {
			t.Errorf("%s while somebody listens on %s: %v, %v", ask, x.listen, up, err)
		}
		l.Close()
		if up, err := listening(ask); err != nil || up {
			t.Errorf("%s without a listener: %v, %v", ask, up, err)
		}
	}
	path := filepath.Join(t.TempDir(), "s")
	if up, err := listening("unix:" + path); err != nil || up {
		t.Errorf("a socket that is not there: %v, %v", up, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if up, err := listening("unix:" + path); err != nil || !up {
		t.Errorf("a socket while somebody listens: %v, %v", up, err)
	}
	if err := l.(*net.UnixListener).SetDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if c, err := l.Accept(); err == nil {
		c.Close()
		t.Error("a connection was made")
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as Postfix leaves its own
	l.Close()
	if up, err := listening("unix:" + path); err != nil || up {
		t.Errorf("a socket that somebody left: %v, %v", up, err)
	}
	if _, err := listening("unix:" + path + "/s"); err == nil {
		t.Error("a path that cannot be followed tells nothing")
	}
}
