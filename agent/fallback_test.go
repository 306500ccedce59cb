package agent

import (
	"crypto/tls"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/smtptest"
)

// A handshake that fails once is no reason to keep mail in the clear from a host
// that insists on TLS: at its word TLS is tried again at once.
func TestAHostThatInsistsOnTLSGetsIt(t *testing.T) {
	t.Parallel()
	cert, _, _ := smtptest.Pair(t, "mx.test")
	r := (&smtptest.Server{Conf: &tls.Config{Certificates: []tls.Certificate{cert}}, Insists: true, Stumbles: 1}).Listen(t)
	s := newStage(t, func(c *config.Config) {
		c.General.Route = config.Route{Kind: config.RouteRelay, Relay: r.Addr.String()}
		c.General.MaxSessions = 1
	})
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	s.until("delivered", func() bool { r.Mu.Lock(); defer r.Mu.Unlock(); return len(r.Mails) == 1 })
	s.until("settled", s.empty)
	s.stop()
	r.Mu.Lock()
	defer r.Mu.Unlock()
	if !r.Mails[0] || r.StartTLS != 2 {
		t.Errorf("TLS %v after %d STARTTLS", r.Mails, r.StartTLS)
	}
}
