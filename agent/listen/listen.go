// Package listen owns the sockets at which the agent is asked: it opens them, and bounds
// what their peers can use up.
//
// Open makes a listener; Bound puts a bound on its connections. A server of package
// net/http over it has State as its ConnState. On loopback and on a Unix socket all peers
// look alike, so nobody is turned away for what others do: when there are too many, who
// asks nothing goes first, the longest silent before the others, and then who has been
// here longest.
package listen

import (
	"container/list"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/transient"
)

// Open listens at "host:port" or "unix:/path". A socket file gets mode 0660, and the group
// of the process, or of its directory if that has the set-group-ID bit; one that is
// there already is replaced: the spool's lock has shown that no other agent lives.
func Open(address string) (net.Listener, error) {
	path, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		return net.Listen("tcp", address)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o660); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Listener is a listener with a bound on its connections.
type Listener struct {
	net.Listener
	most    int
	log     *slog.Logger
	ctx     context.Context // ends with Close
	close   context.CancelFunc
	accepts transient.Retry // of Accept alone

	mu     sync.Mutex
	here   map[net.Conn]*place
	silent list.List // connections without a request, the longest silent first
	busy   list.List // the others, the oldest first
}

// place is where a connection stands.
type place struct {
	in *list.List
	at *list.Element
}

// Bound returns l with at most so many connections.
func Bound(l net.Listener, most int, log *slog.Logger) *Listener {
	b := &Listener{Listener: l, most: most, log: log, here: make(map[net.Conn]*place)}
	b.ctx, b.close = context.WithCancel(context.Background())
	return b
}

// Accept returns the next connection, after another one gave way to it if there are
// too many. A lack of descriptors or memory is waited out.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err == nil {
			if lasted, was := l.accepts.Over(); was {
				l.log.Info("connections are taken again", "at", l.Addr().String(), "after", lasted.Round(time.Millisecond))
			}
			l.enter(c)
			return c, nil
		}
		if !transient.Shortage(err) {
			return nil, err
		}
		news, end := l.accepts.Wait(l.ctx, err)
		if end != nil {
			return nil, net.ErrClosed
		}
		if news {
			l.log.Error("no connection can be taken for now; will try again", "at", l.Addr().String(), "err", err)
		}
	}
}

// Close implements net.Listener.
func (l *Listener) Close() error {
	l.close()
	return l.Listener.Close()
}

func (l *Listener) enter(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.here) >= l.most {
		e := l.silent.Front()
		if e == nil {
			e = l.busy.Front()
		}
		old := e.Value.(net.Conn)
		l.leave(old)
		old.Close()
	}
	l.here[c] = &place{&l.silent, l.silent.PushBack(c)}
}

// leave forgets a connection. The caller holds mu.
func (l *Listener) leave(c net.Conn) {
	if p := l.here[c]; p != nil {
		p.in.Remove(p.at)
		delete(l.here, c)
	}
}

// State is the ConnState of the server. A connection is active from when the head of a
// request has been read until the answer is written.
func (l *Listener) State(c net.Conn, state http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.here[c]
	if p == nil {
		return // it gave way
	}
	to := &l.silent
	switch state {
	case http.StateClosed, http.StateHijacked:
		l.leave(c)
		return
	case http.StateActive:
		to = &l.busy
	case http.StateIdle:
	default:
		return
	}
	p.in.Remove(p.at)
	p.in, p.at = to, to.PushBack(c)
}
