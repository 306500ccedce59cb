package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/smtp"
)

// raises says that a connection has its TLS raised to Verify for the sake of the
// relay's password: the queue asks for less, and does not say that any certificate
// will do. With tls = "none" there is no TLS to raise, and no password is sent.
func raises(o *smtp.Options, q *config.Queue, p peer) bool {
	return o.Auth != nil && !o.Auth.AnyCertificate && o.TLS < smtp.Verify &&
		(o.TLS > smtp.None || o.ImplicitTLS) && !p.addr.Addr().IsLoopback()
}

// relays are the queues whose relay did not get its password, as it could not be
// verified although only the password asks for that. Earlier versions sent it all the
// same, so their mail waits for the admin (withheld).
type relays struct {
	mu   sync.Mutex
	kept map[string]string // queue -> why
}

// withheld is why mail was kept from its relay by a demand of ours that no receiver
// knows of.
type withheld struct{ error }

func (w withheld) Unwrap() error { return w.error }

// note takes in how a connect to a relay ended: kept from it by our demand, or up. It
// returns the error, as withheld in the first case.
func (r *relays) note(q *config.Queue, o *smtp.Options, p peer, err error, log *slog.Logger) error {
	if o.Auth == nil || o.TLS != smtp.Verify || q.TLS == config.TLSVerify {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		delete(r.kept, q.Name)
		return nil
	}
	if e, ok := errors.AsType[*smtp.Error](err); !ok || e.Stage != smtp.StageStartTLS {
		return err // what it asks for was not reached, or not looked at
	}
	why := fmt.Sprintf("queue %s waits: the relay %s cannot be verified, and so gets no password (%v); "+
		"remedy: give it a certificate that is valid for the name in route, name its authority in tls_ca_file, or write relay_auth_tls = \"required\" to trust any certificate",
		q.Name, p.relay(), err)
	if r.kept == nil {
		r.kept = make(map[string]string)
	}
	if _, known := r.kept[q.Name]; !known {
		log.Error(why)
	}
	r.kept[q.Name] = why
	return withheld{err}
}

// shown is what /readyz has of it.
func (r *relays) shown() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Values(r.kept))
}

// keep forgets the queues in which a new configuration makes no such demand. The
// others stay: their next try may be minutes away.
func (r *relays) keep(c *config.Config) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.kept, func(name, _ string) bool {
		q := c.Queue(name)
		return q == nil || q.RelayAuth == nil || q.TLS == config.TLSVerify || q.RelayAuthTLS == config.TLSRequired
	})
}
