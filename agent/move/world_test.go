package move

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// world is some nodes, each with a real spool and a real queue, whose processes die at steps of
// the protocol.
type world struct {
	t     testing.TB
	nodes map[string]*node
	rnd   *rand.Rand

	mu   sync.Mutex
	sent map[string][]string // by recipient: the nodes that have sent to it
	want map[string]string   // by recipient: the content
}

// node is one of them.
type node struct {
	w    *world
	name string
	dir  string
	full bool // its spool takes nothing

	p    *process                // of the test's own goroutine
	live atomic.Pointer[process] // the same, for the others
}

// process is a running agent, as far as it has to do with moves.
type process struct {
	n      *node
	store  *spool.Store
	writer *spool.Writer
	queue  *queue.Queue
	mover  *Mover
	stop   context.CancelFunc
	work   sync.WaitGroup

	mu    sync.Mutex
	dead  bool
	die   string            // step at which it dies
	at    func(step string) // called at each
	after int               // and how many of these it survives
}

func newWorld(t testing.TB, seed uint64, names ...string) *world {
	w := &world{t: t, nodes: make(map[string]*node), rnd: rand.New(rand.NewPCG(seed, 1)), sent: make(map[string][]string), want: make(map[string]string)}
	for _, name := range names {
		n := &node{w: w, name: name, dir: t.TempDir()}
		w.nodes[name] = n
		n.start()
	}
	t.Cleanup(func() {
		for _, n := range w.nodes {
			n.kill()
		}
	})
	return w
}

// step is where a process may die: whatever it was at ends there, and nothing that it does later
// leaves it.
func (p *process) step(s string) {
	p.mu.Lock()
	if !p.dead && s == p.die {
		if p.after == 0 {
			p.dead = true
		}
		p.after--
	}
	dead, at := p.dead, p.at
	p.mu.Unlock()
	if dead {
		runtime.Goexit()
	}
	if at != nil {
		at(s)
	}
}

func (p *process) isDead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

func (p *process) dieAt(step string, after int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.die, p.after = step, after
}

