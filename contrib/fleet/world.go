package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/ledger"
	"github.com/millrace/millrace/contrib/lab/rig"
	"github.com/millrace/millrace/contrib/lab/selfsigned"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// fleetSize is the number of nodes.
const fleetSize = 3

// receiver is one of the lab's: it allows limit connections in all. Nodes have the same limit for
// it, as what they share.
type receiver struct {
	name  string
	limit int
	feed  int // messages that each node has waiting for it while mail flows
}

var (
	two   = receiver{"two", 2, 60}
	ten   = receiver{"ten", 10, 250}
	forty = receiver{"forty", 40, 900}
	// What is for this one is given by hand, so that demand moves: beyond three floors of 1 there
	// are 2 to lend.
	moving = receiver{"moving", 5, 0}

	receivers = []receiver{two, ten, forty, moving}
	steady    = []receiver{two, ten, forty}
)

// acceptTime is how long a receiver takes for a message: it sets the pace of all, so that
// neither the machine nor its load does.
const acceptTime = time.Second

const rtt = 10 * time.Millisecond

// queues are the nodes' [[queue]]s.
func queues(shared bool) string {
	var b strings.Builder
	for _, r := range receivers {
		fmt.Fprintf(&b, "[[queue]]\nname = %q\ndomains = [\"%s.test\"]\nmx = [\"*.%s.test\"]\nmax_sessions = %d\n", r.name, r.name, r.name, r.limit)
		if shared {
			b.WriteString("shared = true\n")
		}
	}
	return b.String()
}

// world is what runs.
type world struct {
	rig.Rig
	settings
	out     io.Writer
	traffic *traffic
	sent    ledger.Ledger
	wire    *lab.Wire
	store   *store
	ca      *selfsigned.Authority
	nodes   []*node // of the fleet; the lone one is not among them
	rows    []row
	crashed int // connections that were open when an agent was killed

	feeding sync.WaitGroup
	fed     struct {
		sync.Mutex
		stop func()
		err  error
	}
	lone map[string]float64 // goodput of one node
}

const dnsAddr = "10.71.0.1"

// start builds all but the nodes.
func (w *world) start(ctx context.Context) error {
	var err error
	if w.wire, err = lab.NewWire(ctx, netip.MustParsePrefix(dnsAddr+"/24")); err != nil {
		return err
	}
	w.Defer(w.wire.Close)
	var providers []sink.Provider
	for i, r := range receivers {
		addr := netip.AddrFrom4([4]byte{10, 71, 0, byte(100 + i)})
		if err := w.wire.AddAddress(ctx, addr); err != nil {
			return err
		}
		providers = append(providers, sink.Provider{
			Name: r.name, Domains: []string{r.name + ".test"},
			Host:      []sink.Host{{Name: "mx." + r.name + ".test", Addr: addr}},
			Behaviour: sink.Behaviour{RTT: rtt, AcceptTime: acceptTime, HostConnections: r.limit},
		})
	}
	o := sink.Options{DNS: dnsAddr + ":53", Message: w.traffic.message, Connection: w.traffic.connection}
	if err := w.StartInternet(o, providers...); err != nil {
		return err
	}
	if w.ca, err = selfsigned.NewAuthority("fleet.test"); err != nil {
		return err
	}
	m, err := w.machine(ctx, "store", 2)
	if err != nil {
		return err
	}
	if w.store, err = newStore(m); err != nil {
		return err
	}
	w.Defer(w.store.close)
	return w.store.start(ctx)
}

func (w *world) machine(ctx context.Context, name string, number byte) (*lab.Machine, error) {
	m, err := w.wire.Plug(ctx, name, netip.AddrFrom4([4]byte{10, 71, 0, number}))
	if err == nil {
		w.traffic.mu.Lock()
		w.traffic.nodes[m.Addr] = name
		w.traffic.mu.Unlock()
	}
	return m, err
}

// The nodes' clocks are five and ten minutes apart, and their machines began at other times.
var clocks = []struct {
	name        string
	clock, boot time.Duration
}{
	{"a", 0, 0},
	{"b", 5 * time.Minute, 100 * time.Hour},
	{"c", -5 * time.Minute, 7 * time.Hour},
}

// startNodes starts the fleet. A second call does nothing.
func (w *world) startNodes(ctx context.Context) error {
	if len(w.nodes) > 0 {
		return nil
	}
	ca := w.ca
	if w.apart {
		ca = nil
	}
	if w.clocks {
		w.say("Three nodes: b's clock is five minutes ahead of a's, c's five minutes behind; their machines began at other times.")
	} else {
		w.say("Three nodes; their clocks are the machine's, but their machines began at other times.")
	}
	for i, c := range clocks {
		if !w.clocks {
			c.clock = 0
		}
		m, err := w.machine(ctx, c.name, byte(11+i))
		if err != nil {
			return err
		}
		n, err := w.run(ctx, m, c.clock, c.boot, ca)
		if err != nil {
			return err
		}
		w.nodes = append(w.nodes, n)
		if i == 0 && ca != nil {
			said, err := n.command(ctx, "fleet", "bootstrap")
			if err != nil {
				return err
			}
			w.say("millrace fleet bootstrap, on a: %s", said)
		}
	}
	return nil
}

