package milter_test

import (
	"context"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/logbuf"
	"github.com/millrace/millrace/contrib/lab/tidy"
	"github.com/millrace/millrace/milter"
	"github.com/millrace/millrace/milter/wire"
)

func TestMain(m *testing.M) { tidy.Main(m) }

var loopKey = []byte("the loop key of this test's spool")

// fakeSpool keeps what is appended in memory.
type fakeSpool struct {
	mu      sync.Mutex
	kept    []*kept
	err     error // of Append
	room    error
	silence time.Duration
	drains  atomic.Bool
	reached chan struct{} // closed when Append has all of the content
	hold    chan struct{} // if set, Append waits for it then, as long as its context lives
	stalled chan struct{} // if set, Append waits for it before it reads, whatever its context says
	hung    chan struct{} // the same when it has read all
}

// kept is one appended message.
type kept struct {
	id       spool.ID
	envelope spool.Envelope
	content  []byte
	verdict  chan string // "released" or "void", when it is settled
}

func (f *fakeSpool) Append(ctx context.Context, e *spool.Envelope, r io.Reader) (milter.Receipt, error) {
	if f.stalled != nil {
		<-f.stalled
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	if f.hung != nil {
		<-f.hung
	}
	if f.hold != nil {
		close(f.reached)
		select {
		case <-f.hold:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return nil, f.err
	}
	k := &kept{spool.MakeID(1, uint32(len(f.kept)+1)), *e, b, make(chan string, 2)}
	f.kept = append(f.kept, k)
	return k, nil
}

func (f *fakeSpool) Room() error                          { return f.room }
func (f *fakeSpool) AgentSilence(time.Time) time.Duration { return f.silence }

func (f *fakeSpool) Draining(time.Time) bool { return f.drains.Load() }

func (f *fakeSpool) all() []*kept {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*kept(nil), f.kept...)
}

// only is the one message that was kept.
func (f *fakeSpool) only(t *testing.T) *kept {
	t.Helper()
	all := f.all()
	if len(all) != 1 {
		t.Fatalf("%d messages in the spool, want one", len(all))
	}
	return all[0]
}

// waitOnly waits for the first message. Append has begun: it will come.
func (f *fakeSpool) waitOnly() *kept {
	for {
		if all := f.all(); len(all) > 0 {
			return all[0]
		}
		runtime.Gosched()
	}
}

func (k *kept) ID() spool.ID   { return k.id }
func (k *kept) Release() error { k.verdict <- "released"; return nil }
func (k *kept) Void() error    { k.verdict <- "void"; return nil }

func (k *kept) addresses() string {
	var a []string
	for _, r := range k.envelope.Recipients {
		a = append(a, r.Address)
	}
	return strings.Join(a, " ")
}

// divertAll is a configuration that diverts whatever may be.
func divertAll() *config.Config {
	return &config.Config{Milter: config.Milter{
		Mode: config.Divert, Verdict: config.VerdictAuto, OnFailure: "accept", AgentGrace: 10 * time.Minute, MaxBodies: 100,
		Scope: []string{"authenticated", "loopback"}, Remote: []string{"smtp", "esmtp"}, BuiltinRules: true,
		Rules: []config.Rule{
			{Name: "stay", Action: config.ActionLeave, Sender: []string{"stay@*"}},
			{Name: "all", Action: config.ActionDivert, Sender: []string{"*"}},
		},
	}}
}

// serving is a milter under test.
type serving struct {
	spool  *fakeSpool
	log    *logbuf.Buffer
	server *milter.Server
	addr   string
	stop   func()
}

// serve runs a milter on a TCP port until the test ends.
func serve(t *testing.T, cfg *config.Config, f *fakeSpool, limits ...wire.Options) *serving {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, cfg, f, ln, limits...)
}

func serveOn(t testing.TB, cfg *config.Config, f *fakeSpool, ln net.Listener, limits ...wire.Options) *serving {
	t.Helper()
	s := serveSpool(t, cfg, f, ln, limits...)
	s.spool = f
	return s
}

func serveSpool(t testing.TB, cfg *config.Config, sp milter.Spool, ln net.Listener, limits ...wire.Options) *serving {
	t.Helper()
	o := milter.Options{Spool: sp, Key: loopKey}
	if len(limits) > 0 {
		o.Wire = limits[0]
	}
	return serveOptions(t, cfg, o, ln)
}

func serveOptions(t testing.TB, cfg *config.Config, o milter.Options, ln net.Listener) *serving {
	t.Helper()
	s := &serving{log: &logbuf.Buffer{}, addr: ln.Addr().String()}
	o.Logger = s.log.Logger()
	var err error
	s.server, err = milter.New(cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.server.Serve(ctx, ln) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("milter log:\n%s", s.log)
		}
	})
	return s
}
