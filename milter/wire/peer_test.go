package wire

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/contrib/lab/leaks"
	"github.com/millrace/millrace/contrib/lab/logbuf"
	"github.com/millrace/millrace/contrib/lab/pipes"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// peer is an MTA made of raw packets.
type peer struct {
	t testing.TB
	net.Conn
}

func (p peer) send(code byte, strs ...string) {
	p.t.Helper()
	data := ""
	for _, s := range strs {
		data += s + "\x00"
	}
	p.raw(appendPacket(nil, code, data))
}

func (p peer) raw(b []byte) {
	p.t.Helper()
	if _, err := p.Write(b); err != nil {
		p.t.Fatalf("write: %v", err)
	}
}

func (p peer) read() (byte, string) {
	p.t.Helper()
	var head [4]byte
	if _, err := io.ReadFull(p, head[:]); err != nil {
		p.t.Fatalf("read: %v", err)
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(p, b); err != nil {
		p.t.Fatalf("read: %v", err)
	}
	return b[0], string(b[1:])
}

func (p peer) expect(codes ...byte) {
	p.t.Helper()
	for _, want := range codes {
		if got, data := p.read(); got != want {
			p.t.Fatalf("got reply %q %q, want %q", got, data, want)
		}
	}
}

// expectEnd checks that the other side closes without another word.
func (p peer) expectEnd() {
	p.t.Helper()
	if b, err := io.ReadAll(p); len(b) > 0 {
		p.t.Fatalf("got %q (%v), want the end", b, err)
	}
}

func offer(version, actions, steps uint32) []byte {
	d := binary.BigEndian.AppendUint32(nil, version)
	d = binary.BigEndian.AppendUint32(d, actions)
	d = binary.BigEndian.AppendUint32(d, steps)
	return appendPacket(nil, 'O', string(d))
}

// The offer of Postfix 3.7.
func postfixOffer() []byte { return offer(6, 0x1ff, 0x1fffff) }

const clientData = "client.example\x004\x00\x19192.0.2.1"

// greet brings a connection to where messages start.
func (p peer) greet() {
	p.t.Helper()
	p.raw(postfixOffer())
	p.expect('O')
	p.send('D', "Cj", "mail.example.com", "{daemon_name}", "ORIGINATING")
	p.send('C', clientData)
	p.send('D', "H")
	p.send('H', "helo.example")
}

// mail sends a message up to the end of its headers.
func (p peer) mail(from string, rcpts ...string) {
	p.t.Helper()
	p.send('D', "M{auth_authen}", "user")
	p.send('M', from, "SIZE=100")
	for i, r := range rcpts {
		p.send('D', "R{rcpt_mailer}", fmt.Sprint("smtp", i))
		p.send('R', r)
	}
	p.send('D', "T")
	p.send('T')
	p.send('L', "Subject", " hello")
	p.send('D', "Ni", "QID")
	p.send('N')
}

// recorder is a Handler that writes down its calls.
type recorder struct {
	conn *Conn

	mu    sync.Mutex
	calls []string

	endOfHeaders func(context.Context) Verdict
	endOfMessage func(context.Context) Verdict
	onHeader     func()
	closed       chan struct{}
}

func (r *recorder) note(format string, a ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, fmt.Sprintf(format, a...))
}

func (r *recorder) Connect(c Client) {
	r.note("connect %s %s %d %s", c.Host, c.Addr, c.Port, r.conn.Macro("daemon_name"))
}
func (r *recorder) Helo(name string) { r.note("helo %s", name) }
func (r *recorder) Mail(from string, args []string) {
	r.note("mail %s %q user=%s", from, args, r.conn.Macro("auth_authen"))
}
func (r *recorder) Rcpt(to string, args []string) {
	r.note("rcpt %s %q mailer=%s", to, args, r.conn.RcptMacro("rcpt_mailer"))
}
func (r *recorder) Header(name, value string) {
	r.note("header %s:%s", name, value)
	if r.onHeader != nil {
		r.onHeader()
	}
}
func (r *recorder) EndOfHeaders(ctx context.Context) Verdict {
	r.note("eoh i=%s", r.conn.Macro("i"))
	if r.endOfHeaders != nil {
		return r.endOfHeaders(ctx)
	}
	return Verdict{Action: Continue}
}
func (r *recorder) Body(b []byte) { r.note("body %s", b) }
func (r *recorder) EndOfMessage(ctx context.Context) Verdict {
	r.note("eom")
	if r.endOfMessage != nil {
		return r.endOfMessage(ctx)
	}
	return Verdict{Action: Accept}
}
func (r *recorder) Abort() { r.note("abort") }
func (r *recorder) Close() { r.note("close"); close(r.closed) }

func (r *recorder) seen() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.calls, "\n")
}

// served is a server under test.
type served struct {
	t    testing.TB
	ln   *pipes.Listener
	log  logbuf.Buffer
	stop context.CancelFunc
	done chan struct{}

	mu       sync.Mutex
	backends []*recorder
}

func serve(t testing.TB, o Options, setup func(*recorder)) *served {
	s := &served{t: t, ln: pipes.New(), done: make(chan struct{})}
	o.Logger = s.log.Logger()
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	server := NewServer(func(c *Conn) Handler {
		r := &recorder{conn: c, closed: make(chan struct{})}
		if setup != nil {
			setup(r)
		}
		s.mu.Lock()
		s.backends = append(s.backends, r)
		s.mu.Unlock()
		return r
	}, o)
	go func() {
		defer close(s.done)
		if err := server.Serve(ctx, s.ln); err != nil {
			t.Errorf("Serve: %v", err)
		}
	}()
	t.Cleanup(func() {
		s.stop()
		<-s.done
		if t.Failed() {
			t.Logf("log:\n%s", &s.log)
		}
	})
	return s
}

func (s *served) dial() peer {
	return s.over(net.Pipe())
}

func (s *served) over(ours, theirs net.Conn) peer {
	s.ln.Put(theirs)
	s.t.Cleanup(func() { ours.Close() })
	return peer{s.t, ours}
}

func (s *served) backend() *recorder {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.backends[len(s.backends)-1]
}
