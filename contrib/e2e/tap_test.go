package e2e

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
)

// tap stands between Postfix and the milter and can stop what passes, to put a
// crash at one place of the dialogue.
type tap struct {
	listener net.Listener
	network  string // and address of the milter
	addr     string
	work     sync.WaitGroup

	mu    sync.Mutex
	hook  hook
	conns []net.Conn
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
	l, err := net.Listen("tcp", addr+":8890")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{listener: l, network: network, addr: addr + ":8891"}
	t.Cleanup(p.close)
	s.postfix.Milter = "{ inet:" + addr + ":8890, default_action=" + action + " }"
	s.furnish = func(m *lab.Millrace) {
		if network == "unix" {
			p.addr = strings.TrimPrefix(m.Socket(), "unix:")
			return
		}
		listen := `["` + m.Socket() + `"`
		with := strings.Replace(read(t, m.Config()), listen, listen+`, "inet:8891@`+addr+`"`, 1)
		if err := os.WriteFile(m.Config(), []byte(with), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := enter(t, s)
	p.work.Go(p.serve)
	return r, p
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

func (p *tap) serve() {
	for {
		mta, err := p.listener.Accept()
		if err != nil {
			return
		}
		milter, err := net.Dial(p.network, p.addr)
		if err != nil {
			mta.Close() // as if nobody listened
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, mta, milter)
		p.mu.Unlock()
		p.work.Go(func() { p.carry(mta, milter, false) })
		p.work.Go(func() { p.carry(milter, mta, true) })
	}
}

// carry moves packets, four octets of length and a code in front, until one
// side or the hook ends it; both sides then see the end.
func (p *tap) carry(from, to net.Conn, fromMilter bool) {
	defer from.Close()
	defer to.Close()
	for {
		head := make([]byte, 5)
		if _, err := io.ReadFull(from, head); err != nil {
			return
		}
		packet := append(head, make([]byte, binary.BigEndian.Uint32(head)-1)...)
		if _, err := io.ReadFull(from, packet[5:]); err != nil {
			return
		}
		if !p.passes(fromMilter, head[4]) {
			return
		}
		if _, err := to.Write(packet); err != nil && !errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

func (p *tap) close() {
	p.listener.Close()
	p.mu.Lock()
	for _, c := range p.conns {
		c.Close()
	}
	p.mu.Unlock()
	p.work.Wait()
}
