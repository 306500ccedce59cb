package main

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/sink"
)

const aboutTLS = "As *Throughput, %d KB*, but the receivers offer STARTTLS and all mail goes over TLS: " +
	"`smtp_tls_security_level = may` in Postfix, and for *Postfix tuned* `smtp_tls_connection_reuse = yes` too, without which " +
	"it makes a handshake for each message; Millrace's default. Certificates are not verified, as usual between mail servers."

// encrypted is the whole way with TLS on the way out.
func encrypted(ctx context.Context, b *bench) ([]section, error) {
	secure := ideal()
	secure[0].Behaviour.StartTLS = true
	var variants []variant[flow]
	for _, c := range b.senders() {
		c.providers = secure
		switch c.name {
		case asTuned:
			c.postfix = tuned(map[string]string{"smtp_tls_security_level": "may", "smtp_tls_connection_reuse": "yes"})
			c.postfix.Master = []string{"tlsproxy unix - - n - 0 tlsproxy"}
		default:
			c.postfix = &lab.PostfixOptions{Extra: map[string]string{"smtp_tls_security_level": "may"}}
		}
		variants = append(variants, variant[flow]{c.name, func(ctx context.Context) (f flow, err error) {
			var plain atomic.Int64
			w := c.world
			w.accepted = func(m *sink.Message) {
				if !m.TLS {
					plain.Add(1)
				}
			}
			f, err = endToEnd(ctx, b, common, w)
			if n := plain.Load(); err == nil && n > 0 {
				err = fmt.Errorf("%d messages went without TLS", n)
			}
			return f, err
		}})
	}
	found, err := alternate(ctx, b, "TLS", variants, flow.String)
	if err != nil {
		return nil, err
	}
	return []section{{
		title:  "TLS on",
		about:  fmt.Sprintf(aboutTLS, common>>10),
		tables: []table{flowTable("agent", variants, found)},
		claims: []claim{
			{what: "CPU a message, TLS: with Millrace / Postfix default", got: over(found[2], flow.cpu).to(over(found[0], flow.cpu))},
			{what: "messages/s, TLS: with Millrace / Postfix default", got: over(found[2], flow.perSecond).to(over(found[0], flow.perSecond))},
			{what: "messages/s, TLS: with Millrace / Postfix tuned", got: over(found[2], flow.perSecond).to(over(found[1], flow.perSecond))},
		},
	}}, nil
}
