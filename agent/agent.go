// Package agent is the transport agent: it joins the spool, the queue, the way
// to a destination, the SMTP session and the outcome of a transaction.
//
// New opens the spool and reads what waits there; Run works until its context
// ends, then lets transactions in flight finish. Reload puts a new
// configuration into force.
//
// One goroutine serves each session (session.go): connect, then settle the last
// transaction, take the next, send it. What a reply means is decided in package outcome; an
// outcome is written to the journal before the session takes its next
// transaction (settle.go), so a crash repeats at most the transaction each
// session had in flight. Senders are told of failures by reports that are mail of our
// own, durable before the failure is final, for which a crash has it tried again
// (notify.go); and where they asked for it of mail that is late (delay.go). A fixed
// number of workers finds ways (way.go). Housekeeping (house.go) tells the
// milter that we live and looks after mail that expires while it cannot be tried.
// page.go shows it all on the status page (package web). What admins ask for comes by the
// control socket: standing.go has what lasts, act.go what is done once. host.go asks what
// the host's Postfix does that diverted mail does not meet, stop.go stops with it where
// that is asked for, and handback.go gives mail back to it.
//
// What became of a recipient is told once its outcome is in the journal: to the log
// (log.go; postfixlog.go for Postfix's form) and to package metrics. state.go is
// what a scrape finds.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/history"
	"github.com/millrace/millrace/agent/metrics"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/suppress"
	"github.com/millrace/millrace/agent/web"
)

// Agent is a running transport agent.
type Agent struct {
	log     *slog.Logger
	mail    config.Log // how lines about messages are written
	began   time.Time
	version string
	key     []byte // of the loop mark in our Received fields
	store   *spool.Store
	writer  *spool.Writer // our own segment, for reports
	queue   *queue.Queue
	events  *event.File
	bounced *suppress.List
	history *history.History
	web     *web.Handler
	metrics *metrics.Metrics
	dns     route.Tally
	hosts   hosts
	asked   asked
	relays  relays
	lookups int // how many domains are looked up at once

	now      atomic.Pointer[settings]
	loaded   atomic.Bool              // the spool has been read
	stalled  atomic.Int32             // sessions that cannot write an outcome
	shutOut  atomic.Pointer[string]   // why mail cannot go back to the host; "" if it can, as far as is known
	bypassed atomic.Pointer[[]string] // settings of Postfix that diverted mail passes by; nil: not asked yet
	reloaded chan struct{}            // wakes watchHost

	hostQueue atomic.Pointer[hostQueue] // nil: nothing goes back that would make it matter
	returned  atomic.Int64              // recipients handed back since the start

	milter   atomic.Pointer[milterReport] // the last one; nil: none yet
	standing standing
	heeded   heeded
	notices  notices
	delays   delays
	reload   func() error // reads the configuration; nil: there is none to read
	sessions sync.WaitGroup
	opening  context.Context // ends when a stop is asked for: no more connects
	shut     context.CancelFunc
	stop     context.Context // ends when transactions in flight must be cut
	cut      context.CancelFunc
}

// settings are what a reload replaces.
type settings struct {
	config   *config.Config
	resolver *route.Resolver
	tls      *tlsBase
	relay    string // queue.RelayDomain of the hand-back relay as it was at the start
	replies  []outcome.Rule
}

