package inlet

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/config"
)

// A client may neither be silent nor trickle, in a command or in content, and one that sends
// at the least rate may take its time.
func TestTimeouts(t *testing.T) {
	t.Parallel()
	const timeout = 5 * time.Minute
	text := strings.Repeat(strings.Repeat("x", 48)+"\r\n", 10) // 500 octets
	data := func(c *conn) error {
		m := newContent("", 100<<20)
		defer m.close()
		return c.data(m)
	}
	for name, x := range map[string]struct {
		takes  func(*conn) error
		sends  func(net.Conn)
		ends   time.Duration
		passes bool
	}{
		"silence": {
			takes: func(c *conn) error { _, err := c.command(); return err },
			sends: func(net.Conn) {},
			ends:  timeout,
		},
		"a command that trickles": {
			takes: func(c *conn) error { _, err := c.command(); return err },
			sends: func(c net.Conn) {
				for {
					time.Sleep(time.Minute - 1)
					if _, err := c.Write([]byte("x")); err != nil {
						return
					}
				}
			},
			ends: timeout,
		},
		"silence in content": {
			takes: data,
			sends: func(c net.Conn) {
				for range 1000 { // which is good for 1000 s
					c.Write([]byte(text))
				}
			},
			ends: timeout,
		},
		"silence in a chunk": {
			takes: func(c *conn) error { return c.chunk(nil, 1<<20) },
			sends: func(c net.Conn) { c.Write([]byte(text)) },
			ends:  timeout,
		},
		"content that trickles": {
			takes: data,
			sends: func(c net.Conn) {
				for {
					time.Sleep(time.Minute - 1)
					if _, err := c.Write([]byte("x")); err != nil {
						return
					}
				}
			},
			ends: timeout,
		},
		"content at the least rate": {
			takes: data,
			sends: func(c net.Conn) {
				for range 3600 {
					time.Sleep(time.Second)
					c.Write([]byte(text))
				}
				c.Write([]byte(".\r\n"))
			},
			ends: time.Hour, passes: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				c := newConn(ours, &Server{cfg: config.Inlet{Timeout: timeout}, stop: context.Background(), abort: context.Background()})
				began := time.Now()
				var sender sync.WaitGroup
				sender.Go(func() { x.sends(theirs) })
				err := x.takes(c)
				if took := time.Since(began).Round(time.Second); took != x.ends || (err == nil) != x.passes || err != nil && !errors.Is(err, endTimeout) {
					t.Errorf("%v after %s, want the end after %s", err, took, x.ends)
				}
				ours.Close()
				theirs.Close()
				sender.Wait()
			})
		})
	}
}
