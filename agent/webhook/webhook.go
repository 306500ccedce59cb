// Package webhook posts events to the receivers of [[webhook]], at least once and in order.
//
// A Sender is an event.Listener. Delivery puts an event that some webhook wants into a log of
// package eventlog, which costs a copy in memory and never waits. Run posts from there, a
// goroutine for each webhook, one request at a time. Use puts a configuration into force, at
// first and after a reload.
//
//	state_directory/webhooks/events/          the log, the last seven days or 256 MiB
//	state_directory/webhooks/NAME.json        the cursor of a webhook: what was taken
//	state_directory/webhooks/aside/NAME.json  events that it refused
//
// The log is apart from that of package outcomes, and one cannot serve both: that one has recipients
// by hash, or not at all, where the admin says so, and has every event; this one has addresses, as
// receivers want them, and nothing that no receiver asked for, so that its bounds reach further.
//
// # What is promised
//
// An event is posted until the receiver has taken it (2xx) or refused it for good. The log
// keeps the order in which outcomes became final, and a request has what follows what was
// taken last: so order holds for all events of a webhook, and those of a stream. Each event
// has an id that is made of what it says; it is the same at each try, in a replay, after a
// crash. The cursor is written after the receiver's answer: kill -9 repeats a second of events,
// of those in the form of listmonk, which knows no ids, one. What was in memory then is lost,
// and nobody counts it: outcomes whose session was between journal and log, and a tenth of a second
// of events that the log's writer had not written (package eventlog). To have these in the log
// first, each transaction would wait for a write of its own.
//
// A receiver that is away costs no memory: what waits is on disk. What the bounds of the log drop
// meanwhile is an event "gap", a count, a warning of /readyz and of the log.
//
// # What is refused
//
// No answer, 5xx, 3xx, 408, 425 and 429 say that the receiver cannot: the same is posted again,
// after a wait that doubles up to maxWait, less up to half of it by chance, and not before Retry-After
// says, up to maxRetryAfter. Any other 4xx says that something in the request is wrong: it is
// posted in halves until one event stands alone, which after triesAlone such answers is set
// aside, so that it holds up no other, and listed. If patience of them in a row are set aside
// and none is taken between, the receiver itself is at fault most likely, and each costs a
// wait that doubles. A replay posts them again.
//
// # Where requests go
//
// An admin writes the URL, a stranger the DNS. So an address that is loopback, private or
// otherwise special is connected to only if it is what the URL says; that is looked at when
// the connection is made, after the look-up (request.go). No redirect is followed, no proxy
// of the environment is used.
package webhook

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/durable"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/eventlog"
)

// maxAge is how long the log keeps events: a receiver may be away over a long weekend.
const maxAge = 7 * 24 * time.Hour

// Options are what a Sender works with.
type Options struct {
	StateDirectory string // "": there are no webhooks
	Log            *slog.Logger
	Version        string
	// Free tells the octets that a file system has left for us.
	Free func(dir string) (int64, error)
	// Dial connects to an address; nil: the network, as the package comment says. For tests.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	SegmentSize, MaxSize int64 // of the log, in octets; 0: the defaults of package eventlog
}

// Policy is what is posted where.
type Policy struct {
	Hooks    []config.Webhook
	Hostname string         // told to receivers
	Roots    *x509.CertPool // nil: the system's
	MinFree  int64          // octets left free on the file system
}

// Sender posts events. Its methods may be called by many goroutines.
type Sender struct {
	o       Options
	events  atomic.Pointer[eventlog.Log] // nil: there are no webhooks
	wanted  atomic.Pointer[[]config.Webhook]
	minFree atomic.Int64

	mu      sync.Mutex
	policy  Policy
	hooks   []*hook
	running context.Context // nil: Run is not under way
	all     sync.WaitGroup
}

// New returns a Sender without webhooks.
func New(o Options) *Sender {
	s := &Sender{o: o}
	s.wanted.Store(new([]config.Webhook))
	return s
}

func (s *Sender) dir() string { return filepath.Join(s.o.StateDirectory, "webhooks") }

