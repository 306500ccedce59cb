package sink

import (
	"fmt"
	"net"
)

// stream is what a session needs of its connection; *net.TCPConn has it.
type stream interface {
	net.Conn
	CloseWrite() error
	SetLinger(seconds int) error
}

// pipe is a stream without a socket. Both directions end together.
type pipe struct{ net.Conn }

func (p pipe) CloseWrite() error { return p.Close() }
func (pipe) SetLinger(int) error { return nil }

// Dial connects to a host of an Internet with [Options.Offline] and gives the client's
// end: a host that is down refuses, and one connection too many, where those are reset,
// is closed without a word.
func (n *Internet) Dial(name string) (net.Conn, error) {
	h := n.hostNamed(name)
	if h == nil {
		return nil, fmt.Errorf("sink: no host %q", name)
	}
	if h.behaviour.Load().presence() != listening {
		return nil, fmt.Errorf("sink: host %q is down", name)
	}
	client, server := net.Pipe()
	s, ok := h.admit(pipe{server}, nil)
	if !ok {
		server.Close()
		return client, nil
	}
	n.work.Go(s.run)
	return client, nil
}
