// Package milter takes bulk mail out of the host MTA: it listens to the milter
// protocol, has package classify decide at the end of each message's header, and
// commits what is bulk to the spool before it tells the MTA to forget it.
//
// A message goes through a session so:
//
//	MAIL, RCPT..., fields   collected, nothing is answered
//	end of headers          decided. Not bulk, or in observe mode: ACCEPT, the
//	                        body is never read, but for what may be a report on
//	                        mail of ours (reports.go). Bulk: spool.Append begins
//	body                    streams into Append, checked on its way
//	end of message          Append returns: the message is durable
//	                        verdict, one write(2): DELRCPT... ACCEPT, or DISCARD
//	after the write         Release; or Void, if nothing of it could be written
//
// That order is what keeps mail safe. Until the verdict is in the kernel's
// hands the host MTA owns the message and the agent does not see ours. A crash
// before the verdict leaves an orphan in the spool that may be sent twice; no
// crash loses mail.
//
// The two verdicts, and what each means on Postfix:
//
//   - DELRCPT of each diverted recipient, then ACCEPT. Matched by the MTA, case
//     and all, against the text of RCPT TO. Other recipients and bcc copies stay.
//   - DISCARD: the whole message goes, bcc copies too. Cheaper, but Postfix waits
//     in_flow_delay for each discarded message unless that is 0; flowDelay
//     notices, and says so.
//
// "auto" takes DELRCPT, but DISCARD on Sendmail for whole messages. Mail of
// sendmail(1) is always discarded, whatever the setting: Postfix shows the milter
// rewritten addresses there and matches DELRCPT against the original ones, so a
// deletion might miss, and the mail would go out twice.
//
// Trouble stays here: content that could not leave unchanged, a spool that is
// full or fails, an agent that is silent too long leave the mail with the host,
// with one log line that says why. So does a drain (millrace drain): the milter then
// observes, whatever its mode, and what it has not begun to commit it leaves.
package milter

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/trace"
	"github.com/millrace/millrace/milter/classify"
	"github.com/millrace/millrace/milter/wire"
)

// Spool is where diverted mail goes; FromWriter makes one of a spool.Writer.
type Spool interface {
	// Append makes a message durable, or returns an error and the agent never
	// sees it. It reads content while the body arrives.
	Append(ctx context.Context, e *spool.Envelope, content io.Reader) (Receipt, error)
	// Room says why no more mail should be appended, or nil.
	Room() error
	// AgentSilence is how long before now the agent gave its last sign of life.
	AgentSilence(now time.Time) time.Duration
	// Draining says that an admin wants nothing more to be appended.
	Draining(now time.Time) bool
}

// Receipt stands for a durable message; either call settles it.
type Receipt interface {
	ID() spool.ID
	Release() error // the MTA has forgotten the message: the agent may take it
	Void() error    // the MTA kept the message: the agent must not
}

// FromWriter is the spool of a real writer.
func FromWriter(w *spool.Writer) Spool { return writer{w} }

type writer struct{ *spool.Writer }

func (w writer) Append(ctx context.Context, e *spool.Envelope, content io.Reader) (Receipt, error) {
	r, err := w.Writer.Append(ctx, e, content)
	if err != nil {
		return nil, err // not a Receipt that is not nil and holds nothing
	}
	return r, nil
}

// Options are what a Server works with.
type Options struct {
	Spool Spool
	// Key is the spool's loop key: mail that carries a mark made with it was
	// here before and is not diverted again.
	Key []byte
	// Reports takes the reports that come back about mail of ours; nil: they are not read.
	Reports Reports
	Logger  *slog.Logger // nil: none
	Wire    wire.Options // its Logger and MaxConnections are set from here
}

