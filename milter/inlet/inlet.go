// Package inlet lets list software of this host hand mail to millrace-milter by SMTP, past
// the host MTA. It decides by the same verdict as the milter (milter.Server.Submit), and
// each message has one owner:
//
//	MAIL, RCPT...     answered here while each recipient could be taken. The first that
//	                  could not, or a null sender, opens the session to the host MTA and
//	                  replays the envelope there; from then on its replies are the client's
//	DATA or BDAT      the whole message is read first: in memory, from 1 MiB on in a file
//	                  without a name beside the spool, which is not synced
//	wholly bulk       spool.Append returns: durable. Then 250; then Release, or Void if
//	                  nothing of the 250 could be written
//	all else          to the host MTA, whole, and its reply to the dot is ours. If it refuses
//	                  what was answered here with 250, that refusal is the reply to the
//	                  dot, and nobody has taken anything
//	MTA away          451. So is a reply that is lost after the final dot: the client comes
//	                  again and the MTA may have both (RFC 1047); Counts.Unsure has how many
//
// Nothing that was answered 250 at the end of its data is dropped: it is in the spool, or
// the MTA said so.
//
// The SMTP server is go-smtp's. front stands between it and the socket and does what it does
// not: only CRLF ends a line, time-outs are of commands and of progress, what is refused is
// refused before it is parsed, and the text of MAIL and RCPT is kept as written.
package inlet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emersion/go-smtp"

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
	Logger   *slog.Logger // nil: none
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

	serial   atomic.Uint64
	started  time.Time
	stopping atomic.Bool

	mu     sync.Mutex
	fronts map[*front]struct{}
	byUser map[string]int
	warned map[string]time.Time

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
		judge: o.Judge, key: o.Key, bypassed: o.Bypassed, log: o.Logger, cfg: cfg.Inlet, hostname: cfg.Hostname, dir: cfg.Spool.Directory,
		started: time.Now(), fronts: map[*front]struct{}{}, byUser: map[string]int{}, warned: map[string]time.Time{},
	}
}

// stopGrace is how long sessions may take over the message in hand when the server stops.
const stopGrace = 30 * time.Second

// Serve serves the listeners until ctx is done or one of them fails, and closes them. A
// client without a message in hand is told 421 then.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	srv := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return &session{server: s, conn: c, front: c.Conn().(*front)}, nil
	}))
	srv.Domain = s.hostname
	srv.MaxMessageBytes = int64(s.cfg.MaxMessageSize)
	srv.MaxLineLength = 0 // front bounds commands; a long line of content is no error
	srv.WriteTimeout = s.cfg.Timeout
	srv.EnableSMTPUTF8, srv.EnableDSN = true, true
	srv.ErrorLog = quiet{s.log}

	ended := make(chan error, len(listeners))
	var wg sync.WaitGroup
	for _, ln := range listeners {
		s.log.Info("listening", "inlet", ln.Addr().String())
		wg.Go(func() { ended <- srv.Serve(gate{ln, s}) })
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-ended:
		err = fmt.Errorf("inlet: %w", err)
	}
	s.stop()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
	defer cancel()
	if end := srv.Shutdown(grace); errors.Is(end, context.DeadlineExceeded) {
		s.closeAll()
	}
	wg.Wait()
	return err
}

// stop tells clients without a message in hand to go.
func (s *Server) stop() {
	s.stopping.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.fronts {
		f.wake()
	}
}

// closing is what a client is told then: the host MTA takes its mail, now and for good.
func (s *Server) closing() string {
	return "421 4.3.2 service is shutting down; " + s.judge.Config().Inlet.Host() + " takes mail meanwhile"
}

func (s *Server) closeAll() {
	s.mu.Lock()
	all := make([]*front, 0, len(s.fronts))
	for f := range s.fronts {
		all = append(all, f)
	}
	s.mu.Unlock()
	for _, f := range all {
		f.Close()
	}
}

// warn logs one kind of trouble once a minute.
func (s *Server) warn(kind, text string, args ...any) {
	s.mu.Lock()
	now := time.Now()
	again := now.Sub(s.warned[kind]) >= time.Minute
	if again {
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

// quiet takes what go-smtp says of connections that broke.
type quiet struct{ log *slog.Logger }

func (q quiet) Printf(format string, v ...any) {
	q.log.Debug("inlet", "smtp", fmt.Sprintf(format, v...))
}
func (q quiet) Println(v ...any) { q.log.Debug("inlet", "smtp", fmt.Sprint(v...)) }

var _ io.Closer = (*front)(nil)
