package spool

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	roleVar = "MILLRACE_SPOOL_TEST_ROLE"
	dirVar  = "MILLRACE_SPOOL_TEST_DIR"
)

// otherProcess plays a writer or an agent if a test started us as one. They
// report on stdout, a line for each fact, after it became one.
func otherProcess() bool {
	dir := os.Getenv(dirVar)
	var err error
	switch os.Getenv(roleVar) {
	default:
		return false
	case "writer":
		err = playWriter(dir)
	case "agent":
		err = playAgent(dir)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
	return true
}

func playWriter(dir string) error {
	w, err := OpenWriter(dir, WriterOptions{SegmentSize: recordsAt + 128<<10})
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	for k := range 4 {
		wg.Go(func() {
			for i := 0; err == nil; i++ {
				e, text := letter(i, 2)
				if i%50 == 49 {
					text += strings.Repeat("large\r\n", blobSize/7+1)
				}
				var r Receipt
				if r, err = w.Append(context.Background(), e, strings.NewReader(text)); err != nil {
					return
				}
				if (i+k)%5 == 0 {
					fmt.Printf("voiding %s\n", r.ID())
					err = r.Void()
					continue
				}
				fmt.Printf("acknowledged %s\n", r.ID())
				err = r.Release()
			}
		})
	}
	wg.Wait()
	return err
}

func playAgent(dir string) error {
	s, err := OpenStore(dir, StoreOptions{journalStep: 64 << 10, journalMax: 64 << 10})
	if err != nil {
		return err
	}
	deliver := func(id ID, states []State) error {
		fmt.Printf("took %s\n", id)
		for i, st := range states {
			if st.Status.Final() {
				continue
			}
			if err := s.Record(Event{id, uint32(i), State{Status: Delivered}}); err != nil {
				return err
			}
			fmt.Printf("recorded %s/%d\n", id, i)
		}
		return nil
	}
	err = s.Load(func(id ID, _ *Envelope, states []State) error { return deliver(id, states) })
	if err != nil {
		return err
	}
	return s.Follow(context.Background(), func(id ID, e *Envelope, _ bool) error {
		return deliver(id, make([]State, len(e.Recipients)))
	})
}

// process is another process in one of the roles.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

func start(t *testing.T, role, dir string, line func(string)) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVar+"="+role, dirVar+"="+dir)
	cmd.Stderr = testLog{t}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		r := bufio.NewReader(out)
		for {
			s, err := r.ReadString('\n')
			if err == io.EOF { // a line cut off says nothing
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			line(strings.TrimSuffix(s, "\n"))
		}
	}()
	return p
}

// kill is kill -9, and waits for all that was said before.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
	p.cmd.Wait()
}

// ledger collects what the processes said.
type ledger struct {
	mu    sync.Mutex
	facts map[string]int
	count int
	more  chan struct{}
}

func (l *ledger) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.facts[line]++
	l.count++
	select {
	case l.more <- struct{}{}:
	default:
	}
}

// await blocks until n more facts are there.
func (l *ledger) await(t *testing.T, n int) {
	t.Helper()
	l.mu.Lock()
	want := l.count + n
	l.mu.Unlock()
	for {
		l.mu.Lock()
		have := l.count
		l.mu.Unlock()
		if have >= want {
			return
		}
		select {
		case <-l.more:
		case <-t.Context().Done():
			t.Fatal("the test ended first")
		}
	}
}

func TestKilledWriterLosesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, dir, StoreOptions{})
	got := newSeen()
	got.load(t, s)
	got.follow(t, s)
	l := &ledger{facts: make(map[string]int), more: make(chan struct{}, 1)}
	for range 15 {
		w := start(t, "writer", dir, l.add)
		l.await(t, 1+rand.IntN(300))
		w.kill()
	}
	acknowledged := func(id ID) bool { return l.facts["acknowledged "+id.String()] > 0 }
	got.await(t, func() bool {
		for fact := range l.facts {
			if id, ok := strings.CutPrefix(fact, "acknowledged "); ok {
				if id, err := ParseID(id); err != nil || got.ids[id] == 0 {
					return false
				}
			}
		}
		return true
	})
	got.mu.Lock()
	defer got.mu.Unlock()
	n := 0
	for id, times := range got.ids {
		if times != 1 {
			t.Errorf("%s yielded %d times", id, times)
		}
		if !acknowledged(id) && !got.orphans[id] {
			t.Errorf("%s was yielded as released and never was", id)
		}
		if text := content(t, s, id); !strings.Contains(text, "\r\nno final newline ") {
			t.Errorf("%s reads %.100q", id, text)
		}
		if acknowledged(id) {
			n++
		}
	}
	t.Logf("%d acknowledged, %d orphans", n, len(got.orphans))
}

func TestKilledAgentForgetsNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := &ledger{facts: make(map[string]int), more: make(chan struct{}, 1)}
	w := start(t, "writer", dir, l.add)
	recorded := make(map[string]bool)
	const agents = 15
	for round := range agents {
		a := start(t, "agent", dir, func(line string) {
			if what, ok := strings.CutPrefix(line, "recorded "); ok {
				l.mu.Lock()
				again := recorded[what]
				recorded[what] = true
				l.mu.Unlock()
				if again {
					t.Errorf("%s was recorded before and came again", what)
				}
			}
			l.add(line)
		})
		l.await(t, 1+rand.IntN(300))
		if round == 7 {
			w.kill()
			w = start(t, "writer", dir, l.add)
		}
		a.kill()
	}
	w.kill()
	s := openStore(t, dir, StoreOptions{})
	got := newSeen()
	err := s.Load(func(id ID, e *Envelope, states []State) error {
		for i, st := range states {
			if name := fmt.Sprintf("%s/%d", id, i); recorded[name] && !st.Status.Final() {
				t.Errorf("%s is forgotten: %+v", name, st)
			}
		}
		got.add(id, e, states, false)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	enough := errors.New("enough")
	// What no agent took and this one has not either. One that was taken is
	// recorded, or here again, but for the one in the hands of each agent
	// that was killed: it may be recorded without a word of that.
	missing := func() (ids []string) {
		unsaid := 0
		for fact := range l.facts {
			id, ok := strings.CutPrefix(fact, "acknowledged ")
			if !ok {
				continue
			}
			p, err := ParseID(id)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case got.ids[p] > 0, recorded[id+"/0"] && recorded[id+"/1"]:
			case l.facts["took "+id] > 0:
				unsaid++
			default:
				ids = append(ids, id)
			}
		}
		if unsaid > agents {
			t.Errorf("%d messages vanished from %d agents", unsaid, agents)
		}
		return ids
	}
	if len(missing()) > 0 {
		err = s.Follow(ctx, func(id ID, e *Envelope, _ bool) error {
			got.add(id, e, nil, false)
			if len(missing()) == 0 {
				return enough
			}
			return nil
		})
		if !errors.Is(err, enough) {
			t.Errorf("lost: %v (%v)", missing(), err)
		}
	}
}
