package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/admin"
	"github.com/millrace/millrace/agent/assess"
	"github.com/millrace/millrace/agent/breaker"
	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/deliver"
	"github.com/millrace/millrace/agent/dialogue"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/feedback"
	"github.com/millrace/millrace/agent/fleet"
	"github.com/millrace/millrace/agent/fleet/exchange"
	"github.com/millrace/millrace/agent/history"
	"github.com/millrace/millrace/agent/loop"
	"github.com/millrace/millrace/agent/metrics"
	"github.com/millrace/millrace/agent/move"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/outcomes"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/quotas"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/settle"
	"github.com/millrace/millrace/agent/simulate"
	"github.com/millrace/millrace/agent/sites"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/suppress"
	"github.com/millrace/millrace/agent/warmup"
	"github.com/millrace/millrace/agent/watch"
	"github.com/millrace/millrace/agent/webhook"
)

// Agent is a running transport agent.
type Agent struct {
	log       *slog.Logger
	mail      *event.Log
	version   string
	settings  *settings.Source
	store     *spool.Store
	writer    *spool.Writer // our own segment, for reports
	queue     *queue.Queue
	events    *event.File
	outcomes  *outcomes.Outcomes
	webhooks  *webhook.Sender
	peers     *peers // nil: there are none
	bounced   *suppress.List
	quotas    *quotas.Book
	breaker   *breaker.Breaker
	warmup    *warmup.Warmup
	assessor  *assess.Assessor
	history   *history.History
	metrics   *metrics.Metrics
	dns       route.Tally
	learned   sync.Mutex // what is kept of receivers is collected and written by one at a time
	lookups   *lookups
	resolver  *resolver
	resolvers int // how many domains are looked up at once

	fleet *fleet.Fleet // nil: this host is of none

	orders    *orders.Orders
	exchange  *exchange.Exchange // nil: this node is in no fleet, or alone
	alone     string             // why what is ordered on this node of a fleet is for it alone; "": it is not
	settler   *settle.Settler
	mover     *move.Mover
	deliverer *deliver.Deliverer
	dialogues dialogue.Board
	watch     *watch.Watch
	reload    func() error // reads the configuration; nil: there is none to read
	sessions  sync.WaitGroup
	opening   context.Context // ends when a stop is asked for: no more connects
	shut      context.CancelFunc
	stop      context.Context // ends when transactions in flight must be cut
	cut       context.CancelFunc
	grace     time.Duration // finish, or less in tests
}

// suppressFile, in the state directory, holds the suppression list.
const suppressFile = "suppressed"

// quotasFile, in the state directory, keeps the counts of streams' quotas.
const quotasFile = "quotas.json"

// breakerFile, in the state directory, keeps what the breaker counts.
const breakerFile = "breaker.json"

// sitesFile, in the state directory, keeps the names of sites.
const sitesFile = "sites.json"

// New opens the spool of the configuration. The control socket and the sessions
// start with Run.
func New(c *config.Config, log *slog.Logger, version string) (*Agent, error) {
	shared, err := openCommon(c, log)
	if err != nil {
		return nil, err
	}
	a, err := newAgent(c, log, version, shared)
	if err == nil {
		a.meetPeers(c)
	}
	return a, err
}

