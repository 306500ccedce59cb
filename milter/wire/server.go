package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/emersion/go-milter"
)

// Server serves MTA connections. One Server may serve several listeners; the
// connection limit is over all of them.
type Server struct {
	handler func(*Conn) Handler
	o       Options
	log     *slog.Logger
	slots   chan struct{}
	fresh   newcomers
	silent  silentLog
}

// NewServer returns a server that asks newHandler for a backend per connection.
func NewServer(newHandler func(*Conn) Handler, o Options) *Server {
	o = o.withDefaults()
	return &Server{
		handler: newHandler, o: o, log: o.Logger, slots: make(chan struct{}, o.MaxConnections),
		silent: silentLog{log: o.Logger},
	}
}

// Serve accepts connections until ctx is done, and closes the listener. Then it
// ends idle connections at once, waits up to StopGrace for the others to finish
// the message in hand, closes what is left and returns when all are gone. The
// error is nil after such a stop.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	unhook := context.AfterFunc(ctx, func() { ln.Close() })
	defer unhook()

	open := newConnSet()
	err := s.accept(ctx, ln, open)
	ln.Close()
	open.stop(s.o.StopGrace)
	return err
}

func (s *Server) accept(ctx context.Context, ln net.Listener, open *connSet) error {
	// Handlers outlive ctx: a message in hand may be finished after the stop.
	base := context.WithoutCancel(ctx)
	var pause time.Duration
	var warned time.Time
	for {
		// With all places taken nothing is accepted, for what waits in the backlog
		// costs nothing; but if one of them is held by a newcomer, that one gives way.
		placed := s.place()
		if !placed && s.fresh.none() {
			if time.Since(warned) > time.Minute {
				warned = time.Now()
				s.log.Warn("connection limit reached, further MTA connections wait", "limit", cap(s.slots))
			}
			if placed = s.awaitPlace(ctx); !placed {
				return nil
			}
		}
		nc, err := ln.Accept()
		if err != nil {
			if placed {
				<-s.slots
			}
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("milter listener: %w", err)
			}
			// Out of file descriptors, an aborted connection: it passes. A server
			// that ended here would stop the host's mail.
			pause = min(max(2*pause, 10*time.Millisecond), time.Second)
			s.log.Warn("accepting an MTA connection", "err", err, "retry", pause)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return nil
			}
			continue
		}
		pause = 0
		if !placed && !s.place() {
			s.fresh.yield()
			if !s.awaitPlace(ctx) {
				nc.Close()
				return nil
			}
		}
		c := newConn(base, nc, s.o, s.log)
		c.handler = s.handler(c)
		c.negotiated = func() { s.fresh.remove(c) }
		s.fresh.add(c)
		open.add(c)
		s.start(c, open)
	}
}

// place takes a place for a connection, if one is free.
func (s *Server) place() bool {
	select {
	case s.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

// awaitPlace waits for a place; false means that ctx is done.
func (s *Server) awaitPlace(ctx context.Context) bool {
	select {
	case s.slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// start hands the connection to a protocol engine of its own. The engine's
// goroutine ends with Conn.Close.
func (s *Server) start(c *Conn, open *connSet) {
	engine := milter.Server{NewMilter: func() milter.Milter { return adapter{c: c} }}
	engine.Serve(&oneConn{conn: c}) // returns at once, when there is no second connection
	go func() {
		<-c.done
		s.fresh.remove(c)
		if c.silent {
			s.silent.note(c)
		}
		open.remove(c)
		<-s.slots
	}()
}

// oneConn is a listener with one connection.
type oneConn struct{ conn net.Conn }

func (l *oneConn) Accept() (net.Conn, error) {
	c := l.conn
	if l.conn = nil; c == nil {
		return nil, io.EOF
	}
	return c, nil
}

func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return nil }

// connSet is the open connections of one listener.
type connSet struct {
	mu    sync.Mutex
	conns map[*Conn]bool
	wg    sync.WaitGroup
}

func newConnSet() *connSet { return &connSet{conns: map[*Conn]bool{}} }

func (s *connSet) add(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = true
	s.wg.Add(1)
}

func (s *connSet) remove(c *Conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.wg.Done()
}

func (s *connSet) each(f func(*Conn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		f(c)
	}
}

// stop ends all connections, the busy ones after at most grace.
func (s *connSet) stop(grace time.Duration) {
	s.each((*Conn).stop)
	late := time.AfterFunc(grace, func() { s.each((*Conn).kill) })
	defer late.Stop()
	s.wg.Wait()
}
