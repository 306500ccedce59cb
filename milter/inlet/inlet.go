// Package inlet lets list software of this host hand mail to millrace-milter by SMTP, past
// the host MTA. It decides by the same verdict as the milter (milter.Server.Submit), and
// each message has one owner:
//
//	MAIL, RCPT...     answered here while each recipient could be taken. The first that
//	                  could not, a null sender, or a command that is not understood opens
//	                  the session to the host MTA and replays the envelope there; from then
//	                  on its replies are the client's
//	DATA or BDAT      the whole message is read first: in memory, what is above 256 KiB in a
//	                  file without a name beside the spool, which is not synced
//	wholly bulk       spool.Append returns: durable. Then 250; then Release, or Void if
//	                  nothing of the 250 could be written
//	all else          to the host MTA, whole, and its reply to the dot is ours. If it refuses
//	                  what was answered here with 250, that refusal is the reply to the
//	                  dot, and nobody has taken anything
//	MTA away          451. So is a reply that is lost after the final dot: the client comes
//	                  again and the MTA may have both (RFC 1047); Counts.Unsure has how many
//
// Nothing that was answered 250 at the end of its data is dropped: it is in the spool, or
// the MTA said so. conn reads lines and content, session is the dialogue (owner.go has
// whose a message becomes), content the message in hand, host the session with the MTA.
//
// The dialogue is our own, as it has to be that of the host MTA and not of a library: a command
// that is not understood here is the MTA's to answer, in its words, and the text of MAIL and
// RCPT goes there as written. go-smtp's server (0.25.1) takes lines that LF ends, lets a bare
// LF through, drops a bare CR, takes a chunk of BDAT that was cut short for the end of the
// message, and refuses what Postfix would mend; of its loop over ten verbs little was left.
package inlet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/milter"
)

// Options are what a Server works with.
type Options struct {
	// Judge decides, and holds the spool.
	Judge *milter.Server
	// Key is the spool's loop key.
	Key []byte
	// Bypassed says what of the host's settings inlet mail would pass by that nobody has
	// accepted, or why that is not known; "": nothing. While it is not "", all mail is passed.
	Bypassed func() string
	// StopGrace is how long sessions may take over the message in hand when the server stops;
	// 0: 30 s.
	StopGrace time.Duration
	Logger    *slog.Logger // nil: none
}

// Server serves the clients of the inlet.
type Server struct {
	judge    *milter.Server
	key      []byte
	bypassed func() string
	log      *slog.Logger
	cfg      config.Inlet // as started
	hostname string
	dir      string // of the spool
	users    users
	grace    time.Duration

	serial  atomic.Uint64
	started time.Time
	stop    context.Context // done: sessions without a message in hand end
	abort   context.Context // done: all end

	mu       sync.Mutex
	sessions int
	byUser   map[string]int
	warned   map[string]time.Time

	most atomic.Int64 // recipients that the host MTA takes in a message; 0: not known

	spooled, passed, refused, unsure, turned atomic.Uint64
}

// Counts are counted from the start of the Server.
type Counts struct {
	Spooled uint64 // messages
	Passed  uint64 // that the host MTA took
	Refused uint64 // that nobody took
	Unsure  uint64 // of these, that the host MTA may have taken: its reply was lost
	Turned  uint64 // connections turned away
}

// Counts returns what has been counted so far.
func (s *Server) Counts() Counts {
	return Counts{s.spooled.Load(), s.passed.Load(), s.refused.Load(), s.unsure.Load(), s.turned.Load()}
}

// New returns a server. Sockets and limits are those of cfg until the end; what becomes of
// mail follows the configuration that Judge has.
func New(cfg *config.Config, o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{
		grace: cmp.Or(o.StopGrace, 30*time.Second),
		judge: o.Judge, key: o.Key, bypassed: o.Bypassed, log: o.Logger, cfg: cfg.Inlet, hostname: cfg.Hostname, dir: cfg.Spool.Directory,
		started: time.Now(), byUser: map[string]int{}, warned: map[string]time.Time{},
	}
}

// acceptPause is how long no client is taken after one could not be: mostly for want of file
// descriptors.
const acceptPause = 100 * time.Millisecond

// Serve serves the listeners until ctx is done or one of them fails, and closes them. A
// client without a message in hand is told 421 then. After StopGrace nobody is waited for,
// neither client nor host MTA; Serve returns when the last session has ended.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	stop, stopNow := context.WithCancel(ctx)
	defer stopNow()
	abort, abortNow := context.WithCancel(context.WithoutCancel(ctx))
	defer abortNow()
	s.stop, s.abort = stop, abort

	ended := make(chan error, len(listeners))
	var sessions sync.WaitGroup
	for _, ln := range listeners {
		s.log.Info("listening", "inlet", ln.Addr().String())
		sessions.Go(func() { ended <- s.accept(ln, &sessions) })
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-ended:
		if err != nil {
			err = fmt.Errorf("inlet: %w", err)
		}
	}
	stopNow()
	for _, ln := range listeners {
		ln.Close()
	}
	grace := time.AfterFunc(s.grace, abortNow)
	defer grace.Stop()
	sessions.Wait()
	s.judge.WaitSubmitted()
	return err
}

// accept takes clients until the listener is closed.
func (s *Server) accept(ln net.Listener, sessions *sync.WaitGroup) error {
	for {
		c, err := ln.Accept()
		if err != nil {
			if s.stop.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			s.warn("accept", "a client of the inlet cannot be taken", "err", err)
			select {
			case <-s.stop.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		x := newConn(c, s)
		if refusal := s.admit(x); refusal != "" {
			s.turnAway(x, refusal)
			continue
		}
		sessions.Go(func() {
			defer s.left(x)
			defer context.AfterFunc(s.stop, func() { x.hurry(0) })()
			defer context.AfterFunc(s.abort, func() { x.hurry(lastWord) })()
			(&session{conn: x}).serve()
		})
	}
}

// warn logs one kind of trouble once a minute.
func (s *Server) warn(kind, text string, args ...any) {
	s.mu.Lock()
	now := time.Now()
	again := now.Sub(s.warned[kind]) >= time.Minute
	if again {
		if len(s.warned) > 100 { // there are no more than a few kinds at a time
			clear(s.warned)
		}
		s.warned[kind] = now
	}
	s.mu.Unlock()
	if again {
		s.log.Warn(text, args...)
	}
}

// id is a new word of the log, unique for this spool's time.
func (s *Server) id() string {
	return fmt.Sprintf("I%x-%x", s.started.UnixMilli(), s.serial.Add(1))
}
