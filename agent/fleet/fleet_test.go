package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/fleet/lease"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/contrib/lab/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// twin is the store in memory, which a test can take away.
type twin struct {
	mu   sync.Mutex
	of   lease.Store
	away map[string]bool // nodes that do not reach it
}

// newTwin is a store in its first life, and the clock of machines that started an hour ago.
func newTwin() (s *twin, boot func() time.Duration) {
	began := time.Now()
	return &twin{of: lease.Store{Run: "first"}, away: map[string]bool{}}, func() time.Duration { return time.Hour + time.Since(began) }
}

var errAway = errors.New("connection refused")

func (s *twin) Do(ctx context.Context, c *lease.Call) (*lease.Reply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away[c.Node] || s.away["*"] {
		return nil, errAway
	}
	return s.of.Do(c), nil
}

func (s *twin) set(node string, away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away[node] = away
}

// receiver takes connections of all nodes and fails the test where they are too many.
type receiver struct {
	t     *testing.T
	limit int
	mu    sync.Mutex
	open  int
}

func (r *receiver) add(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open += n; r.open > r.limit && n > 0 {
		r.t.Errorf("%d connections at a receiver that takes %d", r.open, r.limit)
	}
}

// node is a fleet's node with a queue of sessions, which are idle, or end with a transaction.
type node struct {
	*Fleet
	to   *receiver
	stop func()

	mu    sync.Mutex
	want  int
	open  int
	slow  time.Duration // of a transaction; 0: there is none
	going int           // no longer of open, but in a transaction
}

const key = "queue/general/a.test"

func newNode(t *testing.T, name, dir string, nodes int, to *receiver, o Options) *node {
	o.Config.Name, o.Config.Node, o.Config.Nodes = "mail", name, config.Count(nodes)
	o.Directory, o.Log = dir, slog.New(slog.DiscardHandler)
	f, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{Fleet: f, to: to}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { n.Run(ctx, n.work()); close(done) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		<-done
		n.mu.Lock()
		defer n.mu.Unlock()
		n.to.add(-n.open)
		n.open, n.want, n.slow = 0, 0, 0
	})
	t.Cleanup(n.stop)
	return n
}

func (n *node) work() Work {
	return Work{
		Wanted: func() ([]queue.Want, []queue.RateWant) {
			n.mu.Lock()
			defer n.mu.Unlock()
			used := n.going
			if n.slow > 0 {
				used += n.open
			}
			if max(n.want, used) <= n.Floor(n.to.limit) {
				return nil, nil
			}
			return []queue.Want{{Key: key, Limit: n.to.limit, Want: n.want, Used: used}}, nil
		},
		Lent:    func(bool) { n.turn() },
		Counted: func(time.Time, func(Count)) {},
		Granted: func() {},
	}
}

// turn has as many sessions as are wanted and may be used.
func (n *node) turn() {
	n.mu.Lock()
	defer n.mu.Unlock()
	may := n.Sessions(key, n.to.limit)
	for ; n.open > min(may, n.want); n.open-- {
		if n.slow == 0 {
			n.to.add(-1)
			continue
		}
		n.going++
		time.AfterFunc(n.slow, func() {
			n.mu.Lock()
			n.going--
			n.mu.Unlock()
			n.to.add(-1)
			n.Ask()
		})
	}
	for ; n.open+n.going < min(may, n.want); n.open++ {
		n.to.add(1)
	}
}

func (n *node) set(want int) {
	n.mu.Lock()
	n.want = want
	n.mu.Unlock()
	n.turn()
	n.Ask()
}

func (n *node) sessions() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.open
}

// bubble has three nodes in a synctest bubble, at a receiver of a limit.
func bubble(t *testing.T, limit int, test func(*receiver, *twin, []*node)) {
	synctest.Test(t, func(t *testing.T) {
		s, boot := newTwin()
		r := &receiver{t: t, limit: limit}
		var nodes []*node
		for _, name := range []string{"a", "b", "c"} {
			nodes = append(nodes, newNode(t, name, t.TempDir(), 3, r, Options{Store: s, Boot: boot}))
		}
		time.Sleep(2 * time.Minute)
		test(r, s, nodes)
	})
}

func wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func warnings(n *node) []string { s := n.Status(); return s.Warnings() }

