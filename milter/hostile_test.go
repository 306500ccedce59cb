package milter_test

import (
	"bytes"
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/contrib/lab/pipes"
)

// recipients are n RCPTs, each with its macros if the MTA sends them.
func recipients(n int, macros bool) []byte {
	var p []byte
	for i := range n {
		if macros || i == 0 {
			p = appendPacket(p, 'D', "Ri", "Q1", "{rcpt_mailer}", "smtp", "{rcpt_host}", "d.example")
		}
		p = appendPacket(p, 'R', fmt.Sprintf("<user%d@d.example>", i))
	}
	return p
}

// heap is what is in use, in octets, of all that can be reached.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Not parallel: it looks at the heap of the whole process.
func TestManyRecipientsCostBoundedMemory(t *testing.T) {
	for name, c := range map[string]struct {
		times   int  // ten thousand
		macros  bool // of each RCPT, as Postfix sends them
		deleted int
		most    int64 // octets of heap, while the message is in hand
		line    []string
	}{
		"ten thousand":               {1, true, 10_000, 4 << 20, []string{"verdict=delrcpt", "nrcpt=10000 diverted=10000"}},
		"a million":                  {100, false, 0, 6 << 20, []string{"verdict=leave", "nrcpt=1000000", "envelope is too large to hold"}},
		"a million and their macros": {100, true, 0, 6 << 20, []string{"level=WARN", "closing MTA connection", "octets before a body"}},
	} {
		ln := pipes.New()
		s := serveOn(t, divertAll(), &fakeSpool{}, ln)
		m := dial(t, ln)
		m.Write(appendPacket(appendPacket(nil, 'D', "M{auth_authen}", "joe"), 'M', "<a@b.example>"))
		many := recipients(10_000, c.macros)
		before, most := heap(), int64(0)
		look := func() { most = max(most, heap()-before) }
		for range c.times {
			m.Write(many) // fails once the connection is closed
			look()
		}
		m.Write(appendPacket(nil, 'N'))
		switch code, err := m.reply(); {
		case c.deleted > 0:
			if code != 'c' {
				t.Fatalf("%s: reply %q, %v", name, code, err)
			}
			look() // with what the spool is given
			m.end()
			m.wants(t, strings.Repeat("-", c.deleted)+"a")
		case strings.Contains(c.line[0], "WARN"):
			if err == nil {
				t.Errorf("%s: reply %q, want the end", name, code)
			}
		case code != 'a':
			t.Errorf("%s: reply %q, %v", name, code, err)
		}
		m.Close()
		s.stop()
		t.Logf("%s: %d KiB of heap", name, most>>10)
		if most > c.most {
			t.Errorf("%s: the heap grew by %d octets", name, most)
		}
		if n := len(s.log.Lines(c.line...)); n != 1 || s.trouble() != 1 {
			t.Errorf("%s: %d lines with %q, %d in all", name, n, c.line, s.trouble())
		}
	}
}

// trouble counts the log lines about messages and connections.
func (s *serving) trouble() int {
	return len(s.log.Lines("level=WARN")) + len(s.log.Lines("level=ERROR")) + len(s.log.Lines("level=INFO", "msg=verdict"))
}

