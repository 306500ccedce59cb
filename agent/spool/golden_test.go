package spool

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

var updateGolden = flag.Bool("update", false, "write testdata/golden anew")

// trace is the order of what reaches the disk and of what callers are told.
type trace struct {
	t     *testing.T
	m     *machine
	fs    *memFS
	mu    sync.Mutex
	lines []string
}

const goldenDir = "/spool"

func (g *trace) say(line string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lines = append(g.lines, line)
}

// note starts a part of the trace; what is before the first note is not in it.
func (g *trace) note(text string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.lines) > 0 && !strings.HasPrefix(g.lines[0], "#") {
		g.lines = nil
	}
	g.lines = append(g.lines, "# "+text)
}

func (g *trace) writer(segment int64) *Writer {
	g.t.Helper()
	w, err := OpenWriter(goldenDir, WriterOptions{FS: g.fs, SegmentSize: segment})
	if err != nil {
		g.t.Fatal(err)
	}
	return w
}

func (g *trace) store() *Store {
	g.t.Helper()
	s, err := OpenStore(goldenDir, StoreOptions{FS: g.fs, journalStep: 4096, byHand: true})
	if err != nil {
		g.t.Fatal(err)
	}
	return s
}

func (g *trace) load(s *Store) {
	g.t.Helper()
	err := s.Load(func(id ID, _ *Envelope, _ []State) error { g.say("yield " + id.String()); return nil })
	if err != nil {
		g.t.Fatal(err)
	}
}

func (g *trace) follow(s *Store) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	s.Follow(ctx, func(id ID, _ *Envelope, _ []State, orphan bool) error {
		if orphan {
			g.say("yield orphan " + id.String())
		} else {
			g.say("yield " + id.String())
		}
		return nil
	})
}

// append appends one message of some size.
func (g *trace) append(w *Writer, i, size int) Receipt {
	e, text := letter(i, 1)
	r, err := w.Append(context.Background(), e, strings.NewReader(text+strings.Repeat("x", max(0, size-len(text)))))
	if err != nil {
		g.say("refused: " + err.Error())
	} else {
		g.say("acknowledged " + r.ID().String())
	}
	return r
}

func (g *trace) record(s *Store, id ID, st Status) {
	g.t.Helper()
	if err := s.Record(Event{ID: id, State: State{Status: st}}); err != nil {
		g.t.Fatal(err)
	}
	g.say("recorded " + st.String() + " " + id.String())
}

const wide = recordsAt + 64<<10 // octets of a segment that takes all

