package route

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Exchanger asks the DNS one question. It returns any complete reply, whatever
// its code, or an error when there was none; it gives up when ctx ends.
type Exchanger interface {
	Exchange(ctx context.Context, m *dns.Msg) (*dns.Msg, error)
}

var _ Exchanger = (*client)(nil)

const (
	// udpSize is the EDNS0 size that passes every path without fragments.
	udpSize        = 1232
	defaultTimeout = 5 * time.Second
	// rounds is how often every resolver is asked: a datagram may get lost once.
	rounds     = 2
	resolvConf = "/etc/resolv.conf"
)

// client asks recursive resolvers, in order, by UDP, and by TCP what UDP had to
// cut short.
type client struct {
	resolvers []string // "address:port"
	timeout   time.Duration
}

func newClient(resolvers []string, timeout time.Duration) (*client, error) {
	if len(resolvers) == 0 {
		resolvers = systemResolvers(resolvConf)
	}
	c := &client{timeout: timeout}
	if c.timeout <= 0 {
		c.timeout = defaultTimeout
	}
	for _, s := range resolvers {
		hostPort, err := resolverAddress(s)
		if err != nil {
			return nil, err
		}
		c.resolvers = append(c.resolvers, hostPort)
	}
	return c, nil
}

// local reports whether every resolver is on this host.
func (c *client) local() bool {
	return !slices.ContainsFunc(c.resolvers, func(s string) bool {
		ap, err := netip.ParseAddrPort(s)
		return err != nil || !ap.Addr().Unmap().IsLoopback()
	})
}

// systemResolvers reads resolv.conf(5). Without the file or without a
// nameserver in it the local machine is asked, as that manual says.
func systemResolvers(path string) []string {
	conf, err := dns.ClientConfigFromFile(path)
	if err != nil || len(conf.Servers) == 0 {
		return []string{"127.0.0.1"}
	}
	return conf.Servers
}

func resolverAddress(s string) (string, error) {
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return net.JoinHostPort(a.String(), "53"), nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 {
		return "", fmt.Errorf("resolver %q is not \"address\" or \"address:port\"", s)
	}
	return ap.String(), nil
}

// Exchange returns the first reply that settles the question. A resolver that
// fails, or says SERVFAIL, REFUSED or the like, is passed over for the next. The second
// round is for lost datagrams only: if any resolver replied, its reply is it.
func (c *client) Exchange(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
	var last error
	for range rounds {
		var unsettled *dns.Msg
		for _, resolver := range c.resolvers {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			reply, err := c.one(ctx, m, resolver)
			switch {
			case err != nil:
				last = fmt.Errorf("resolver %s: %w", resolver, err)
			case reply.Rcode == dns.RcodeSuccess || reply.Rcode == dns.RcodeNameError:
				return reply, nil
			default:
				unsettled = reply
			}
		}
		if unsettled != nil {
			return unsettled, nil
		}
	}
	return nil, last
}

// one asks one resolver.
func (c *client) one(ctx context.Context, m *dns.Msg, resolver string) (*dns.Msg, error) {
	reply, err := c.over(ctx, "udp", m, resolver)
	if reply != nil && reply.Truncated { // err may be the record that was cut
		reply, err = c.over(ctx, "tcp", m, resolver)
	}
	if err != nil {
		return nil, err
	}
	if reply.Truncated {
		return nil, errors.New("reply truncated over TCP")
	}
	return reply, nil
}

// over asks by one transport. A socket of its own for each query gives each a
// random source port.
func (c *client) over(ctx context.Context, network string, m *dns.Msg, resolver string) (*dns.Msg, error) {
	dc := dns.Client{Net: network, Timeout: c.timeout}
	conn, err := dc.DialContext(ctx, resolver)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	// The library minds a context's deadline, not its end.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	reply, _, err := dc.ExchangeWithConnContext(ctx, m, conn)
	if reply != nil && !answers(reply, m) {
		return nil, errors.New("reply does not answer the question")
	}
	return reply, err
}

// answers reports whether a reply is one to this question.
func answers(reply, m *dns.Msg) bool {
	if !reply.Response || reply.Id != m.Id || len(reply.Question) != 1 {
		return false
	}
	a, q := reply.Question[0], m.Question[0]
	return a.Qtype == q.Qtype && a.Qclass == q.Qclass && strings.EqualFold(a.Name, q.Name)
}
