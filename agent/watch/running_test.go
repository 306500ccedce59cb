package watch

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab"
)

// ends waits until nobody listens any more: a program that another test is just starting has
// our sockets until its execve.
func ends(t *testing.T, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := lab.Until(ctx, func() (bool, error) { up, err := listening(address); return !up, err }); err != nil {
		t.Errorf("%s without a listener: %v", address, err)
	}
}

func TestListenerIsSeenWithoutAConnection(t *testing.T) {
	t.Parallel()
	for _, x := range []struct{ listen, ask string }{{"127.0.0.1:0", "127.0.0.1"}, {"0.0.0.0:0", "127.0.0.1"}, {"[::1]:0", "::1"}} {
		l, err := net.Listen("tcp", x.listen)
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ask := net.JoinHostPort(x.ask, port)
		if up, err := listening(ask); err != nil || !up {
			t.Errorf("%s while somebody listens on %s: %v, %v", ask, x.listen, up, err)
		}
		l.Close()
		ends(t, ask)
	}
	path := filepath.Join(t.TempDir(), "s")
	if up, err := listening("unix:" + path); err != nil || up {
		t.Errorf("a socket that is not there: %v, %v", up, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if up, err := listening("unix:" + path); err != nil || !up {
		t.Errorf("a socket while somebody listens: %v, %v", up, err)
	}
	if err := l.(*net.UnixListener).SetDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if c, err := l.Accept(); err == nil {
		c.Close()
		t.Error("a connection was made")
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as Postfix leaves its own
	l.Close()
	ends(t, "unix:"+path)
	if _, err := listening("unix:" + path + "/s"); err == nil {
		t.Error("a path that cannot be followed tells nothing")
	}
}
