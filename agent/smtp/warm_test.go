package smtp

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// parrot is a connection to a server that is always pleased: it answers each
// write at once, in memory. It counts the writes.
type parrot struct {
	net.Conn // nil: what is not here is not called
	in       bytes.Buffer
	data     bool
	writes   int
}

func (p *parrot) Write(b []byte) (int, error) {
	p.writes++
	switch {
	case p.data:
		if bytes.HasSuffix(b, []byte("\r\n.\r\n")) {
			p.data = false
			p.in.WriteString("250 2.0.0 Ok: queued as 4SvL8x1Y4Hz9v7Q\r\n")
		}
		return len(b), nil
	case bytes.HasPrefix(b, []byte("EHLO")):
		p.in.WriteString("250-mx.example\r\n250 PIPELINING\r\n")
		return len(b), nil
	}
	for range bytes.Count(b, []byte("\r\n")) - 1 {
		p.in.WriteString("250 2.1.0 Ok\r\n")
	}
	p.data = true
	p.in.WriteString("354 End data with <CR><LF>.<CR><LF>\r\n")
	return len(b), nil
}

func (p *parrot) Read(b []byte) (int, error)       { return p.in.Read(b) }
func (p *parrot) LocalAddr() net.Addr              { return nil }
func (p *parrot) Close() error                     { return nil }
func (p *parrot) SetReadDeadline(time.Time) error  { return nil }
func (p *parrot) SetWriteDeadline(time.Time) error { return nil }

// warm gives a connection to a parrot after its first message.
func warm(t testing.TB, ctx context.Context, tx *Tx, content string, change ...func(*Options)) (*Conn, *parrot) {
	t.Helper()
	p := &parrot{}
	p.in.WriteString("220 mx.example\r\n")
	o := Options{Hello: "client.example", Dial: func(context.Context, string, string) (net.Conn, error) { return p, nil }}
	for _, f := range change {
		f(&o)
	}
	c, err := Dial(ctx, anywhere, o)
	if err != nil {
		t.Fatal(err)
	}
	tx.Content = strings.NewReader(content)
	if _, err := c.Send(ctx, tx); err != nil {
		t.Fatal(err)
	}
	return c, p
}

var letter8K = strings.Repeat(strings.Repeat("x", 76)+"\r\n", 105)

func TestWarmMessageIsTwoWrites(t *testing.T) {
	t.Parallel()
	tx := message("s@a.example", "r1@b.example", "r2@b.example", "r3@b.example")
	tx.Prefix = []byte("Received: x\r\n")
	c, p := warm(t, t.Context(), tx, letter8K)
	defer c.Close()
	for range 3 {
		before := p.writes
		tx.Content = strings.NewReader(letter8K)
		if _, err := c.Send(t.Context(), tx); err != nil {
			t.Fatal(err)
		}
		if n := p.writes - before; n != 2 {
			t.Errorf("%d writes", n)
		}
	}
	// RSET rides along.
	c.stale = true
	before := p.writes
	tx.Content = strings.NewReader(letter8K)
	if _, err := c.Send(t.Context(), tx); err != nil || p.writes-before != 2 {
		t.Errorf("%d writes after a failure, %v", p.writes-before, err)
	}
}

// What a warm session allocates is what it returns: the recipients and the
// text of the reply.
func TestWarmMessageLeavesNoGarbage(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	tx := message("s@a.example", "r1@b.example", "r2@b.example")
	tx.Prefix = []byte("Received: x\r\n")
	c, _ := warm(t, ctx, tx, letter8K, unwatched)
	defer c.Close()
	content := strings.NewReader(letter8K)
	tx.Content = content
	n := testing.AllocsPerRun(200, func() {
		content.Reset(letter8K)
		if _, err := c.Send(ctx, tx); err != nil {
			t.Error(err)
		}
	})
	if n > 2 {
		t.Errorf("%v allocations a message", n)
	}
}

// sink is a running smtp-sink of Postfix.
type sink struct {
	socket, dir string
}

