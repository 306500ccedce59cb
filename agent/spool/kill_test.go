package spool

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	roleVar = "MILLRACE_SPOOL_TEST_ROLE"
	dirVar  = "MILLRACE_SPOOL_TEST_DIR"
)

// otherProcess plays a writer or an agent if a test started us as one. They
// report on stdout, a line for each fact, after it became one; what they are
// about to do they say before.
func otherProcess() bool {
	dir, role := os.Getenv(dirVar), os.Getenv(roleVar)
	var err error
	if role != "" {
		go endWithTheTest(dir)
	}
	switch role {
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

// endWithTheTest ends this process when its test is no more, whatever ended that,
// and takes the spool along: nobody else would.
func endWithTheTest(dir string) {
	io.Copy(io.Discard, os.Stdin) // the test holds the other end, and writes nothing
	os.RemoveAll(dir)
	os.Exit(1)
}

// pace is the time from one message of a writer's goroutine to the next: agents
// that are killed all the time must still be able to keep up. A writer waits while
// there are maxBlobs large messages, one of fifty, so that no agent can fall
// behind by much, and no disk gets full.
const (
	pace     = 5 * time.Millisecond
	maxBlobs = 40
)

// killLetter is message i of the writers, and its content.
func killLetter(i int) (*Envelope, string) {
	e, text := letter(i, 2)
	if i%50 == 49 {
		text += strings.Repeat("large\r\n", blobSize/7+1)
	}
	return e, text
}

// neverEnds says that the second recipient of a message is deferred for ever.
func neverEnds(e *Envelope) bool { return strings.HasSuffix(e.QueueID, "7") }

func playWriter(dir string) error {
	w, err := OpenWriter(dir, WriterOptions{SegmentSize: recordsAt + 128<<10})
	if err != nil {
		return err
	}
	errs := make(chan error)
	for k := range 4 {
		go func() {
			for i := 0; ; i++ {
				e, text := killLetter(i)
				r, err := w.Append(context.Background(), e, strings.NewReader(text))
				if err != nil {
					errs <- err
					return
				}
				if (i+k)%5 == 0 {
					err = r.Void()
					fmt.Printf("voided %s\n", r.ID())
				} else {
					fmt.Printf("acknowledged %s\n", r.ID())
					err = r.Release()
				}
				if err != nil {
					errs <- err
					return
				}
				time.Sleep(pace)
				for {
					names, err := w.fs.List(w.path(blobsDir))
					if err == nil && len(names) <= maxBlobs {
						break
					}
					time.Sleep(pace)
				}
			}
		}()
	}
	return <-errs
}

func playAgent(dir string) error {
	s, err := OpenStore(dir, StoreOptions{journalStep: 64 << 10, journalMax: 64 << 10})
	if err != nil {
		return err
	}
	seen := make(map[ID]bool)
	deliver := func(id ID, e *Envelope, states []State, orphan bool) error {
		if seen[id] {
			fmt.Printf("twice %s\n", id)
		}
		seen[id] = true
		if orphan {
			fmt.Printf("orphan %s\n", id)
		} else {
			fmt.Printf("took %s\n", id)
		}
		if err := compare(s, id, e); err != nil {
			fmt.Printf("spoiled %s: %v\n", id, err)
		}
		for i, st := range states {
			what, next := "recorded", State{Status: Delivered}
			if i == 1 && neverEnds(e) {
				what, next = "deferred", State{Tries: 1, Due: time.Unix(1800000000, 0), Reply: "450 later"}
			}
			if st.Status.Final() || st.Tries > 0 {
				continue
			}
			fmt.Printf("trying %s/%d\n", id, i)
			if err := s.Record(Event{ID: id, Recipient: uint32(i), State: next}); err != nil {
				return err
			}
			fmt.Printf("%s %s/%d\n", what, id, i)
		}
		return nil
	}
	err = s.Load(func(id ID, e *Envelope, states []State) error { return deliver(id, e, states, false) })
	if err != nil {
		return err
	}
	fmt.Println("loaded")
	return s.Follow(context.Background(), func(id ID, e *Envelope, states []State, orphan bool) error {
		if states == nil {
			states = make([]State, len(e.Recipients))
		}
		return deliver(id, e, states, orphan)
	})
}

// compare reads a message and looks whether it is what was appended.
func compare(s *Store, id ID, e *Envelope) error {
	i, err := strconv.Atoi(strings.TrimPrefix(e.QueueID, "Q"))
	if err != nil {
		return err
	}
	want, text := killLetter(i)
	c, err := s.Open(id)
	if err != nil {
		return err
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	want.Size, want.HeaderSize = e.Size, e.HeaderSize
	if string(b) != text || fmt.Sprintf("%+v", e) != fmt.Sprintf("%+v", want) {
		return fmt.Errorf("%+v, %.100q", e, b)
	}
	return nil
}

// process is another process in one of the roles.
type process struct {
	role   string
	cmd    *exec.Cmd
	life   io.Closer // it ends when this is closed
	done   chan struct{}
	killed atomic.Bool
}

func start(t *testing.T, role, dir string, line func(string)) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVar+"="+role, dirVar+"="+dir)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	life, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{role: role, cmd: cmd, life: life, done: make(chan struct{})}
	t.Cleanup(p.kill) // also if the test gave up
	go func() {
		defer close(p.done)
		r := bufio.NewReader(out)
		for {
			s, err := r.ReadString('\n')
			if err == io.EOF { // a line cut off says nothing
				if !p.killed.Load() {
					line("ended " + role)
				}
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
	p.killed.Store(true)
	p.cmd.Process.Kill()
	<-p.done
	p.cmd.Wait()
}

// ledger collects what the processes said.
type ledger struct {
	mu    sync.Mutex
	facts map[string]int
	count map[string]int // by the first word
	more  chan struct{}  // capacity 1
}

func (l *ledger) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	word, _, _ := strings.Cut(line, " ")
	l.facts[line]++
	l.count[word]++
	select {
	case l.more <- struct{}{}:
	default:
	}
}

// await blocks until there are n more facts that start with a word.
func (l *ledger) await(t *testing.T, word string, n int) {
	t.Helper()
	l.mu.Lock()
	want := l.count[word] + n
	l.mu.Unlock()
	late := time.After(patience)
	for {
		l.mu.Lock()
		have, ended := l.count[word], l.count["ended"]
		l.mu.Unlock()
		if ended > 0 {
			t.Fatalf("a process ended by itself: %v", l.all("ended"))
		}
		if have >= want {
			return
		}
		select {
		case <-l.more:
		case <-late:
			t.Fatalf("only %d of %d facts %q: %v", have, want, word, l.count)
		}
	}
}

// all yields the rest of the facts that start with a word.
func (l *ledger) all(word string) (rest []string) {
	for _, fact := range slices.Sorted(maps.Keys(l.facts)) {
		if s, ok := strings.CutPrefix(fact, word+" "); ok {
			rest = append(rest, s)
		}
	}
	return rest
}

// TestProcessesEndWithTheirTest sees to it that no test leaves a process or a
// spool behind that grows.
func TestProcessesEndWithTheirTest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := &ledger{facts: make(map[string]int), count: make(map[string]int), more: make(chan struct{}, 1)}
	procs := []*process{start(t, "writer", dir, l.add), start(t, "agent", dir, l.add)}
	l.await(t, "recorded", 1)
	for _, p := range procs {
		p.life.Close()
	}
	for _, p := range procs {
		select {
		case <-p.done:
		case <-time.After(patience):
			t.Fatalf("the %s goes on", p.role)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the spool is still there: %v", err)
	}
}

// TestKilledProcessesLoseNothing kills two writers and an agent, one or several
// at a time and at any moment, and at the end looks for all they had promised.
func TestKilledProcessesLoseNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := &ledger{facts: make(map[string]int), count: make(map[string]int), more: make(chan struct{}, 1)}
	procs := []*process{start(t, "writer", dir, l.add), start(t, "writer", dir, l.add), start(t, "agent", dir, l.add)}
	for kills := 0; kills < killCount/killShare; {
		word := []string{"acknowledged", "trying", "recorded", "loaded"}[rand.IntN(4)]
		n := 1 + rand.IntN(100)
		if word == "loaded" { // early in the life of an agent, or of a writer
			n = 1
			procs[2].kill()
			procs[2] = start(t, "agent", dir, l.add)
			kills++
		}
		l.await(t, word, n)
		victims := rand.Perm(len(procs))[:1+rand.IntN(rand.IntN(len(procs))+1)]
		for _, v := range victims {
			procs[v].kill()
			kills++
		}
		for _, v := range victims {
			procs[v] = start(t, procs[v].role, dir, l.add)
		}
	}
	for _, p := range procs {
		p.kill()
	}

	s := openStore(t, dir, StoreOptions{})
	got := newSeen()
	got.load(t, s)
	// Orphans and what no agent has seen; the writers are dead, so one look at
	// the segments is enough.
	if err := s.lookAtAll(func(id ID, e *Envelope, states []State, orphan bool) error {
		if states == nil {
			states = make([]State, len(e.Recipients))
		}
		got.add(id, e, states, orphan)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"twice", "spoiled"} {
		for _, what := range l.all(word) {
			t.Errorf("%s %s", word, what)
		}
	}
	for id := range got.ids {
		if err := compare(s, id, got.env[id]); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	status := func(id ID, recipient int) (st State, there bool) {
		if got.ids[id] == 0 {
			return State{}, false
		}
		return got.states[id][recipient], true
	}
	each := func(word string, check func(what string, id ID, recipient int)) {
		for _, what := range l.all(word) {
			name, r, _ := strings.Cut(what, "/")
			id, err := ParseID(name)
			recipient, _ := strconv.Atoi(r)
			if err != nil {
				t.Fatal(err)
			}
			check(what, id, recipient)
		}
	}
	each("acknowledged", func(what string, id ID, _ int) {
		for i := range 2 {
			tried := fmt.Sprintf("%s/%d", what, i)
			if _, there := status(id, i); !there && l.facts["recorded "+tried] == 0 && l.facts["trying "+tried] == 0 {
				t.Errorf("%s was acknowledged and is lost", what)
			}
		}
	})
	each("recorded", func(what string, id ID, recipient int) {
		if l.facts["recorded "+what] > 1 {
			t.Errorf("%s was recorded %d times", what, l.facts["recorded "+what])
		}
		if st, there := status(id, recipient); there && st.Status != Delivered {
			t.Errorf("%s was recorded and is forgotten: %+v", what, st)
		}
	})
	each("deferred", func(what string, id ID, recipient int) {
		if st, there := status(id, recipient); !there || st.Status != Queued || st.Tries != 1 || st.Reply != "450 later" {
			t.Errorf("%s was deferred and is not there (%v): %+v", what, there, st)
		}
	})
	each("voided", func(what string, id ID, _ int) {
		if l.facts["took "+what]+l.facts["orphan "+what]+got.ids[id] > 0 {
			t.Errorf("%s was voided, and sent all the same", what)
		}
	})
	each("took", func(what string, id ID, _ int) {
		if l.facts["acknowledged "+what]+l.facts["orphan "+what]+l.facts["trying "+what+"/0"] == 0 {
			t.Errorf("%s was taken as released, and nobody had released it", what)
		}
	})
	if d := s.Damaged(); len(d) > 0 {
		t.Errorf("damage: %+v", d)
	}
	t.Logf("%d acknowledged, %d recorded, %d deferred, %d orphans", l.count["acknowledged"], l.count["recorded"], l.count["deferred"], l.count["orphan"])
	if l.count["recorded"] == 0 || l.count["deferred"] == 0 {
		t.Error("too little happened")
	}
}
