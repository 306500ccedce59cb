package peer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/agent/listen"
)

const (
	// maxHandshakes bounds connections that have not yet shown who they are; the longest
	// silent gives way, so strangers keep no member out. A handshake takes three passes of
	// the network, and a member tries again.
	maxHandshakes = 128
	// shakeWithin is how long a handshake may take.
	shakeWithin = 10 * time.Second
	// maxOfMember bounds the connections of one member; a Client holds maxIdle and those
	// that are in use.
	maxOfMember = 32
	// MaxBody is how many octets the body of a request may have, where Handle is told
	// nothing else.
	MaxBody = 1 << 20
	// maxHead bounds the head of a request or a response, in octets.
	maxHead = 16 << 10
	// headWithin and stall are how long a head may take, and the next octets of a body.
	headWithin = 10 * time.Second
	stall      = 30 * time.Second
	// idleFor is how long a connection waits for the next request.
	idleFor = 2 * time.Minute
	// againAfter is how long after it could not listen a Server tries again.
	againAfter = 10 * time.Second
)

// ServerOptions are what a Server works with. None may be missing.
type ServerOptions struct {
	Address  string // host:port to listen at
	Identity *Identity
	// Member says whether a node is a member of the fleet now, this node itself included. It
	// is asked with each handshake and each request, and must not wait.
	Member func(node string) bool
	Log    *slog.Logger
}

// Server answers the other nodes of the fleet.
type Server struct {
	o       ServerOptions
	mux     *http.ServeMux
	shake   time.Duration // how long a handshake may take: shakeWithin
	stall   time.Duration // and the next octets of a body, either way
	refused atomic.Uint64
	err     atomic.Pointer[error] // why it does not listen; nil: it does, or has not yet begun

	mu      sync.Mutex
	members map[string]int // connections of each
	at      net.Addr       // nil: it does not listen
	told    time.Time      // when a stranger was last told of
	untold  uint64         // strangers since
}

// NewServer returns a Server that does not listen yet.
func NewServer(o ServerOptions) *Server {
	return &Server{o: o, mux: http.NewServeMux(), shake: shakeWithin, stall: stall, members: make(map[string]int)}
}

// Handle serves requests that fit a pattern of http.ServeMux, with bodies of up to MaxBody
// octets. NodeOf tells the handler who asks.
func (s *Server) Handle(pattern string, h http.Handler) { s.HandleSized(pattern, MaxBody, h) }

// HandleSized is Handle with bodies of up to so many octets. Reading beyond gives an
// http.MaxBytesError.
func (s *Server) HandleSized(pattern string, octets int64, h http.Handler) {
	s.mux.Handle(pattern, http.MaxBytesHandler(h, octets))
}

// Refused counts the connections and requests of those that are not of the fleet.
func (s *Server) Refused() uint64 { return s.refused.Load() }

// Addr is where it listens; nil: it does not.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at
}

// Trouble says why it does not listen; "" if it does.
func (s *Server) Trouble() string {
	if err := s.err.Load(); err != nil && *err != nil {
		return "listen of [fleet]: " + (*err).Error()
	}
	return ""
}

// Run listens and answers until ctx ends; then it cuts requests under way, and returns when
// all handlers have. An address that cannot be had, as its network is not up, is asked for
// again every ten seconds.
func (s *Server) Run(ctx context.Context) {
	for ctx.Err() == nil {
		err := s.serve(ctx)
		if ctx.Err() != nil {
			return
		}
		if s.Trouble() == "" {
			s.o.Log.Error("the other nodes of the fleet are not answered; will try again", "listen", s.o.Address, "err", err)
		}
		s.err.Store(&err)
		t := time.NewTimer(againAfter)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

func (s *Server) serve(ctx context.Context) error {
	tcp, err := net.Listen("tcp", s.o.Address)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	l := listen.Bound(tcp, maxHandshakes, s.o.Log)
	var handlers sync.WaitGroup
	server := &http.Server{
		Handler:           s.guarded(&handlers),
		ConnContext:       func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, nodeKey{}, c) },
		ReadHeaderTimeout: headWithin, IdleTimeout: idleFor, MaxHeaderBytes: maxHead,
		ErrorLog: slog.NewLogLogger(s.o.Log.Handler(), slog.LevelDebug),
	}
	door := &door{members: make(chan net.Conn), addr: tcp.Addr(), ctx: ctx}
	s.setAddr(tcp.Addr())
	s.err.Store(nil)
	s.o.Log.Info("listening for the other nodes of the fleet", "listen", tcp.Addr().String(), "node", s.o.Identity.files.Node)
	var all sync.WaitGroup
	all.Go(func() { server.Serve(door) })
	all.Go(func() {
		<-ctx.Done()
		l.Close()
		server.Close()
	})
	for {
		var c net.Conn
		if c, err = l.Accept(); err != nil {
			break
		}
		all.Go(func() { s.meet(ctx, l, c, door) })
	}
	s.setAddr(nil)
	end()
	all.Wait()
	handlers.Wait()
	return err
}

func (s *Server) setAddr(a net.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = a
}

