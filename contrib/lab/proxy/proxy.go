// Package proxy stands between a client and a server, so that a test can take the
// server away, have it refuse, or change what the two say to each other.
//
// A [Proxy] owns one address, TCP or a Unix socket, for its life. [New] takes the
// address, and nobody answers there: a client's connect is refused. From then on the
// owner switches between three states, in any order: [Proxy.Pass] (connections reach
// the server), [Proxy.Answer] (the test's own function talks in the server's place) and
// [Proxy.Leave] (connects are refused again). A switch is for connections to come; those
// under way go on until [Proxy.Cut]. [Proxy.Close] ends everything and waits for it.
//
// The end of either side ends the other, at once, as when a process is gone. What
// passes in one direction goes through that direction's [Carry], if it has one:
//
//	p, err := proxy.New(proxy.Options{Listen: "127.0.0.1:0"})
//	defer p.Close()
//	start the client with p.Addr() in place of the server's address
//	err = p.Pass("unix:/run/server.sock")  // both addresses as lab.Network takes them
package proxy

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/sockets"
)

// dialTimeout limits the connect to the server, all of it on one machine.
const dialTimeout = 5 * time.Second

// Carry moves what passes in one direction of one connection, until src ends. After
// its return, with or without an error, both sides see the end.
type Carry func(dst io.Writer, src io.Reader) error

// Options are settings of a Proxy.
type Options struct {
	Listen             string // "host:port", port 0 for a free one, or "unix:/path"
	ToServer, ToClient Carry  // nil: as it is
}

// Proxy is a listener in front of a server. Its methods may be called from any
// goroutine, a Carry included, but for Close.
type Proxy struct {
	o        Options
	network  string
	address  string
	reserved *os.File        // keeps the port while nobody listens; nil: a Unix socket
	ctx      context.Context // ends with Close
	end      context.CancelFunc
	work     sync.WaitGroup
	passings atomic.Int64

	mu       sync.Mutex
	listener net.Listener   // nil: nobody answers
	serve    func(net.Conn) // what happens to a new connection
	conns    map[net.Conn]struct{}
}

// New takes the address. Nobody answers there yet.
func New(o Options) (*Proxy, error) {
	p := &Proxy{o: o, conns: make(map[net.Conn]struct{})}
	p.network, p.address = lab.Network(o.Listen)
	if p.network == "tcp" {
		var err error
		if p.reserved, p.address, err = sockets.Reserve(p.address); err != nil {
			return nil, err
		}
	}
	p.ctx, p.end = context.WithCancel(context.Background())
	return p, nil
}

// Addr is where the client finds the proxy, as lab.Network takes it.
func (p *Proxy) Addr() string {
	if p.network == "unix" {
		return "unix:" + p.address
	}
	return p.address
}

// Port is the port of a TCP address.
func (p *Proxy) Port() uint16 { return netip.MustParseAddrPort(p.address).Port() }

// Passing is the number of connections that have a server at their other end.
func (p *Proxy) Passing() int { return int(p.passings.Load()) }

// Pass connects whoever comes to a server. When the server cannot be reached the
// client sees the end of its connection.
func (p *Proxy) Pass(server string) error {
	return p.become(func(c net.Conn) { p.pass(c, server) })
}

// Answer has serve talk to whoever comes, on a goroutine for each connection, which is
// closed after serve returns. Serve must return when its connection is closed.
func (p *Proxy) Answer(serve func(net.Conn)) error { return p.become(serve) }

// Leave closes the port: connects are refused.
func (p *Proxy) Leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		p.listener.Close()
		p.listener = nil
	}
}

// Cut closes every connection.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

// Close leaves, cuts, and waits for the goroutines of the proxy, those in a Carry or
// in Answer's function included.
func (p *Proxy) Close() {
	p.end() // before Leave: no listener comes after it
	p.Leave()
	p.Cut()
	p.work.Wait()
	p.reserved.Close() // of nil an error
}

func (p *Proxy) become(serve func(net.Conn)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		return net.ErrClosed
	}
	p.serve = serve
	if p.listener != nil {
		return nil
	}
	l, err := p.listen()
	if err != nil {
		return err
	}
	p.listener = l
	p.work.Go(func() {
		for p.accept(l) {
		}
	})
	return nil
}

// listen starts a listener whose Close is its end.
func (p *Proxy) listen() (net.Listener, error) {
	if p.network == "tcp" {
		return sockets.Listen(p.address)
	}
	return net.Listen(p.network, p.address)
}

// accept serves one connection. It returns false when the listener is closed.
func (p *Proxy) accept(l net.Listener) bool {
	c, err := l.Accept()
	if err != nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != l { // closed since
		c.Close()
		return false
	}
	serve := p.serve
	p.conns[c] = struct{}{}
	p.work.Go(func() {
		defer p.forget(c)
		serve(c)
	})
	return true
}

// forget closes a connection.
func (p *Proxy) forget(c net.Conn) {
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *Proxy) pass(client net.Conn, to string) {
	network, address := lab.Network(to)
	d := net.Dialer{Timeout: dialTimeout}
	server, err := d.DialContext(p.ctx, network, address)
	if err != nil {
		return
	}
	p.passings.Add(1)
	defer p.passings.Add(-1)
	// Cut need not know the server's connection: it ends with the client's.
	var back sync.WaitGroup
	back.Go(func() { carry(p.o.ToClient, client, server) })
	carry(p.o.ToServer, server, client)
	back.Wait()
}

// carry closes both connections at the end of one direction, which ends the other.
func carry(by Carry, dst, src net.Conn) {
	defer dst.Close()
	defer src.Close()
	if by == nil {
		_, _ = io.Copy(dst, src)
		return
	}
	_ = by(dst, src)
}
