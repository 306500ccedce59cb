package sink

import (
	"bufio"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// start runs an Internet with one provider "p" for every domain.
func start(t *testing.T, b Behaviour, hosts ...string) *Internet {
	t.Helper()
	return startWith(t, Options{Seed: 1}, b, hosts...)
}

func startWith(t *testing.T, o Options, b Behaviour, hosts ...string) *Internet {
	t.Helper()
	n, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	if len(hosts) == 0 {
		hosts = []string{"mx1"}
	}
	p := Provider{Name: "p", Domains: []string{"*"}, Behaviour: b}
	for _, h := range hosts {
		p.Host = append(p.Host, Host{Name: h})
	}
	if err := n.Add(p); err != nil {
		t.Fatal(err)
	}
	return n
}

// client is an SMTP client for tests: it says what it is told.
type client struct {
	t *testing.T
	net.Conn
	in *bufio.Reader
}

const patience = 2 * time.Minute // for what must come; a test never waits so long when all is well

func addrOf(n *Internet, host string) string {
	return netip.AddrPortFrom(n.hostNamed(host).addr, n.Port()).String()
}

// dialOnly connects without reading the banner.
func dialOnly(t *testing.T, n *Internet, host string) *client {
	t.Helper()
	c, err := net.Dial("tcp", addrOf(n, host))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return &client{t, c, bufio.NewReader(c)}
}

// dial connects and says EHLO.
func dial(t *testing.T, n *Internet, host string) *client {
	t.Helper()
	c := dialOnly(t, n, host)
	c.wants("220")
	c.says("EHLO client.test", "250")
	return c
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		c.t.Fatalf("send %.60q: %v", text, err)
	}
}

// read gives the next reply, its lines joined by LF; "" at the end.
func (c *client) read() string {
	var lines []string
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			return ""
		}
		line = strings.TrimSuffix(line, "\r\n")
		lines = append(lines, line)
		if len(line) < 4 || line[3] != '-' {
			return strings.Join(lines, "\n")
		}
	}
}

// wants reads replies that begin so; "" is the end of the connection.
func (c *client) wants(prefixes ...string) (last string) {
	c.t.Helper()
	for _, p := range prefixes {
		last = c.read()
		if !strings.HasPrefix(last, p) || p == "" && last != "" {
			c.t.Fatalf("got %q, want %q of %q", last, p, prefixes)
		}
	}
	return last
}

// says sends a command and wants its reply.
func (c *client) says(command, prefix string) string {
	c.t.Helper()
	c.send(command + "\r\n")
	return c.wants(prefix)
}

// transaction opens a transaction to the recipients up to the 354.
func (c *client) transaction(rcpts ...string) {
	c.t.Helper()
	c.says("MAIL FROM:<s@x.test>", "250")
	for _, r := range rcpts {
		c.says("RCPT TO:<"+r+">", "250")
	}
	c.says("DATA", "354")
}

// mail sends a small message in a pipelined group and wants the final reply.
func (c *client) mail(id, rcpt, prefix string) string {
	c.t.Helper()
	c.send("MAIL FROM:<s@x.test>\r\nRCPT TO:<" + rcpt + ">\r\nDATA\r\n")
	c.wants("250", "250", "354")
	c.send("X-Lab-ID: " + id + "\r\n\r\nbody\r\n.\r\n")
	return c.wants(prefix)
}

func (c *client) quit() {
	c.t.Helper()
	c.says("QUIT", "221")
	c.wants("")
}

// hostStats gives the statistics of a host.
func hostStats(t *testing.T, n *Internet, host string) HostStats {
	t.Helper()
	st := n.Stats()
	h, ok := st.Host(host)
	if !ok {
		t.Fatalf("no statistics of %s", host)
	}
	return h
}
