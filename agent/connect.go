package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/smtp"
)

// peer is the host at the other end, for log lines and reports.
type peer struct {
	name string
	addr netip.AddrPort
}

// String writes it as Postfix does: "mx1.example.com[192.0.2.1]".
func (p peer) String() string { return fmt.Sprintf("%s[%s]", p.name, p.addr.Addr()) }

// relay writes it as Postfix does in relay=: with the port.
func (p peer) relay() string { return fmt.Sprintf("%s:%d", p, p.addr.Port()) }

// maxAddresses is how many addresses one connect tries, as Postfix's
// smtp_mx_address_limit.
const maxAddresses = 5

// connect opens a connection for a session. It tries the hosts in MX order,
// those that lately gave no answer last. sig is the evidence on the way.
func (a *Agent) connect(ctx context.Context, way queue.Way) (c *smtp.Conn, p peer, sig []elastic.Signal, err error) {
	peers, err := a.peers(ctx, way)
	if err != nil {
		return nil, peer{}, []elastic.Signal{{Kind: elastic.Failed, Began: time.Now()}}, err
	}
	cfg := a.now.Load().config
	opt := smtp.Options{
		Hello:     cfg.Hostname,
		Local:     way.Source,
		TLSConfig: a.tls,
	}
	for _, p = range peers {
		began := time.Now()
		opt.ServerName = p.name
		opt.TLS = levels[way.Queue.TLS]
		c, err = smtp.Dial(ctx, p.addr, opt)
		if opt.TLS == smtp.Opportunistic && handshakeFailed(err) {
			// RFC 3207 section 4.1: what would do without TLS goes on without it.
			a.log.Info("TLS failed, trying without", "relay", p.relay(), "err", err)
			opt.TLS = smtp.None
			c, err = smtp.Dial(ctx, p.addr, opt)
		}
		if err == nil {
			a.hosts.answered(p.addr.Addr())
			return c, p, append(sig, elastic.Signal{Kind: elastic.Up, Host: p.addr.Addr().String(), Began: began}), nil
		}
		if ctx.Err() != nil {
			break
		}
		attempt := failure(err, p)
		d := a.policy(way.Queue).Decide(time.Now(), attempt)
		a.heed(way.Site, "", d)
		if attempt.Code == 0 {
			a.hosts.failed(p.addr.Addr(), time.Now())
		}
		sig = append(sig, elastic.Signal{Kind: d.Signal, Host: p.addr.Addr().String(), Began: began, Text: attempt.Text})
		a.log.Info("connect", "relay", p.relay(), "site", way.Site, "dsn", d.Enhanced, "status", "failed", "reason", d.Reason)
		err = errors.New(d.Reason)
		if d.Signal == elastic.Refused {
			break // one too many here is one too many at the next host, mostly
		}
	}
	return nil, p, sig, err
}

func handshakeFailed(err error) bool {
	e, ok := errors.AsType[*smtp.Error](err)
	return ok && e.Stage == smtp.StageStartTLS && e.Reply.Code == 0
}

var levels = map[config.TLS]smtp.Level{
	config.TLSNone:          smtp.None,
	config.TLSOpportunistic: smtp.Opportunistic,
	config.TLSRequired:      smtp.Required,
	config.TLSVerify:        smtp.Verify,
}

// peers lists the addresses to try, in order.
func (a *Agent) peers(ctx context.Context, way queue.Way) ([]peer, error) {
	if way.Plan == nil {
		return relayPeers(ctx, way.Relay)
	}
	port, now := a.now.Load().config.Agent.Port, time.Now()
	var good, bad []peer
	for _, x := range way.Plan.Addresses(nil) {
		p := peer{name: x.Host, addr: netip.AddrPortFrom(x.Addr, port)}
		if way.Source.IsValid() && way.Source.Is4() != x.Addr.Is4() {
			continue
		}
		if len(good) == maxAddresses {
			break
		}
		if a.hosts.avoid(x.Addr, now) {
			bad = append(bad, p)
		} else {
			good = append(good, p)
		}
	}
	all := append(good, bad...)
	if len(all) == 0 {
		return nil, fmt.Errorf("no host of %s has an address that the source address %s can reach", way.Plan.Domain, way.Source)
	}
	return all[:min(len(all), maxAddresses)], nil
}

// relayPeers resolves a configured relay, "host:port".
func relayPeers(ctx context.Context, relay string) ([]peer, error) {
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
