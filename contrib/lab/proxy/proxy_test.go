package proxy

import (
	"bufio"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// echo is a server that says each line again, after its name.
func echo(t *testing.T, name string) (addr string) {
	t.Helper()
	p := start(t, Options{Listen: "127.0.0.1:0"})
	err := p.Answer(func(c net.Conn) {
		for lines := bufio.NewScanner(c); lines.Scan(); {
			if _, err := io.WriteString(c, name+" "+lines.Text()+"\n"); err != nil {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return p.Addr()
}

func start(t *testing.T, o Options) *Proxy {
	t.Helper()
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// client is a connection to a proxy.
type client struct {
	t *testing.T
	net.Conn
	in *bufio.Reader
}

func dial(t *testing.T, p *Proxy) *client {
	t.Helper()
	network, address := lab.Network(p.Addr())
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &client{t, c, bufio.NewReader(c)}
}

func (c *client) asks(line, want string) {
	c.t.Helper()
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		c.t.Fatal(err)
	}
	if got, err := c.in.ReadString('\n'); err != nil || got != want+"\n" {
		c.t.Errorf("answer %q, %v; want %q", got, err, want)
	}
}

// ends reads the end of the connection.
func (c *client) ends() {
	c.t.Helper()
	if b, err := io.ReadAll(c.in); len(b) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		c.t.Errorf("%q, %v; want the end", b, err)
	}
}

func TestStates(t *testing.T) {
	t.Parallel()
	for name, listen := range map[string]string{"tcp": "127.0.0.1:0", "unix": "unix:" + filepath.Join(t.TempDir(), "s")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, Options{Listen: listen})
			refused := func() {
				t.Helper()
				network, address := lab.Network(p.Addr())
				if c, err := net.Dial(network, address); err == nil {
					c.Close()
					t.Error("a connection when nobody answers")
				}
			}
			refused()
			check := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			check(p.Pass(echo(t, "a")))
			old := dial(t, p)
			old.asks("hello", "a hello")

			check(p.Answer(func(c net.Conn) { _, _ = io.WriteString(c, "421 full\n") }))
			full := dial(t, p)
			if got, err := io.ReadAll(full); err != nil || string(got) != "421 full\n" {
				t.Errorf("%q, %v", got, err)
			}
			p.Leave()
			refused()
			old.asks("still there", "a still there")
			if n := p.Passing(); n != 1 {
				t.Errorf("%d connections pass", n)
			}
			check(p.Pass(echo(t, "b")))
			dial(t, p).asks("hello", "b hello")
			p.Cut()
			old.ends()
			last := dial(t, p)
			last.asks("hello", "b hello")
			p.Close()
			last.ends()
			if n := p.Passing(); n != 0 {
				t.Errorf("%d connections pass after Close", n)
			}
			if err := p.Pass("127.0.0.1:1"); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Pass after Close: %v", err)
			}
		})
	}
}

func TestServerThatIsNotThereEndsTheClient(t *testing.T) {
	t.Parallel()
	gone := start(t, Options{Listen: "127.0.0.1:0"})
	p := start(t, Options{Listen: "127.0.0.1:0"})
	if err := p.Pass(gone.Addr()); err != nil {
		t.Fatal(err)
	}
	dial(t, p).ends()
}

// TestCarrySeesItsDirection has one direction changed, and the other end all at a word.
func TestCarrySeesItsDirection(t *testing.T) {
	t.Parallel()
	p := start(t, Options{
		Listen: "127.0.0.1:0",
		ToServer: func(dst io.Writer, src io.Reader) error {
			for lines := bufio.NewScanner(src); lines.Scan() && lines.Text() != "stop"; {
				if _, err := io.WriteString(dst, strings.ToUpper(lines.Text())+"\n"); err != nil {
					return err
				}
			}
			return nil
		},
	})
	if err := p.Pass(echo(t, "a")); err != nil {
		t.Fatal(err)
	}
	c := dial(t, p)
	c.asks("hello", "a HELLO")
	if _, err := io.WriteString(c, "stop\n"); err != nil {
		t.Fatal(err)
	}
	c.ends()
}