// start starts the node's agent.
func (n *node) start() {
	t := n.w.t
	t.Helper()
	p := &process{n: n}
	var err error
	if p.store, err = spool.OpenStore(n.dir, spool.StoreOptions{}); err != nil {
		t.Fatal(err)
	}
	o := spool.WriterOptions{SegmentSize: 4 << 20}
	if n.full {
		o.MinFree = 1 << 60
	}
	if p.writer, err = spool.OpenWriter(n.dir, o); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	p.queue = queue.New(queue.Options{Resolve: func(string) {}, Launch: func(*queue.Session) {}, Relay: "relay:host"})
	p.mover, err = New(Options{
		Log: slog.New(slog.DiscardHandler), Spool: n.dir, Store: p.store, Writer: p.writer, Queue: p.queue, Settler: p, Room: p.writer.Room, Stop: ctx,
		Add:  func(id spool.ID, e *spool.Envelope, st []spool.State, _, _ string) { p.add(id, e, st) },
		step: p.step, again: 10 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	p.mover.Use(n.name, lines{n.w, p})
	if err := p.store.Load(func(id spool.ID, e *spool.Envelope, st []spool.State) error { p.take(id, e, st); return nil }); err != nil {
		t.Fatal(err)
	}
	p.mover.Loaded()
	p.work.Go(func() {
		p.store.Follow(ctx, func(id spool.ID, e *spool.Envelope, st []spool.State, _ bool) error { p.take(id, e, st); return nil })
	})
	p.work.Go(func() { p.mover.Run(ctx) })
	n.p = p
	n.live.Store(p)
	n.w.until("the spool is read", func() bool { return p.mover.whole() == nil })
}

func (p *process) take(id spool.ID, e *spool.Envelope, st []spool.State) {
	if st, keep := p.mover.Arrived(id, e, st); !keep {
		p.add(id, e, st)
	}
}

func (p *process) add(id spool.ID, e *spool.Envelope, st []spool.State) {
	domains := make([]string, len(e.Recipients))
	for i := range domains {
		_, domains[i], _ = strings.Cut(e.Recipients[i].Address, "@")
	}
	p.queue.Add(id, e, domains, st, false)
}

// kill is kill -9: nothing of what the process knew is written any more.
func (n *node) kill() {
	p := n.p
	if p == nil {
		return
	}
	p.mu.Lock()
	p.dead = true
	p.mu.Unlock()
	p.stop()
	p.work.Wait()
	p.writer.Close()
	p.store.Close()
	n.p = nil
}

// lines are the connections of a process to the others.
type lines struct {
	w    *world
	from *process
}

// Do implements Peer. The other process deals with the request as a whole, or dies over it.
func (l lines) Do(ctx context.Context, to, method, path string, body io.Reader) (*http.Response, error) {
	if l.from.isDead() {
		runtime.Goexit()
	}
	n := l.w.nodes[to]
	if n == nil || n.live.Load() == nil {
		return nil, errors.New("connection refused")
	}
	p := n.live.Load()
	p.mu.Lock()
	if p.dead {
		p.mu.Unlock()
		return nil, errors.New("connection refused")
	}
	p.work.Add(1) // a kill waits for it
	p.mu.Unlock()
	rec := httptest.NewRecorder()
	done := make(chan bool, 1)
	go func() {
		defer p.work.Done()
		answered := false
		defer func() { done <- answered }()
		r := httptest.NewRequestWithContext(ctx, method, path, body)
		p.mover.Handler(func(*http.Request) string { return l.from.n.name }).ServeHTTP(rec, r)
		answered = true
	}()
	answered := <-done
	if l.from.isDead() {
		runtime.Goexit()
	}
	if !answered || p.isDead() {
		return nil, errors.New("connection reset")
	}
	return rec.Result(), nil
}

// DecideEach implements Settler, in the order of package settle: the journal, then the queue.
func (p *process) DecideEach(jobs []queue.Job, envelope func(spool.ID) *spool.Envelope, decide func(spool.ID, string) outcome.Decision) (n int, recorded bool) {
	for _, job := range jobs {
		d := decide(job.ID, "")
		if envelope(job.ID) == nil || d.Action != outcome.Move {
			p.n.w.t.Errorf("%s is decided on as %+v", job.ID, d)
		}
		var events []spool.Event
		var done []queue.Settled
		for _, item := range job.Items {
			st := spool.State{Status: spool.Moved, Reply: d.Reason}
			events = append(events, spool.Event{ID: job.ID, Recipient: item.Ordinal, State: st})
			done = append(done, queue.Settled{Handle: item.Handle, State: st})
		}
		p.step("within O5")
		if err := p.store.Record(events...); err != nil {
			p.n.w.t.Error(err)
		}
		p.queue.Settle(done)
		n += len(job.Items)
	}
	return n, true
}

// RestateEach implements Settler.
func (p *process) RestateEach(jobs []queue.Job, change func(spool.ID, uint32, *spool.State) queue.How) (n int) {
	for _, job := range jobs {
		states, err := p.store.States(job.ID)
		if err != nil {
			p.n.w.t.Error(err)
		}
		p.step("restate")
		for _, item := range job.Items {
			st := states[item.Ordinal]
			how := change(job.ID, item.Ordinal, &st)
			if err := p.store.Record(spool.Event{ID: job.ID, Recipient: item.Ordinal, State: st}); err != nil {
				p.n.w.t.Error(err)
			}
			p.queue.Settle([]queue.Settled{{Handle: item.Handle, How: how}})
			n++
		}
	}
	return n
}

// accept appends a message of some recipients.
func (n *node) accept(serial int, recipients int) {
	w := n.w
	e := &spool.Envelope{Sender: "news@example.com", Stream: "news", Arrived: time.Unix(1_700_000_000, 0), QueueID: fmt.Sprintf("4fK%d", serial)}
	size := 100 + w.rnd.IntN(4000)
	if w.rnd.IntN(40) == 0 {
		size = inMemory + w.rnd.IntN(1<<20)
	}
	content := fmt.Sprintf("Subject: %d\r\n\r\n", serial) + strings.Repeat(fmt.Sprintf("%d \xff\x00\r\n", serial), size/8)
	for i := range recipients {
		to := fmt.Sprintf("r%d.%d@d%d.example", serial, i, i%3)
		e.Recipients = append(e.Recipients, spool.Recipient{Address: to})
		w.want[to] = content
	}
	r, err := n.p.writer.Append(w.t.Context(), e, strings.NewReader(content))
	if err == nil {
		err = r.Release()
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// queued lists what a process would send.
func (p *process) queued() (list []queue.Entry) {
	p.queue.List(func(page []queue.Entry) bool {
		for i := range page {
			if page[i].State != "active" {
				list = append(list, page[i])
			}
		}
		return true
	})
	return list
}

// send has a process send to some recipients: those that chosen says.
func (p *process) send(chosen func(*queue.Entry) bool) {
	w := p.n.w
	for _, e := range p.queued() {
		if !chosen(&e) {
			continue
		}
		for _, job := range p.queue.Take([]queue.Entry{e}) {
			env, c, err := p.store.Message(job.ID)
			if err != nil {
				w.t.Error(err)
				return
			}
			content, err := io.ReadAll(c)
			c.Close()
			to := env.Recipients[e.Ordinal].Address
			if err != nil || !bytes.Equal(content, []byte(w.want[to])) {
				w.t.Errorf("node %s sends %d octets to %s, not the %d that came, %v", p.n.name, len(content), to, len(w.want[to]), err)
			}
			w.mu.Lock()
			w.sent[to] = append(w.sent[to], p.n.name)
			w.mu.Unlock()
			st := spool.State{Status: spool.Delivered}
			if err := p.store.Record(spool.Event{ID: e.ID, Recipient: e.Ordinal, State: st}); err != nil {
				w.t.Errorf("node %s has sent %s to %s: %v", p.n.name, e.ID, to, err)
			}
			p.queue.Settle([]queue.Settled{{Handle: job.Items[0].Handle, State: st}})
		}
	}
}

// move is millrace move: it ends with the process, if that dies.
func (p *process) move(to string, chosen func(*queue.Entry) bool) (moved int, err error) {
	err = errors.New("the process has died")
	var wg sync.WaitGroup
	wg.Go(func() {
		run, berr := p.mover.Begin(context.Background(), to, "root")
		if berr != nil {
			err = berr
			return
		}
		var page []queue.Entry
		for _, e := range p.queued() {
			if chosen(&e) {
				page = append(page, e)
			}
		}
		moved, err = run.Move(context.Background(), p.queue.Take(page), func(id spool.ID) *spool.Envelope {
			e, _ := p.store.Envelope(id)
			return e
		})
		run.End()
	})
	wg.Wait()
	return moved, err
}

func (w *world) until(what string, holds func() bool) {
	w.t.Helper()
	for end := time.Now().Add(time.Minute); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			for _, n := range w.nodes {
				if n.p != nil {
					w.t.Logf("node %s: %+v", n.name, n.p.mover.Transfers())
				}
			}
			w.t.Fatalf("not within a minute: %s", what)
		}
	}
}

// settled restarts who is dead, and waits until nothing is open.
func (w *world) settled() {
	w.t.Helper()
	for _, n := range w.nodes {
		if n.p != nil {
			n.p.dieAt("", 0) // nobody dies from here on
		}
	}
	for _, n := range w.nodes {
		if n.p == nil || n.p.isDead() {
			n.kill()
			n.start()
		}
	}
	w.until("no transfer is open", func() bool {
		for _, n := range w.nodes {
			if len(n.p.mover.Transfers()) > 0 {
				return false
			}
		}
		return true
	})
}

// ledger sends all that is left, and compares: each recipient once.
func (w *world) ledger() {
	w.t.Helper()
	w.settled()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		there := len(w.sent)
		for _, n := range w.nodes {
			there += len(n.p.queued())
		}
		if there >= len(w.want) {
			break // else they are lost, as is told below
		}
	}
	for _, n := range w.nodes {
		n.p.send(func(*queue.Entry) bool { return true })
	}
	for to := range w.want {
		if got := w.sent[to]; len(got) != 1 {
			w.t.Errorf("%s was sent to by %q", to, got)
		}
	}
}
