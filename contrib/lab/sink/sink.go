// Package sink is a fake internet for tests, demonstrations and benchmarks: a
// DNS server that knows mail providers, and for each host of a provider an SMTP
// receiver on a loopback address of its own, all on one port.
//
// [New] starts it empty. [Internet.Add] brings in a [Provider]: its domains,
// its hosts and its [Behaviour], which says how fast, how limited and how
// broken it is. A sending program is given [Internet.DNSAddr] as its resolver
// and [Internet.Port] in place of port 25. [Internet.Change] alters a provider
// or one host while mail flows. The accepted mail is in [Internet.Ledger], the
// counts of each host in [Internet.Stats]. [Internet.Close] ends everything it
// started and waits for it.
//
// Promises: a message is in the ledger before its 250 is sent; limits are kept
// exactly, and a connection's place is free before the client can see that the
// connection ends; nothing random happens, so a run with the same seed and the
// same traffic goes the same way.
//
// The SMTP server loop is written by hand and not with go-smtp, for three
// reasons. It must never be the bottleneck of what it measures: it answers a
// pipelined group in one write, allocates nothing for a message, and costs some
// 20 us of CPU for 4 KB, four fifths of it system calls and SHA-256. It must
// misbehave at places where a library behaves well: in the banner, in the
// middle of a group, in place of the final reply. And it must see the octets as
// they are on the wire, bare line ends included.
package sink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/contrib/lab/ledger"
	"github.com/millrace/millrace/contrib/lab/sockets"
)

// Options are the settings of an [Internet]. The zero value is usable.
type Options struct {
	Logger *slog.Logger  // default: nothing is logged
	Port   uint16        // of every SMTP receiver; 0 takes one that is free on all addresses
	DNS    string        // address of the DNS server, UDP and TCP; default 127.0.0.1:0
	Seed   uint64        // decides which recipients perm_share and temp_share hit
	Idle   time.Duration // a connection silent for longer is closed; default 5m

	// Offline opens no socket: there is no DNS, and clients come by [Internet.Dial]. So an
	// Internet works in the virtual time of testing/synctest.
	Offline bool

	// Message, if set, is called with each accepted message before it is
	// answered, on the goroutine of its connection.
	Message func(*Message)

	// Connection, if set, is called with each connection when it comes, also one that is turned
	// away, and when it has ended: then its place is free, and the client cannot know yet. It is
	// called under a lock and must not wait.
	Connection func(Connection)
}

// Connection is one that came, or has ended.
type Connection struct {
	Provider   string
	Number     uint64 // of this connection, of all that came to the Internet
	Client     netip.Addr
	TurnedAway Cause // "": it was let in
	Ended      bool
}

// Message is an accepted message with its content. Its slices are valid only
// during the call.
type Message struct {
	Provider   string
	Host       string
	TLS        bool
	Client     netip.Addr
	Helo       string
	Sender     string
	MailArgs   string // ESMTP parameters of MAIL, as sent
	Recipients []Recipient
	Content    []byte // CRLF line ends, dots unstuffed
}

// Recipient is an accepted recipient of a [Message].
type Recipient struct {
	Address string
	Args    string // ESMTP parameters of RCPT, as sent
}

// Provider is a mail provider: domains, the hosts that take their mail, and
// how those behave.
type Provider struct {
	Name      string    `toml:"name"`
	Domains   []string  `toml:"domains"`   // also patterns: "d*.example", "*"; first provider that matches
	Hosts     int       `toml:"hosts"`     // number of hosts, when Host does not list them; default 1
	HostName  string    `toml:"host_name"` // their names, %d the number from 1; default mx%d.<name>.test
	Host      []Host    `toml:"host"`      // the hosts one by one
	Behaviour Behaviour `toml:"behaviour"`
}

// Host is one host of a provider.
type Host struct {
	Name       string     `toml:"name"`
	Addr       netip.Addr `toml:"addr"`       // in 127.0.0.0/8, ::1, or a private one (RFC 1918) that the room has; default: 127.<16 + number of provider>.0.<number of host>
	Preference uint16     `toml:"preference"` // of its MX record; default 10
	Behaviour  *Behaviour `toml:"behaviour"`  // its own; default: the provider's
}