func open(nodes []*node) (list [3]int) {
	for i, n := range nodes {
		list[i] = n.sessions()
	}
	return list
}

func TestNodesShareWhatAReceiverTakes(t *testing.T) {
	t.Parallel()
	bubble(t, 10, func(r *receiver, s *twin, nodes []*node) {
		nodes[0].set(10)
		wait(10 * time.Second)
		if got := open(nodes); got != [3]int{4, 0, 0} && got[0] < 4 {
			t.Errorf("%v where one node alone has mail", got) // the others' floors are never lent
		}
		nodes[1].set(10)
		nodes[2].set(10)
		wait(10 * time.Second)
		if got := open(nodes); got[0]+got[1]+got[2] != 10 || min(got[0], got[1], got[2]) < 3 {
			t.Errorf("%v where all have mail", got)
		}
		nodes[0].set(1)
		wait(10 * time.Second)
		if got := open(nodes); got[0] != 1 || got[1]+got[2] < 7 {
			t.Errorf("%v when the first has little mail left", got)
		}
	})
}

func TestLeaseEndsWhileTheStoreIsAway(t *testing.T) {
	t.Parallel()
	bubble(t, 10, func(r *receiver, s *twin, nodes []*node) {
		nodes[0].set(10)
		wait(10 * time.Second)
		before := nodes[0].sessions()
		s.set("*", true)
		wait(20 * time.Second)
		if n := nodes[0].sessions(); n != before {
			t.Errorf("%d sessions of %d while the lease runs", n, before)
		}
		st := nodes[0].Status()
		if w := st.Warnings(); len(w) != 1 || !strings.Contains(w[0], "is away since") || !strings.Contains(w[0], "("+errAway.Error()+")") || !strings.Contains(w[0], "what it was lent for another ") || st.Runs <= 0 || st.Errors == 0 {
			t.Errorf("%q, %+v", w, st)
		}
		wait(11 * time.Second)
		if n := nodes[0].sessions(); n != 3 {
			t.Errorf("%d sessions where the lease has ended, and the floor is 3", n)
		}
		if w := warnings(nodes[0]); len(w) != 1 || !strings.HasSuffix(w[0], "this node uses its own part of each shared limit") {
			t.Errorf("%q", w)
		}
		nodes[1].set(10)
		nodes[2].set(10)
		wait(10 * time.Second)
		if got := open(nodes); got != [3]int{3, 3, 3} {
			t.Errorf("%v without a store", got)
		}
		// It comes back empty.
		s.mu.Lock()
		s.of = lease.Store{Run: "second"}
		s.away["*"] = false
		s.mu.Unlock()
		wait(10 * time.Second)
		if st := nodes[0].Status(); st.Away != nil || len(st.Warnings()) != 1 || !strings.Contains(st.Warnings()[0], "lends nothing more") {
			t.Errorf("%q, %+v", st.Warnings(), st)
		}
		wait(time.Minute)
		if got := open(nodes); got[0]+got[1]+got[2] != 10 {
			t.Errorf("%v with a store that came back", got)
		}
		if st := nodes[0].Status(); len(st.Warnings()) > 0 {
			t.Errorf("%q", st.Warnings())
		}
	})
}

func TestStoppedNodeKeepsItsFloorUntilItIsForgotten(t *testing.T) {
	t.Parallel()
	bubble(t, 12, func(r *receiver, s *twin, nodes []*node) {
		for _, n := range nodes {
			n.set(12)
		}
		wait(10 * time.Second)
		nodes[2].stop()
		if err := nodes[0].Forget(context.Background(), "c"); err == nil || !strings.Contains(err.Error(), "half a minute; remedy: ") {
			t.Errorf("forget one that has just called: %v", err)
		}
		s.set("a", true)
		if err := nodes[0].Forget(context.Background(), "c"); err == nil || !strings.Contains(err.Error(), "does not answer; remedy: ") {
			t.Errorf("forget without a store: %v", err)
		}
		s.set("a", false)
		wait(5 * time.Minute)
		if got := open(nodes); got != [3]int{4, 4, 0} {
			t.Errorf("%v, of which the floors are 4", got)
		}
		if err := nodes[0].Forget(context.Background(), "x"); err == nil || !strings.Contains(err.Error(), "; remedy: ") {
			t.Errorf("forget nobody: %v", err)
		}
		if err := nodes[0].Forget(context.Background(), "a"); err == nil {
			t.Error("a node forgets itself")
		}
		if err := nodes[0].Forget(context.Background(), "c"); err != nil {
			t.Fatal(err)
		}
		wait(5 * time.Minute)
		if m := nodes[0].Status().Table.Members; len(m) != 2 {
			t.Errorf("members %v", m)
		}
	})
}

