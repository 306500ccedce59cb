package route

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
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
	// rounds is how often every resolver is asked: a datagram may get lost once. The second
	// time without EDNS0, which may be what got it lost.
	rounds     = 2
	resolvConf = "/etc/resolv.conf"
)

// client asks recursive resolvers, in order, by UDP, and by TCP what UDP had to
// cut short.
type client struct {
	resolvers []string // "address:port"; nil: those of system
	system    systemFile
	timeout   time.Duration
}

func newClient(resolvers []string, timeout time.Duration) (*client, error) {
	c := &client{timeout: timeout, system: systemFile{path: resolvConf}}
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
	return !slices.ContainsFunc(c.servers(), func(s string) bool {
		ap, err := netip.ParseAddrPort(s)
		return err != nil || !ap.Addr().Unmap().IsLoopback()
	})
}

// servers are whom to ask now, in order.
func (c *client) servers() []string {
	if c.resolvers != nil {
		return c.resolvers
	}
	return c.system.servers()
}

// systemFile is resolv.conf(5). It may be written, or changed, long after the start: the
// network comes up, a lease ends, a laptop moves. So it is looked at before each question,
// which costs a stat(2), and read when it is another file than before. Without the file,
// or without a nameserver in it, the local machine is asked, as that manual says.
type systemFile struct {
	path string

	mu   sync.Mutex
	read os.FileInfo // of what was read last; nil: there was nothing
	list []string    // "address:port"
}

func (f *systemFile) servers() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	now, err := os.Stat(f.path)
	if err != nil {
		now = nil
	}
	same := f.list != nil && (now == nil) == (f.read == nil)
	if same && now != nil {
		same = os.SameFile(now, f.read) && now.ModTime().Equal(f.read.ModTime()) && now.Size() == f.read.Size()
	}
	if !same {
		f.read, f.list = now, systemResolvers(f.path)
	}
	return f.list
}

// systemResolvers reads resolv.conf(5). Of what is no address nobody can be asked.
func systemResolvers(path string) (list []string) {
	if conf, err := dns.ClientConfigFromFile(path); err == nil {
		for _, s := range conf.Servers {
			if hostPort, err := resolverAddress(s); err == nil {
				list = append(list, hostPort)
			}
		}
	}
	if list == nil {
		list = []string{"127.0.0.1:53"}
	}
	return list
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
	for i := range rounds {
		if i > 0 {
			m = withoutEDNS(m)
		}
		var unsettled *dns.Msg
		for _, resolver := range c.servers() {
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

// one asks one resolver. One that does not know EDNS0 is asked without (RFC 6891 section
// 6.2.2, 7).
func (c *client) one(ctx context.Context, m *dns.Msg, resolver string) (*dns.Msg, error) {
	reply, err := c.whole(ctx, m, resolver)
	if err == nil && m.IsEdns0() != nil &&
		(reply.Rcode == dns.RcodeFormatError || reply.Rcode == dns.RcodeNotImplemented || reply.Rcode == dns.RcodeBadVers) {
		return c.whole(ctx, withoutEDNS(m), resolver)
	}
	return reply, err
}

// withoutEDNS is a question without EDNS0.
func withoutEDNS(m *dns.Msg) *dns.Msg {
	plain := *m
	plain.Extra = nil
	return &plain
}

// whole asks by UDP, and by TCP for what UDP had to cut short.
func (c *client) whole(ctx context.Context, m *dns.Msg, resolver string) (*dns.Msg, error) {
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
	if !reply.Response || reply.Id != m.Id {
		return false
	}
	if len(reply.Question) == 0 && reply.Rcode == dns.RcodeFormatError {
		return true // whoever cannot read the question need not repeat it
	}
	if len(reply.Question) != 1 {
		return false
	}
	a, q := reply.Question[0], m.Question[0]
	return a.Qtype == q.Qtype && a.Qclass == q.Qclass && strings.EqualFold(a.Name, q.Name)
}
