package milter_test

import (
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/pipes"
	"github.com/millrace/millrace/milter"
)

// limited is divertAll with limits.
func limited(maxSize config.Size, maxBodies int) *config.Config {
	c := divertAll()
	c.Milter.MaxMessageSize, c.Milter.MaxBodies = maxSize, maxBodies
	return c
}

// chunk is a piece of a body as both MTAs send it, and more than is held.
const chunk = 65535 / 64

func TestMessageOverTheLimitStays(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args    []string
		chunks  int
		answers string
	}{
		"as its sender said":     {[]string{"BODY=8BITMIME", "size=150000"}, 0, "a"},
		"more than can be said":  {[]string{"SIZE=99999999999999999999"}, 0, "a"},
		"while it arrives":       {nil, 3, "ca"},
		"at the limit":           {[]string{"SIZE=100000"}, 1, "c-a"},
		"larger than it claimed": {[]string{"SIZE=1"}, 2, "ca"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ln := pipes.New()
			s := serveOn(t, limited(100_000, 1), &fakeSpool{}, ln)
			m := dial(t, ln)
			defer m.Close()
			m.message("<a@b.example>", c.args...)
			m.wants(t, c.answers[:1])
			if len(c.answers) > 1 {
				for range c.chunks {
					m.lines(chunk)
				}
				m.end()
				m.wants(t, c.answers[1:])
			}
			stayed := !strings.Contains(c.answers, "-")
			if n := len(s.log.Lines("verdict=leave", "larger than max_message_size")); (n == 1) != stayed {
				t.Errorf("%d log lines", n)
			}
			if n := len(s.spool.all()); (n == 0) != stayed {
				t.Errorf("%d messages in the spool", n)
			}
		})
	}
}

func TestLargeMessagesBeyondMaxBodiesStay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ln := pipes.New()
		s := serveOn(t, limited(0, 2), &fakeSpool{}, ln)
		begin := func() *rawMTA {
			m := dial(t, ln)
			t.Cleanup(func() { m.Close() })
			m.message("<a@b.example>")
			m.wants(t, "c")
			m.lines(chunk)
			m.lines(chunk)
			synctest.Wait() // a piece that was sent is not yet one that has its place
			return m
		}
		first, second := begin(), begin()
		third := begin()
		third.end()
		third.wants(t, "a")
		if len(s.log.Lines("verdict=leave", "max_bodies large messages")) != 1 || len(s.log.Lines("level=WARN", "max_bodies=2")) != 1 {
			t.Error("the log does not say why it stayed")
		}
		third.message("<a@b.example>") // a small one has room
		third.wants(t, "c")
		third.lines(10)
		third.end()
		third.wants(t, "-a")
		first.end()
		first.wants(t, "-a")
		second.Write(appendPacket(nil, 'A')) // gives its place back too
		synctest.Wait()
		second.message("<a@b.example>")
		second.wants(t, "c")
		for range 2 {
			m := begin()
			m.end()
			m.wants(t, "-a")
		}
		if n := len(s.spool.all()); n != 4 {
			t.Errorf("%d messages in the spool", n)
		}
	})
}

// A disk that hangs keeps no client waiting for longer than the verdict's
// deadline, and Append, when it comes back at last, leaves nothing to the agent.
func TestVerdictDoesNotWaitForAHungSpool(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spool   *fakeSpool
		chunks  int
		failure string
		verdict string
	}{
		"small":    {&fakeSpool{reached: make(chan struct{})}, 1, "accept", "pppppppa"},
		"large":    {&fakeSpool{}, 2, "accept", "pppppppa"},
		"tempfail": {&fakeSpool{}, 2, "tempfail", "pppppppt"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				back := make(chan struct{})
				if c.spool.reached != nil {
					c.spool.hold = back // as the writer does: its context gets it out
				} else {
					c.spool.hung = back // nothing gets it out of a write(2)
				}
				cfg := limited(0, 1)
				cfg.Milter.OnFailure = c.failure
				ln := pipes.New()
				s := serveOn(t, cfg, c.spool, ln)
				m := dial(t, ln)
				m.message("<a@b.example>")
				m.wants(t, "c")
				for range c.chunks {
					m.lines(chunk)
				}
				began := time.Now()
				m.end()
				m.wants(t, c.verdict)
				if d := time.Since(began); d != 30*time.Second {
					t.Errorf("verdict after %v", d)
				}
				if len(s.log.Lines("did not commit the message within 30s", "msg=verdict ")) != 1 {
					t.Error("the log does not say why")
				}
				m.message("<b@b.example>") // does not wait for the same disk
				m.wants(t, c.verdict[len(c.verdict)-1:])
				m.Close()
				close(back)
				s.stop()
				for _, k := range c.spool.all() {
					if v := <-k.verdict; v != "void" {
						t.Errorf("receipt %s", v)
					}
				}
				if n := len(c.spool.all()); n != c.chunks-1 {
					t.Errorf("Append came back %d times", n)
				}
			})
		})
	}
}

