package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/contrib/lab"
)

// state is what the hand-back port does.
type state int

const (
	present state = iota
	absent        // nobody listens
	full          // 421 in place of the banner
)

// relay stands before Postfix's hand-back port, so that this port can fail alone.
type relay struct {
	addr, to string
	work     sync.WaitGroup
	passing  atomic.Int64 // connections

	mu       sync.Mutex
	listener net.Listener
	state    state
}

// startRelay listens on a free port.
func startRelay(to string) (*relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{addr: l.Addr().String(), to: to}
	r.serve(l)
	return r, nil
}

func (r *relay) serve(l net.Listener) {
	r.listener = l
	r.work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.work.Go(func() { r.pass(c) })
		}
	})
}

func (r *relay) pass(c net.Conn) {
	defer c.Close()
	r.mu.Lock()
	now := r.state
	r.mu.Unlock()
	if now == full {
		_, _ = io.WriteString(c, "421 4.3.2 mail.lab.test Error: too many connections\r\n")
		return
	}
	network, to := lab.Network(r.to)
	d, err := net.DialTimeout(network, to, 5*time.Second)
	if err != nil {
		return
	}
	defer d.Close()
	r.passing.Add(1)
	defer r.passing.Add(-1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(d, c)
		_ = d.(interface{ CloseWrite() error }).CloseWrite()
	}()
	_, _ = io.Copy(c, d)
	c.Close()
	<-done
}

func (r *relay) port() uint16 { return netip.MustParseAddrPort(r.addr).Port() }

// become changes what the port does; connections under way go on.
func (r *relay) become(s state) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s == absent {
		r.listener.Close()
	} else if r.state == absent {
		l, err := net.Listen("tcp", r.addr)
		if err != nil {
			return err
		}
		r.serve(l)
	}
	r.state = s
	return nil
}

// close ends the port; what passes by it has to have ended.
func (r *relay) close() {
	r.mu.Lock()
	r.listener.Close()
	r.mu.Unlock()
	r.work.Wait()
}

// handback is a fault of the hand-back port.
func handback(trouble state) func(context.Context, *scene, time.Duration, uint64) error {
	return func(ctx context.Context, s *scene, lasts time.Duration, _ uint64) error {
		err := s.relay.become(trouble)
		wait(ctx, lasts)
		return errors.Join(err, s.relay.become(present))
	}
}
