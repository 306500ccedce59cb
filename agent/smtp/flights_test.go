package smtp

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
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
		{"BDAT, 150 recipients by DATA", []string{"PIPELINING", "CHUNKING"}, 2, []sending{warm}, sending{rcpts: 150, size: 8 << 10}, 3},
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
				o := Options{Hello: "client.example", Timeouts: Timeouts{Quit: time.Second}, TLS: Opportunistic}
				o.Dial = overPipe(func(nc net.Conn) {
					d := newDistant(nc)
					defer d.Close()
					pleased{tls: id.server, offers: test.offers}.serve(d)
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

// A size that leaves the prefix out is wrong, and no reason to write beyond a block.
func TestPrefixBeyondTheSize(t *testing.T) {
	t.Parallel()
	c, err := Dial(t.Context(), anywhere, Options{Hello: "client.example", Dial: overPipe(pleased{offers: []string{"PIPELINING", "CHUNKING"}}.serve)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Quit(t.Context())
	tx := message("s@a.example", "r@b.example")
	tx.Prefix, tx.Size = bytes.Repeat([]byte("x"), 2*blockSize), 21
	if res, err := c.Send(t.Context(), tx); err != nil || res.Recipients[0].Fate != Accepted {
		t.Errorf("%+v, %v", res, err)
	}
}