// Use puts a policy into force. Webhooks that it does not have are forgotten, with their places in
// the log; of a new one events are posted from now on.
func (s *Sender) Use(p Policy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.o.StateDirectory == "" {
		p.Hooks = nil
	}
	others := s.policy.Hostname != p.Hostname || !s.policy.Roots.Equal(p.Roots)
	s.policy = p
	s.minFree.Store(p.MinFree)
	var keep []*hook
	for _, h := range s.hooks {
		i := slices.IndexFunc(p.Hooks, func(c config.Webhook) bool { return c.Name == h.config.Name })
		if i >= 0 && !others && same(h.config, p.Hooks[i]) {
			keep = append(keep, h)
			continue
		}
		h.end() // one that is changed begins anew from what it has written
	}
	s.hooks = nil
	if len(p.Hooks) == 0 {
		s.wanted.Store(&p.Hooks)
		s.closeLog()
		s.removeState(nil, true)
		return
	}
	s.removeState(p.Hooks, len(keep) == 0)
	log := s.events.Load()
	if log == nil {
		log = eventlog.Open(eventlog.Options{
			Dir: filepath.Join(s.dir(), "events"), Log: s.o.Log, After: s.remembered(p.Hooks),
			SegmentSize: s.o.SegmentSize, MaxSize: s.o.MaxSize, MaxAge: maxAge, Room: s.room,
		})
		s.events.Store(log)
	}
	for _, c := range p.Hooks {
		i := slices.IndexFunc(keep, func(h *hook) bool { return h.config.Name == c.Name })
		if i >= 0 {
			s.hooks = append(s.hooks, keep[i])
			continue
		}
		h := newHook(s, c, log)
		s.hooks = append(s.hooks, h)
		if s.running != nil {
			s.start(h)
		}
	}
	s.wanted.Store(&p.Hooks)
}

// same reports whether two webhooks differ in nothing but where they stand.
func same(a, b config.Webhook) bool {
	a.File, a.Line, b.File, b.Line = "", 0, "", 0
	return reflect.DeepEqual(a, b)
}

func (s *Sender) start(h *hook) {
	ctx, cancel := context.WithCancel(s.running)
	h.cancel, h.ended = cancel, make(chan struct{})
	s.all.Go(func() {
		defer close(h.ended)
		h.run(ctx)
	})
}

// Run posts events until ctx ends. Close comes after the last Delivery.
func (s *Sender) Run(ctx context.Context) {
	s.mu.Lock()
	s.running = ctx
	for _, h := range s.hooks {
		s.start(h)
	}
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	s.running = nil // Use starts none that nobody would wait for
	s.mu.Unlock()
	s.all.Wait()
}

// Close writes the last events to the log; the next run posts them.
func (s *Sender) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeLog()
}

func (s *Sender) closeLog() {
	l := s.events.Swap(nil)
	if l == nil {
		return
	}
	ctx, done := context.WithTimeout(context.Background(), 5*time.Second)
	defer done()
	if err := l.Close(ctx); err != nil {
		s.o.Log.Error("events of webhooks are lost", "err", err)
	}
}

// removeState removes the files of webhooks that are no more; without any, all of them. quiet
// says that no webhook runs.
func (s *Sender) removeState(hooks []config.Webhook, quiet bool) {
	if s.o.StateDirectory == "" {
		return
	}
	if len(hooks) == 0 {
		if err := os.RemoveAll(s.dir()); err != nil {
			s.o.Log.Error("events of webhooks that are no more cannot be removed", "err", err, "remedy", "rm -r "+s.dir())
		}
		return
	}
	for _, dir := range []string{s.dir(), filepath.Join(s.dir(), asideDir)} {
		found, _ := filepath.Glob(filepath.Join(dir, "*"))
		for _, path := range found {
			name, ours := strings.CutSuffix(filepath.Base(path), stateSuffix)
			known := slices.ContainsFunc(hooks, func(c config.Webhook) bool { return c.Name == name })
			torn := quiet && strings.HasSuffix(path, durable.Suffix) // by a crash
			if (!ours || known) && !torn {
				continue
			}
			if err := os.Remove(path); err != nil {
				s.o.Log.Error("a file of a webhook that is no more stays", "err", err)
			}
		}
	}
}

