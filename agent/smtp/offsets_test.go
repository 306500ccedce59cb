package smtp

import (
	"bufio"
	"errors"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Where the server's octets end decides the fate. The server here says a given
// number of octets of its part, at the places where they belong, and closes.
func TestCloseAtEveryOffset(t *testing.T) {
	t.Parallel()
	for name, ehlo := range map[string]string{
		"pipelined": "250-mx.example\r\n250 PIPELINING\r\n",
		"stepwise":  "250 mx.example\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// What is said, and how many lines of the client come before it.
			said := []struct {
				text  string
				lines int
			}{
				{"220 mx.example\r\n", 0},
				{ehlo, 1},
				{"250 2.1.0 ok\r\n", 1},
				{"250 2.1.5 ok\r\n", 1},
				{"550 5.1.1 no such user\r\n", 1},
				{"354 go\r\n", 1},
				{"250 2.0.0 queued\r\n", 4}, // the text and the dot
			}
			var ends []int
			total := 0
			for _, s := range said {
				total += len(s.text)
				ends = append(ends, total)
			}
			serve := func(limit int) func(net.Conn) {
				return func(nc net.Conn) {
					_ = nc.SetDeadline(time.Now().Add(patience))
					in := bufio.NewReader(nc)
					for _, s := range said {
						for range s.lines {
							if _, err := in.ReadString('\n'); err != nil {
								return
							}
						}
						n := min(limit, len(s.text))
						if _, err := nc.Write([]byte(s.text[:n])); err != nil {
							return
						}
						if limit -= n; n < len(s.text) {
							// Take what the client has sent, so that closing
							// is an end and no reset.
							_, _ = in.Discard(in.Buffered())
							return
						}
					}
				}
			}
			for limit := range total + 1 {
				t.Run(strconv.Itoa(limit), func(t *testing.T) {
					addr := listen(t, serve(limit))
					c, err := Dial(t.Context(), addr, Options{Hello: "client.example", Timeouts: patient()})
					if up := limit >= ends[1]; up != (err == nil) {
						t.Fatalf("dial: %v", err)
					}
					if err != nil {
						var e *Error
						if want := [...]Stage{StageGreeting, StageHello}[stageAt(ends, limit)]; !errors.As(err, &e) || e.Stage != want {
							t.Errorf("dial: %v", err)
						}
						return
					}
					defer c.Close()
					res, err := c.Send(t.Context(), message("s@a.example", "r1@b.example", "r2@b.example"))
					whole := limit == total
					if whole != (err == nil) {
						t.Errorf("send: %v", err)
					}
					r1, r2 := NotOffered, NotOffered
					if limit >= ends[5] {
						r1 = InDoubt
					}
					if whole {
						r1 = Accepted
					}
					if limit >= ends[4] {
						r2 = Refused
					}
					if got := res.Recipients[0].Fate; got != r1 {
						t.Errorf("first: %v, want %v (%v)", got, r1, err)
					}
					if got := res.Recipients[1].Fate; got != r2 {
						t.Errorf("second: %v, want %v (%v)", got, r2, err)
					}
				})
			}
		})
	}
}

func stageAt(ends []int, limit int) int {
	for i, e := range ends {
		if limit < e {
			return i
		}
	}
	return len(ends)
}

// With more recipients than one write takes, all of them are settled and
// neither side waits for the other to read, narrow as the buffers are.
func TestManyRecipients(t *testing.T) {
	t.Parallel()
	const n = 1000
	long := strings.Repeat("x", 115) // twice in an address, which has 254 octets at most
	narrow := func(nc net.Conn) {
		_ = nc.(*net.TCPConn).SetReadBuffer(64 << 10)
		_ = nc.(*net.TCPConn).SetWriteBuffer(64 << 10)
	}
	addr := listen(t, func(nc net.Conn) {
		narrow(nc)
		_ = nc.SetDeadline(time.Now().Add(patience))
		in := bufio.NewReader(nc)
		say := func(s string) { _, _ = nc.Write([]byte(s + "\r\n")) }
		say("220 mx.example")
		data, rcpts := false, 0
		for {
			l, err := in.ReadString('\n')
			switch verb := strings.ToUpper(l[:min(4, len(l))]); {
			case err != nil:
				return
			case data:
				if l == ".\r\n" {
					data = false
					say("250 queued")
				}
			case verb == "EHLO":
				say("250-mx.example\r\n250 PIPELINING")
			case verb == "RCPT":
				if rcpts++; rcpts%10 == 0 {
					say("550 5.1.1 " + long)
				} else {
					say("250 2.1.5 " + long)
				}
			case verb == "DATA":
				data = true
				say("354 go")
			default:
				say("250 ok")
			}
		}
	})
	c, err := Dial(t.Context(), addr, Options{Hello: "client.example", Timeouts: patient()})
	if err != nil {
		t.Fatal(err)
	}
	narrow(c.wire.raw)
	tx := message("s@a.example")
	for i := range n {
		tx.Recipients = append(tx.Recipients, Rcpt{Address: strconv.Itoa(i) + long + long + "@b.example"})
	}
	res, err := c.Send(t.Context(), tx)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range res.Recipients {
		want := Accepted
		if i%10 == 9 {
			want = Refused
		}
		if r.Fate != want {
			t.Fatalf("recipient %d: %v", i, r.Fate)
		}
	}
	c.Quit(t.Context())
}
