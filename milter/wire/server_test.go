package wire

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/contrib/lab/logbuf"
	"github.com/millrace/millrace/contrib/lab/pipes"
)

func TestStopFinishesTheMessageInHand(t *testing.T) {
	t.Parallel()
	s := serve(t, Options{}, nil)
	waiting := s.dial()
	waiting.greet()
	busy := s.dial()
	busy.greet()
	busy.mail("<a@x>", "<b@y>")
	busy.expect('c')
	s.stop()
	waiting.expectEnd()
	select {
	case <-s.done:
		t.Fatal("stopped over a message in hand")
	default:
	}
	busy.raw(appendPacket(nil, 'B', "x\r\n"))
	busy.send('E')
	busy.expect('a')
	busy.expectEnd()
	<-s.done
	if l := s.log.String(); l != "" {
		t.Errorf("a clean stop was logged: %q", l)
	}
}

func TestStopIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := serve(t, Options{StopGrace: 20 * time.Second}, nil)
		p := s.dial()
		p.greet()
		p.mail("<a@x>", "<b@y>")
		p.expect('c')
		synctest.Wait()
		start := time.Now()
		s.stop()
		<-s.done
		if d := time.Since(start); d != 20*time.Second {
			t.Errorf("stopped after %v", d)
		}
		if !strings.HasSuffix(s.backend().seen(), "abort\nclose") {
			t.Errorf("calls:\n%s", s.backend().seen())
		}
	})
}

func TestConnectionsBeyondTheLimitWait(t *testing.T) {
	t.Parallel()
	s := serve(t, Options{MaxConnections: 1}, nil)
	first := s.dial()
	first.greet()
	ours, theirs := net.Pipe()
	defer ours.Close()
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.ln.Put(theirs)
		(peer{t, ours}).greet()
	}()
	first.mail("<a@x>", "<b@y>")
	first.expect('c')
	select {
	case <-served:
		t.Fatal("served beyond the limit")
	default:
	}
	first.Close()
	<-served
}

// Connections that say nothing take no place from those that do: over real
// sockets, with all places held by silent ones and more of them coming.
func TestSilentConnectionsGiveWayToNewOnes(t *testing.T) {
	t.Parallel()
	const places, silent = 10, 1000
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var log logbuf.Buffer
	ctx, stop := context.WithCancel(t.Context())
	done, began := make(chan error), time.Now()
	server := NewServer(func(*Conn) Handler { return deaf{} },
		Options{MaxConnections: places, NegotiationTimeout: time.Hour, Logger: log.Logger()})
	go func() { done <- server.Serve(ctx, ln) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		most := 2 + int(time.Since(began).Minutes())
		if l := log.Lines(); len(l) == 0 || len(l) > most || !strings.Contains(l[0], "say nothing") {
			t.Errorf("log of %d silent connections:\n%s", silent, strings.Join(l, "\n"))
		}
	}()
	dial := func() peer {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return peer{t, c}
	}
	var mtas []peer
	for range silent {
		dial()
		if len(mtas) < places/2 {
			p := dial()
			p.greet()
			p.mail("<a@x>", "<b@y>")
			p.expect('a')
			mtas = append(mtas, p)
		}
	}
	p := dial()
	p.greet()
	for _, p := range append(mtas, p) { // those that came first are served still
		p.mail("<a@x>", "<b@y>")
		p.expect('a')
	}
}

// Whoever has not finished the negotiation within its time, by silence or octet by
// octet, is closed.
func TestNegotiationHasItsDeadline(t *testing.T) {
	t.Parallel()
	for name, octets := range map[string][]byte{"silent": nil, "slow": postfixOffer()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := serve(t, Options{}, nil)
				start := time.Now()
				p := s.dial()
				var writer sync.WaitGroup
				writer.Go(func() {
					for i := range octets {
						time.Sleep(time.Second)
						if _, err := p.Write(octets[i : i+1]); err != nil {
							return
						}
					}
				})
				p.expectEnd()
				if d := time.Since(start); d != 5*time.Second {
					t.Errorf("closed after %v", d)
				}
				writer.Wait()
				s.stop()
				<-s.done
			})
		})
	}
}

// flaky is a listener whose first accepts fail for a while.
type flaky struct {
	*pipes.Listener
	failures atomic.Int32
}

func (l *flaky) Accept() (net.Conn, error) {
	if l.failures.Add(-1) >= 0 {
		return nil, errors.New("too many open files")
	}
	return l.Listener.Accept()
}

func TestAcceptErrorsDoNotEndTheServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ln := &flaky{Listener: pipes.New()}
		ln.failures.Store(5)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- NewServer(func(c *Conn) Handler { return &recorder{conn: c, closed: make(chan struct{})} }, Options{}).Serve(ctx, ln)
		}()
		ours := ln.Dial()
		peer{t, ours}.greet()
		ours.Close()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
