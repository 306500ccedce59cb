package wire

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// writeCounter counts the writes of one side.
type writeCounter struct {
	net.Conn
	n atomic.Int32
}

func (w *writeCounter) Write(p []byte) (int, error) { w.n.Add(1); return w.Conn.Write(p) }

func TestDeletionsAndVerdictLeaveInOneWrite(t *testing.T) {
	t.Parallel()
	written := make(chan error, 1)
	s := serve(t, Options{}, func(r *recorder) {
		r.endOfMessage = func(context.Context) Verdict {
			return Verdict{Action: Accept, Delete: []string{"<b@y>", "c@y"}, Written: func(err error) { written <- err }}
		}
	})
	ours, theirs := net.Pipe()
	w := &writeCounter{Conn: theirs}
	p := s.over(ours, w)
	p.greet()
	p.mail("<a@x>", "<b@y>", "c@y")
	p.expect('c')
	before := w.n.Load()
	p.send('E')
	for _, want := range []string{"-<b@y>\x00", "-c@y\x00", "a"} {
		if code, data := p.read(); string(code)+data != want {
			t.Errorf("got %q, want %q", string(code)+data, want)
		}
	}
	if err := <-written; err != nil {
		t.Errorf("verdict written: %v", err)
	}
	if n := w.n.Load() - before; n != 1 {
		t.Errorf("%d writes for one verdict", n)
	}
}

func TestHandlerHearsThatItsVerdictWasNotWritten(t *testing.T) {
	t.Parallel()
	written := make(chan error, 2)
	gone := make(chan struct{})
	s := serve(t, Options{}, func(r *recorder) {
		r.endOfMessage = func(context.Context) Verdict {
			<-gone
			return Verdict{Action: Accept, Written: func(err error) { written <- err }}
		}
	})
	p := s.dial()
	p.greet()
	p.mail("<a@x>", "<b@y>")
	p.expect('c')
	p.send('E')
	p.Close()
	close(gone)
	if err := <-written; err == nil {
		t.Error("told that the verdict was written")
	}
	<-s.backend().closed
	if len(written) > 0 {
		t.Error("told twice")
	}
	if strings.Contains(s.backend().seen(), "abort") {
		t.Error("a message with a verdict was aborted as well")
	}
}

func TestProgressIsSentWhileAVerdictTakesTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := serve(t, Options{ProgressEvery: 4 * time.Second}, func(r *recorder) {
			r.endOfMessage = func(context.Context) Verdict {
				time.Sleep(9 * time.Second)
				return Verdict{Action: Accept, Delete: []string{"<b@y>"}}
			}
		})
		p := s.dial()
		p.greet()
		p.mail("<a@x>", "<b@y>")
		p.expect('c')
		start := time.Now()
		p.send('E')
		p.expect('p')
		if d := time.Since(start); d != 4*time.Second {
			t.Errorf("first PROGRESS after %v", d)
		}
		p.expect('p', '-', 'a')
		p.Close()
		s.stop()
		<-s.done
	})
}

func TestVerdictIsGivenUpWhenTheMTAIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		written := make(chan error, 1)
		s := serve(t, Options{}, func(r *recorder) {
			r.endOfMessage = func(ctx context.Context) Verdict {
				<-ctx.Done() // ends when PROGRESS cannot be written
				return Verdict{Action: Accept, Written: func(err error) { written <- err }}
			}
		})
		p := s.dial()
		p.greet()
		p.mail("<a@x>", "<b@y>")
		p.expect('c')
		p.send('E')
		synctest.Wait()
		p.Close()
		if err := <-written; err == nil {
			t.Error("told that the verdict was written")
		}
		s.stop()
		<-s.done
	})
}

func TestPanicLeavesTheMessageWithTheHost(t *testing.T) {
	t.Parallel()
	for name, setup := range map[string]func(*recorder){
		"header": func(r *recorder) {
			once := true
			r.onHeader = func() {
				if once {
					once = false
					panic("header")
				}
			}
			r.endOfHeaders = func(context.Context) Verdict { return Verdict{Action: TempFail} }
		},
		"end of headers": func(r *recorder) {
			once := true
			r.endOfHeaders = func(context.Context) Verdict {
				if once {
					once = false
					panic("eoh")
				}
				return Verdict{Action: TempFail}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, Options{}, setup)
			p := s.dial()
			p.greet()
			p.mail("<a@x>", "<b@y>")
			p.expect('a')
			if !strings.HasSuffix(s.backend().seen(), "abort") {
				t.Errorf("calls:\n%s\nwant an abort at last", s.backend().seen())
			}
			p.mail("<c@x>", "<d@y>") // the connection lives, the next message is decided
			p.expect('t')
		})
	}
}
