package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/smtp"
)

// peer is the host at the other end, for log lines and reports, and what the
// domain's policies need there.
type peer struct {
	name   string
	addr   netip.AddrPort
	socket string // path of a Unix socket, which has no addr
	need   route.Need

	preference uint16 // of the MX record
	otherwise  bool   // it is of another family than the way's favoured source
}

// place is the address without its port, or the socket's path.
func (p peer) place() string {
	if p.socket != "" {
		return p.socket
	}
	return p.addr.Addr().String()
}

// known says whether there is a host: the zero peer is none.
func (p peer) known() bool { return p.addr.IsValid() || p.socket != "" }

// String writes it as Postfix does: "mx1.example.com[192.0.2.1]".
func (p peer) String() string { return fmt.Sprintf("%s[%s]", p.name, p.place()) }

// relay writes it as Postfix does in relay=: with the port, if it has one.
func (p peer) relay() string {
	if p.socket != "" {
		return p.String()
	}
	return fmt.Sprintf("%s:%d", p, p.addr.Port())
}

// endpoint is what is remembered of the peer's TLS by.
func (p peer) endpoint() endpoint { return endpoint{p.name, p.addr} }

// words are how a peer is written in reports, log lines and signals, put together
// once for a connection.
type words struct{ name, relay, host string }

func (p peer) words() words { return words{p.String(), p.relay(), p.place()} }

// maxAddresses is how many addresses one connect tries, as Postfix's
// smtp_mx_address_limit.
const maxAddresses = 5

// connect opens a connection for a session. It tries the hosts in MX order,
// those that lately gave no answer only if there is no other, those that refused us
// after their equals (hosts.go). sig is the evidence on the way. When ctx ends for
// errAbandoned, the host had its time to answer.
func (a *Agent) connect(ctx context.Context, way queue.Way) (c *smtp.Conn, p peer, sig []elastic.Signal, err error) {
	set := a.now.Load()
	peers, err := set.peers(ctx, way)
	if err != nil {
		a.log.Info("connect", "site", way.Site, "status", "failed", "reason", err)
		return nil, peer{}, nil, err // the site has shown nothing
	}
	a.hosts.order(peers, time.Now())
	tries := 0
	for _, alone := range []bool{false, true} {
		for _, p = range peers {
			began := time.Now()
			if !a.hosts.enter(p.addr.Addr(), began, alone) {
				continue
			}
			if c, err = a.dial(ctx, set, way, p); err == nil {
				a.metrics.Connect(way.Queue.Name, way.Site, time.Now(), elastic.Up)
				return c, p, append(sig, elastic.Signal{Kind: elastic.Up, Host: p.place(), Began: began}), nil
			}
			abandoned := errors.Is(context.Cause(ctx), errAbandoned)
			if ctx.Err() != nil && !abandoned {
				return nil, p, sig, err
			}
			attempt := failure(err, p)
			if abandoned {
				attempt = unanswered(p, time.Since(began))
			}
			d := set.retries(way.Queue).Decide(time.Now(), attempt)
			a.heed(word{decision: d, way: way, peer: p, code: attempt.Code})
			a.metrics.Connect(way.Queue.Name, way.Site, time.Now(), d.Signal)
			switch {
			case attempt.Code == 0 && attempt.Stage != outcome.TLS:
				a.hosts.failed(p.addr.Addr(), began, time.Now())
			case d.Signal == elastic.Refused:
				a.hosts.refused(p.addr.Addr(), began, time.Now())
			default:
				a.hosts.answered(p.addr.Addr(), time.Now())
			}
			sig = append(sig, elastic.Signal{Kind: d.Signal, Host: p.place(), Began: began, Text: attempt.Text})
			a.log.Info("connect", "relay", p.relay(), "site", way.Site, "dsn", d.Enhanced, "status", "failed", "reason", d.Reason)
			err = &connectError{d.Reason, err}
			// One too many here is one too many at the next host, mostly; and
			// of hosts that are off one is enough.
			if tries++; tries == maxAddresses || alone || abandoned || d.Signal == elastic.Refused {
				return nil, p, sig, err
			}
		}
		if tries > 0 {
			return nil, p, sig, err
		}
	}
	err = fmt.Errorf("all hosts of %s lately gave no answer, and are being tried by another connection", way.Site)
	return nil, p, nil, err
}

// connectError is why a connect failed, in the words of logs.
type connectError struct {
	reason string
	cause  error
}

func (e *connectError) Error() string { return e.reason }
func (e *connectError) Unwrap() error { return e.cause }

// ours says whether an error comes of a want of this host, of descriptors or memory, or
// of a demand of our own. It tells nothing of the other side.
func ours(err error) bool {
	if _, ok := errors.AsType[withheld](err); ok {
		return true
	}
	for _, want := range [...]error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, want) {
			return true
		}
	}
	return false
}

// dial opens a connection to one host.
func (a *Agent) dial(ctx context.Context, set *settings, way queue.Way, p peer) (*smtp.Conn, error) {
	opt := set.options(way, p, func(what string) { a.reportTesting(way, p, what) })
	addr := p.addr.Addr()
	if opt.TLS == smtp.Opportunistic && !opt.ImplicitTLS && a.hosts.tlsBroken(p.endpoint(), time.Now()) {
		opt.TLS = smtp.None
	}
	c, err := smtp.Dial(ctx, p.addr, opt)
	if ctx.Err() == nil && mayFallBack(&opt, err) {
		a.log.Info("TLS failed, trying without", "relay", p.relay(), "err", err)
		a.hosts.tlsFailed(p.endpoint(), time.Now())
		opt.TLS = smtp.None
		c, err = smtp.Dial(ctx, p.addr, opt)
	}
	if err = a.relays.note(way.Queue, &opt, p, err, a.log); err != nil {
		return nil, err
	}
	a.hosts.connected(addr, time.Now())
	if p.need.Asks == route.Report {
		if p.need.Err != nil {
			a.reportTesting(way, p, p.need.Err.Error())
		}
		if _, ok := c.TLS(); !ok {
			a.reportTesting(way, p, "there was no TLS")
		}
	}
	return c, nil
}

