package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// moveMessages and moveKills are how much mail moves to and fro, and how often an agent is killed
// meanwhile.
var moveMessages, moveKills = 2000, 4

// killed is an agent of a process of its own that is killed now and then.
type killed struct {
	*stage
	member string
	cmd    *exec.Cmd
}

func (k *killed) start() {
	exe, err := os.Executable()
	if err != nil {
		k.t.Fatal(err)
	}
	c, err := json.Marshal(k.config)
	if err != nil {
		k.t.Fatal(err)
	}
	k.cmd = exec.Command(exe)
	k.cmd.Env = append(os.Environ(), asAgent+"=1", asMember+"="+k.member)
	k.cmd.Stdin, k.cmd.Stdout, k.cmd.Stderr = bytes.NewReader(c), k.log, k.log
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := k.cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
}

func (k *killed) kill() {
	k.cmd.Process.Kill()
	k.cmd.Wait()
}

// left is how much is queued or on its way; -1: it cannot be asked.
func (k *killed) left() int {
	c := control.NewClient(k.config.Agent.Control)
	defer c.Close()
	st, err := c.Status(k.t.Context())
	if err != nil || st.Loading {
		return -1
	}
	list, err := c.Transfers(k.t.Context())
	if err != nil {
		return -1
	}
	return st.Queued() + len(list)
}

// TestKilledAgainAndAgainWhileMailMoves moves mail from one node to the other and back, both in
// processes of their own, and kills one after the other with SIGKILL. A part of the mail is
// delivered meanwhile, and the rest in the end. None is lost. What waited is delivered once; of
// what was in transactions when an agent was killed, copies may come again, as at any kill.
func TestKilledAgainAndAgainWhileMailMoves(t *testing.T) {
	t.Parallel()
	first := newStage(t, func(c *config.Config) { c.Agent.HTTP.Listen = nil },
		sink.Provider{Name: "now", Domains: []string{"now.test"}}, sink.Provider{Name: "later", Domains: []string{"later.test"}})
	nodes := []*killed{{stage: first}, {stage: first.beside()}}
	m := members(t, "a", "b")
	for i, name := range []string{"a", "b"} {
		b, err := json.Marshal(m[name])
		if err != nil {
			t.Fatal(err)
		}
		k := nodes[i]
		k.member = string(b)
		k.start()
		t.Cleanup(func() { k.kill() })
		k.until("it is up", func() bool { return k.left() >= 0 })
		k.pause(control.Filter{Domain: "later.test"}, "until the end")
	}
	body := func(i int) string {
		return fmt.Sprintf("Subject: %d\r\n\r\n%s", i, strings.Repeat(fmt.Sprintf("%d and so on\r\n", i), 10+i%200))
	}
	to := func(i int) string {
		if i%10 == 0 {
			return fmt.Sprintf("u%d@now.test", i)
		}
		return fmt.Sprintf("u%d@later.test", i)
	}
	began := time.Now()
	for i := 0; i < moveMessages; {
		batch := make(chan error, 256)
		n := 0
		for ; n < cap(batch) && i < moveMessages; n++ {
			go func(i int) {
				e := spool.Envelope{Sender: "n@news.test", Stream: "news", Arrived: time.Now(), QueueID: fmt.Sprint("4Q", i), Recipients: []spool.Recipient{{Address: to(i)}}}
				r, err := first.writer.Append(t.Context(), &e, strings.NewReader(body(i)))
				if err == nil {
					err = r.Release()
				}
				batch <- err
			}(i)
			i++
		}
		for range n {
			if err := <-batch; err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d messages in the spool after %v", moveMessages, time.Since(began).Round(time.Millisecond))

	// Mail moves until all kills are done; then to the second node.
	var kills, moved, failed atomic.Int64
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		defer close(done)
		for turn := 0; ctx.Err() == nil; turn++ {
			over := kills.Load() >= int64(moveKills)
			if over && nodes[0].left() == 0 {
				return
			}
			from, to := nodes[turn%2], []string{"b", "a"}[turn%2]
			if over {
				from, to = nodes[0], "b"
			}
			told := 0
			tell := func(n control.Selected) {
				moved.Add(int64(n.Recipients - told))
				told = n.Recipients
			}
			client := control.NewClient(from.config.Agent.Control)
			n, err := client.Act(ctx, control.Action{Verb: control.VerbMove, To: to, Filter: control.Filter{All: true}}, tell)
			client.Close()
			tell(n)
			if err != nil {
				failed.Add(1)
				time.Sleep(20 * time.Millisecond)
			}
		}
	}()
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range moveKills {
		k := nodes[i%2]
		before := moved.Load()
		begin := time.Now()
		time.Sleep(time.Duration(rnd.IntN(600)) * time.Millisecond)
		// Something has moved since the last kill, so that it is not always the start that dies.
		for moved.Load() == before && time.Since(begin) < 20*time.Second {
			time.Sleep(time.Millisecond)
		}
		k.kill()
		kills.Add(1)
		time.Sleep(time.Duration(rnd.IntN(100)) * time.Millisecond)
		k.start()
	}
	<-done
	t.Logf("%d kills after %v: %d recipients moved, %d moves ended with an error", kills.Load(), time.Since(began).Round(time.Millisecond), moved.Load(), failed.Load())
	for _, k := range nodes {
		k.until("no transfer is open", func() bool { return k.left() >= 0 })
		k.resume(control.Filter{Domain: "later.test"})
	}
	// As long as it takes, on whatever machine, while something is delivered.
	for _, k := range nodes {
		for left, last, since := k.left(), -1, time.Now(); left != 0; left = k.left() {
			if left != last {
				last, since = left, time.Now()
			} else if time.Since(since) > 2*time.Minute {
				t.Fatalf("%d are not delivered\n%s", left, k.log)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	times := make(map[string]int)
	for _, x := range append(first.at("now"), first.at("later")...) {
		times[x.recipient]++
		var i int
		if _, err := fmt.Sscanf(x.recipient, "u%d@", &i); err != nil || !strings.HasSuffix(x.content, body(i)) {
			t.Errorf("%s got what is not its message", x.recipient)
		}
	}
	lost, again, againLater := 0, 0, 0
	for i := range moveMessages {
		switch n := times[to(i)]; {
		case n == 0:
			lost++
		case n > 1 && i%10 == 0:
			again += n - 1
		case n > 1:
			againLater += n - 1
		}
	}
	t.Logf("after %v: %d lost, %d repeated that were in transactions, %d others repeated", time.Since(began).Round(time.Millisecond), lost, again, againLater)
	// Each kill repeats at most what was in transactions then: one message on each session.
	if most := moveKills * nodes[0].config.General.MaxSessions; lost > 0 || againLater > 0 || again > most {
		t.Errorf("%d lost, %d of what waited repeated, %d of what was in transactions, of which there may be %d", lost, againLater, again, most)
	}
	for _, k := range nodes {
		if log := k.log.String(); strings.Contains(log, "level=ERROR") {
			for line := range strings.Lines(log) {
				if strings.Contains(line, "level=ERROR") {
					t.Log(line)
				}
			}
		}
	}
}
