package smtp

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// patience ends a test that hangs; nothing is measured by it.
const patience = 2 * time.Minute

func patient() Timeouts {
	return Timeouts{
		Connect: patience, Greeting: patience, Hello: patience, Mail: patience, Rcpt: patience,
		DataStart: patience, DataBlock: patience, DataEnd: patience, Quit: patience,
	}
}

// listen runs serve for each connection to a new loopback address, until the
// test ends, and waits for it then.
func listen(t testing.TB, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			serve(nc)
			nc.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// overPipe makes Options.Dial of an in-memory connection served by serve.
func overPipe(serve func(net.Conn)) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			serve(server)
		}()
		return client, nil
	}
}

var anywhere = netip.MustParseAddrPort("127.0.0.1:25")

// message is a transaction with a small text.
func message(sender string, rcpts ...string) *Tx {
	tx := &Tx{Sender: sender, Content: strings.NewReader("Subject: x\r\n\r\nhello\r\n")}
	for _, r := range rcpts {
		tx.Recipients = append(tx.Recipients, Rcpt{Address: r})
	}
	return tx
}

// oneByte returns what it reads octet by octet.
type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:min(1, len(p))]) }