// New opens the spool of the configuration. The control socket and the sessions
// start with Run.
func New(c *config.Config, log *slog.Logger, version string) (*Agent, error) {
	a := &Agent{log: log, mail: c.Log, began: time.Now(), version: version, reloaded: make(chan struct{}, 1)}
	a.metrics = metrics.New(version, a.state)
	set, err := newSettings(c, log, &a.dns)
	if err != nil {
		return nil, err
	}
	dir := c.Spool.Directory
	store, err := spool.OpenStore(dir, spool.StoreOptions{Logger: log})
	if err != nil {
		return nil, fmt.Errorf("spool %s: %w", dir, err)
	}
	key, err := spool.LoopKey(dir)
	if err != nil {
		store.Close()
		return nil, fmt.Errorf("spool %s: %w", dir, err)
	}
	writer, err := spool.OpenWriter(dir, spool.WriterOptions{Logger: log})
	if err != nil {
		store.Close()
		return nil, fmt.Errorf("spool %s: %w", dir, err)
	}
	a.key, a.store, a.writer = key, store, writer
	a.history = history.New(time.Now())
	a.web = a.newWeb()
	a.now.Store(set)
	a.asked.init()
	open, err := a.store.Usage()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("spool %s: %w", dir, err), writer.Close(), store.Close())
	}
	files := descriptors(&c.Agent, open.Segments, log)
	a.lookups = files.lookups
	store.LimitSegments(files.segments)
	a.stop, a.cut = context.WithCancel(context.Background())
	a.opening, a.shut = context.WithCancel(a.stop)
	a.queue = queue.New(queue.Options{
		Resolve:     a.asked.put,
		Launch:      func(s *queue.Session) { a.sessions.Go(func() { a.session(s) }) },
		Relay:       set.relay,
		Halted:      a.halted,
		MaxSessions: files.sessions,
	})
	if err := a.restore(); err != nil {
		return nil, errors.Join(err, writer.Close(), store.Close())
	}
	if a.bounced, err = suppress.Open(filepath.Join(c.Agent.StateDirectory, suppressFile), log); err != nil {
		// To mail whom one should not is worse than not to start.
		return nil, errors.Join(fmt.Errorf("the suppression list: %w", err), writer.Close(), store.Close())
	}
	a.bounced.Use(suppressPolicy(c))
	a.events = event.NewFile(eventPlace(c), log)
	return a, nil
}

func eventPlace(c *config.Config) event.Place {
	return event.Place{Path: c.Events.File, MaxSize: int64(c.Events.MaxSize), Keep: c.Events.Keep}
}

// newSettings makes the settings of a configuration; tally counts questions to the
// DNS, nil if nobody looks.
func newSettings(c *config.Config, log *slog.Logger, tally *route.Tally) (*settings, error) {
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
		SelfNames: append([]string{c.Hostname}, c.Agent.SourceHostnames...),
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
	replies, err := replyRules(c.Replies)
	if err != nil {
		return nil, err
	}
	return &settings{config: c, resolver: r, tls: base, relay: queue.RelayDomain(c.Handback.Relay), replies: replies}, nil
}

