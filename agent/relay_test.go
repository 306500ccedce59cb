package agent

import (
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/smtptest"
)

// Credentials that others can read are not used: the relay is not even called, the
// mail waits, the agent runs and says why.
func TestMailWaitsForCredentialsThatAreRefused(t *testing.T) {
	t.Parallel()
	r := (&smtptest.Server{Auth: "user secret"}).Listen(t)
	const why = "relay_auth_file: group users can read \"/etc/auth\""
	s := newStage(t, func(c *config.Config) {
		c.General.Route = config.Route{Kind: config.RouteRelay, Relay: r.Addr.String()}
		c.General.RelayAuthFile, c.General.RelayAuthRefused = "/etc/auth", why
		c.Refused = []config.Notice{{File: "millrace.toml", Line: 7, Text: why}}
	})
	a := s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	s.until("a try", func() bool { return strings.Contains(s.log.String(), "msg=connect") && s.status().Waiting == 1 })
	if r.Seen() != 0 || !strings.Contains(s.log.String(), "group users can read") {
		t.Errorf("%d connections\n%s", r.Seen(), s.log)
	}
	if !slices.Contains(a.watch.NotReady(), "millrace.toml:7: "+why) {
		t.Errorf("/readyz: %v", a.watch.NotReady())
	}
}