func newAgent(c *config.Config, log *slog.Logger, version string, shared common) (*Agent, error) {
	a := &Agent{log: log, version: version, grace: finish}
	a.mail = event.NewLog(log, c.Log, time.Now())
	a.metrics = metrics.New(version, func() metrics.State { return a.watch.State() }) // asked by scrapes, which Run serves
	set, err := settings.New(c, log, &a.dns)
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
	a.store, a.writer = store, writer
	a.history = history.New(time.Now())
	names := ""
	if c.Agent.StateDirectory != "" {
		names = filepath.Join(c.Agent.StateDirectory, sitesFile)
	}
	set.Sites = sites.Open(names, log, time.Now())
	set.Presence, set.Blocks = settings.NewPresence(), &settings.Blocks{}
	box := feedback.NewBox(dir)
	set.Simulated = simulate.New(log, func(complaint []byte) error {
		now := time.Now()
		_, err := box.Put(complaint, uint64(now.UnixNano()), now)
		return err
	})
	a.settings = settings.NewSource(set)
	open, err := a.store.Usage()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("spool %s: %w", dir, err), writer.Close(), store.Close())
	}
	files := settings.Descriptors(&c.Agent, open.Segments, log)
	a.lookups, a.resolvers = newLookups(files.Lookups), files.Lookups
	store.LimitSegments(files.Segments)
	a.stop, a.cut = context.WithCancel(context.Background())
	a.opening, a.shut = context.WithCancel(a.stop)
	lender, err := a.joinFleet(c)
	if err != nil {
		return nil, errors.Join(err, writer.Close(), store.Close())
	}
	// A session needs the queue and the queue sessions: it launches none before Run.
	a.queue = queue.New(queue.Options{
		Resolve:     a.lookups.put,
		From:        func(e *spool.Envelope, i int, domain string) string { return a.settings.Now().FromOf(e, i, domain) },
		Known:       a.known,
		Launch:      func(s *queue.Session) { a.sessions.Go(func() { a.deliverer.Session(s) }) },
		Relay:       set.Relay,
		MaxSessions: files.Sessions,
		Lender:      lender,
		Shared:      func(w *queue.Route) string { return a.settings.Now().SharedLimit(w) },
	})
	a.orders, err = orders.New(orders.Options{Log: log, Settings: a.settings, Store: store, Queue: a.queue, Stop: a.stop, Common: shared.log})
	if err != nil {
		return nil, errors.Join(err, writer.Close(), store.Close())
	}
	a.exchangeOrders(shared)
	if shared.alone {
		a.alone = shared.trouble
	}
	if a.bounced, err = suppress.Open(filepath.Join(c.Agent.StateDirectory, suppressFile), log); err != nil {
		// To mail whom one should not is worse than not to start.
		return nil, errors.Join(fmt.Errorf("the suppression list: %w", err), writer.Close(), store.Close())
	}
	a.bounced.Use(settings.SuppressPolicy(c))
	counts := ""
	if c.Agent.StateDirectory != "" {
		counts = filepath.Join(c.Agent.StateDirectory, quotasFile)
	}
	a.quotas = quotas.Open(quotas.Options{Path: counts, Log: log, Granted: a.queue.QuotasGranted, Bound: a.quotaBound()}, time.Now())
	a.limitStreams(c)
	a.warmup = warmup.New(warmup.Options{Log: log, Directory: c.Agent.StateDirectory, Granted: a.queue.QuotasGranted, Bound: a.warmupBound()}, time.Now())
	a.warmup.Use(settings.WarmupPlans(c))
	set.Warmup = a.warmup
	a.events = event.NewFile(settings.EventPlace(c), log)
	a.outcomes = outcomes.New(outcomes.Options{StateDirectory: c.Agent.StateDirectory, Log: log, Now: time.Now, Free: spool.Free})
	a.outcomes.Use(settings.OutcomesPolicy(c))
	a.webhooks = webhook.New(webhook.Options{StateDirectory: c.Agent.StateDirectory, Log: log, Version: version, Free: spool.Free})
	a.webhooks.Use(set.WebhookPolicy())
	runs := ""
	if c.Agent.StateDirectory != "" {
		runs = filepath.Join(c.Agent.StateDirectory, breakerFile)
	}
	a.breaker = breaker.New(breaker.Options{
		Log: log, Path: runs, Hold: a.orders.Hold, Held: a.orders.HeldByBreaker,
		Post: func(e *spool.Envelope, content []byte) error { return a.settler.Post(e, content) }, // called by Run
	}, time.Now())
	a.breaker.Use(settings.BreakerPolicy(c))
	a.assessor = assess.New(assess.Options{
		Log: log, Mail: a.mail, Settings: a.settings, Key: key, Box: box, Bounced: a.bounced,
		Listeners: []event.Listener{a.events, a.outcomes, a.webhooks, a.metrics, a.breaker, a.warmup}, State: c.Agent.StateDirectory, Members: pastMembers(dir, log),
	})
	a.settler = settle.New(settle.Options{
		Log: log, Mail: a.mail, Settings: a.settings, Store: store, Writer: writer, Queue: a.queue, Bounced: a.bounced,
		Listeners: []event.Listener{a.mail, settle.Learner(a.bounced, log, a.mail), a.events, a.outcomes, a.webhooks, a.history, a.metrics, a.assessor, a.breaker, a.warmup},
		Events:    a.events, JournalError: a.metrics.JournalError, Stop: a.stop,
	})
	a.mover, err = move.New(move.Options{
		Log: log, Spool: dir, Store: store, Writer: writer, Queue: a.queue, Settler: a.settler, Add: a.movedHere, Room: a.roomForMoved, Stop: a.stop,
	})
	if err != nil {
		// To send what another node may have is worse than not to start.
		return nil, errors.Join(err, writer.Close(), store.Close())
	}
	a.resolver = &resolver{log: log, settings: a.settings, queue: a.queue, orders: a.orders, settler: a.settler, lookups: a.lookups}
	a.deliverer = deliver.New(deliver.Options{
		Log: log, Mail: a.mail, Settings: a.settings, Store: store, Queue: a.queue, Settler: a.settler, Orders: a.orders,
		Metrics: a.metrics, Dialogues: &a.dialogues, Key: key, Secrets: c.Feedback.Secrets, Opening: a.opening, Stop: a.stop,
	})
	a.watch = watch.New(watch.Options{
		Log: log, Version: version, Settings: a.settings, Store: store, Queue: a.queue, Orders: a.orders, Settler: a.settler,
		Events: a.events, Outcomes: a.outcomes, Webhooks: a.webhooks, Fleet: a.fleet, Quotas: a.quotas, Warmup: a.warmup, History: a.history, Metrics: a.metrics, Assessor: a.assessor, DNS: &a.dns, Relays: a.deliverer.Trouble, Opening: a.opening,
		Peers:     func() []string { return slices.Concat(shared.troubles(), a.exchange.Trouble(), a.peers.trouble()) },
		Transfers: a.mover.Transfers, PeersRefused: func() uint64 { return a.peers.refused() },
		StoreRefuses: func() bool { return len(a.exchange.Trouble()) > 0 },
	})
	return a, nil
}