func newSink(t testing.TB, dump bool) *sink {
	t.Helper()
	// Not t.TempDir: smtp-sink runs as another user and must get there, and
	// the path of a socket is short.
	dir, err := os.MkdirTemp("/tmp", "sink")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	s := &sink{socket: filepath.Join(dir, "s"), dir: dir}
	var args []string
	if os.Geteuid() == 0 {
		args = append(args, "-u", "postfix")
	}
	if dump {
		args = append(args, "-d", filepath.Join(dir, "mail."))
	}
	cmd := exec.Command("/usr/sbin/smtp-sink", append(args, "unix:"+s.socket, "100")...)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-gone
	})
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		nc, err := net.Dial("unix", s.socket)
		if err == nil {
			nc.Close()
			return s
		}
		select {
		case <-gone:
			t.Fatalf("smtp-sink: %s", &said)
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("smtp-sink does not answer: %v", err)
		}
	}
}

func (s *sink) dial(t testing.TB, ctx context.Context) *Conn {
	t.Helper()
	c, err := Dial(ctx, anywhere, Options{Hello: "client.example", Timeouts: patient(), Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.socket)
	}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Many messages over a few sessions to Postfix's own sink: each arrives once.
func TestBulkToPostfixSink(t *testing.T) {
	t.Parallel()
	s := newSink(t, true)
	const sessions, each = 4, 250
	var wg sync.WaitGroup
	for i := range sessions {
		wg.Go(func() {
			c := s.dial(t, t.Context())
			defer c.Quit(t.Context())
			for j := range each {
				tx := message("s@a.example", "r1@b.example", "r2@b.example")
				tx.Content = strings.NewReader(fmt.Sprintf("Subject: x\r\nX-Number: %d.%d\r\n\r\n.hello\r\n%s", i, j, letter8K))
				res, err := c.Send(t.Context(), tx)
				if err != nil || res.Recipients[0].Fate != Accepted || res.Recipients[1].Fate != Accepted {
					t.Errorf("%+v, %v", res, err)
					return
				}
			}
		})
	}
	wg.Wait()
	files, err := filepath.Glob(filepath.Join(s.dir, "mail.*"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	tail := "\n\n.hello\n" + strings.ReplaceAll(letter8K, "\r\n", "\n") + "\n" // the sink adds an empty line
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(string(b), "X-Number: ")
		number, ok := strings.CutSuffix(after, tail)
		if !ok {
			t.Fatalf("%s has another content: %d octets, %.300q ... %q", f, len(b), b, b[max(0, len(b)-100):])
		}
		seen[number]++
	}
	if len(files) != sessions*each || len(seen) != sessions*each {
		t.Errorf("%d files with %d different messages, want %d", len(files), len(seen), sessions*each)
	}
}

// Warm sessions, 8 KB messages, to smtp-sink over a socket; cpu-us is this
// process's own processor time a message.
func BenchmarkWarmSession(b *testing.B) {
	for _, sessions := range []int{1, 8} {
		b.Run(fmt.Sprintf("sessions=%d", sessions), func(b *testing.B) {
			s := newSink(b, false)
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			b.ReportAllocs()
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			before := processorTime(b)
			for range sessions {
				c := s.dial(b, ctx)
				wg.Go(func() {
					defer c.Quit(context.Background())
					content := strings.NewReader("")
					tx := message("s@a.example", "r@b.example")
					tx.Prefix, tx.Content = []byte("Received: x\r\n"), content
					for left.Add(-1) >= 0 {
						content.Reset(letter8K)
						if _, err := c.Send(ctx, tx); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64((processorTime(b)-before).Microseconds())/float64(b.N), "cpu-us/op")
		})
	}
}

func processorTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// The same without a network: what the dialogue itself costs, also where it could be watched
// and nobody does.
func BenchmarkWarmSessionInMemory(b *testing.B) {
	for name, change := range map[string]func(*Options){"untraced": func(*Options) {}, "unwatched": unwatched} {
		b.Run(name, func(b *testing.B) {
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			tx := message("s@a.example", "r@b.example")
			tx.Prefix = []byte("Received: x\r\n")
			c, _ := warm(b, ctx, tx, letter8K, change)
			defer c.Close()
			content := strings.NewReader("")
			tx.Content = content
			b.ReportAllocs()
			for b.Loop() {
				content.Reset(letter8K)
				if _, err := c.Send(ctx, tx); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// unwatched lets a connection be traced by somebody who does not look.
func unwatched(o *Options) {
	var looks atomic.Pointer[int]
	o.Trace = func(TraceEvent) { panic("traced") }
	o.Traced = func() bool { return looks.Load() != nil }
}