// Internet is a running fake internet.
type Internet struct {
	options Options
	log     *slog.Logger
	claim   *os.File // keeps the port of the receivers; nil: a port that was given
	port    uint16
	ledger  ledger.Ledger
	names   *nameServer
	ca      func() (*authority, error)
	start   time.Time
	closed  chan struct{}
	work    sync.WaitGroup // receivers and sessions
	conns   atomic.Uint64
	lookups atomic.Int64

	mu        sync.RWMutex
	shut      bool
	providers []*provider
	exact     map[string]*provider // by domain
	hosts     map[string]*host     // by name
	zone      zone
}

// New starts an Internet without providers.
func New(o Options) (*Internet, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.DNS == "" {
		o.DNS = "127.0.0.1:0"
	}
	if o.Idle <= 0 {
		o.Idle = 5 * time.Minute
	}
	n := &Internet{
		options: o,
		log:     o.Logger,
		port:    o.Port,
		ca:      sync.OnceValues(newAuthority),
		start:   time.Now(),
		closed:  make(chan struct{}),
		exact:   make(map[string]*provider),
		hosts:   make(map[string]*host),
		zone:    zone{mx: make(map[string][]Exchanger), addr: make(map[string][]netip.Addr)},
	}
	if o.Offline {
		return n, nil
	}
	var err error
	if o.Port == 0 {
		// Each host listens at an address of its own.
		var bound string
		if n.claim, bound, err = sockets.Reserve("0.0.0.0:0"); err != nil {
			return nil, fmt.Errorf("sink: claim a port: %w", err)
		}
		n.port = netip.MustParseAddrPort(bound).Port()
	}
	if n.names, err = startNames(o.DNS, n); err != nil {
		n.claim.Close() // of nil an error
		return nil, err
	}
	return n, nil
}

// DNSAddr is the address of the DNS server, for UDP and TCP.
func (n *Internet) DNSAddr() string { return n.names.addr }

// Port is the port of every SMTP receiver.
func (n *Internet) Port() uint16 { return n.port }

// Ledger is the ledger of what was accepted.
func (n *Internet) Ledger() *ledger.Ledger { return &n.ledger }

// Add starts a provider.
func (n *Internet) Add(p Provider) error {
	if err := n.add(p); err != nil {
		return fmt.Errorf("sink: provider %q: %w", p.Name, err)
	}
	return nil
}

