package move

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
)

func all(*queue.Entry) bool { return true }

// The steps at which each side can die, as the package comment has them.
var (
	atOrigin = []string{"O1", "O2", "restate", "O3", "O4", "within O5", "O5", "O6"}
	atTarget = []string{"T1", "T2", "T3", "T4", "T5", "T6"}
)

// TestDeathAtEachStepLosesAndRepeatsNothing is the table of the package comment. Each step is died
// at the first time that it is reached, and some way into it.
func TestDeathAtEachStepLosesAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	for i, steps := range [][]string{atOrigin, atTarget} {
		for _, step := range steps {
			for _, after := range []int{0, 3} {
				if after > 0 && !slices.Contains([]string{"restate", "within O5", "T2"}, step) {
					continue
				}
				t.Run(fmt.Sprintf("%s+%d", step, after), func(t *testing.T) {
					t.Parallel()
					w := newWorld(t, 1, "a", "b")
					for n := range 12 {
						w.nodes["a"].accept(n, 1+n%3)
					}
					a := w.nodes["a"].p
					w.until("the mail is queued", func() bool { return len(a.queued()) == 24 })
					victim := w.nodes[[]string{"a", "b"}[i]]
					victim.p.dieAt(step, after)
					moved, err := a.move("b", all)
					if !victim.p.isDead() {
						t.Errorf("it has not died: %d moved, %v", moved, err)
					}
					if i == 1 && moved < 24 && err == nil {
						t.Errorf("%d moved, and no error", moved)
					}
					w.settled()
					b := w.nodes["b"].p
					if step != "O1" { // before it nothing was begun
						w.until("all of the batch is at the target", func() bool { return len(b.queued()) == 24 })
					}
					w.ledger()
				})
			}
		}
	}
}

func TestStateGoesAlong(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2, "a", "b")
	a, b := w.nodes["a"].p, w.nodes["b"].p
	w.nodes["a"].accept(1, 3)
	w.until("the mail is queued", func() bool { return len(a.queued()) == 3 })
	due := time.Now().Add(time.Hour).Truncate(time.Second)
	want := []spool.State{
		{Tries: 3, Due: due, Class: 7, Reply: "450 4.2.1 \xff busy", From: "pool/x"},
		{Held: true},
		{Status: spool.Delivered},
	}
	id := a.queued()[0].ID
	for i, st := range want {
		if err := a.store.Record(spool.Event{ID: id, Recipient: uint32(i), State: st}); err != nil {
			t.Fatal(err)
		}
	}
	w.sent["r1.2@d2.example"] = []string{"a"} // it was delivered, says the journal
	w.nodes["a"].kill()
	w.nodes["a"].start()
	a = w.nodes["a"].p
	if n, err := a.move("b", all); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	w.until("the mail is queued there", func() bool { return len(b.queued()) == 2 })
	for range 2 {
		b = w.nodes["b"].p
		at := b.queued()[0].ID
		e, err := b.store.Envelope(at)
		if err != nil || e.QueueID != "4fK1" || e.Sender != "news@example.com" || e.Stream != "news" || e.Arrived.Unix() != 1_700_000_000 || len(e.Recipients) != 2 {
			t.Errorf("%+v, %v", e, err)
		}
		if k, ok := parseMark(e.Moved); !ok || k.node != "a" || k.id != id {
			t.Errorf("it comes from %q, and was %s", e.Moved, id)
		}
		got, err := b.store.States(at)
		if err != nil || len(got) != 2 {
			t.Fatal(got, err)
		}
		for i := range got {
			if got[i] != want[i] && !(got[i].Due.Equal(want[i].Due) && got[i].Reply == want[i].Reply && got[i].Tries == want[i].Tries && got[i].From == want[i].From && got[i].Held == want[i].Held && got[i].Class == want[i].Class) {
				t.Errorf("recipient %d: %+v, not %+v", i, got[i], want[i])
			}
		}
		for _, e := range b.queued() {
			if want := map[uint32]string{0: "deferred", 1: "held"}[e.Ordinal]; e.State != want || e.Ordinal == 0 && (e.Tries != 3 || !e.Due.Equal(due)) {
				t.Errorf("%+v is not %s", e, want)
			}
		}
		w.nodes["b"].kill()
		w.nodes["b"].start()
	}
	w.ledger()
}