// A node that was forgotten and starts again with its file sends nothing by what it had, and says
// why; without a store one that starts waits ten seconds, then uses its floors.
func TestNodeThatStartsAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, boot := newTwin()
		r := &receiver{t: t, limit: 12}
		dirs := []string{t.TempDir(), t.TempDir()}
		start := func(i int) *node {
			return newNode(t, string(rune('a'+i)), dirs[i], 0, r, Options{Store: s, Boot: boot})
		}
		nodes := []*node{start(0), start(1)}
		wait(time.Second)
		if err := nodes[0].Bootstrap(); err != nil {
			t.Fatal(err)
		}
		nodes[0].set(12)
		wait(2 * time.Minute)
		if nodes[1].Floor(12) != 6 {
			t.Fatal("no floors: the test shows nothing")
		}
		s.set("*", true)
		nodes[1].stop()
		nodes[1] = start(1)
		nodes[1].set(12)
		wait(9 * time.Second)
		if st := nodes[1].Status(); nodes[1].sessions() != 0 || !strings.HasSuffix(st.Warnings()[0], "for ten seconds from its start, then its own part of each shared limit") || st.State() != "away" {
			t.Errorf("%d sessions before ten seconds, %q", nodes[1].sessions(), st.Warnings())
		}
		wait(2 * time.Second)
		if n := nodes[1].sessions(); n != 6 {
			t.Errorf("%d sessions after ten seconds", n)
		}
		nodes[1].stop()
		s.set("*", false)
		wait(2 * time.Minute)
		if err := nodes[0].Forget(context.Background(), "b"); err != nil {
			t.Fatal(err)
		}
		wait(2 * time.Minute)
		if n := nodes[0].sessions(); n != 12 {
			t.Errorf("%d sessions of one that is alone", n)
		}
		nodes[1] = start(1)
		nodes[1].set(12)
		wait(3 * time.Second)
		if w := warnings(nodes[1]); len(w) != 1 || !strings.Contains(w[0], "was forgotten") {
			t.Errorf("%q", w)
		}
		wait(2 * time.Minute)
		if w := warnings(nodes[1]); len(w) != 0 || nodes[1].Floor(12) != 6 {
			t.Errorf("%q, floor %d of one that has joined anew", w, nodes[1].Floor(12))
		}
	})
}

// Where others answer is known after a restart, also without a store, and of members alone.
func TestAddressesOutliveARestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, boot := newTwin()
		o := Options{Store: s, Boot: boot, Log: slog.New(slog.DiscardHandler), Directory: t.TempDir()}
		o.Config.Name, o.Config.Node = "mail", "a"
		known := map[string]string{"b": "192.0.2.2:8892", "x": "192.0.2.9:8892"}
		run := func() (f *Fleet) {
			f, err := Open(o)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			f.Bootstrap() // it may be one already
			f.Run(ctx, Work{
				Wanted: func() ([]queue.Want, []queue.RateWant) { return nil, nil }, Lent: func(bool) {}, Granted: func() {},
				Counted: func(time.Time, func(Count)) {}, Address: func(node string) string { return known[node] },
			})
			return f
		}
		newNode(t, "b", t.TempDir(), 0, &receiver{t: t, limit: 12}, Options{Store: s, Boot: o.Boot})
		if f := run(); f.Address("b") != known["b"] || f.Address("x") != "" {
			t.Errorf("%q, %q of no member", f.Address("b"), f.Address("x"))
		}
		s.set("*", true)
		clear(known)
		if f := run(); f.Address("b") != "192.0.2.2:8892" || !f.Status().Active {
			t.Errorf("%q after a restart without a store", f.Address("b"))
		}
	})
}

