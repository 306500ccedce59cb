// Package settings is the configuration in the terms of those who act on it: the queue
// of a domain, where its mail goes and from which addresses, the hosts there, what TLS a
// connection must have, when a recipient is tried again, what replies mean.
//
// Settings are made of a Config and never change, but for what they remember. Source holds
// those in force; a reload makes new ones and puts them into force at once for all who ask
// from then on. The package owns nothing else: the resolver's cache and TLS tickets belong to their
// Settings, and go with them. The names of sites are handed from one to the next (Sites).
//
// New reads the files that the configuration names (certificates, authorities), and fails
// if one cannot be used. Whoever needs several values that belong together asks
// Source.Now once and takes them from the answer. Route may take as long as the DNS does;
// Hosts looks up a relay's name; all else is computed.
//
// What the configuration needs of the host is here as well: shares of file descriptors
// (descriptors.go), Go's memory limit (memory.go). The terms are explained in
// agent/doc.go.
package settings

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/pools"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/simulate"
	"github.com/millrace/millrace/agent/sites"
	"github.com/millrace/millrace/agent/warmup"
)

// Settings are one configuration in the others' terms. They do not change: a reload makes
// new ones.
type Settings struct {
	Config   *config.Config
	Resolver *route.Resolver
	Relay    string         // queue.RelayDomain of the hand-back relay as it was at the start
	Rules    []outcome.Rule // about replies
	Sites    *sites.Book    // names of sites; New makes one of its own, which its caller may replace
	Presence *Presence      // of source addresses; nil: all are here
	Blocks   *Blocks        // of source addresses at providers

	Simulated *simulate.Receiver // of [simulate]; New makes one without complaints, which its caller may replace
	Warmup    *warmup.Warmup     // of source addresses; nil: all are warm

	sharedWarmups map[string]bool

	tls   *tlsBase
	pools struct {
		once sync.Once
		of   map[string]*pools.Pool
	}
	streams struct {
		mu sync.Mutex
		of map[string]*config.Stream
	}
}

// Source holds the settings in force. It may be used by many goroutines.
type Source struct{ now atomic.Pointer[Settings] }

// NewSource returns a Source of settings.
func NewSource(s *Settings) *Source {
	var x Source
	x.now.Store(s)
	return &x
}

// Now returns the settings in force. What belongs together is read from one answer.
func (x *Source) Now() *Settings { return x.now.Load() }

// Use puts settings into force.
func (x *Source) Use(s *Settings) { x.now.Store(s) }

// New returns the settings of a configuration, or why a file that it names cannot be used.
// tally counts questions to the DNS; nil counts none.
func New(c *config.Config, log *slog.Logger, tally *route.Tally) (*Settings, error) {
	base, err := newTLSBase(&c.Agent)
	if err != nil {
		return nil, err
	}
	for _, q := range append([]config.Queue{c.General}, c.Queues...) {
		if q.RelayAuthFile != "" && q.RelayAuth == nil && q.RelayAuthRefused == "" {
			return nil, fmt.Errorf("queue %s: relay_auth_file %s may not be read by this user", q.Name, q.RelayAuthFile)
		}
	}
	o := route.Options{
		Resolvers: c.Agent.Resolvers,
		Protocols: c.Agent.Protocols,
		Allow:     c.Agent.AllowDestinations,
		SelfNames: selfNames(c),
		SelfAddrs: ownAddresses(),
		DANE:      trusts[c.Agent.DANE],
		Port:      c.Agent.Port,
		Roots:     base.roots,
		Log:       log,
		Tally:     tally,
		Sockets:   share(mayOpen(), &c.Agent, 0).sockets,
	}
	if c.Agent.StateDirectory != "" {
		o.STSDirectory = filepath.Join(c.Agent.StateDirectory, "mta-sts")
	}
	r, err := route.New(o)
	if err != nil {
		return nil, fmt.Errorf("resolver: %w", err)
	}
	rules, err := ReplyRules(c.Replies)
	if err != nil {
		return nil, err
	}
	return &Settings{Config: c, Resolver: r, tls: base, Relay: queue.RelayDomain(c.Handback.Relay), Rules: rules, Sites: sites.New(), Simulated: simulate.New(log, nil), sharedWarmups: sharedWarmups(c)}, nil
}

var trusts = map[config.DANE]route.Trust{
	config.DANEAuto:  route.TrustLoopback,
	config.DANETrue:  route.TrustAlways,
	config.DANEFalse: route.TrustNever,
}

// selfNames are the names that this host calls itself by.
func selfNames(c *config.Config) []string {
	names := append([]string{c.Hostname}, c.Agent.SourceHostnames...)
	for i := range c.Pools {
		names = append(names, c.Pools[i].Hostnames...)
	}
	return names
}

// ownAddresses are this host's addresses. Without them a loop is still seen by
// name, so an error is no reason not to start.
func ownAddresses() []netip.Addr {
	var list []netip.Addr
	all, _ := net.InterfaceAddrs()
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLoopback() {
			list = append(list, p.Addr().Unmap())
		}
	}
	return list
}

// RetryPolicy is what a queue says about retries, and what receivers' replies mean.
func (s *Settings) RetryPolicy(q *config.Queue) outcome.Policy {
	return outcome.Policy{Retry: q.Retry, Expire: q.Expire, HandbackAfter: time.Duration(q.HandbackAfter), Rules: s.Rules}
}

// QueueOf returns the queue of a domain as far as its name tells.
func (s *Settings) QueueOf(name string) *config.Queue {
	if q := s.Config.Match(name); q != nil {
		return q
	}
	return &s.Config.General
}
