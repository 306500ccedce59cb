package watch

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/listen"
	"github.com/millrace/millrace/agent/settings"
)

// A connection that does not ask is ended after five seconds, also one that sends its
// request octet by octet; a body that never comes is not waited for.
func TestConnectionsThatDoNotAskAreEnded(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]time.Duration{
		"":                              silence,
		"GET /readyz HTTP/1.1\r\nHost:": silence,
		"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n":                      silence, // after the answer
		"GET /readyz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n": 0,
	} {
		synctest.Test(t, func(t *testing.T) {
			pipes := &pipes{more: make(chan net.Conn, 1), ended: make(chan struct{})}
			l := listen.Bound(pipes, settings.MaxHTTP, slog.New(slog.DiscardHandler))
			ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, nil, nil) })
			s := newServer(t.Context(), withoutBody(ok), l, slog.New(slog.DiscardHandler))
			served := make(chan error, 1)
			go func() { served <- s.Serve(l) }()
			ours, theirs := net.Pipe()
			pipes.more <- theirs
			began := time.Now()
			go func() {
				for _, octet := range []byte(said) {
					ours.Write([]byte{octet})
				}
			}()
			b, err := io.ReadAll(ours)
			if took := time.Since(began); err != nil || took < want || took > want+time.Second {
				t.Errorf("%q: ended after %v with %v, want %v", said, took, err, want)
			}
			if strings.HasSuffix(said, "\r\n\r\n") != strings.HasPrefix(string(b), "HTTP/1.1 200") {
				t.Errorf("%q: answered %q", said, b)
			}
			ours.Close()
			s.Close()
			<-served
		})
	}
}

// pipes is a listener whose connections the test puts there.
type pipes struct {
	more  chan net.Conn
	once  sync.Once
	ended chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.more:
		return c, nil
	case <-p.ended:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.ended) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }
