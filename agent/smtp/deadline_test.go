package smtp

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A turn is what a server does in place of an answer, until the client has gone.
type turn func(nc net.Conn, in *bufio.Reader)

// silent says nothing.
func silent(_ net.Conn, in *bufio.Reader) { _, _ = io.Copy(io.Discard, in) }

// deaf does not even read: only a write notices that the client has gone.
func deaf(nc net.Conn, _ *bufio.Reader) {
	for {
		time.Sleep(time.Hour)
		if _, err := nc.Write([]byte{0}); err != nil {
			return
		}
	}
}

// dribble begins a reply and adds an octet a minute.
func dribble(nc net.Conn, _ *bufio.Reader) {
	for _, err := nc.Write([]byte("250-")); err == nil; time.Sleep(time.Minute) {
		_, err = nc.Write([]byte("x"))
	}
}

// stageServer answers up to a stage and takes its turn there.
func stageServer(stop Stage, hang turn) func(net.Conn) {
	return func(nc net.Conn) {
		in := bufio.NewReader(nc)
		say := func(s string) { _, _ = nc.Write([]byte(s + "\r\n")) }
		if stop == StageGreeting {
			hang(nc, in)
			return
		}
		say("220 mx.example")
		data := false
		for {
			l, err := in.ReadString('\n')
			if err != nil {
				return
			}
			var stage Stage
			reply := "250 ok"
			switch verb := l[:min(4, len(l))]; {
			case data && l != ".\r\n":
				if stop != StageContent {
					continue
				}
				stage = StageContent
			case data:
				data, stage = false, StageDot
			case verb == "EHLO":
				stage = StageHello
			case verb == "STAR":
				stage, reply = StageStartTLS, "220 go"
			case verb == "MAIL":
				stage = StageMail
			case verb == "RCPT":
				stage = StageRcpt
			case verb == "DATA":
				stage, reply, data = StageData, "354 go", true
			case verb == "QUIT":
				stage = StageQuit
			}
			if stage == StageHello && stop == StageStartTLS {
				reply = "250-mx.example\r\n250 STARTTLS"
			}
			if stage == stop {
				hang(nc, in)
				return
			}
			say(reply)
		}
	}
}

func within(t *testing.T, from time.Time, want time.Duration) {
	t.Helper()
	if got := time.Since(from); got < want || got > want+want/10 {
		t.Errorf("took %v, want %v", got, want)
	}
}

// A line that trickles in is no reason to wait longer than for none.
func TestEachStageHasItsDeadline(t *testing.T) {
	t.Parallel()
	for stage, want := range map[Stage]time.Duration{
		StageGreeting: 5 * time.Minute, StageHello: 5 * time.Minute, StageStartTLS: 5 * time.Minute, StageMail: 5 * time.Minute,
		StageRcpt: 5 * time.Minute, StageData: 2 * time.Minute, StageDot: 10 * time.Minute,
	} {
		test := func(t *testing.T, act turn) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				o := Options{Hello: "client.example", TLS: Opportunistic, Dial: overPipe(stageServer(stage, act))}
				c, err := Dial(t.Context(), anywhere, o)
				if err == nil {
					var res Result
					res, err = c.Send(t.Context(), message("s@a.example", "r@b.example"))
					fate := NotOffered
					if stage == StageDot {
						fate = InDoubt
					}
					if r := res.Recipients[0]; r.Fate != fate || r.Stage != stage {
						t.Errorf("%+v", r)
					}
				}
				var e *Error
				if !errors.As(err, &e) || e.Stage != stage || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("%v", err)
				}
				within(t, start, want)
				time.Sleep(time.Hour) // until the server has noticed
			})
		}
		t.Run(stage.String()+"/silent", func(t *testing.T) { test(t, silent) })
		t.Run(stage.String()+"/dribble", func(t *testing.T) { test(t, dribble) })
	}
}

// A reply whose lines keep coming is waited for, as smtp(8) does, but not for ever.
func TestLinesThatKeepComingAreWaitedFor(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ lines, minutes int }{{10, 10}, {1000, 15}} {
		synctest.Test(t, func(t *testing.T) {
			hold := func(nc net.Conn, in *bufio.Reader) {
				for range tt.lines {
					if _, err := io.WriteString(nc, "250-please hold the line\r\n"); err != nil {
						return
					}
					time.Sleep(time.Minute)
				}
				_, _ = io.WriteString(nc, "250 ok\r\n")
				silent(nc, in)
			}
			start := time.Now()
			c, err := Dial(t.Context(), anywhere, Options{Hello: "client.example", Dial: overPipe(stageServer(StageHello, hold))})
			if want := tt.lines == tt.minutes; (err == nil) != want {
				t.Errorf("%d lines: %v", tt.lines, err)
			}
			within(t, start, time.Duration(tt.minutes)*time.Minute)
			if err == nil {
				c.Close()
			}
			time.Sleep(time.Hour) // until the server has noticed
		})
	}
}

// A connection that makes room for another one is over when the peer has closed it, or after
// the time it was given.
func TestPartWaitsForThePeersEnd(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ closes, want time.Duration }{{300 * time.Millisecond, 300 * time.Millisecond}, {time.Hour, time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			bye := func(nc net.Conn, _ *bufio.Reader) {
				_, _ = io.WriteString(nc, "221 bye\r\n")
				time.Sleep(tt.closes)
			}
			c, err := Dial(t.Context(), anywhere, Options{Hello: "client.example", Dial: overPipe(stageServer(StageQuit, bye))})
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			c.Part(t.Context(), time.Second)
			within(t, start, tt.want)
			time.Sleep(2 * time.Hour) // until the server has gone
		})
	}
}

func TestConnectHasItsDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		o := Options{Hello: "client.example", Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		_, err := Dial(t.Context(), anywhere, o)
		var ne net.Error
		if !errors.As(err, &ne) || !ne.Timeout() {
			t.Fatalf("%v", err)
		}
		within(t, start, 30*time.Second)
	})
}

// A receiver that stops reading is cut after one DataBlock; one that reads
// slowly has a DataBlock for every block.
func TestStalledContentIsCut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, err := Dial(t.Context(), anywhere, Options{Hello: "client.example", Dial: overPipe(stageServer(StageContent, deaf))})
		if err != nil {
			t.Fatal(err)
		}
		tx := message("s@a.example", "r@b.example")
		tx.Content = strings.NewReader(strings.Repeat(strings.Repeat("x", 78)+"\r\n", 10_000))
		start := time.Now()
		res, err := c.Send(t.Context(), tx)
		if !errors.Is(err, os.ErrDeadlineExceeded) || res.Recipients[0].Fate != NotOffered || res.Recipients[0].Stage != StageContent {
			t.Fatalf("%+v, %v", res, err)
		}
		within(t, start, 3*time.Minute)
		time.Sleep(2 * time.Hour) // until the server has noticed
	})
}

func TestSlowContentIsNotCut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slow := func(nc net.Conn) {
			stageServer(StageIdle, silent)(slowConn{nc})
		}
		c, err := Dial(t.Context(), anywhere, Options{Hello: "client.example", Dial: overPipe(slow)})
		if err != nil {
			t.Fatal(err)
		}
		tx := message("s@a.example", "r@b.example")
		tx.Content = strings.NewReader(strings.Repeat(strings.Repeat("x", 78)+"\r\n", 10_000))
		start := time.Now()
		res, err := c.Send(t.Context(), tx)
		if err != nil || res.Recipients[0].Fate != Accepted {
			t.Fatalf("%+v, %v", res, err)
		}
		if d := time.Since(start); d < 10*time.Minute {
			t.Errorf("only %v: the server was not slow", d)
		}
		c.Close()
		time.Sleep(time.Minute) // until the server has noticed
	})
}

// slowConn reads 4 KiB in 5 s at most.
type slowConn struct{ net.Conn }

func (s slowConn) Read(p []byte) (int, error) {
	time.Sleep(5 * time.Second)
	return s.Conn.Read(p)
}

func TestQuitIsBounded(t *testing.T) {
	t.Parallel()
	for _, act := range []turn{silent, dribble, deaf} {
		synctest.Test(t, func(t *testing.T) {
			c, err := Dial(t.Context(), anywhere, Options{Hello: "client.example", Dial: overPipe(stageServer(StageQuit, act))})
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			c.Quit(t.Context())
			within(t, start, quitWait)
			time.Sleep(2 * time.Hour)
		})
	}
}

// Whatever is being waited for, a cancelled context ends it at once, and a
// later one is not touched by it.
func TestCancelEndsEveryWait(t *testing.T) {
	t.Parallel()
	for _, stage := range []Stage{StageGreeting, StageHello, StageStartTLS, StageMail, StageRcpt, StageData, StageContent, StageDot} {
		t.Run(stage.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				act := silent
				if stage == StageContent {
					act = deaf
				}
				start := time.Now()
				time.AfterFunc(7*time.Second, cancel)
				o := Options{Hello: "client.example", TLS: Opportunistic, Dial: overPipe(stageServer(stage, act))}
				c, err := Dial(ctx, anywhere, o)
				if err == nil {
					tx := message("s@a.example", "r@b.example")
					if stage == StageContent {
						tx.Content = strings.NewReader(strings.Repeat(strings.Repeat("x", 78)+"\r\n", 10_000))
					}
					var res Result
					res, err = c.Send(ctx, tx)
					if want := stage == StageDot; want != (res.Recipients[0].Fate == InDoubt) {
						t.Errorf("%+v", res.Recipients[0])
					}
				}
				var e *Error
				if !errors.Is(err, context.Canceled) || !errors.As(err, &e) || e.Stage != stage {
					t.Fatalf("%v", err)
				}
				if d := time.Since(start); d != 7*time.Second {
					t.Errorf("ended after %v", d)
				}
				time.Sleep(2 * time.Hour)
			})
		})
	}
}

func TestContextsComeAndGo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		first, cancel := context.WithCancel(t.Context())
		c, err := Dial(first, anywhere, Options{Hello: "client.example", Dial: overPipe(stageServer(StageIdle, silent))})
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			if res, err := c.Send(ctx, message("s@a.example", "r@b.example")); err != nil || res.Recipients[0].Fate != Accepted {
				t.Fatalf("%+v, %v", res, err)
			}
			cancel()
			synctest.Wait()
		}
		// Cancelled while idle: the next use ends at once, although it sets a
		// deadline of its own after the cancellation set one.
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := c.Send(ctx, message("s@a.example", "r@b.example")); err != nil {
			t.Fatal(err)
		}
		cancel()
		synctest.Wait()
		start := time.Now()
		res, err := c.Send(ctx, message("s@a.example", "r@b.example"))
		if !errors.Is(err, context.Canceled) || res.Recipients[0].Fate != NotOffered || time.Since(start) != 0 {
			t.Errorf("%+v, %v after %v", res, err, time.Since(start))
		}
		synctest.Wait()
	})
}
