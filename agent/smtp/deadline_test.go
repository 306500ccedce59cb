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

// stageServer answers up to a stage and is silent from there on, or does not
// even read any more if it is deaf.
func stageServer(silent Stage, deaf bool) func(net.Conn) {
	return func(nc net.Conn) {
		in := bufio.NewReader(nc)
		say := func(s string) { _, _ = nc.Write([]byte(s + "\r\n")) }
		hang := func() {
			if deaf {
				// Nothing is read until the client has gone: a write notices.
				for {
					time.Sleep(time.Hour)
					if _, err := nc.Write([]byte{0}); err != nil {
						return
					}
				}
			}
			_, _ = io.Copy(io.Discard, in)
		}
		if silent == StageGreeting {
			hang()
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
				if silent != StageContent {
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
			if stage == StageHello && silent == StageStartTLS {
				reply = "250-mx.example\r\n250 STARTTLS"
			}
			if stage == silent {
				hang()
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

func TestEachStageHasItsDeadline(t *testing.T) {
	t.Parallel()
	for silent, want := range map[Stage]time.Duration{
		StageGreeting: 5 * time.Minute, StageHello: 5 * time.Minute, StageStartTLS: 5 * time.Minute, StageMail: 5 * time.Minute,
		StageRcpt: 5 * time.Minute, StageData: 2 * time.Minute, StageDot: 10 * time.Minute,
	} {
		t.Run(silent.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				o := Options{Hello: "client.example", TLS: Opportunistic, Dial: overPipe(stageServer(silent, false))}
				c, err := Dial(t.Context(), anywhere, o)
				if err == nil {
					var res Result
					res, err = c.Send(t.Context(), message("s@a.example", "r@b.example"))
					fate := NotOffered
					if silent == StageDot {
						fate = InDoubt
					}
					if r := res.Recipients[0]; r.Fate != fate || r.Stage != silent {
						t.Errorf("%+v", r)
					}
				}
				var e *Error
				if !errors.As(err, &e) || e.Stage != silent || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("%v", err)
				}
				within(t, start, want)
				synctest.Wait()
			})
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

// A greeting that trickles in is no reason to wait longer.
func TestSlowReplyEndsAtItsDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, err := Dial(t.Context(), anywhere, Options{Hello: "client.example", Dial: overPipe(func(nc net.Conn) {
			for {
				if _, err := nc.Write([]byte("2")); err != nil {
					return
				}
				time.Sleep(50 * time.Second)
			}
		})})
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%v", err)
		}
		within(t, start, 5*time.Minute)
		time.Sleep(time.Minute) // until the server has noticed
	})
}

// A receiver that stops reading is cut after one DataBlock; one that reads
// slowly has a DataBlock for every block.
func TestStalledContentIsCut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, err := Dial(t.Context(), anywhere, Options{Hello: "client.example", Dial: overPipe(stageServer(StageContent, true))})
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
			stageServer(StageIdle, false)(slowConn{nc})
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
	for _, deaf := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c, err := Dial(t.Context(), anywhere, Options{Hello: "client.example", Dial: overPipe(stageServer(StageQuit, deaf))})
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			c.Quit(t.Context())
			within(t, start, 5*time.Second)
			time.Sleep(2 * time.Hour)
		})
	}
}

// Whatever is being waited for, a cancelled context ends it at once, and a
// later one is not touched by it.
func TestCancelEndsEveryWait(t *testing.T) {
	t.Parallel()
	for _, silent := range []Stage{StageGreeting, StageHello, StageStartTLS, StageMail, StageRcpt, StageData, StageContent, StageDot} {
		t.Run(silent.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				start := time.Now()
				time.AfterFunc(7*time.Second, cancel)
				o := Options{Hello: "client.example", TLS: Opportunistic, Dial: overPipe(stageServer(silent, silent == StageContent))}
				c, err := Dial(ctx, anywhere, o)
				if err == nil {
					tx := message("s@a.example", "r@b.example")
					if silent == StageContent {
						tx.Content = strings.NewReader(strings.Repeat(strings.Repeat("x", 78)+"\r\n", 10_000))
					}
					var res Result
					res, err = c.Send(ctx, tx)
					if want := silent == StageDot; want != (res.Recipients[0].Fate == InDoubt) {
						t.Errorf("%+v", res.Recipients[0])
					}
				}
				var e *Error
				if !errors.Is(err, context.Canceled) || !errors.As(err, &e) || e.Stage != silent {
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
		c, err := Dial(first, anywhere, Options{Hello: "client.example", Dial: overPipe(stageServer(StageIdle, false))})
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
		if c.Transactions() != 3 {
			t.Errorf("%d transactions", c.Transactions())
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
