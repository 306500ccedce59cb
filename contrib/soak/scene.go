package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/ledger"
	"github.com/millrace/millrace/contrib/lab/proxy"
	"github.com/millrace/millrace/contrib/lab/repeats"
	"github.com/millrace/millrace/contrib/lab/rig"
	"github.com/millrace/millrace/contrib/lab/sink"
)

const (
	grace    = 4 * time.Second // [milter] agent_grace
	patience = 3 * time.Minute // for whatever must come back after a fault
	httpAddr = "127.0.0.1:8891"
	sinkDNS  = "127.53.0.1"
)

// senders have a stream each; their domains are the host's own, so that bounces
// come home.
var senders = []string{"one.test", "two.test", "three.test"}

// providers are the receivers in good health. Their answers are kept for a second
// only, so that mail needs the DNS all the time.
var providers = []sink.Provider{
	{Name: "near", Domains: []string{"a1.example", "a2.example", "a3.example"}, Hosts: 2,
		Behaviour: sink.Behaviour{RTT: 5 * time.Millisecond, AcceptTime: 10 * time.Millisecond, TTL: time.Second}},
	{Name: "limited", Domains: []string{"b1.example", "b2.example"}, Hosts: 3,
		Behaviour: sink.Behaviour{RTT: 20 * time.Millisecond, HostConnections: 5, MaxMessages: 20, TTL: time.Second}},
	{Name: "modern", Domains: []string{"c1.example"}, Hosts: 2,
		Behaviour: sink.Behaviour{RTT: 40 * time.Millisecond, AcceptTime: 50 * time.Millisecond, StartTLS: true, Chunking: true, TTL: time.Second}},
	{Name: "strict", Domains: []string{"d1.example", "d2.example"}, Hosts: 2,
		Behaviour: sink.Behaviour{RTT: 10 * time.Millisecond, PermShare: 0.02, TempShare: 0.05, TempTimes: 1, OneDomain: true, TTL: time.Second}},
}

// daemon is one of ours. Its lane alone calls its methods; pid is for the watch.
type daemon struct {
	*lab.Daemon
	name string
	pid  atomic.Int64
}

func (d *daemon) resume() error { return d.Signal(syscall.SIGCONT) }

// scene is what runs during a soak.
type scene struct {
	settings
	ctx context.Context
	out io.Writer
	dir string
	rig.Rig
	resolver *lab.Unbound // nil while it is stopped
	relay    *proxy.Proxy // before Postfix's hand-back port, so that this port can fail alone
	disk     *disk
	agent    *daemon
	milter   *daemon
	client   *control.Client
	watch    watch
	sent     ledger.Ledger
	config   string // the good one

	// The file is read when a daemon starts or gets a SIGHUP, which must not find
	// the bad one that is meant for the other.
	configFile sync.Mutex

	// What the account needs to know of the faults.
	open         atomic.Int64 // the agent's sessions at its crashes
	openBack     atomic.Int64 // its sessions with the hand-back port at its crashes and those of Postfix
	cut          atomic.Int64 // connections that a receiver has cut
	crashes      atomic.Int64 // of the agent
	postfixStops atomic.Int64
	refusals     atomic.Int64 // starts of a daemon that failed, and were tried again
	events       atomic.Int64

	mu         sync.Mutex
	arrivals   []repeats.Arrival
	violations []string
}

// violation notes what must not be.
func (s *scene) violation(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	s.violations = append(s.violations, text)
	fmt.Fprintln(s.out, "VIOLATION:", text)
}

// arrived notes what a receiver took.
func (s *scene) arrived(m *sink.Message) {
	a := repeats.Arrival{}
	a.Copy.ID, a.Spool, a.Back = repeats.Read(m)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range m.Recipients {
		a.Copy.Recipient = r.Address
		s.arrivals = append(s.arrivals, a)
	}
}

