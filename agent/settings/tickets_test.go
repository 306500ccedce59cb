package settings

import (
	"crypto/tls"
	"slices"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/smtp"
	"github.com/millrace/millrace/contrib/lab/smtptest"
)

// A session that can be resumed is kept with the chain of its peer: one with a huge
// chain is not, or some thousand names of a stranger's would take the memory.
func TestSessionsWithHugeChainsAreNotKept(t *testing.T) {
	t.Parallel()
	cert, _, _ := smtptest.Pair(t, "mx.test")
	huge := cert
	huge.Certificate = slices.Clone(cert.Certificate)
	for size := 0; size < maxTicket; size += len(cert.Certificate[0]) {
		huge.Certificate = append(huge.Certificate, cert.Certificate[0])
	}
	for name, c := range map[string]tls.Certificate{"ordinary": cert, "huge": huge} {
		r := (&smtptest.Server{Conf: &tls.Config{Certificates: []tls.Certificate{c}, MaxVersion: tls.VersionTLS12}}).Listen(t)
		b, err := newTLSBase(&config.Agent{})
		if err != nil {
			t.Fatal(err)
		}
		for again := range 2 {
			o := smtp.Options{Hello: "client.test"}
			b.secure(&o, &config.Queue{TLS: config.TLSOpportunistic}, Host{Name: "mx.test", Addr: r.Addr}, nil)
			conn, err := smtp.Dial(t.Context(), r.Addr, o)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			st, _ := conn.TLS()
			conn.Quit(t.Context())
			if want := again == 1 && name == "ordinary"; st.DidResume != want {
				t.Errorf("%s: resumed %v, want %v", name, st.DidResume, want)
			}
		}
	}
}