// meet has a connection show who it is, and lets a member through the door. Until then it
// stands in the bound of l, and gives way to others.
func (s *Server) meet(ctx context.Context, l *listen.Listener, c net.Conn, d *door) {
	t := tls.Server(c, &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: s.greet})
	hurry, done := context.WithTimeout(ctx, s.shake)
	err := t.HandshakeContext(hurry)
	done()
	l.State(c, http.StateHijacked) // it stands in that bound no more
	var m *memberConn
	if err == nil {
		m, err = s.admit(t)
	}
	if err != nil {
		c.Close()
		if ctx.Err() == nil && !errors.Is(err, errFull) {
			s.stranger(c.RemoteAddr(), err)
		}
		return
	}
	select {
	case d.members <- m:
	case <-ctx.Done():
		m.Close()
	}
}

// greet is the TLS configuration for who knows the name of this node and fleet.
func (s *Server) greet(h *tls.ClientHelloInfo) (*tls.Config, error) {
	id := s.o.Identity
	c, err := id.current()
	if c == nil {
		return nil, err
	}
	if !strings.EqualFold(h.ServerName, hello(id.files.Node, id.files.Fleet)) {
		return nil, fmt.Errorf("it asks for %.200q", h.ServerName)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{c.cert}, NextProtos: []string{"http/1.1"},
		// What is shown is verified below, with the member's name.
		ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := c.nodeOf(cs.PeerCertificates, x509.ExtKeyUsageClientAuth, id.files.Fleet, s.o.Member)
			return err
		},
	}, nil
}

var errFull = errors.New("too many connections of this member")

// admit gives a connection its member's name, and its place among those of the member.
func (s *Server) admit(t *tls.Conn) (*memberConn, error) {
	id := s.o.Identity
	c, err := id.current()
	if c == nil {
		return nil, err
	}
	chain := t.ConnectionState().PeerCertificates
	node, err := c.nodeOf(chain, x509.ExtKeyUsageClientAuth, id.files.Fleet, s.o.Member)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.members[node] >= maxOfMember {
		return nil, errFull
	}
	s.members[node]++
	return &memberConn{Conn: t, stall: s.stall, node: node, until: chain[0].NotAfter, leave: sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.members[node]--; s.members[node] == 0 {
			delete(s.members, node)
		}
	})}, nil
}

// stranger counts one who is not of the fleet, and tells of it once a minute.
func (s *Server) stranger(who net.Addr, err error) {
	s.refused.Add(1)
	s.mu.Lock()
	s.untold++
	n, now := s.untold, time.Now()
	tell := s.told.IsZero() || now.Sub(s.told) >= time.Minute
	if tell {
		s.told, s.untold = now, 0
	}
	s.mu.Unlock()
	if tell {
		s.o.Log.Warn("refused one that is not of the fleet", "client", who.String(), "err", err, "refused", n)
	}
}

// guarded is the mux for members, whose bodies are read with deadlines.
func (s *Server) guarded(handlers *sync.WaitGroup) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handlers.Add(1)
		defer handlers.Done()
		m, ok := r.Context().Value(nodeKey{}).(*memberConn)
		if !ok || !s.o.Member(m.node) || time.Now().After(m.until) {
			if ok {
				s.stranger(m.RemoteAddr(), fmt.Errorf("%s is no member any more, or its certificate has ended", m.node))
			}
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusForbidden)
			return
		}
		if r.Body != http.NoBody { // of one without a body the next is waited for already
			b := &body{ReadCloser: r.Body, in: http.NewResponseController(w), stall: s.stall}
			b.in.SetReadDeadline(time.Now().Add(s.stall))
			r.Body = b
		}
		s.mux.ServeHTTP(w, r)
	})
}

// body is a request's body of which each part has a deadline, also one that no handler reads:
// the server reads what is left, so that its answer arrives.
type body struct {
	io.ReadCloser
	in    *http.ResponseController
	stall time.Duration
}

func (b *body) Read(p []byte) (int, error) {
	b.in.SetReadDeadline(time.Now().Add(b.stall))
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.in.SetReadDeadline(time.Time{}) // what is read now is the next request, with its own
	}
	return n, err
}

type nodeKey struct{}

// NodeOf is the member whose request a handler serves; "" for a context of another kind.
func NodeOf(ctx context.Context) string {
	if m, ok := ctx.Value(nodeKey{}).(*memberConn); ok {
		return m.node
	}
	return ""
}

// memberConn is a connection of a member.
type memberConn struct {
	net.Conn
	stall time.Duration
	node  string
	until time.Time // end of its certificate
	leave func()
}

// Write gives each write its deadline.
func (m *memberConn) Write(b []byte) (int, error) {
	m.SetWriteDeadline(time.Now().Add(m.stall))
	return m.Conn.Write(b)
}

// Close implements net.Conn.
func (m *memberConn) Close() error {
	m.leave()
	return m.Conn.Close()
}

// door is the listener of the HTTP server: of members alone.
type door struct {
	members chan net.Conn
	addr    net.Addr
	ctx     context.Context
}

func (d *door) Accept() (net.Conn, error) {
	select {
	case c := <-d.members:
		return c, nil
	case <-d.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener; it ends with its context.
func (d *door) Close() error { return nil }

// Addr implements net.Listener.
func (d *door) Addr() net.Addr { return d.addr }
