package smtp

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const roundTrip = 50 * time.Millisecond

// distant is a server's end of a connection to a client a round trip away: what it
// writes arrives that much later, all at once. Reads are not delayed, so the whole
// round trip lies in the replies, and the clock of a synctest bubble moves by one
// roundTrip for each time the client waits for the server.
type distant struct {
	net.Conn
	sent chan onTheWay
	done chan struct{}
}

type onTheWay struct {
	due time.Time
	p   []byte
}

func newDistant(nc net.Conn) *distant {
	d := &distant{Conn: nc, sent: make(chan onTheWay, 1000), done: make(chan struct{})}
	go func() {
		defer close(d.done)
		for s := range d.sent {
			time.Sleep(time.Until(s.due))
			_, _ = nc.Write(s.p)
		}
	}()
	return d
}

func (d *distant) Write(p []byte) (int, error) {
	d.sent <- onTheWay{time.Now().Add(roundTrip), append([]byte(nil), p...)}
	return len(p), nil
}

func (d *distant) Close() error {
	close(d.sent)
	<-d.done
	return d.Conn.Close()
}

// pleased serves a connection and accepts everything but recipients that begin with
// "no". Like real servers it answers a group of commands with one write.
func pleased(nc net.Conn, conf *tls.Config, offers ...string) {
	in, out := bufio.NewReader(nc), bufio.NewWriter(nc)
	say := func(s string) { _, _ = out.WriteString(s + "\r\n") }
	say("220 mx.example")
	good, data := 0, false
	for {
		if in.Buffered() == 0 {
			_ = out.Flush()
		}
		l, err := in.ReadString('\n')
		if err != nil {
			return
		}
		switch verb, _, _ := strings.Cut(strings.TrimSpace(l), " "); {
		case data:
			if verb == "." {
				data = false
				say("250 queued")
			}
		case verb == "EHLO":
			say("250-mx.example\r\n250-" + strings.Join(offers, "\r\n250-") + "\r\n250 HELP")
		case verb == "STARTTLS":
			say("220 go")
			_ = out.Flush()
			tc := tls.Server(nc, conf)
			if tc.Handshake() != nil {
				return
			}
			nc, in, out, offers = tc, bufio.NewReader(tc), bufio.NewWriter(tc), offers[1:]
		case verb == "MAIL":
			good = 0
			say("250 ok")
		case verb == "RCPT" && strings.HasPrefix(l, "RCPT TO:<no"):
			say("550 5.1.1 no such user")
		case verb == "RCPT":
			good++
			say("250 ok")
		case verb == "DATA" && good > 0:
			data = true
			say("354 go")
		case verb == "BDAT":
			var n int
			_, _ = fmt.Sscanf(l, "BDAT %d LAST", &n)
			_, _ = in.Discard(n)
			if good > 0 {
				say("250 queued")
			} else {
				say("503 no recipients")
			}
		case verb == "DATA":
			say("503 no recipients")
		default:
			say("250 ok")
		}
	}
}

// How often a client waits for the server, whatever that costs: each wait is a
// round trip.
func TestFlights(t *testing.T) {
	t.Parallel()
	type sending struct {
		rcpts   int
		refused bool // all of them
		size    int  // of the content
	}
	warm := sending{rcpts: 1, size: 8 << 10}
	for _, test := range []struct {
		name   string
		offers []string
		open   int // flights until MAIL may follow, the greeting is the first
		before []sending
		send   sending
		want   int // flights of send
	}{
		{"DATA", []string{"PIPELINING"}, 2, []sending{warm}, warm, 2},
		{"DATA, first message", []string{"PIPELINING"}, 2, nil, warm, 2},
		{"DATA, 50 recipients", []string{"PIPELINING"}, 2, []sending{warm}, sending{rcpts: 50, size: 8 << 10}, 2},
		{"DATA, 150 recipients", []string{"PIPELINING"}, 2, []sending{warm}, sending{rcpts: 150, size: 8 << 10}, 3},
		{"DATA, 1 MB", []string{"PIPELINING"}, 2, []sending{warm}, sending{rcpts: 1, size: 1 << 20}, 2},
		{"DATA, after a refusal", []string{"PIPELINING"}, 2, []sending{{1, true, 100}}, warm, 2},
		{"DATA, refused", []string{"PIPELINING"}, 2, []sending{warm}, sending{1, true, 100}, 1},
		{"DATA through TLS", []string{"STARTTLS", "PIPELINING"}, 5, []sending{warm}, warm, 2},
		{"BDAT", []string{"PIPELINING", "CHUNKING"}, 2, []sending{warm}, warm, 1},
		{"BDAT, first message", []string{"PIPELINING", "CHUNKING"}, 2, nil, warm, 1},
		{"BDAT, 50 recipients", []string{"PIPELINING", "CHUNKING"}, 2, []sending{warm}, sending{rcpts: 50, size: 50 << 10}, 1},
		{"BDAT, 1 MB by DATA", []string{"PIPELINING", "CHUNKING"}, 2, []sending{warm}, sending{rcpts: 1, size: 1 << 20}, 2},
		{"BDAT, after a refusal", []string{"PIPELINING", "CHUNKING"}, 2, []sending{{1, true, 100}}, warm, 2},
		{"BDAT, refused", []string{"PIPELINING", "CHUNKING"}, 2, []sending{warm}, sending{1, true, 100}, 1},
		{"BDAT through TLS", []string{"STARTTLS", "PIPELINING", "CHUNKING"}, 5, []sending{warm}, warm, 1},
		{"stepwise, 2 recipients", []string{"SIZE"}, 2, []sending{warm}, sending{rcpts: 2, size: 8 << 10}, 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				id := newIdentity(t)
				o := Options{Hello: "client.example", TLS: Opportunistic}
				o.Dial = overPipe(func(nc net.Conn) {
					d := newDistant(nc)
					defer d.Close()
					pleased(d, id.server, test.offers...)
				})
				last := time.Now()
				flights := func() int {
					d := time.Since(last)
					last = time.Now()
					if d%roundTrip != 0 {
						t.Errorf("%v are no whole round trips", d)
					}
					return int(d / roundTrip)
				}
				c, err := Dial(t.Context(), anywhere, o)
				if err != nil {
					t.Fatal(err)
				}
				if n := flights(); n != test.open {
					t.Errorf("%d flights to open, want %d", n, test.open)
				}
				send := func(s sending) {
					tx := &Tx{Sender: "s@a.example", Size: int64(s.size)}
					for i := range s.rcpts {
						tx.Recipients = append(tx.Recipients, Rcpt{Address: fmt.Sprintf("r%d@b.example", i)})
						if s.refused {
							tx.Recipients[i].Address = "no" + tx.Recipients[i].Address
						}
					}
					tx.Content = io.LimitReader(lines{}, tx.Size)
					res, err := c.Send(t.Context(), tx)
					if err != nil {
						t.Fatal(err)
					}
					for _, r := range res.Recipients {
						if r.Fate == Accepted == s.refused {
							t.Errorf("%+v", r)
						}
					}
				}
				for _, s := range test.before {
					send(s)
				}
				flights()
				send(test.send)
				if n := flights(); n != test.want {
					t.Errorf("%d flights, want %d", n, test.want)
				}
				c.Quit(context.Background())
				synctest.Wait()
			})
		})
	}
}

// lines are endless content of short lines.
type lines struct{}

func (lines) Read(p []byte) (int, error) {
	const line = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghij\r\n"
	n := 0
	for n < len(p) {
		n += copy(p[n:], line)
	}
	return n, nil
}
