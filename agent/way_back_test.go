package agent

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/proxy"
	"github.com/millrace/millrace/contrib/lab/sink"
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
			s.config.Handback.Relay = freePort(t)
			s.start()
			const n = 3
			for range n {
				s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
			}
			s.until("the port was called", func() bool { return strings.Contains(s.log.String(), "msg=connect relay=127.0.0.1[127.0.0.1]") })
			s.until("bounces wait", func() bool { return s.agent.backend().HandbackStatus().Waiting == n })

			socket, err := proxy.New(proxy.Options{Listen: "unix:" + filepath.Join(t.TempDir(), "s")})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(socket.Close)
			if err := socket.Pass(host); err != nil {
				t.Fatal(err)
			}
			next := *s.config
			next.Handback.Relay = socket.Addr()
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
			if got := s.agent.backend().HandbackStatus().Relay; got != next.Handback.Relay {
				t.Errorf("they are said to go to %s", got)
			}
			if got := strings.Count(s.log.String(), "relay=localhost["+config.RelaySocket(next.Handback.Relay)+"] "); got < n {
				t.Errorf("%d log lines name the socket:\n%s", got, s.log)
			}
		})
	}
}