func (n *Internet) add(p Provider) error {
	if p.Name == "" {
		return errors.New("no name")
	}
	if err := p.Behaviour.check(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.shut {
		return net.ErrClosed
	}
	for _, q := range n.providers {
		if q.name == p.Name {
			return errors.New("added twice")
		}
	}
	v := &provider{name: p.Name, internet: n, tries: make(map[uint64]try)}
	v.behaviour.Store(p.Behaviour.clone())
	if err := v.setDomains(p.Domains); err != nil {
		return err
	}
	for d := range v.domains {
		if q := n.exact[d]; q != nil {
			return fmt.Errorf("domain %s belongs to %s", d, q.name)
		}
	}
	list, err := n.hostList(p)
	if err != nil {
		return err
	}
	for _, h := range list {
		hh := &host{
			name: h.Name, addr: h.Addr, preference: h.Preference, provider: v,
			place: n.ledger.Place(v.name, h.Name), sessions: make(map[*session]struct{}), refused: make(map[Cause]int64),
			chance: newChance(n.options.Seed, h.Name),
		}
		own := &p.Behaviour
		if h.Behaviour != nil {
			own = h.Behaviour
			if err := own.check(); err != nil {
				return fmt.Errorf("host %s: %w", h.Name, err)
			}
		}
		hh.behaviour.Store(own.clone())
		v.hosts = append(v.hosts, hh)
	}
	for i, h := range v.hosts {
		if err := h.appear(h.behaviour.Load()); err != nil {
			for _, up := range v.hosts[:i] {
				up.cut()
			}
			return err
		}
	}
	n.providers = append(n.providers, v)
	for d := range v.domains {
		n.exact[d] = v
	}
	for _, h := range v.hosts {
		n.hosts[h.name] = h
	}
	return nil
}

// hostList completes the hosts of a provider that is about to be added.
func (n *Internet) hostList(p Provider) ([]Host, error) {
	list := slices.Clone(p.Host)
	if len(list) == 0 {
		pattern := p.HostName
		if pattern == "" {
			pattern = "mx%d." + p.Name + ".test"
		}
		for i := range max(p.Hosts, 1) {
			list = append(list, Host{Name: strings.ReplaceAll(pattern, "%d", strconv.Itoa(i+1))})
		}
	}
	seen := make(map[string]bool)
	for i := range list {
		h := &list[i]
		h.Name = strings.ToLower(strings.TrimSuffix(h.Name, "."))
		if h.Name == "" {
			return nil, fmt.Errorf("host %d has no name", i+1)
		}
		if seen[h.Name] || n.hosts[h.Name] != nil {
			return nil, fmt.Errorf("host %s named twice", h.Name)
		}
		seen[h.Name] = true
		if h.Preference == 0 {
			h.Preference = 10
		}
		if !h.Addr.IsValid() {
			if len(n.providers) > 200 || i >= 250*250 {
				return nil, errors.New("too many for the addresses given by default")
			}
			h.Addr = netip.AddrFrom4([4]byte{127, byte(16 + len(n.providers)), byte(i / 250), byte(1 + i%250)})
		}
		if !h.Addr.IsLoopback() && !h.Addr.IsPrivate() {
			return nil, fmt.Errorf("host %s: %s is not in 127.0.0.0/8, nor ::1, nor private", h.Name, h.Addr)
		}
	}
	return list, nil
}

// Change alters the behaviour of a provider and all its hosts, or of the one
// host of that name. f gets each behaviour to change; nothing is changed when
// one of the results makes no sense.
func (n *Internet) Change(name string, f func(*Behaviour)) error {
	return n.change(name, func(b *Behaviour) error { f(b); return nil })
}

func (n *Internet) change(name string, f func(*Behaviour) error) error {
	n.mu.Lock() // changes follow each other
	defer n.mu.Unlock()
	if n.shut {
		return fmt.Errorf("sink: change of %q: %w", name, net.ErrClosed)
	}
	var hosts []*host
	var v *provider
	if h := n.hosts[name]; h != nil {
		hosts = []*host{h}
	}
	for _, q := range n.providers {
		if q.name == name {
			v, hosts = q, q.hosts
		}
	}
	if hosts == nil {
		return fmt.Errorf("sink: no provider or host %q", name)
	}
	changed := make([]*Behaviour, 0, len(hosts)+1)
	for _, h := range hosts {
		changed = append(changed, h.behaviour.Load().clone())
	}
	if v != nil {
		changed = append(changed, v.behaviour.Load().clone())
	}
	for _, b := range changed {
		if err := f(b); err != nil {
			return fmt.Errorf("sink: change of %q: %w", name, err)
		}
		if err := b.check(); err != nil {
			return fmt.Errorf("sink: change of %q: %w", name, err)
		}
	}
	for i, h := range hosts {
		if was := h.behaviour.Swap(changed[i]); was.presence() == changed[i].presence() {
			continue
		}
		h.cut()
		if err := h.appear(changed[i]); err != nil {
			return fmt.Errorf("sink: change of %q: %w", name, err)
		}
	}
	if v != nil {
		v.behaviour.Store(changed[len(hosts)])
	}
	return nil
}

// Behaviour gives the present behaviour of a provider or host.
func (n *Internet) Behaviour(name string) (Behaviour, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	for _, v := range n.providers {
		if v.name == name {
			return *v.behaviour.Load().clone(), true
		}
	}
	if h := n.hosts[name]; h != nil {
		return *h.behaviour.Load().clone(), true
	}
	return Behaviour{}, false
}

// providerOf finds the provider of a domain, which is in lower case.
func (n *Internet) providerOf(domain string) *provider {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if v := n.exact[domain]; v != nil {
		return v
	}
	for _, v := range n.providers {
		if v.matches(domain) {
			return v
		}
	}
	return nil
}

func (n *Internet) hostNamed(name string) *host {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.hosts[name]
}

// Close cuts all connections, stops all servers and waits for them. The ledger
// and the statistics can still be read.
func (n *Internet) Close() {
	n.mu.Lock()
	if n.shut {
		n.mu.Unlock()
		return
	}
	n.shut = true
	close(n.closed)
	for _, v := range n.providers {
		for _, h := range v.hosts {
			h.cut()
		}
	}
	n.mu.Unlock()
	if n.names != nil {
		n.names.stop(context.Background())
	}
	n.work.Wait()
	n.claim.Close() // of nil an error
}