// Reload puts a new configuration into force. The spool directory, the state directory, the
// control socket and the address of the status page are those of the start; a change of
// them is reported and waits for a restart. The hand-back relay changes, and keeps until then
// the name that it has in the queue, where mail waits for it.
func (a *Agent) Reload(c *config.Config) error {
	old := a.settings.Now().Config
	if c.Spool.Directory != old.Spool.Directory || c.Agent.StateDirectory != old.Agent.StateDirectory || c.Agent.Control != old.Agent.Control ||
		!slices.Equal(c.Agent.HTTP.Listen, old.Agent.HTTP.Listen) {
		a.log.Warn("spool.directory, agent.state_directory, agent.control and agent.http.listen change only with a restart")
	}
	next := *c
	next.Spool.Directory, next.Agent.StateDirectory, next.Agent.Control = old.Spool.Directory, old.Agent.StateDirectory, old.Agent.Control
	next.Agent.HTTP.Listen = old.Agent.HTTP.Listen
	if !reflect.DeepEqual(next.Fleet, old.Fleet) {
		a.log.Warn("[fleet] changes only with a restart")
		next.Fleet = old.Fleet
	}
	set, err := settings.New(&next, a.log, &a.dns)
	if err != nil {
		return err
	}
	before := a.settings.Now()
	set.Relay, set.Sites, set.Presence, set.Blocks, set.Simulated = before.Relay, before.Sites, before.Presence, before.Blocks, before.Simulated
	set.Warmup = a.warmup
	a.warmup.Use(settings.WarmupPlans(&next))
	set.Resolver.Adopt(before.Resolver)
	a.resolver.use(set)
	a.deliverer.Reload(&next)
	settings.LimitMemory(&next, a.log)
	open, err := a.store.Usage()
	if err != nil {
		a.log.Warn("spool", "err", err) // of its free room; the segments are counted
	}
	a.limitStreams(&next)
	a.queue.Reload(settings.Descriptors(&next.Agent, open.Segments, a.log).Sessions)
	a.events.Reopen(settings.EventPlace(&next))
	a.outcomes.Use(settings.OutcomesPolicy(&next))
	a.breaker.Use(settings.BreakerPolicy(&next))
	a.webhooks.Use(set.WebhookPolicy())
	a.bounced.Use(settings.SuppressPolicy(&next))
	a.orders.Reloaded()
	a.watch.Reloaded()
	return nil
}

