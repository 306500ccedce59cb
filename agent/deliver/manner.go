package deliver

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/manners"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/smtp"
)

// endpoint is what is remembered of how a host is spoken to by.
func endpoint(p settings.Host) manners.Endpoint {
	return manners.Endpoint{Name: p.Name, Addr: p.Addr}
}

// call connects to a host in the manner that is remembered of it. Where opportunistic TLS
// does not come about it does so again, with less of it each time, down to none: told is
// called before each. This is the only way from TLS to none. TLS that is required, and that
// which a relay's password depends on, is never weakened.
//
// What a connect found that was given up (errAbandoned) is remembered for the next one.
func call(ctx context.Context, m *manners.Memory, p settings.Host, o smtp.Options, told func(next manners.TLS, err error)) (*smtp.Conn, error) {
	at := endpoint(p)
	manner := m.Of(at, time.Now())
	weaken := mayWeaken(&o)
	if !weaken {
		manner.TLS = manners.Whole
	}
	for {
		c, err := smtp.Dial(ctx, p.Addr, mannered(o, manner))
		if err == nil {
			if _, ok := c.TLS(); ok {
				m.TLSWorked(at, manner.TLS, time.Now())
			}
			return c, nil
		}
		if !weaken || !noTLS(err) || ctx.Err() != nil && !errors.Is(context.Cause(ctx), errAbandoned) {
			return nil, err
		}
		certificate := o.TLSConfig != nil && len(o.TLSConfig.Certificates) > 0
		next, ok := m.TLSFailed(at, manner.TLS, certificate, time.Now())
		if !ok {
			return nil, err
		}
		told(next, err)
		if ctx.Err() != nil {
			return nil, err
		}
		manner.TLS = next
	}
}

// mayWeaken says whether a connect may do with less TLS than the host offers.
func mayWeaken(o *smtp.Options) bool {
	return o.TLS == smtp.Opportunistic && !o.ImplicitTLS && o.Auth == nil
}

// noTLS says whether a connect failed as TLS did not come about although the host offered
// it (RFC 3207 section 4.1).
func noTLS(err error) bool {
	e, ok := errors.AsType[*smtp.Error](err)
	return ok && e.Stage == smtp.StageStartTLS && e.Reply.Code == 0
}

// classic are the key exchanges whose share is small. With the post-quantum ones that Go
// sends first (crypto/tls, X25519MLKEM768) a ClientHello is larger than a packet, and there
// are receivers, and firewalls before them, that wait for the rest of it for ever.
var classic = []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521}

// mannered are the options of a connect in a manner.
func mannered(o smtp.Options, m manners.Manner) smtp.Options {
	if m.ByData {
		o.Ignore = append(slices.Clip(o.Ignore), "CHUNKING")
	}
	if m.Stepwise {
		o.Ignore = append(slices.Clip(o.Ignore), "PIPELINING")
	}
	if m.TLS == manners.Whole {
		return o
	}
	if o.TLSConfig != nil {
		o.TLSConfig = o.TLSConfig.Clone()
	} else {
		o.TLSConfig = &tls.Config{}
	}
	o.TLSConfig.Certificates = nil
	if m.TLS >= manners.SmallHello {
		o.TLSConfig.CurvePreferences = classic
		o.TLSConfig.ClientSessionCache = nil // a ticket is a part of it
	}
	if m.TLS == manners.Clear {
		o.TLS = smtp.None
	}
	return o
}