func (s *Sender) room() error {
	if s.o.Free == nil {
		return nil
	}
	free, err := s.o.Free(s.o.StateDirectory)
	if err == nil && free < s.minFree.Load() {
		return fmt.Errorf("the file system of %s has %d MiB left, less than [spool] min_free", s.o.StateDirectory, free>>20)
	}
	return nil // an error of the file system shows when it is written to
}

// Delivery implements event.Listener. It never waits.
func (s *Sender) Delivery(d *event.Delivery) {
	l := s.events.Load()
	if l == nil {
		return
	}
	word, stream := d.Status.Event(), ""
	if d.Envelope != nil {
		stream = d.Envelope.Stream
	}
	hooks := *s.wanted.Load()
	for i := range hooks {
		if wants(&hooks[i], word, stream) {
			l.Delivery(d)
			return
		}
	}
}

// wants reports whether a webhook is for an event.
func wants(c *config.Webhook, word, stream string) bool {
	return slices.Contains(c.Events, word) && (len(c.Streams) == 0 || config.MatchesAny(c.Streams, stream))
}

// ErrUnknown says that there is no webhook of a name.
var ErrUnknown = errors.New("there is no webhook of this name")

func (s *Sender) named(name string) (*hook, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.hooks {
		if h.config.Name == name {
			return h, nil
		}
	}
	return nil, ErrUnknown
}

// Test posts one event that says so, and returns how the receiver answered.
func (s *Sender) Test(ctx context.Context, name string) (answer string, err error) {
	h, err := s.named(name)
	if err != nil {
		return "", err
	}
	return h.test(ctx)
}

// Replay has a webhook post all that the log has from a time on again. It returns how many
// events of the log stand there, some of which are not for it.
func (s *Sender) Replay(ctx context.Context, name string, since time.Time) (events uint64, err error) {
	h, err := s.named(name)
	if err != nil {
		return 0, err
	}
	l := h.log
	if err := l.Flush(ctx); err != nil {
		return 0, fmt.Errorf("the log of events of webhooks cannot be written: %w", err)
	}
	var at eventlog.Cursor
	var b eventlog.Batch
	for {
		if err := l.Read(at, readEvents, &b); err != nil {
			return 0, err
		}
		i := slices.IndexFunc(b.Records, func(r eventlog.Record) bool { return !r.Time.Before(since) })
		if i >= 0 {
			at = b.Places[i]
			break
		}
		at = b.Next
		if !b.More {
			return 0, fmt.Errorf("the log has no event since %s", since.Format(time.RFC3339))
		}
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
	}
	return l.End().Seq - at.Seq, h.rewind(at)
}

// Forget erases the events of an address that wait, or were set aside.
func (s *Sender) Forget(ctx context.Context, address string) (events int, err error) {
	l := s.events.Load()
	if l == nil {
		return 0, nil
	}
	about := func(recipient, reply string) bool {
		return strings.EqualFold(recipient, address) || strings.Contains(strings.ToLower(reply), strings.ToLower(address))
	}
	events, err = l.Erase(ctx, func(r *eventlog.Record) bool { return about(r.Recipient, r.Reply) })
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.hooks {
		n, failed := h.forget(about)
		events, err = events+n, errors.Join(err, failed)
	}
	return events, err
}

// Status tells how each webhook stands.
func (s *Sender) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Status, 0, len(s.hooks))
	for _, h := range s.hooks {
		list = append(list, h.status())
	}
	return list
}

// Trouble says what an admin should know of each webhook, and of the log.
func (s *Sender) Trouble() (list []string) {
	l := s.events.Load()
	if l == nil {
		return nil
	}
	if why := l.Trouble(); why != "" {
		list = append(list, "the log of events of webhooks cannot be written: "+why)
	}
	now := time.Now()
	for _, st := range s.Status() {
		if why := st.trouble(now); why != "" {
			list = append(list, why)
		}
	}
	return list
}