var trusts = map[config.DANE]route.Trust{
	config.DANEAuto:  route.TrustLoopback,
	config.DANETrue:  route.TrustAlways,
	config.DANEFalse: route.TrustNever,
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

// Reload puts a new configuration into force. The spool directory, the control
// socket and the address of the status page are those of the start; a change of them
// is reported and waits for a restart. The hand-back relay changes, and keeps until then
// the name that it has in the queue, where mail waits for it.
func (a *Agent) Reload(c *config.Config) error {
	old := a.now.Load().config
	if c.Spool.Directory != old.Spool.Directory || c.Agent.Control != old.Agent.Control ||
		!slices.Equal(c.Agent.HTTP.Listen, old.Agent.HTTP.Listen) {
		a.log.Warn("spool.directory, agent.control and agent.http.listen change only with a restart")
	}
	next := *c
	next.Spool.Directory, next.Agent.Control = old.Spool.Directory, old.Agent.Control
	next.Agent.HTTP.Listen = old.Agent.HTTP.Listen
	set, err := newSettings(&next, a.log, &a.dns)
	if err != nil {
		return err
	}
	set.relay = a.now.Load().relay
	a.now.Store(set)
	a.relays.keep(&next)
	limitMemory(&next, a.log)
	open, err := a.store.Usage()
	if err != nil {
		a.log.Warn("spool", "err", err) // of its free room; the segments are counted
	}
	a.queue.Reload(descriptors(&next.Agent, open.Segments, a.log).sessions)
	a.events.Reopen(eventPlace(&next))
	a.bounced.Use(suppressPolicy(&next))
	select {
	case a.reloaded <- struct{}{}:
	default: // it will look at the newest anyhow
	}
	return nil
}

// finish is how long transactions in flight may take after a stop was asked for.
const finish = 30 * time.Second

// Run works until ctx ends, lets transactions in flight finish, and closes the
// spool. ready is called when mail is being taken. It ends as a whole: an error that no
// part of it can outlive stops all others in the same way as ctx does, and is returned.
func (a *Agent) Run(ctx context.Context, ready func()) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	defer a.cut()
	defer a.closeEvents()
	server, err := control.Listen(a.now.Load().config.Agent.Control, a, a.log)
	if err != nil {
		return errors.Join(err, a.writer.Close(), a.store.Close())
	}
	web, err := a.listenHTTP()
	if err != nil {
		server.Close()
		return errors.Join(err, a.writer.Close(), a.store.Close())
	}
	limitMemory(a.now.Load().config, a.log)
	// Everything that only brings work in ends with ctx; the queue's clock and
	// the control socket serve until the last session has left.
	var in, base sync.WaitGroup
	late, release := context.WithCancel(context.Background())
	base.Go(func() { a.queue.Run(late) })
	base.Go(func() {
		if err := server.Serve(); err != nil {
			a.log.Error("control socket failed", "err", err)
		}
	})
	base.Go(func() { a.keepHouse(late) })
	base.Go(func() { a.watchHost(late) })
	base.Go(func() { a.bounced.Run(late) })
	base.Go(func() { a.sendNotices(late) })
	base.Go(func() { a.keepHistory(late) })
	base.Go(func() { a.heedHost(late) })
	base.Go(func() { a.watchWayBack(late) })
	a.askHost() // before mail is read
	base.Go(func() { a.stopWithHost(late) })
	for _, l := range web {
		base.Go(func() { a.health(late, l) })
	}
	for range a.lookups {
		in.Go(func() { a.findWays(ctx) })
	}
	err = a.load()
	if err == nil {
		a.loaded.Store(true)
		ready()
		in.Go(func() { a.expire(ctx) })
		base.Go(func() { a.warn(late) })
		err = a.store.Follow(ctx, a.follow)
		if ctx.Err() != nil {
			err = nil
		}
	}
	if err != nil {
		a.log.Error("the agent cannot go on", "err", err)
	}
	a.log.Info("stopping", "grace", finish)
	end()
	a.asked.close()
	a.shut() // sessions that are still connecting hold no mail
	grace, done := context.WithTimeout(context.Background(), finish)
	if a.queue.Close(grace) != nil {
		a.log.Warn("transactions still in flight are cut; their recipients will be tried again")
	}
	done()
	a.cut()
	a.sessions.Wait()
	release()
	server.Close()
	in.Wait()
	base.Wait()
	a.bounceAll(a.notices.take(time.Time{}, true)) // what is still held
	a.keepPauses(time.Now(), true)
	// The next agent goes on with warnings of delay from here.
	err = errors.Join(err, a.store.Beat(a.queue.Queued()))
	return errors.Join(err, a.writer.Close(), a.store.Sync(), a.store.Close())
}

// closeEvents writes the last events; they are no reason to hold up a stop for long.
func (a *Agent) closeEvents() {
	ctx, done := context.WithTimeout(context.Background(), 5*time.Second)
	defer done()
	if err := a.events.Close(ctx); err != nil {
		a.log.Error("events are lost", "err", err)
	}
}

// load brings the mail of earlier runs into the queue.
func (a *Agent) load() error {
	began, messages := time.Now(), 0
	err := a.store.Load(func(id spool.ID, e *spool.Envelope, st []spool.State) error {
		a.add(id, e, st)
		a.warnLater(id, e, a.store.LastAlive())
		messages++
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading the spool: %w", err)
	}
	a.log.Info("spool read", "messages", messages, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// follow takes one message from the milter.
func (a *Agent) follow(id spool.ID, e *spool.Envelope, st []spool.State, orphan bool) error {
	if orphan {
		a.log.Warn("possible duplicate: the milter died before its verdict was known to be written",
			"qid", e.QueueID, "id", id, "from", a.shownSender(e.Sender), "nrcpt", len(e.Recipients))
	}
	a.logActive(e, id, len(e.Recipients))
	a.add(id, e, st)
	a.warnLater(id, e, a.store.LastAlive())
	return nil
}