// mayFallBack says whether a connect that failed is made again in the clear: TLS
// did not come about although the host offered it, and nothing requires it (RFC
// 3207 section 4.1). This is the only way from TLS to none.
func mayFallBack(o *smtp.Options, err error) bool {
	e, ok := errors.AsType[*smtp.Error](err)
	return o.TLS == smtp.Opportunistic && !o.ImplicitTLS && ok && e.Stage == smtp.StageStartTLS && e.Reply.Code == 0
}

// options are how a connection to a host is opened. report is told what
// MTA-STS in testing mode finds.
func (s *settings) options(way queue.Way, p peer, report func(string)) smtp.Options {
	from := source(&way, p.addr.Addr())
	o := smtp.Options{Hello: s.hello(from), Local: from, Socket: p.socket, ImplicitTLS: way.Queue.RelayWrappermode}
	if auth := way.Queue.RelayAuth; auth != nil {
		o.Auth = &smtp.Auth{User: auth.User, Password: auth.Password, AnyCertificate: way.Queue.RelayAuthTLS == config.TLSRequired}
	}
	s.tls.secure(&o, way.Queue, p, report)
	return o
}

// hello is the EHLO name that goes with a source address.
func (s *settings) hello(source netip.Addr) string {
	agent := &s.config.Agent
	if i := slices.Index(agent.SourceAddresses, source); i >= 0 && i < len(agent.SourceHostnames) {
		return agent.SourceHostnames[i]
	}
	return s.config.Hostname
}

// peers lists the addresses to try, in order, without the hosts that the
// domain's policies keep us from. When that leaves none, the error says why. A
// queue that wants no TLS minds no policy.
func (s *settings) peers(ctx context.Context, way queue.Way) ([]peer, error) {
	if way.Plan == nil {
		if refused := way.Queue.RelayAuthRefused; refused != "" {
			return nil, withheld{errors.New(refused)}
		}
		return relayPeers(ctx, way.Relay)
	}
	var list []peer
	var kept error
	for _, x := range way.Plan.Addresses(nil) {
		if way.Queue.TLS == config.TLSNone {
			x.Need = route.Need{}
		}
		if x.Need.Asks == route.Avoid {
			kept = cmp.Or(kept, x.Need.Err)
			continue
		}
		list = append(list, peer{
			name: x.Host, addr: netip.AddrPortFrom(x.Addr, s.config.Agent.Port), need: x.Need, preference: x.Preference,
			otherwise: len(way.Sources) > 0 && way.Sources[0].Is4() != x.Addr.Is4(),
		})
	}
	if len(list) == 0 {
		return nil, kept
	}
	return list, nil
}

// relayPeers resolves a configured relay, "host:port" or "unix:/path".
func relayPeers(ctx context.Context, relay string) ([]peer, error) {
	if path := config.RelaySocket(relay); path != "" {
		return []peer{{name: "localhost", socket: path}}, nil
	}
	host, port, err := net.SplitHostPort(relay)
	if err != nil {
		return nil, fmt.Errorf("relay %q: %w", relay, err)
	}
	no, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil {
		return nil, fmt.Errorf("relay %q: %w", relay, err)
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("relay %q: %w", relay, err)
	}
	var list []peer
	for _, x := range addrs {
		list = append(list, peer{name: host, addr: netip.AddrPortFrom(x.Unmap(), uint16(no))})
	}
	return list, nil
}

// failure describes an error of a connection for package outcome.
func failure(err error, p peer) outcome.Attempt {
	at := outcome.Attempt{Stage: outcome.Connect, Fault: outcome.Unreachable, Text: err.Error(), Peer: p.String()}
	e, ok := errors.AsType[*smtp.Error](err)
	if !ok {
		return at
	}
	at.Stage = stages[e.Stage]
	if e.Reply.Code != 0 {
		at.Fault, at.Code, at.Enhanced, at.Text = outcome.NoFault, e.Reply.Code, e.Reply.Enhanced, e.Reply.Text
		return at
	}
	switch e.Stage {
	case smtp.StageConnect:
		at.Fault = outcome.Unreachable
	case smtp.StageStartTLS:
		at.Fault = outcome.TLSFailed
	default:
		at.Fault = outcome.LostConnection
	}
	return at
}

// unanswered describes a connect that was abandoned.
func unanswered(p peer, took time.Duration) outcome.Attempt {
	return outcome.Attempt{
		Stage: outcome.Connect, Fault: outcome.Unreachable, Peer: p.String(),
		Text: fmt.Sprintf("no answer in %v, and %v", took.Round(time.Second), errAbandoned),
	}
}

var stages = map[smtp.Stage]outcome.Stage{
	smtp.StageConnect:  outcome.Connect,
	smtp.StageGreeting: outcome.Connect,
	smtp.StageHello:    outcome.Connect,
	smtp.StageStartTLS: outcome.TLS,
	smtp.StageAuth:     outcome.Connect,
	smtp.StageReset:    outcome.Mail,
	smtp.StageMail:     outcome.Mail,
	smtp.StageRcpt:     outcome.Rcpt,
	smtp.StageData:     outcome.Data,
	smtp.StageContent:  outcome.Data,
	smtp.StageDot:      outcome.Data,
}