// setUp starts everything.
func (s *scene) setUp() (err error) {
	if s.dir, err = os.MkdirTemp("", "soak-"); err != nil {
		return err
	}
	if err := os.Chmod(s.dir, 0o755); err != nil {
		return err
	}
	if s.disk, err = mountDisk(s.dir); err != nil {
		return err
	}
	s.Defer(s.disk.unmount)
	err = s.StartInternet(sink.Options{DNS: sinkDNS + ":53", Seed: s.seed, Message: s.arrived, Idle: 20 * time.Second}, providers...)
	if err != nil {
		return err
	}
	if err := s.startResolver(); err != nil {
		return err
	}
	s.Defer(func() error { return s.resolver.Stop() }) // whichever is the last
	// With the default action accept a message may go both ways when the milter
	// dies; with tempfail its client sends it again.
	action := []string{"accept", "tempfail"}[s.seed%2]
	err = s.StartPostfix(s.ctx, lab.PostfixOptions{
		Milter:       "{ " + lab.RelativeSocket + ", default_action=" + action + " }",
		LocalDomains: senders,
		Extra: map[string]string{
			// What a receiver turns away comes again soon, and a client that tries
			// again and again is treated as any other.
			"minimal_backoff_time": "2s", "maximal_backoff_time": "4s", "queue_run_delay": "2s",
			"smtpd_error_sleep_time": "0", "smtpd_hard_error_limit": "10000", "smtpd_junk_command_limit": "10000",
			// Patience of a few seconds with receivers that hang.
			"smtp_connect_timeout": "3s", "smtp_helo_timeout": "5s", "smtp_data_init_timeout": "5s", "smtp_data_done_timeout": "10s",
			"message_size_limit": "20000000",
		},
	})
	if err != nil {
		return err
	}
	if s.relay, err = proxy.New(proxy.Options{Listen: "127.0.0.1:0"}); err != nil {
		return err
	}
	s.Defer(func() error { s.relay.Close(); return nil })
	if err := s.present(); err != nil {
		return err
	}
	err = s.NewMillrace(lab.MillraceOptions{Set: map[string]string{
		"spool.directory":      fmt.Sprintf("%q", s.disk.spool()),
		"spool.min_free":       fmt.Sprint(minFree),
		"milter.agent_grace":   fmt.Sprintf("%q", grace.String()),
		"agent.http.listen":    fmt.Sprintf("%q", httpAddr),
		"agent.max_sessions":   "60",
		"handback.relay":       fmt.Sprintf("%q", s.relay.Addr()),
		"general.max_sessions": "15",
		"general.retry":        `["1s", "2s", "4s"]`,
		"general.expire":       `"2d"`,
	}})
	if err != nil {
		return err
	}
	config, err := os.ReadFile(s.Millrace.Config())
	if err != nil {
		return err
	}
	s.config = string(config)
	s.agent = &daemon{Daemon: s.Millrace.Agent, name: "agent"}
	s.milter = &daemon{Daemon: s.Millrace.Milter, name: "milter"}
	s.client = control.NewClient(s.Millrace.Control())
	return errors.Join(s.start(s.agent), s.start(s.milter))
}

func (s *scene) startResolver() (err error) {
	s.resolver, err = lab.StartUnbound(s.ctx, lab.UnboundOptions{Addr: lab.Resolver, Forward: sinkDNS})
	return err
}

// start starts a daemon. What ends at once is started again, as systemd would do.
func (s *scene) start(d *daemon) error {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	for {
		s.configFile.Lock()
		err := d.Start(s.ctx)
		s.configFile.Unlock()
		if err == nil {
			d.pid.Store(int64(d.PID()))
			return nil
		}
		s.refusals.Add(1)
		if ctx.Err() != nil {
			return err
		}
		wait(ctx, time.Second)
	}
}

// kill is kill -9. The agent stands still before, so that its sessions can be
// counted at that moment.
func (s *scene) kill(d *daemon) error {
	if d == s.agent {
		if err := d.Freeze(s.ctx); err != nil {
			return err
		}
		n, err := sessions(d.PID(), s.Internet.Port())
		if err != nil {
			return err
		}
		back, err := sessions(d.PID(), s.relay.Port())
		if err != nil {
			return err
		}
		s.open.Add(int64(n))
		s.openBack.Add(int64(back))
		s.crashes.Add(1)
	}
	d.Kill()
	return nil
}

// bad are ways to spoil the configuration.
var bad = []string{
	"\n[agent\n",
	"\n[general]\nno_such_key = 1\n",
	"\n[[queue]]\nname = \"x\"\ndomains = [\"a1.example\"]\n[[queue]]\nname = \"y\"\ndomains = [\"a1.example\"]\n",
}

// reload sends SIGHUP with another configuration and waits for what the daemon says.
func (s *scene) reload(d *daemon, good bool, pick uint64) error {
	s.configFile.Lock()
	defer s.configFile.Unlock()
	said, text := "reload failed; the old configuration stays in force", s.config+bad[pick%uint64(len(bad))]
	if good {
		said = "configuration reloaded"
		text = strings.Replace(s.config, "max_sessions = 15", fmt.Sprintf("max_sessions = %d", 5+pick%20), 1)
	}
	lines := func() (int, error) {
		b, err := os.ReadFile(d.Log())
		return bytes.Count(b, []byte(said)), err
	}
	before, err := lines()
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.Millrace.Config(), []byte(text), 0o644); err != nil {
		return err
	}
	if err := d.Reload(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	err = lab.Until(ctx, func() (bool, error) {
		now, err := lines()
		return now > before, err
	})
	if err != nil {
		s.violation("SIGHUP to the %s: it never said %q: %v", d.name, said, err)
	}
	if !good {
		return os.WriteFile(s.Millrace.Config(), []byte(s.config), 0o644)
	}
	return nil
}