// goldens are scenes; what their traces must be stands in testdata/golden.
var goldens = map[string]func(g *trace){
	"append": func(g *trace) {
		g.note("a new spool")
		w := g.writer(wide)
		g.note("the first message")
		r := g.append(w, 0, 0)
		g.note("its verdict")
		r.Release()
		g.note("four messages; the sync of the first is held up until the others wait")
		gate := make(chan struct{})
		g.m.gate = gate
		var wg sync.WaitGroup
		var acknowledged atomic.Int32
		for i := range 4 {
			wg.Go(func() {
				e, text := letter(i, 1)
				if _, err := w.Append(context.Background(), e, strings.NewReader(text)); err == nil {
					acknowledged.Add(1)
				}
			})
			synctest.Wait()
		}
		close(gate)
		wg.Wait() // the first may hear of it before or after the next batch is written
		g.say(fmt.Sprintf("acknowledged, %d of 4", acknowledged.Load()))
		g.note("close; the verdicts are open")
		w.Close()
	},
	"large": func(g *trace) {
		w := g.writer(wide)
		g.append(w, 0, 0)
		g.note("a message of 1 MiB")
		g.append(w, 1, blobSize)
		w.Close()
	},
	"roll": func(g *trace) {
		w := g.writer(recordsAt + 4<<10)
		r := g.append(w, 0, 3<<10)
		g.note("one that does not fit into the segment")
		g.append(w, 1, 3<<10)
		g.note("the last verdict of the old segment")
		r.Void()
		w.Close()
	},
	"failed batch": func(g *trace) {
		w := g.writer(wide)
		g.append(w, 0, 0)
		g.note("the next sync fails")
		g.fault("sync", syscall.EIO)
		g.append(w, 1, 0)
		g.note("the next message")
		g.append(w, 2, 0)
		w.Close()
	},
	"failed large": func(g *trace) {
		w := g.writer(wide)
		g.append(w, 0, 0)
		g.note("the next sync of a directory fails")
		g.fault("syncdir", syscall.EIO)
		g.append(w, 1, blobSize)
		w.Close()
	},
	"no segment": func(g *trace) {
		w := g.writer(wide)
		g.note("the disk is full")
		g.fault("allocate", syscall.ENOSPC)
		g.append(w, 0, 0)
		g.note("and then is not")
		g.append(w, 1, 0)
		w.Close()
	},
	"agent start": func(g *trace) {
		g.note("a new spool")
		s := g.store()
		g.load(s)
		w := g.writer(wide)
		r := g.append(w, 0, 0)
		r.Release()
		g.append(w, 1, 0)
		g.follow(s)
		g.record(s, r.ID(), Queued)
		g.note("the writer dies, and the agent")
		g.fs.kill()
		w.Close()
		s.Close()
		g.fs = g.m.process()
		g.note("open")
		s = g.store()
		g.note("load")
		g.load(s)
		g.note("follow")
		g.follow(s)
		g.note("close")
		s.Close()
		g.note("open once more")
		s = g.store()
		g.load(s)
		s.Close()
	},
	"journal": func(g *trace) {
		w := g.writer(wide)
		r := g.append(w, 0, 0)
		r.Release()
		s := g.store()
		g.load(s)
		g.note("an event")
		g.record(s, r.ID(), Queued)
		g.note("sync")
		s.Sync()
		g.say("synced")
		g.record(s, r.ID(), Queued)
		g.note("checkpoint")
		s.rotate()
		g.note("another, which ends the message")
		g.record(s, r.ID(), Delivered)
		s.rotate()
		g.note("a sync fails")
		g.fault("sync", syscall.EIO)
		g.append(w, 1, 0) // the fault meets the writer: another segment
		o := g.append(w, 2, 0)
		o.Release()
		g.follow(s)
		g.fault("sync", syscall.EIO)
		g.record(s, o.ID(), Queued)
		if s.Sync() != nil {
			g.say("not synced")
		}
		g.note("upkeep, again and again")
		s.upkeep()
		s.upkeep()
		s.Close()
		w.Close()
	},
	"reclaim": func(g *trace) {
		w := g.writer(wide)
		r, v, big := g.append(w, 0, 0), g.append(w, 1, blobSize), g.append(w, 2, blobSize)
		r.Release()
		v.Void()
		big.Release()
		w.Close()
		s := g.store()
		g.load(s)
		g.note("all is done")
		g.record(s, r.ID(), Delivered)
		g.record(s, big.ID(), Bounced)
		g.note("upkeep")
		s.upkeep()
		s.Close()
	},
	"hole": func(g *trace) {
		w := g.writer(wide)
		var rs []Receipt
		for i := range 5 {
			rs = append(rs, g.append(w, i, 9000))
			rs[i].Release()
		}
		w.Close()
		s := g.store()
		g.load(s)
		g.note("all but one are done")
		for i := range 4 {
			g.record(s, rs[i].ID(), Delivered)
		}
		g.note("upkeep")
		s.upkeep()
		g.note("the last one, too")
		g.record(s, rs[4].ID(), Delivered)
		s.upkeep()
		s.Close()
	},
}

// fault makes the next operation of this kind fail.
func (g *trace) fault(kind string, err error) {
	g.m.fault = func(op memOp) error {
		if op.kind != kind {
			return nil
		}
		g.m.fault = nil
		g.say("FAILS " + op.String())
		return err
	}
}

func TestOrderOfWritesAndSyncs(t *testing.T) {
	t.Parallel()
	for name, scene := range goldens {
		t.Run(name, func(t *testing.T) {
			var got string
			synctest.Test(t, func(t *testing.T) {
				g := &trace{t: t, m: newMachine(rand.New(rand.NewPCG(1, 1)))}
				g.m.seen = func(op memOp) {
					// Contents are closed beside what else goes on.
					if line := op.String(); !strings.HasPrefix(line, "unlock "+blobsDir) {
						g.say(line)
					}
				}
				g.fs = g.m.process()
				scene(g)
				got = strings.Join(g.lines, "\n") + "\n"
			})
			file := filepath.Join("testdata", "golden", strings.ReplaceAll(name, " ", "-")+".txt")
			if *updateGolden {
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if string(want) == got {
				return
			}
			a, b := strings.Split(string(want), "\n"), strings.Split(got, "\n")
			for i := range max(len(a), len(b)) {
				if i >= len(a) || i >= len(b) || a[i] != b[i] {
					t.Fatalf("%s:%d: want %q, the order is now\n%s", file, i+1, a[min(i, len(a)-1)], got)
				}
			}
		})
	}
}
