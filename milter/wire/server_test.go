package wire

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
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
	if l := s.log.lines(); l[0] != "" {
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
	offered := make(chan struct{})
	go func() { s.ln.ch <- theirs; close(offered) }()
	first.mail("<a@x>", "<b@y>")
	first.expect('c')
	select {
	case <-offered:
		t.Fatal("accepted beyond the limit")
	default:
	}
	first.Close()
	<-offered
	second := peer{t, ours}
	second.greet()
}

// flaky is a listener whose first accepts fail for a while.
type flaky struct {
	*pipes
	failures atomic.Int32
}

func (l *flaky) Accept() (net.Conn, error) {
	if l.failures.Add(-1) >= 0 {
		return nil, errors.New("too many open files")
	}
	return l.pipes.Accept()
}

func TestAcceptErrorsDoNotEndTheServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ln := &flaky{pipes: newPipes()}
		ln.failures.Store(5)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- NewServer(func(c *Conn) Handler { return &recorder{conn: c, closed: make(chan struct{})} }, Options{}).Serve(ctx, ln)
		}()
		ours, theirs := net.Pipe()
		ln.ch <- theirs
		peer{t, ours}.greet()
		ours.Close()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
