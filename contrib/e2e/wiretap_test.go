package e2e

import (
	"encoding/binary"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/proxy"
)

// tap stands between Postfix and the milter and can stop what passes, to put a
// crash at one place of the dialogue.
type tap struct {
	*proxy.Proxy

	mu   sync.Mutex
	hook hook
}

// hook is asked for each packet by its code: 'E' of the MTA is the end of a
// message, '-' and 'a' of the milter delete a recipient and accept. False ends
// the connection in place of the packet. Hooks are called one at a time, and what
// the test does after tap.on comes after what they have done.
type hook func(fromMilter bool, code byte) bool

// tapped opens a room with a tap at an address of its own. Over "tcp" the
// milter listens on another port of that address, besides its socket.
func tapped(t *testing.T, network, addr, action string, s setup) (*room, *tap) {
	t.Helper()
	var tap tap
	var err error
	tap.Proxy, err = proxy.New(proxy.Options{
		Listen:   addr + ":8890",
		ToServer: func(dst io.Writer, src io.Reader) error { return tap.carry(dst, src, false) },
		ToClient: func(dst io.Writer, src io.Reader) error { return tap.carry(dst, src, true) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tap.Close)
	s.postfix.Milter = "{ inet:" + tap.Addr() + ", default_action=" + action + " }"
	s.furnish = func(m *lab.Millrace) {
		milter := m.Socket()
		if network == "tcp" {
			milter = addr + ":8891"
			listen := `["` + m.Socket() + `"`
			with := strings.Replace(read(t, m.Config()), listen, listen+`, "inet:8891@`+addr+`"`, 1)
			if err := os.WriteFile(m.Config(), []byte(with), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := tap.Pass(milter); err != nil {
			t.Fatal(err)
		}
	}
	return enter(t, s), &tap
}

// on sets the hook; nil lets everything pass.
func (p *tap) on(h hook) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hook = h
}

func (p *tap) passes(fromMilter bool, code byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hook == nil || p.hook(fromMilter, code)
}

// carry moves packets, four octets of length and a code in front, until one
// side or the hook ends it.
func (p *tap) carry(dst io.Writer, src io.Reader, fromMilter bool) error {
	for {
		head := make([]byte, 5)
		if _, err := io.ReadFull(src, head); err != nil {
			return err
		}
		packet := append(head, make([]byte, binary.BigEndian.Uint32(head)-1)...)
		if _, err := io.ReadFull(src, packet[5:]); err != nil {
			return err
		}
		if !p.passes(fromMilter, head[4]) {
			return nil
		}
		if _, err := dst.Write(packet); err != nil {
			return err
		}
	}
}
