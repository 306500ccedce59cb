package listen

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/millrace/millrace/contrib/lab/leaks"
	"github.com/millrace/millrace/contrib/lab/logbuf"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// serve answers over a bounded listener on a Unix socket. A request for /stay is answered
// when stay is closed.
func serve(t *testing.T, most int, stay chan struct{}) (b *Listener, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	l, err := Open("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	b = Bound(l, most, slog.New(slog.DiscardHandler))
	s := &http.Server{ConnState: b.State, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stay" {
			w.Write(nil)
			http.NewResponseController(w).Flush()
			select {
			case <-stay:
			case <-r.Context().Done():
			}
		}
		fmt.Fprint(w, "ok")
	})}
	served := make(chan error, 1)
	go func() { served <- s.Serve(b) }()
	t.Cleanup(func() {
		s.Close()
		<-served
	})
	return b, path
}

// until waits until so many connections are silent and busy.
func (l *Listener) until(silent, busy int) {
	for {
		l.mu.Lock()
		is := l.silent.Len() == silent && l.busy.Len() == busy
		l.mu.Unlock()
		if is {
			return
		}
		runtime.Gosched()
	}
}

type conn struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, path string) *conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &conn{t, c, bufio.NewReader(c)}
}

// ask returns the head of the answer.
func (c *conn) ask(path string) error {
	c.t.Helper()
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path); err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.r, nil)
	if err == nil && path != "/stay" {
		_, err = io.Copy(io.Discard, resp.Body)
	}
	return err
}

// ended waits until the other side has ended the connection.
func (c *conn) ended() {
	c.t.Helper()
	if _, err := io.Copy(io.Discard, c.r); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		c.t.Error(err)
	}
}

func TestTheLongestSilentGivesWay(t *testing.T) {
	t.Parallel()
	stay := make(chan struct{})
	defer close(stay)
	l, path := serve(t, 3, stay)
	busy := dial(t, path) // the oldest, but it is being answered
	if err := busy.ask("/stay"); err != nil {
		t.Fatal(err)
	}
	first := dial(t, path)
	l.until(1, 1)
	second := dial(t, path)
	l.until(2, 1)
	if err := first.ask("/"); err != nil { // now it is silent for a shorter time than the second
		t.Fatal(err)
	}
	l.until(2, 1)
	third := dial(t, path)
	second.ended()
	fourth := dial(t, path)
	first.ended()
	for _, c := range []*conn{third, fourth} {
		if err := c.ask("/"); err != nil {
			t.Error(err)
		}
	}
}

// Where all are being answered the oldest gives way: who asks now is answered.
func TestReadersThatStayDoNotShutOutOthers(t *testing.T) {
	t.Parallel()
	stay := make(chan struct{})
	defer close(stay)
	_, path := serve(t, 3, stay)
	var all []*conn
	for range 3 {
		c := dial(t, path)
		if err := c.ask("/stay"); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	if err := dial(t, path).ask("/"); err != nil {
		t.Error(err)
	}
	all[0].ended()
}

// scarce has no descriptor for some connections.
type scarce struct {
	net.Listener
	fails atomic.Int64
}

func (s *scarce) Accept() (net.Conn, error) {
	if s.fails.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.ENOBUFS)}
	}
	return s.Listener.Accept()
}

func TestAcceptWaitsOutAShortage(t *testing.T) {
	t.Parallel()
	l, err := Open("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var log logbuf.Buffer
	s := &scarce{Listener: l}
	s.fails.Store(4)
	b := Bound(s, 2, log.Logger())
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := b.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if n := strings.Count(log.String(), "no connection can be taken"); n != 1 || !strings.Contains(log.String(), "connections are taken again") {
		t.Errorf("log:\n%s", log.String())
	}
	s.fails.Store(1 << 40)
	ended := make(chan error, 1)
	go func() { _, err := b.Accept(); ended <- err }()
	b.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestSocketIsForOwnerAndGroupAndReplacesADeadOne(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "dir", "s")
	for range 2 {
		l, err := Open("unix:" + path)
		if err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(path)
		if err != nil || st.Mode().Perm() != 0o660 {
			t.Errorf("%v, %v", st.Mode(), err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false) // as when it died
		l.Close()
	}
}