// limitStreams puts what a configuration says of streams into force. What was counted counts on.
func (a *Agent) limitStreams(c *config.Config) {
	a.quotas.Use(settings.Quotas(c))
	a.queue.SetStreams(settings.StreamLimits(c, a.quotas))
}

// ReloadBy says what reads the configuration anew and calls Reload with it. It is
// called before Run.
func (a *Agent) ReloadBy(reload func() error) { a.reload = reload }

// backend is what the control socket serves.
func (a *Agent) backend() *admin.Backend {
	o := admin.Options{
		Log: a.log, Version: a.version, Settings: a.settings, Store: a.store, Queue: a.queue, Orders: a.orders, Settler: a.settler,
		Watch: a.watch, History: a.history, Metrics: a.metrics, Bounced: a.bounced, Outcomes: a.outcomes, Breaker: a.breaker, Webhooks: a.webhooks, Mover: a.mover, Fleet: a.fleet, Alone: a.alone, Assessor: a.assessor, Dialogues: &a.dialogues, Reload: a.reload,
		SaveLearned: func() error { return a.saveLearned(time.Now(), false) },
	}
	if a.exchange != nil {
		o.Exchange = a.exchange
	}
	return admin.New(o)
}

// finish is how long transactions in flight may take after a stop was asked for. Receivers
// that look at content think about the final dot for 45 s; cut then, the message is sent
// once more. TimeoutStopSec= of the unit has to leave time for the rest of a stop: reports
// that are held are written, then events (5 s), then the journal.
const finish = 70 * time.Second

// Run works until ctx ends, lets transactions in flight finish, and closes the
// spool. ready is called when mail is being taken. It ends as a whole: an error that no
// part of it can outlive stops all others in the same way as ctx does, and is returned.
func (a *Agent) Run(ctx context.Context, ready func()) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	defer a.cut()
	defer a.closeEvents()
	backend := a.backend()
	if a.exchange != nil {
		a.bounced.Learned(backend.Learn)
	}
	server, err := control.Listen(a.settings.Now().Config.Agent.Control, backend, a.log)
	if err != nil {
		return errors.Join(err, a.writer.Close(), a.store.Close())
	}
	web, err := a.watch.ListenHTTP()
	if err != nil {
		server.Close()
		return errors.Join(err, a.writer.Close(), a.store.Close())
	}
	if a.peers != nil {
		server.ShowFleet(a.peers)
	}
	settings.LimitMemory(a.settings.Now().Config, a.log)
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
	base.Go(func() { a.heartbeat(late) })
	base.Go(func() { a.upkeep(late) })
	a.lookAround() // before mail is read
	base.Go(func() { loop.Every(late, presenceEvery, func(time.Time) { a.lookAround() }) })
	base.Go(func() { a.orders.Run(late) })
	if a.exchange != nil {
		base.Go(func() { a.orders.FollowFleet(late) })
		base.Go(func() { backend.FollowCancels(late) })
		base.Go(func() { backend.FollowSuppression(late) })
		base.Go(func() { a.exchange.Run(late) })
	}
	base.Go(func() { a.mover.Run(late) })
	base.Go(func() { a.peers.run(late) })
	base.Go(func() { a.watch.SettingsLoop(late) })
	base.Go(func() { a.bounced.Run(late) })
	base.Go(func() { a.outcomes.Run(late) })
	base.Go(func() { a.webhooks.Run(late) })
	base.Go(func() { a.quotas.Run(late) })
	base.Go(func() { a.runFleet(late) })
	base.Go(func() { a.breaker.Run(late) })
	base.Go(func() { a.warmup.Run(late) })
	in.Go(func() { a.assessor.Run(ctx) })
	base.Go(func() { a.settler.BounceLoop(late) })
	base.Go(func() { a.watch.HistoryLoop(late) })
	base.Go(func() { a.watch.PastLoop(late) })
	base.Go(func() { a.watch.QueueLoop(late) })
	base.Go(func() { a.watch.KnockLoop(late) })
	a.watch.PollRunning() // before mail is read
	base.Go(func() { a.watch.RunningLoop(late) })
	for _, l := range web {
		base.Go(func() { a.watch.ServeListener(late, l) })
	}
	for range a.resolvers {
		in.Go(func() { a.resolver.loop(ctx) })
	}
	a.recall(time.Now())
	base.Go(func() { a.remember(late) })
	err = a.load()
	if err == nil {
		a.mover.Loaded() // before an admin's verb could take what is on its way
		a.watch.SetLoaded()
		ready()
		in.Go(func() { a.expire(ctx) })
		base.Go(func() { a.settler.WarnLoop(late) })
		err = a.store.Follow(ctx, a.follow)
		if ctx.Err() != nil {
			err = nil
		}
	}
	if err != nil {
		a.log.Error("the agent cannot go on", "err", err)
	}
	a.log.Info("stopping", "grace", a.grace)
	end()
	a.lookups.close()
	a.shut() // sessions that are still connecting hold no mail
	grace, done := context.WithTimeout(context.Background(), a.grace)
	if a.queue.Close(grace) != nil {
		a.log.Warn("transactions still in flight are cut; their recipients will be tried again")
	}
	done()
	a.cut()
	a.sessions.Wait()
	a.settings.Now().Simulated.Wait()
	release()
	server.Close()
	in.Wait()
	base.Wait()
	a.settler.Bounce() // what is still held
	a.orders.SaveRulePauses(time.Now(), true)
	if err := a.quotas.Close(time.Now()); err != nil {
		a.log.Error("stopping", "err", err)
	}
	if err := a.warmup.Close(time.Now()); err != nil {
		a.log.Error("stopping", "err", err)
	}
	if err := a.saveLearned(time.Now(), true); err != nil {
		a.log.Warn("what was learned of receivers is lost", "err", err)
	}
	if err := a.settings.Now().Sites.Save(time.Now(), true); err != nil {
		a.log.Error("stopping", "err", err)
	}
	// The next agent goes on with warnings of delay from here.
	err = errors.Join(err, a.store.Beat(a.queue.Queued()))
	return errors.Join(err, a.writer.Close(), a.store.Sync(), a.store.Close())
}

// closeEvents writes the last events; they are no reason to hold up a stop for long.
func (a *Agent) closeEvents() {
	defer a.outcomes.Close()
	defer a.webhooks.Close()
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
		messages++
		st, keep := a.mover.Arrived(id, e, st)
		if keep {
			return nil
		}
		a.orders.Add(id, e, st)
		a.settler.ScheduleWarning(id, e, a.store.LastAlive())
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
	st, keep := a.mover.Arrived(id, e, st)
	if keep {
		return nil
	}
	switch {
	case orphan && e.Moved != "":
		a.log.Warn("possible duplicate: power failed before it was known to be written that this message of another node is ours",
			"qid", e.QueueID, "id", id, "was", e.Moved, "nrcpt", len(e.Recipients))
	case orphan:
		a.log.Warn("possible duplicate: the milter died before its verdict was known to be written",
			"qid", e.QueueID, "id", id, "from", a.mail.ShownSender(e.Sender), "nrcpt", len(e.Recipients))
	}
	a.mail.Active(e, id, len(e.Recipients))
	a.orders.Add(id, e, st)
	a.settler.ScheduleWarning(id, e, a.store.LastAlive())
	return nil
}

// roomForMoved says why the spool takes no mail of other nodes: by the limits that the milter, which
// takes the host's own, has of the configuration.
func (a *Agent) roomForMoved() error {
	c := &a.settings.Now().Config.Spool
	free, err := spool.Free(c.Directory)
	switch n := a.queue.Queued(); {
	case err != nil:
		return fmt.Errorf("spool: %w", err)
	case free < int64(c.MinFree):
		return fmt.Errorf("%w: %d octets free in %s, min_free is %d", spool.ErrFull, free, c.Directory, int64(c.MinFree))
	case c.MaxRecipients > 0 && n >= c.MaxRecipients:
		return fmt.Errorf("%w: %d recipients queued, max_recipients is %d", spool.ErrFull, n, c.MaxRecipients)
	}
	return nil
}

// movedHere takes one message from another node.
func (a *Agent) movedHere(id spool.ID, e *spool.Envelope, st []spool.State, node, was string) {
	a.mail.MovedHere(e, id, node, was)
	a.mail.Active(e, id, len(e.Recipients))
	a.orders.Add(id, e, st)
	a.settler.ScheduleWarning(id, e, time.Now()) // what was late before was told by that node
}