// Limits that differ are told by the node that has the greater one.
func TestLimitsThatDiffer(t *testing.T) {
	t.Parallel()
	bubble(t, 12, func(r *receiver, s *twin, nodes []*node) {
		nodes[1].mu.Lock()
		nodes[1].to = &receiver{t: t, limit: 10}
		nodes[1].mu.Unlock()
		for _, n := range nodes[:2] {
			n.set(12)
		}
		wait(10 * time.Second)
		if w := warnings(nodes[0]); len(w) != 1 || !strings.Contains(w[0], "the limit "+key+" is smaller on node b, 10,") {
			t.Errorf("%q", w)
		}
		if w := warnings(nodes[1]); len(w) != 0 {
			t.Errorf("%q of the node with the smaller one", w)
		}
	})
}

func TestNodeLeaves(t *testing.T) {
	t.Parallel()
	bubble(t, 12, func(r *receiver, s *twin, nodes []*node) {
		for _, n := range nodes {
			n.set(12)
		}
		wait(10 * time.Second)
		if err := nodes[2].Leave(t.Context(), nodes[2].work()); err != nil {
			t.Fatal(err)
		}
		if n := nodes[2].sessions(); n != 0 {
			t.Errorf("%d sessions of one who left", n)
		}
		wait(10 * time.Second)
		st := nodes[2].Status()
		if !st.Left || len(st.Warnings()) != 1 {
			t.Errorf("%+v", st)
		}
		if m := nodes[0].Status().Table.Members; fmt.Sprint(m) != "[a b]" {
			t.Errorf("members %v", m)
		}
	})
}

// A node that more is wanted of asks at once, but not more than five times a second.
func TestAsksAreBounded(t *testing.T) {
	t.Parallel()
	bubble(t, 10, func(r *receiver, s *twin, nodes []*node) {
		before := nodes[0].Status().Calls
		for range 1000 {
			nodes[0].Ask()
			wait(10 * time.Millisecond)
		}
		if n := nodes[0].Status().Calls - before; n < 40 || n > 51 {
			t.Errorf("%d calls in 10 s", n)
		}
	})
}

// A place is lent to the next one when the transaction has ended that holds it: in turns, which
// come round every two minutes, and where a node joins and the floors of the others shrink.
func TestNoPlaceIsLentThatATransactionHolds(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{2, 10} {
		bubble(t, limit, func(r *receiver, s *twin, nodes []*node) {
			for _, n := range nodes {
				n.mu.Lock()
				n.slow = 7 * time.Second
				n.mu.Unlock()
				n.set(limit)
			}
			used := func(nodes []*node) {
				t.Helper()
				had := [3]int{}
				for range 15 * 60 {
					wait(time.Second)
					for i, n := range open(nodes) {
						had[i] += n
					}
				}
				if sum := had[0] + had[1] + had[2]; sum < limit*15*60*9/10 || min(had[0], had[1], had[2]) < sum/4 {
					t.Errorf("%v seconds of sessions in a quarter of an hour with %d", had, limit)
				}
			}
			used(nodes)
			nodes[2].set(0)
			wait(10 * time.Second)
			if err := nodes[2].Leave(r.t.Context(), nodes[2].work()); err != nil {
				t.Error(err)
			}
			nodes[2].stop()
			wait(2 * time.Minute)
			c := newNode(r.t, "c", t.TempDir(), 3, r, Options{Store: s, Boot: nodes[0].o.Boot})
			c.set(limit)
			used([]*node{nodes[0], nodes[1], c})
		})
	}
}

// A node that joins has a floor once what the others do above their smaller ones has ended.
func TestFloorOfANewNodeWaitsForTransactions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, boot := newTwin()
		r := &receiver{t: t, limit: 10}
		var nodes []*node
		for _, name := range []string{"a", "b", "c"} {
			n := newNode(t, name, t.TempDir(), 0, r, Options{Store: s, Boot: boot})
			nodes = append(nodes, n)
			if name == "a" {
				if err := n.Bootstrap(); err != nil {
					t.Fatal(err)
				}
			}
			n.mu.Lock()
			n.slow = 40 * time.Second
			n.mu.Unlock()
			n.set(10)
			wait(5 * time.Minute)
		}
		if list := open(nodes); list[0]+list[1]+list[2] < 9 || min(list[0], list[1], list[2]) < 3 {
			t.Errorf("%v sessions of 10", list)
		}
	})
}
