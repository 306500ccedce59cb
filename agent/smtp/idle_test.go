package smtp

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/contrib/lab/sockets"
)

// greet says what a server says up to EHLO's reply.
func greet(nc net.Conn) *bufio.Reader {
	_ = nc.SetDeadline(time.Now().Add(patience))
	in := bufio.NewReader(nc)
	_, _ = io.WriteString(nc, "220 mx.example\r\n")
	_, _ = in.ReadString('\n')
	_, _ = io.WriteString(nc, "250 mx.example\r\n")
	return in
}

// arrived waits until the kernel has something for the connection.
func arrived(t *testing.T, c *Conn) {
	t.Helper()
	err := c.idle.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			n, err := unix.Poll(fds, int(patience.Milliseconds()))
			if err == unix.EINTR {
				continue
			}
			if n != 1 {
				t.Errorf("poll: %d, %v", n, err)
			}
			return
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCheckSeesWhatThePeerDid(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		say   string
		close bool
		want  string
		cause error
	}{
		"421":          {"421 4.4.2 idle too long\r\n", true, "idle: 421 4.4.2 idle too long: server spoke out of turn", ErrOutOfTurn},
		"closed":       {"", true, "idle: EOF", io.EOF},
		"half a reply": {"421 4.", false, "idle: server spoke out of turn", ErrOutOfTurn},
		"garbage":      {"hello?\r\n", false, `idle: server spoke out of turn, after "hello?"`, ErrOutOfTurn},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			act, gone := make(chan struct{}), make(chan struct{})
			addr := listen(t, func(nc net.Conn) {
				in := greet(nc)
				<-act
				_, _ = io.WriteString(nc, test.say)
				if !test.close {
					_, _ = in.ReadByte()
				}
				close(gone)
			})
			c, err := Dial(t.Context(), addr, Options{Hello: "client.example", Timeouts: patient()})
			if err != nil {
				close(act)
				t.Fatal(err)
			}
			if err := c.Check(); err != nil {
				t.Errorf("while all was well: %v", err)
			}
			close(act)
			if test.close {
				<-gone
			}
			arrived(t, c)
			err = c.Check()
			var e *Error
			if !errors.As(err, &e) || err.Error() != test.want || !errors.Is(err, test.cause) {
				t.Errorf("%v, want %s", err, test.want)
			}
			if err := c.Check(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("a second time: %v", err)
			}
			<-gone
			c.Quit(t.Context()) // does nothing
		})
	}
}

func TestCloseEndsASendElsewhere(t *testing.T) {
	t.Parallel()
	reached := make(chan struct{})
	addr := listen(t, func(nc net.Conn) {
		in := greet(nc)
		_, _ = in.ReadString('\n')
		close(reached)
		_, _ = in.ReadString('\n')
	})
	c, err := Dial(t.Context(), addr, Options{Hello: "client.example", Timeouts: patient()})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-reached
		c.Close()
	}()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	res, err := c.Send(ctx, message("s@a.example", "r@b.example"))
	if !errors.Is(err, net.ErrClosed) || res.Recipients[0].Fate != NotOffered {
		t.Errorf("%+v, %v", res, err)
	}
	if res, err = c.Send(ctx, message("s@a.example", "r@b.example")); !errors.Is(err, net.ErrClosed) || len(res.Recipients) != 1 {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestQuitIsPolite(t *testing.T) {
	t.Parallel()
	said := make(chan string, 1)
	addr := listen(t, func(nc net.Conn) {
		in := greet(nc)
		l, _ := in.ReadString('\n')
		_, _ = io.WriteString(nc, "221 bye\r\n")
		_, err := in.ReadByte()
		said <- l + err.Error()
	})
	c, err := Dial(t.Context(), addr, Options{Hello: "client.example", Timeouts: patient(), Local: netip.MustParseAddr("127.0.0.5")})
	if err != nil {
		t.Fatal(err)
	}
	if c.RemoteAddr() != addr {
		t.Errorf("remote address %v", c.RemoteAddr())
	}
	if got := c.wire.raw.LocalAddr().(*net.TCPAddr).IP.String(); got != "127.0.0.5" {
		t.Errorf("local address %s", got)
	}
	c.Quit(t.Context())
	if got := <-said; got != "QUIT\r\nEOF" {
		t.Errorf("the server saw %q", got)
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	f, bound, err := sockets.Reserve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	addr := netip.MustParseAddrPort(bound)
	_, err = Dial(t.Context(), addr, Options{Hello: "client.example"})
	var e *Error
	if !errors.As(err, &e) || e.Stage != StageConnect || !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("%v", err)
	}
	for _, hello := range []string{"", "a b", "a\r\nMAIL", "a>"} {
		if _, err := Dial(t.Context(), addr, Options{Hello: hello}); !errors.Is(err, ErrBadHello) {
			t.Errorf("%q: %v", hello, err)
		}
	}
}