// TestAbandonedMailIsSentFromHere: the target is away, an admin keeps the mail; when it comes back
// it drops its copies.
func TestAbandonedMailIsSentFromHere(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"T1", "T2", "T3"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 3, "a", "b")
			a := w.nodes["a"].p
			for n := range 6 {
				w.nodes["a"].accept(n, 2)
			}
			w.until("the mail is queued", func() bool { return len(a.queued()) == 12 })
			w.nodes["b"].p.dieAt(step, 0)
			if n, err := a.move("b", all); err == nil || n != 0 || !strings.Contains(err.Error(), "--abandon") {
				t.Fatal(n, err)
			}
			list := a.mover.Transfers()
			if len(list) != 1 || list[0].Node != "b" || list[0].Recipients != 12 || list[0].Why == "" {
				t.Fatalf("%+v", list)
			}
			if n := len(a.queued()); n != 0 {
				t.Errorf("%d could be sent from here meanwhile", n)
			}
			// The wait outlives the agent, and one from before this package keeps the mail, too.
			w.nodes["a"].kill()
			w.nodes["a"].start()
			a = w.nodes["a"].p
			states, err := a.store.States(firstID(t, a))
			if err != nil || !states[0].Held || !strings.Contains(states[0].Reply, "on its way") {
				t.Errorf("the journal has %+v, %v", states, err)
			}
			if n := len(a.queued()); n != 0 {
				t.Errorf("%d could be sent from here after a restart", n)
			}
			if _, err := a.mover.Abandon("none"); err == nil {
				t.Error("an unknown transfer is abandoned")
			}
			done, err := a.mover.Abandon(list[0].ID)
			if err != nil || done.Recipients != 12 || done.Messages != 6 || len(a.queued()) != 12 {
				t.Fatalf("%+v, %v; %d queued", done, err, len(a.queued()))
			}
			for _, e := range a.queued() {
				if e.State != "waiting" || e.OnHold {
					t.Errorf("%+v", e)
				}
			}
			a.send(all)
			w.ledger()
			if files, _ := filepath.Glob(filepath.Join(w.nodes["b"].dir, spool.MovesDirectory, "*")); len(files) != 0 {
				t.Errorf("left: %q", files)
			}
		})
	}
}

func firstID(t *testing.T, p *process) (id spool.ID) {
	t.Helper()
	p.mover.mu.Lock()
	defer p.mover.mu.Unlock()
	for _, x := range p.mover.out {
		for id := range x.taken {
			return id
		}
	}
	t.Fatal("nothing is on its way")
	return 0
}

// TestAcceptedMailIsRemembered: the origin is gone, the admin of the target accepts what has come;
// the origin comes back.
func TestAcceptedMailIsRemembered(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"O4", "O5"} {
		w := newWorld(t, 4, "a", "b")
		a, b := w.nodes["a"].p, w.nodes["b"].p
		for n := range 6 {
			w.nodes["a"].accept(n, 2)
		}
		w.until("the mail is queued", func() bool { return len(a.queued()) == 12 })
		a.dieAt(step, 0)
		a.move("b", all)
		w.nodes["a"].kill()
		w.nodes["b"].kill()
		w.nodes["b"].start()
		b = w.nodes["b"].p
		w.until("the mail has come", func() bool { l := b.mover.Transfers(); return len(l) == 1 && l[0].In && l[0].Recipients == 12 })
		if n := len(b.queued()); n != 0 {
			t.Errorf("%d would be sent", n)
		}
		done, err := b.mover.Accept(b.mover.Transfers()[0].ID)
		if err != nil || done.Recipients != 12 || len(b.queued()) != 12 {
			t.Fatalf("%+v, %v", done, err)
		}
		b.send(func(e *queue.Entry) bool { return e.Ordinal == 0 })
		w.nodes["b"].kill()
		w.nodes["b"].start()
		b = w.nodes["b"].p
		if n := len(b.queued()); n != 6 {
			t.Errorf("%d queued after a restart", n)
		}
		w.nodes["a"].start()
		w.ledger()
		if files, _ := filepath.Glob(filepath.Join(w.nodes["b"].dir, spool.MovesDirectory, "*")); len(files) != 0 {
			t.Errorf("left: %q", files)
		}
	}
}

func TestFullTargetTakesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 5, "a", "b")
	a := w.nodes["a"].p
	for n := range 3 {
		w.nodes["a"].accept(n, 2)
	}
	w.until("the mail is queued", func() bool { return len(a.queued()) == 6 })
	w.nodes["b"].kill()
	w.nodes["b"].full = true
	w.nodes["b"].start()
	if n, err := a.move("b", all); n != 0 || err == nil || !strings.Contains(err.Error(), "spool full") {
		t.Fatal(n, err)
	}
	if n := len(a.queued()); n != 6 || len(a.mover.Transfers()) != 0 {
		t.Errorf("%d queued, %+v", n, a.mover.Transfers())
	}
	w.ledger()
}

func TestOnlyMembersAndOtherNodesAreAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 6, "a")
	a := w.nodes["a"].p
	w.nodes["a"].accept(1, 1)
	w.until("the mail is queued", func() bool { return len(a.queued()) == 1 })
	for node, want := range map[string]string{"a": "is this one", "b": "connection refused", "B/..": "no name"} {
		if n, err := a.move(node, all); n != 0 || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %d, %v", node, n, err)
		}
	}
	a.mover.Use("", nil)
	if _, err := a.move("b", all); err == nil || !strings.Contains(err.Error(), "no fleet") {
		t.Error(err)
	}
	if len(a.queued()) != 1 || len(a.mover.Transfers()) != 0 {
		t.Errorf("%+v", a.mover.Transfers())
	}
	w.ledger()
}