// A peer that breaks the protocol, or trickles, in the midst of a message that is
// on its way into the spool: the connection ends, one line says why, and the spool
// keeps nothing.
func TestBrokenSessionLeavesNothing(t *testing.T) {
	t.Parallel()
	trickle := bodyPacket(10)
	for name, c := range map[string]struct {
		send  func(m *rawMTA)
		says  string
		after time.Duration
	}{
		"zero length": {func(m *rawMTA) { m.Write(make([]byte, 4)) }, "length zero", 0},
		"overlong":    {func(m *rawMTA) { m.Write([]byte{0x7f, 0xff, 0xff, 0xff, 'B'}) }, "too long", 0},
		"cut short":   {func(m *rawMTA) { m.Write(trickle[:100]); m.Close() }, "cut short", 0},
		"wrong order": {func(m *rawMTA) { m.Write(appendPacket(nil, 'R', "<x@d.example>")) }, "out of order", 0},
		"hangs up":    {func(m *rawMTA) { m.Close() }, "in the middle of a message", 0},
		"trickles": {func(m *rawMTA) {
			for i := range trickle {
				time.Sleep(time.Second)
				if _, err := m.Write(trickle[i : i+1]); err != nil {
					return
				}
			}
		}, "i/o timeout", time.Minute + time.Second},
	} {
		for _, size := range []int{1, 2} { // pieces: held here, or with the spool already
			t.Run(fmt.Sprint(name, size), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					ln := pipes.New()
					s := serveOn(t, limited(0, 1), &fakeSpool{}, ln)
					m := dial(t, ln)
					m.message("<a@b.example>")
					m.wants(t, "c")
					for range size {
						m.lines(chunk)
					}
					began := time.Now()
					sent := make(chan struct{})
					go func() { defer close(sent); c.send(m) }()
					if code, err := m.reply(); err == nil {
						t.Errorf("reply %q", code)
					}
					if d := time.Since(began); d != c.after {
						t.Errorf("closed after %v, want %v", d, c.after)
					}
					m.Close()
					<-sent
					s.stop()
					if n := len(s.log.Lines("level=WARN", "closing MTA connection", "stage=body", c.says)); n != 1 || s.trouble() != 1 {
						t.Errorf("%d lines with %q, %d in all", n, c.says, s.trouble())
					}
					if n := len(s.spool.all()); n != 0 {
						t.Errorf("%d messages in the spool", n)
					}
				})
			})
		}
	}
}

// QUIT is the end, whatever comes behind it, and in the middle of a message too.
func TestNothingIsDoneAfterQuit(t *testing.T) {
	t.Parallel()
	for name, before := range map[string][]byte{
		"between messages": nil,
		"in a message":     appendPacket(appendPacket(nil, 'M', "<a@b.example>"), 'R', "<c@d.example>"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
			if err != nil {
				t.Fatal(err)
			}
			s := serveOn(t, divertAll(), &fakeSpool{}, ln)
			conn, err := net.Dial("unix", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			m, err := newRawMTA(conn)
			if err != nil {
				t.Fatal(err)
			}
			var behind bytes.Buffer
			after := &rawMTA{Conn: writer{conn, &behind}}
			after.message("<a@b.example>")
			after.lines(1)
			after.end()
			if _, err := conn.Write(append(appendPacket(before, 'Q'), behind.Bytes()...)); err != nil {
				t.Fatal(err)
			}
			if code, err := m.reply(); err == nil {
				t.Errorf("reply %q after QUIT", code)
			}
			m.Close()
			s.stop()
			if s.trouble() != 0 || len(s.spool.all()) != 0 {
				t.Errorf("%d messages in the spool", len(s.spool.all()))
			}
		})
	}
}

// writer is a connection whose writes go elsewhere.
type writer struct {
	net.Conn
	to *bytes.Buffer
}

func (w writer) Write(p []byte) (int, error) { return w.to.Write(p) }

// An MTA that speaks before it has the verdict does not wait for it: what it read
// next would be no answer to what it said.
func TestVerdictThatNobodyWaitsForIsLost(t *testing.T) {
	t.Parallel()
	for name, together := range map[string]bool{"in one write": true, "later": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
			if err != nil {
				t.Fatal(err)
			}
			f := &fakeSpool{reached: make(chan struct{}), hold: make(chan struct{})}
			s := serveOn(t, divertAll(), f, ln)
			conn, err := net.Dial("unix", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			m, err := newRawMTA(conn)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			m.message("<a@b.example>")
			m.wants(t, "c")
			end, abort := appendPacket(nil, 'E'), appendPacket(nil, 'A')
			if together {
				end = append(end, abort...)
			}
			m.Write(end)
			<-f.reached
			if !together {
				m.Write(abort)
			}
			close(f.hold)
			if v := <-f.waitOnly().verdict; v != "void" {
				t.Errorf("receipt %s", v)
			}
			if code, err := m.reply(); err == nil {
				t.Errorf("reply %q, want the end", code)
			}
			s.stop()
			if len(s.log.Lines(`msg="verdict lost"`, "did not wait")) != 1 {
				t.Error("the log does not say what became of it")
			}
		})
	}
}