// After a message that the spool kept waiting for too long, none is spooled for a
// minute: small ones, which no max_bodies holds back, would all wait as long.
func TestSpoolIsLeftAloneForAMinuteAfterItWasSlow(t *testing.T) {
	t.Parallel()
	for failure, answer := range map[string]string{"accept": "a", "tempfail": "t"} {
		t.Run(failure, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := &fakeSpool{reached: make(chan struct{}), hold: make(chan struct{})}
				cfg := limited(0, 1)
				cfg.Milter.OnFailure = failure
				ln := pipes.New()
				s := serveOn(t, cfg, f, ln)
				m := dial(t, ln)
				m.message("<a@b.example>")
				m.wants(t, "c")
				m.lines(1)
				m.end()
				m.wants(t, "ppppppp"+answer)
				f.hold = nil // the disk is well again; the milter cannot know
				m.message("<b@b.example>")
				m.wants(t, answer)
				time.Sleep(time.Minute - 1)
				m.message("<stay@b.example>") // not bulk: the spool is no matter
				m.wants(t, "a")
				m.message("<c@b.example>")
				m.wants(t, answer)
				if n := len(s.log.Lines("spool was too slow a moment ago", "qid=Q1")); n != 2 {
					t.Errorf("%d messages were left for that reason", n)
				}
				time.Sleep(time.Nanosecond)
				m.message("<d@b.example>")
				m.wants(t, "c")
				m.lines(1)
				m.end()
				m.wants(t, "-a")
				m.Close()
				s.stop()
				if k := f.only(t); k.envelope.Sender != "d@b.example" {
					t.Errorf("kept the mail of %s", k.envelope.Sender)
				}
			})
		})
	}
}

// Sendmail gives up a filter that takes nothing for 10 s, or answers nothing.
func TestBodyIsTakenWhileTheSpoolStalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeSpool{stalled: make(chan struct{})}
		ln := pipes.New()
		s := serveOn(t, limited(0, 1), f, ln)
		m := dial(t, ln)
		m.message("<a@b.example>")
		m.wants(t, "c")
		began := time.Now()
		for range 10 {
			m.lines(chunk)
		}
		if d := time.Since(began); d != 5*time.Second {
			t.Errorf("the body was taken after %v", d)
		}
		m.end()
		m.wants(t, "a")
		if len(s.log.Lines("spool took nothing for 5s", "verdict=leave")) != 1 {
			t.Error("the log does not say why it stayed")
		}
		m.message("<b@b.example>")
		m.wants(t, "a")
		close(f.stalled)
		time.Sleep(time.Minute)
		m.message("<c@b.example>")
		m.wants(t, "c")
		for range 2 {
			m.lines(chunk)
		}
		m.end()
		m.wants(t, "-a")
		m.Close()
		s.stop()
		if k := f.only(t); k.envelope.Sender != "c@b.example" {
			t.Errorf("kept the mail of %s", k.envelope.Sender)
		}
	})
}

// Not parallel: it counts what the whole process allocates, all in all, not only
// at one time.
func TestLargeMessageNeedsLittleMemory(t *testing.T) {
	w, err := spool.OpenWriter(t.TempDir(), spool.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ln := pipes.New()
	s := serveSpool(t, limited(0, 1), milter.FromWriter(w), ln)
	m := dial(t, ln)
	defer m.Close()
	piece := bodyPacket(chunk)
	m.message("<a@b.example>")
	m.wants(t, "c")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const size = 50 << 20
	for range size / len(piece) {
		m.Write(piece)
	}
	m.end()
	m.wants(t, "-a")
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > size/8 {
		t.Errorf("%d octets allocated for a message of %d", used, size)
	}
	s.stop()
}