// TestListThatCannotBeReadStopsTheStart: what stands in it may be sent by two nodes.
func TestListThatCannotBeReadStopsTheStart(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"out-20260101-000000-00.json": `{"v":2,"transfer":"20260101-000000-00","node":"b"}`,
		"out-20260101-000000-01.json": `{"v":1,"transfer":"`,
		"in-b.x.json":                 `{"v":1,"transfer":"y","node":"b","in":true}`,
	} {
		dir := t.TempDir()
		os.Mkdir(filepath.Join(dir, spool.MovesDirectory), 0o700)
		os.WriteFile(filepath.Join(dir, spool.MovesDirectory, name), []byte(content), 0o600)
		if _, err := New(Options{Spool: dir}); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "remedy") {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := t.TempDir()
	os.Mkdir(filepath.Join(dir, spool.MovesDirectory), 0o700)
	left := filepath.Join(dir, spool.MovesDirectory, "out-x.json.1.tmp")
	os.WriteFile(left, nil, 0o600)
	if _, err := New(Options{Spool: dir}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("what a crash left stays")
	}
}

// TestVerdictThatCannotBeWritten: a copy whose verdict fails is durable all the same, and the store
// finds it as an orphan. So the target has it, and the origin does not send it as well.
func TestVerdictThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 7, "a", "b")
	a, b := w.nodes["a"].p, w.nodes["b"].p
	w.nodes["a"].accept(1, 2)
	w.until("the mail is queued", func() bool { return len(a.queued()) == 2 })
	a.mu.Lock()
	a.at = func(step string) {
		if step == "O4" && len(b.queued()) == 0 { // the answer is here, and the target's disk has failed
			w.nodes["b"].kill()
			w.nodes["b"].start()
		}
	}
	a.mu.Unlock()
	b.mu.Lock()
	b.at = func(step string) {
		if step == "T2" {
			b.writer.Close()
		}
	}
	b.mu.Unlock()
	a.move("b", all)
	w.ledger()
	if by := w.sent["r1.0@d0.example"]; len(by) != 1 || by[0] != "b" {
		t.Errorf("sent by %q", by)
	}
}

// TestWhatANodeSendsIsBounded: no node can have this one keep more than so many transfers, or read a
// header that swells in memory.
func TestWhatANodeSendsIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 8, "a", "b")
	b := w.nodes["b"].p
	from := lines{w, w.nodes["a"].p}
	post := func(path, body string) (int, string) {
		resp, err := from.Do(t.Context(), "b", "POST", path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	for n := range maxTransfers + 20 {
		if code, text := post(pathConfirm, fmt.Sprintf(`{"v":1,"transfer":"closed-%d","number":1}`, n)); code != 200 {
			t.Fatal(code, text)
		}
	}
	if n := len(b.mover.in); n != maxTransfers {
		t.Errorf("%d closed transfers are known", n)
	}
	e := spool.EncodeEnvelope(&spool.Envelope{Sender: "x@example.com", Recipients: []spool.Recipient{{Address: "y@example.com"}}})
	batch := func(name string) (int, string) {
		h, err := json.Marshal(&header{Version: 1, Transfer: name, Number: 1, Messages: []headerMessage{{message: message{ID: spool.ID(1 << 40).String(), Recipients: make([]recipient, 1)}, Envelope: e}}})
		if err != nil {
			t.Fatal(err)
		}
		return post(pathBatch, string(h)+"\n")
	}
	for n := range maxTransfers {
		if code, text := batch(fmt.Sprintf("open-%d", n)); code != 200 {
			t.Fatal(code, text)
		}
	}
	if code, text := batch("open-more"); code != 503 || !strings.Contains(text, "remedy") {
		t.Errorf("one more: %d %s", code, text)
	}
	if code, text := batch("open-0"); code != 200 {
		t.Errorf("one of them again: %d %s", code, text)
	}
	if code, text := post(pathBatch, `{"v":1,"transfer":"t","number":1,"messages":[0`+strings.Repeat(",0", maxValues+1)+"]}\n"); code != 503 || !strings.Contains(text, "too many values") {
		t.Errorf("many values: %d %s", code, text)
	}
	for _, messages := range []string{`[]`, `[{"id":"M1-0"}]`} {
		if code, text := post(pathBatch, `{"v":1,"transfer":"closed-1","number":2,"messages":`+messages+"}\n"); code != 503 {
			t.Errorf("messages %s: %d %s", messages, code, text)
		}
	}
	b.stop() // what is open stays
}
