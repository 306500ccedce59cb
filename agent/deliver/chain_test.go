package deliver

import (
	"crypto/tls"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/smtp"
	"github.com/millrace/millrace/contrib/lab/smtptest"
)

// The chain of a peer is in memory while the connection is up, taken apart: many of them,
// each of 256 KiB, would take all of it.
func TestHugeChainsAreNotSpokenTo(t *testing.T) {
	t.Parallel()
	cert, _, _ := smtptest.Pair(t, "mx.test")
	for size := 0; size < 40<<10; size += len(cert.Certificate[0]) {
		cert.Certificate = append(cert.Certificate, cert.Certificate[0])
	}
	set := testSettings(t, nil)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, level := range []config.TLS{config.TLSOpportunistic, config.TLSRequired} {
			r := (&smtptest.Server{Conf: &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: version}}).Listen(t)
			o := set.Options(queue.Route{Queue: &config.Queue{TLS: level}}, settings.Host{Name: "mx.test", Addr: r.Addr}, nil)
			conn, err := smtp.Dial(t.Context(), r.Addr, o)
			if err == nil {
				conn.Close()
				t.Errorf("%s, %s: spoken to", tls.VersionName(version), level)
			} else if (mayWeaken(&o) && noTLS(err)) != (level == config.TLSOpportunistic) {
				t.Errorf("%s, %s: %v", tls.VersionName(version), level, err)
			}
		}
	}
}