// mail is the i-th message: newsletters of three senders to several recipients,
// with transactional mail among them, and a large one now and then.
func mail(seed uint64) func(i int) *inject.Message {
	var domains []string
	for _, p := range providers {
		domains = append(domains, p.Domains...)
	}
	var small, large []*inject.Generator
	for k, d := range senders {
		g := inject.Generator{
			Seed: seed*10 + uint64(k), Domains: domains, MinSize: 1 << 10, MaxSize: 64 << 10, MaxRecipients: 8,
			Transactional: 0.2, Shapes: inject.AllShapes, Sender: "bounce@" + d, Clerk: "orders@" + d,
		}
		small = append(small, &g)
		large = append(large, &inject.Generator{
			Seed: g.Seed, Domains: domains, MinSize: 64 << 10, MaxSize: 1 << 20, MaxRecipients: 3,
			Shapes: g.Shapes, Sender: g.Sender, Clerk: g.Clerk,
		})
	}
	return func(i int) *inject.Message {
		if i%40 == 39 {
			return large[i%len(large)].Message(i)
		}
		return small[i%len(small)].Message(i)
	}
}

// soak is a whole run.
func soak(ctx context.Context, set settings, out io.Writer) (err error) {
	s := &scene{settings: set, ctx: ctx, out: out}
	defer func() { err = errors.Join(err, s.Close()) }()
	all := lanes()
	faults := schedule(s.seed, s.duration, all)
	fmt.Fprintf(out, "seed %d: %d faults in %v, %g messages a second\n", s.seed, len(faults), s.duration, s.rate)
	printSchedule(out, all, faults)
	if err := s.setUp(); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.keep())
		}
	}()
	fmt.Fprintf(out, "\nmail flows (disk that can stand still: %v)\n", s.disk.stops)
	if err := s.run(all, faults); err != nil {
		return err
	}
	return s.settle()
}

// run lets mail flow and the faults happen, until all mail is with Postfix.
func (s *scene) run(all []lane, faults []fault) error {
	watching, stopWatching := context.WithCancel(s.ctx)
	defer stopWatching()
	var aside sync.WaitGroup
	aside.Go(func() { s.watch.run(watching, s) })
	defer aside.Wait()
	defer stopWatching()

	in := &inject.Injector{
		Addr: s.Postfix.SMTPAddr(), Connections: 12, PerConnection: 20, Rate: s.rate,
		Retry: 200 * time.Millisecond, Timeout: patience, Ledger: &s.sent,
	}
	n := int(s.rate * s.duration.Seconds())
	var got *inject.Result
	var failed error
	injecting := make(chan struct{})
	go func() {
		defer close(injecting)
		ctx, cancel := context.WithTimeout(s.ctx, s.duration+s.drain)
		defer cancel()
		got, failed = in.Run(ctx, n, mail(s.seed))
	}()
	began := time.Now()
	err := s.happen(all, faults)
	fmt.Fprintf(s.out, "%v: all is healed\n", time.Since(began).Round(time.Second))
	<-injecting
	if failed != nil || got.Messages != n {
		s.violation("Postfix has taken %d of %d messages: %v, %v", got.Messages, n, failed, got.Err)
	}
	return err
}

// happen goes through the schedule.
func (s *scene) happen(all []lane, faults []fault) error {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(s.ctx, s.duration)
	defer cancel()
	var lanes sync.WaitGroup
	errs := make([]error, len(all))
	for i := range all {
		lanes.Go(func() {
			for _, f := range faults {
				if f.lane != i {
					continue
				}
				wait(ctx, time.Until(begin.Add(f.at)))
				if ctx.Err() != nil {
					return
				}
				s.events.Add(1)
				if err := f.kind.do(ctx, s, f.lasts, f.pick); err != nil {
					errs[i] = fmt.Errorf("%s: %s: %w", all[i].name, f.kind.name, err)
					cancel() // the run has failed, and ends early
					return
				}
			}
		})
	}
	lanes.Wait()
	return errors.Join(append(errs, s.ctx.Err())...)
}
