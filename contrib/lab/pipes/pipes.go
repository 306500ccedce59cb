// Package pipes is a network within the process: a listener whose connections are
// pipes. With it a server runs in a bubble of testing/synctest, which a socket of the
// kernel would keep from ever being idle.
//
// A test makes a Listener with [New] and gives it to the server under test. Each
// [Listener.Dial] is a client's connection; [Listener.Put] has the server accept a
// connection that the test has made itself, such as one with buffers.
package pipes

import (
	"net"
	"sync"
)

var _ net.Listener = (*Listener)(nil)

// Listener is a net.Listener without an address.
type Listener struct {
	put    chan net.Conn
	once   sync.Once
	closed chan struct{}
}

// New returns an open Listener. Its channels belong to the bubble that it is made in.
func New() *Listener { return &Listener{put: make(chan net.Conn), closed: make(chan struct{})} }

// Accept waits for Dial or Put. The error is net.ErrClosed.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.put:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept. It never fails, and may be called again.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr names nothing that could be dialled.
func (l *Listener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// Dial returns the client's end of a new net.Pipe, once the server has accepted the
// other end.
func (l *Listener) Dial() net.Conn {
	ours, theirs := net.Pipe()
	l.Put(theirs)
	return ours
}

// Put returns when the server has accepted the connection. After Close it closes the
// connection, whose other end then reads the end, as if the server had hung up.
func (l *Listener) Put(c net.Conn) {
	select {
	case l.put <- c:
	case <-l.closed:
		c.Close()
	}
}
