package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/ledger"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// post sends newsletters one by one and keeps the ledger of them.
type post struct {
	room *room
	sent ledger.Ledger
	n    int
}

// send sends the next one, of at least so many octets, and returns its id and
// the milter's line about it.
func (p *post) send(octets int) (id, verdict string) {
	p.room.t.Helper()
	id = fmt.Sprintf("post-%d", p.n)
	p.n++
	content := news(id)
	if octets > len(content) {
		content += strings.Repeat(strings.Repeat("x", 70)+"\r\n", (octets-len(content))/72)
	}
	rcpts := []string{fmt.Sprintf("reader%d@far.test", p.n)}
	qid := p.room.send("news@lab.test", rcpts, content)
	var d ledger.Digest
	d.Write([]byte(content))
	sum, h := d.Sum()
	p.sent.Add(&ledger.Message{ID: sum, Recipients: [][]byte{[]byte(rcpts[0])}, Hash: h})
	return id, p.room.verdict(qid)
}

// diverts sends until a message is diverted, or is not, and returns the id and
// the verdict of the first that answers to that.
func (p *post) diverts(want bool, octets int) (id, verdict string) {
	p.room.t.Helper()
	p.room.until(fmt.Sprintf("mail is diverted: %v", want), func() bool {
		id, verdict = p.send(octets)
		return strings.Contains(verdict, "verdict=delrcpt") == want
	})
	return id, verdict
}

// way waits for the one copy of a message and checks by whom it came.
func (p *post) way(id string, ours bool) {
	p.room.t.Helper()
	p.room.until("arrival of "+id, func() bool { return len(p.room.copies(id)) > 0 })
	if a := p.room.copies(id)[0]; a.ours() != ours {
		p.room.t.Errorf("%s came by Millrace: %v, want %v", id, a.ours(), ours)
	}
}

func TestObserveModeDivertsNothing(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{millrace: lab.MillraceOptions{Set: map[string]string{"milter.mode": `"observe"`}}})
	g := &inject.Generator{Seed: 3, Domains: farDomains[:2], MaxRecipients: 5, Transactional: 0.3}
	in := &inject.Injector{Addr: r.Postfix.SMTPAddr(), Connections: 2}
	sent, err := in.Run(r.ctx, 50, g.Message)
	if err != nil || sent.Messages != 50 {
		t.Fatalf("%+v %v", sent, err)
	}
	r.exact(sent.Ledger)
	bulk := 0
	for _, a := range r.all() {
		if a.ours() {
			t.Errorf("%s to %s was diverted", a.id, a.recipient)
		}
	}
	for i := range 50 {
		if g.Message(i).Sender == "bounce@news.sender.test" {
			bulk++
		}
	}
	// What would have been diverted is told.
	if got := r.verdicts(bulk, "verdict=observe"); len(got) != bulk {
		t.Errorf("%d of %d newsletters recognised", len(got), bulk)
	}
}

// The spool takes mail while the agent is away for a short time; after
// agent_grace the host has it all; and what was spooled leaves when the agent
// is back.
func TestAgentDownSpoolsThenLeaves(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{millrace: lab.MillraceOptions{Set: map[string]string{"milter.agent_grace": `"1h"`}}})
	p := &post{room: r}
	r.Millrace.Agent.Kill()
	spooled, line := p.send(0)
	if !strings.Contains(line, "verdict=delrcpt") {
		t.Fatalf("not spooled: %s", line)
	}
	r.rewrite(`agent_grace = "1h"`, `agent_grace = "5s"`)
	r.reload(r.Millrace.Milter)
	left, line := p.diverts(false, 0)
	if !strings.Contains(line, "agent is silent") {
		t.Errorf("verdict: %s", line)
	}
	p.way(left, false)
	if n := len(r.copies(spooled)); n != 0 {
		t.Errorf("%d copies of a spooled message without an agent", n)
	}
	r.start(r.Millrace.Agent)
	p.way(spooled, true)
	again, _ := p.diverts(true, 0)
	p.way(again, true)
	r.exact(&p.sent)
}

// small mounts a file system of so many octets at the spool directory.
func small(t *testing.T, octets int) func(*lab.Millrace) {
	return func(m *lab.Millrace) {
		t.Helper()
		if err := unix.Mount("spool", m.Spool(), "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", octets)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			m.Milter.Kill()
			m.Agent.Kill()
			if err := unix.Unmount(m.Spool(), 0); err != nil {
				t.Error(err)
			}
		})
	}
}

// ballast fills the spool's file system but for so many octets.
func (r *room) ballast(leave uint64) (remove func()) {
	r.t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(r.Millrace.Spool(), &st); err != nil {
		r.t.Fatal(err)
	}
	path := filepath.Join(r.Millrace.Spool(), "ballast")
	f, err := os.Create(path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail*uint64(st.Bsize)-leave)); err != nil {
		r.t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			r.t.Fatal(err)
		}
	}
}

// Under min_free mail stays with the host, and is diverted again when there is
// room; no restart.
func TestFullSpoolLeavesMailWithHost(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{furnish: small(t, 200<<20)})
	p := &post{room: r}
	first, line := p.send(0)
	if !strings.Contains(line, "verdict=delrcpt") {
		t.Fatalf("not diverted: %s", line)
	}
	remove := r.ballast(8 << 20)
	left, line := p.diverts(false, 0)
	if !strings.Contains(line, "verdict=leave") || !strings.Contains(line, "spool full") {
		t.Errorf("verdict: %s", line)
	}
	p.way(first, true)
	p.way(left, false)
	remove()
	again, _ := p.diverts(true, 0)
	p.way(again, true)
	r.exact(&p.sent)
}

// A disk that gets full in the middle of a message is no other case for the
// host and its clients. The agent goes on: what is spooled leaves.
func TestSpoolUnwritableLeavesMailWithHost(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{
		furnish:  small(t, 200<<20),
		millrace: lab.MillraceOptions{Set: map[string]string{"spool.min_free": `"0"`, "general.retry": `["1s"]`}},
	})
	p := &post{room: r}
	down := func(b bool) {
		if err := r.Internet.Change("far", func(f *sink.Behaviour) { f.TempShare = map[bool]float64{true: 1}[b] }); err != nil {
			t.Fatal(err)
		}
	}
	down(true)
	const large = 3 << 20
	var spooled []string
	for range 20 {
		id, line := p.send(0)
		if !strings.Contains(line, "verdict=delrcpt") {
			t.Fatalf("not diverted: %s", line)
		}
		spooled = append(spooled, id)
	}
	remove := r.ballast(0)
	// Postfix cannot deliver either yet, so these wait in its queue.
	left, line := p.diverts(false, large)
	if !strings.Contains(line, "verdict=leave") || !strings.Contains(line, "no space left") {
		t.Errorf("verdict: %s", line)
	}
	down(false)
	for _, id := range spooled {
		p.way(id, true) // with the disk still full
	}
	r.until("Postfix has delivered what stayed", func() bool {
		if err := r.Postfix.Flush(r.ctx); err != nil {
			t.Fatal(err)
		}
		return len(r.copies(left)) > 0
	})
	p.way(left, false)
	remove()
	again, _ := p.diverts(true, large)
	p.way(again, true)
	r.exact(&p.sent)
}