// Server serves the connections of host MTAs.
type Server struct {
	spool  Spool
	key    []byte
	log    *slog.Logger
	wire   *wire.Server
	volume *classify.Volume // outlives every setup
	setup  atomic.Pointer[setup]

	changes sync.Mutex // one change of setup at a time
	members []trace.Member

	bodies  chan struct{}  // a place for each large message on its way into the spool
	buffers sync.Pool      // of *[]byte
	appends sync.WaitGroup // Append calls that have not returned
	inlet   sync.WaitGroup // and those of Submit

	reports   *reports // nil: none are read
	host      hostMail
	tally     tally
	silent    throttle // warnings about a silent agent
	full      throttle // and about a spool without room
	busy      throttle // and about too many large messages at a time
	slow      trouble  // the spool took too long over a message
	drains    throttle // and a word about a drain, lest it be forgotten
	strangers throttle // and about connections of other hosts that are no peers

	connections atomic.Uint64 // so far
	flow        flowDelay
}

// setup is what a reload changes, as a whole. A message keeps the one it began
// with.
type setup struct {
	cfg        *config.Config
	classifier *classify.Classifier
	keys       trace.Keys // of marks that come back
}

// New returns a server, or an error if the configuration's rules cannot be used.
func New(cfg *config.Config, o Options) (*Server, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{spool: o.Spool, key: o.Key, log: o.Logger, volume: classify.NewVolume(), bodies: make(chan struct{}, cfg.Milter.MaxBodies)}
	if o.Reports != nil {
		s.reports = newReports(o.Reports, o.Spool.Room, o.Logger)
	}
	if err := s.Reload(cfg); err != nil {
		return nil, err
	}
	o.Wire.Logger, o.Wire.MaxConnections = o.Logger, cfg.Milter.MaxConnections
	s.wire = wire.NewServer(func(c *wire.Conn) wire.Handler {
		return &session{intake: intake{server: s}, id: s.connections.Add(1), conn: c}
	}, o.Wire)
	return s, nil
}

// Reload gives effect to a new configuration, from the next message on. After
// an error the old one stays. Sockets, the spool, max_connections and
// max_bodies are not changed by it.
func (s *Server) Reload(cfg *config.Config) error {
	c, err := classify.New(cfg.Milter, s.volume)
	if err != nil {
		return err
	}
	s.changes.Lock()
	defer s.changes.Unlock()
	s.setup.Store(&setup{cfg, c, trace.NewKeys(s.key, cfg.Feedback.Secrets...).With(s.members)})
	return nil
}

// Members takes the loop keys of the other hosts of the fleet, from the next message on: what
// they have sent was here before, and reports on it are kept for the agent.
func (s *Server) Members(list []trace.Member) {
	s.changes.Lock()
	defer s.changes.Unlock()
	s.members = list
	now := *s.setup.Load()
	now.keys = now.keys.With(list)
	s.setup.Store(&now)
}

// Serve serves the listeners until ctx is done or one of them fails; it returns
// when every session has ended, after at most Options.Wire.StopGrace, and every
// Append has returned. Listeners are closed.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	if len(listeners) == 0 {
		return errors.New("no milter socket to listen on")
	}
	var aside sync.WaitGroup
	if s.reports != nil {
		// It goes on until the last session has ended.
		reading, end := context.WithCancel(context.WithoutCancel(ctx))
		aside.Go(func() { s.reports.run(reading) })
		defer aside.Wait()
		defer end()
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, ln := range listeners {
		s.log.Info("listening", "milter", ln.Addr().String())
		g.Go(func() error { return s.wire.Serve(ctx, s.gated(ln)) })
	}
	err := g.Wait()
	s.appends.Wait()
	return err
}

// warnEvery is how often one standing trouble is warned of.
const warnEvery = time.Minute

// throttle lets one in a while through.
type throttle struct {
	mu   sync.Mutex
	last time.Time
}

func (t *throttle) pass(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.last.IsZero() && now.Sub(t.last) < warnEvery {
		return false
	}
	t.last = now
	return true
}

// slowFor is how long no message is spooled after one that waited for too long:
// each that tried would keep a client waiting, to be left with the host at last.
const slowFor = time.Minute

// trouble is one that is expected to last.
type trouble struct{ since atomic.Pointer[time.Time] }

func (t *trouble) begin(now time.Time) { t.since.Store(&now) }

func (t *trouble) standing(now time.Time) bool {
	since := t.since.Load()
	return since != nil && now.Sub(*since) < slowFor
}
