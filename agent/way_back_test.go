package agent

import (
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/sink"
)

// TestWaitingMailFollowsTheRelay: mail that waits for the host, while nobody answers at
// the port of an older set-up, goes to the socket that the configuration names from a
// reload or a restart on.
func TestWaitingMailFollowsTheRelay(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"reload", "restart"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: sink.Behaviour{PermShare: 1}})
			host := s.config.Handback.Relay
			shut, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			s.config.Handback.Relay = shut.Addr().String()
			shut.Close()
			s.start()
			const n = 3
			for range n {
				s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
			}
			s.until("the port was called", func() bool { return strings.Contains(s.log.String(), "msg=connect relay=127.0.0.1[127.0.0.1]") })
			s.until("bounces wait", func() bool { return s.agent.Return().Waiting == n })

			next := *s.config
			next.Handback.Relay = "unix:" + front(t, host)
			if how == "reload" {
				if err := s.agent.Reload(&next); err != nil {
					t.Fatal(err)
				}
			} else {
				s.stop()
				s.config = &next
				s.start()
			}
			s.until("all have come home", func() bool { return len(s.at("host")) == n && s.empty() })
			if got := s.agent.Return().Relay; got != next.Handback.Relay {
				t.Errorf("they are said to go to %s", got)
			}
			if got := strings.Count(s.log.String(), "relay=localhost["+config.RelaySocket(next.Handback.Relay)+"] "); got < n {
				t.Errorf("%d log lines name the socket:\n%s", got, s.log)
			}
			s.stop() // before the socket, which waits for its connections
		})
	}
}

// front is a socket before a port.
func front(t *testing.T, to string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	t.Cleanup(func() { l.Close(); work.Wait() })
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			d, err := net.Dial("tcp", to)
			if err != nil {
				c.Close()
				continue
			}
			carry := func(from, to net.Conn) {
				_, _ = io.Copy(to, from)
				from.Close()
				to.Close()
			}
			work.Go(func() { carry(c, d) })
			work.Go(func() { carry(d, c) })
		}
	})
	return path
}