// run makes a node and starts its agent.
func (w *world) run(ctx context.Context, m *lab.Machine, clock, boot time.Duration, ca *selfsigned.Authority) (*node, error) {
	n, err := newNode(m, dnsAddr, clock, boot, ca, "redis://"+w.store.addr())
	if err != nil {
		return nil, err
	}
	w.Defer(n.close)
	if err := n.millrace.Agent.Start(ctx); err != nil {
		return nil, fmt.Errorf("node %s: %w", m.Name, err)
	}
	return n, nil
}

// feed keeps mail waiting at nodes for receivers, until halt; what is waiting stays.
func (w *world) feed(ctx context.Context, nodes []*node, list ...receiver) {
	w.halt()
	ctx, cancel := context.WithCancel(ctx)
	w.fed.stop = cancel
	for _, n := range nodes {
		w.feeding.Go(func() {
			for ctx.Err() == nil {
				for _, r := range list {
					need := r.feed - n.waiting(w.traffic, r.name)
					if need < r.feed/4 {
						continue
					}
					if err := n.give(ctx, &w.sent, r.name, need); err != nil && ctx.Err() == nil {
						w.fed.Lock()
						w.fed.err = errors.Join(w.fed.err, err)
						w.fed.Unlock()
						return
					}
				}
				_ = sleep(ctx, 500*time.Millisecond)
			}
		})
	}
}

// halt ends feed.
func (w *world) halt() {
	if w.fed.stop != nil {
		w.fed.stop()
		w.fed.stop = nil
	}
	w.feeding.Wait()
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// await waits until holds, at most d. It gives how long it took, and whether it held.
func (w *world) await(ctx context.Context, d time.Duration, holds func() bool) (time.Duration, bool) {
	began := time.Now()
	for !holds() {
		if time.Since(began) > d || sleep(ctx, 50*time.Millisecond) != nil {
			return time.Since(began), false
		}
	}
	return time.Since(began), true
}

// say tells what happens, with the time since the start.
func (w *world) say(format string, args ...any) {
	t := w.traffic.now()
	fmt.Fprintf(w.out, "%3d:%02d  %s\n", int(t.Minutes()), int(t.Seconds())%60, fmt.Sprintf(format, args...))
}

// shares says what each node has open at a receiver.
func (w *world) shares(r receiver) string {
	var each []string
	sum := 0
	for _, n := range w.nodes {
		k := w.traffic.connections(n.name, r.name)
		sum += k
		each = append(each, fmt.Sprintf("%s %d", n.name, k))
	}
	return fmt.Sprintf("%s: %s, together %d of %d", r.name, strings.Join(each, ", "), sum, r.limit)
}

// watch waits for a time, and says every 15 s who has how many connections at the receivers.
func (w *world) watch(ctx context.Context, d time.Duration, list ...receiver) error {
	for end := time.Now().Add(d); ; {
		left := time.Until(end)
		if left <= 0 {
			return ctx.Err()
		}
		if err := sleep(ctx, min(left, 15*time.Second)); err != nil {
			return err
		}
		var b []string
		for _, r := range list {
			b = append(b, w.shares(r))
		}
		if len(b) > 0 {
			w.say("  %s", strings.Join(b, "; "))
		}
	}
}

// keepEvidence copies the logs of all programs to the directory for them, and lists all connections.
func (w *world) keepEvidence() error {
	if err := os.MkdirAll(w.evidence, 0o755); err != nil {
		return err
	}
	files := map[string]string{}
	if w.store != nil {
		files["redis-server.log"] = w.store.log()
	}
	for _, n := range w.nodes {
		files[n.name+".log"] = n.millrace.Agent.Log()
		files[n.name+".toml"] = n.millrace.Config()
	}
	errs := []error{os.WriteFile(filepath.Join(w.evidence, "connections.csv"), w.traffic.csv(), 0o644)}
	for name, path := range files {
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(filepath.Join(w.evidence, name), b, 0o644)
		}
		errs = append(errs, err)
	}
	// What each node says of itself now.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, n := range w.nodes {
		var said strings.Builder
		for _, args := range [][]string{{"fleet"}, {"brakes"}, {"queue"}, {"why", "mx.two.test"}, {"why", "mx.ten.test"}, {"why", "mx.forty.test"}, {"why", "mx.moving.test"}} {
			out, err := n.command(ctx, args...)
			fmt.Fprintf(&said, "$ millrace %s\n%.4000s\n%v\n\n", strings.Join(args, " "), out, err)
		}
		errs = append(errs, os.WriteFile(filepath.Join(w.evidence, n.name+".status"), []byte(said.String()), 0o644))
	}
	fmt.Fprintf(w.out, "The logs are in %s.\n", w.evidence)
	return errors.Join(errs...)
}
