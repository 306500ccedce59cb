package smtp

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A reply of 100 MB, in many lines or in one, is cut off once it is too long,
// whatever it answers.
func TestEndlessReplyIsCutOff(t *testing.T) {
	t.Parallel()
	const endless = 100 << 20
	for name, text := range map[string]string{
		"lines": "250-" + strings.Repeat("x", 1020) + "\r\n", "short lines": "250-\r\n", "one line": strings.Repeat("250 ", 256), "binary": "\x00\xff\r\r",
	} {
		block := bytes.Repeat([]byte(text), max(1, 1024/len(text)))
		for _, stage := range []Stage{StageGreeting, StageHello, StageStartTLS, StageMail, StageRcpt, StageData, StageDot} {
			t.Run(name+"/"+stage.String(), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					taken := 0
					flood := func(nc net.Conn, _ *bufio.Reader) {
						for taken < endless {
							n, err := nc.Write(block)
							taken += n
							if err != nil {
								return
							}
						}
					}
					start := time.Now()
					o := Options{Hello: "client.example", TLS: Opportunistic, Dial: overPipe(stageServer(stage, flood))}
					c, err := Dial(t.Context(), anywhere, o)
					if err == nil {
						var res Result
						res, err = c.Send(t.Context(), message("s@a.example", "r@b.example"))
						if fate := res.Recipients[0].Fate; (fate == InDoubt) != (stage == StageDot) || fate == Accepted || fate == Refused {
							t.Errorf("%v", fate)
						}
					}
					var e *Error
					if !errors.As(err, &e) || e.Stage != stage || !errors.Is(err, ErrReplyTooLong) && !errors.Is(err, ErrMalformedReply) {
						t.Fatalf("%v", err)
					}
					synctest.Wait()
					if taken > maxReplyBytes+replyBuffer {
						t.Errorf("%d octets were taken", taken)
					}
					if time.Since(start) != 0 {
						t.Errorf("it took %v", time.Since(start))
					}
				})
			})
		}
	}
}

// Garbage where a handshake is expected ends it, however much of it there is, and
// so does a handshake of which an octet comes every ten seconds.
func TestHandshakeIsBounded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		octets string
		every  time.Duration
		want   time.Duration
	}{
		"text":                {octets: "250 ok\r\n"},
		"cipher changes":      {octets: "\x14\x03\x03\x00\x01\x01"},
		"empty records":       {octets: "\x16\x03\x03\x00\x00"},
		"warnings":            {octets: "\x15\x03\x03\x00\x02\x01\x5a"},
		"an endless message":  {octets: "\x16\x03\x03\x00\x04\x02\xff\xff\xff"},
		"the longest record":  {octets: "\x16\x03\x03\x40\x00" + strings.Repeat("\x0b", 1<<14)},
		"too long a record":   {octets: "\x16\x03\x03\xff\xff" + strings.Repeat("\x00", 1<<14)},
		"octets that trickle": {"\x16\x03\x03\x40\x00", 10 * time.Second, 30 * time.Second},
	} {
		for _, implicit := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, implicit %v", name, implicit), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					taken := 0
					start := time.Now()
					o := Options{Hello: "client.example", TLS: Opportunistic, ImplicitTLS: implicit, Dial: overPipe(func(nc net.Conn) {
						if !implicit {
							in := bufio.NewReader(nc)
							for _, say := range []string{"220 mx.example\r\n", "250-mx.example\r\n250 STARTTLS\r\n", "220 go\r\n"} {
								_, _ = io.WriteString(nc, say)
								if say[:6] != "220 go" {
									_, _ = in.ReadString('\n')
								}
							}
						}
						go io.Copy(io.Discard, nc)
						for taken < 100<<20 {
							piece := test.octets
							if test.every > 0 {
								piece = piece[taken%len(piece):][:1]
							}
							n, err := io.WriteString(nc, piece)
							taken += n
							if err != nil {
								return
							}
							time.Sleep(test.every)
						}
					})}
					_, err := Dial(t.Context(), anywhere, o)
					var e *Error
					if !errors.As(err, &e) || e.Stage != StageStartTLS || e.Reply.Code != 0 {
						t.Errorf("%v", err)
					}
					want := test.want
					if implicit {
						want *= 10 // there is no going on without
					}
					if d := time.Since(start); d != want {
						t.Errorf("it took %v, want %v", d, want)
					}
					time.Sleep(time.Hour) // until the server has noticed
					synctest.Wait()
					if taken > 256<<10 {
						t.Errorf("%d octets were taken", taken)
					}
				})
			})
		}
	}
}

// cut is a server's connection that ends after so many octets of the server's.
type cut struct {
	net.Conn
	left int
	done bool // nothing is left
}

func (c *cut) Write(p []byte) (int, error) {
	if len(p) <= c.left {
		c.left -= len(p)
		return c.Conn.Write(p)
	}
	n, _ := c.Conn.Write(p[:c.left])
	c.left, c.done = 0, true
	c.Conn.Close()
	return n, io.ErrClosedPipe
}

// The server ends at every octet of its part of the dialogue, handshake included.
// What became of the message is known for sure, or in doubt, as far as it is; and
// nobody waits for what cannot come.
func TestServerEndsAtEveryOctet(t *testing.T) {
	t.Parallel()
	for name, offers := range map[string][]string{
		"stepwise": {"SIZE"}, "pipelined": {"PIPELINING"}, "chunked": {"PIPELINING", "CHUNKING"},
		"TLS": {"STARTTLS", "PIPELINING"}, "TLS chunked": {"STARTTLS", "PIPELINING", "CHUNKING"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				id := newIdentity(t)
				cheap := &tls.Config{CurvePreferences: []tls.CurveID{tls.X25519}} // the handshake is done for every octet
				start := time.Now()
				for limit := range 20_000 {
					var nc *cut
					accepted := false
					o := Options{Hello: "client.example", TLS: Opportunistic, TLSConfig: cheap, Dial: overPipe(func(c net.Conn) {
						nc = &cut{Conn: c, left: limit}
						pleased{tls: id.server, offers: offers, accepted: func() { accepted = true }}.serve(nc)
					})}
					c, err := Dial(t.Context(), anywhere, o)
					if err != nil {
						var e *Error
						if !errors.As(err, &e) || e.Stage != StageGreeting && e.Stage != StageHello && e.Stage != StageStartTLS {
							t.Fatalf("%d: %v", limit, err)
						}
						synctest.Wait()
						continue
					}
					tx := message("s@a.example", "r@b.example", "no@b.example")
					tx.Size = 21
					res, err := c.Send(t.Context(), tx)
					c.Close()
					synctest.Wait()
					want := Accepted
					switch {
					case nc.done && accepted:
						want = InDoubt
					case nc.done:
						want = NotOffered
					}
					if got := res.Recipients[0].Fate; got != want || (err == nil) != (want == Accepted) {
						t.Fatalf("%d: %v, want %v (%v)", limit, got, want, err)
					}
					if got := res.Recipients[1].Fate; got != Refused && got != want || got == Accepted {
						t.Fatalf("%d: the refused recipient is %v (%v)", limit, got, err)
					}
					if want == Accepted {
						if limit < 100 {
							t.Fatalf("all went well with %d octets", limit)
						}
						break
					}
				}
				if time.Since(start) != 0 {
					t.Errorf("it took %v", time.Since(start))
				}
			})
		})
	}
}

// The server ends having read so many octets of the client's. Up to the final dot,
// or to the last octet of a chunk, nothing can have been delivered.
func TestServerEndsHavingReadSoMuch(t *testing.T) {
	t.Parallel()
	for name, offers := range map[string][]string{
		"stepwise": {"SIZE"}, "pipelined": {"PIPELINING"}, "chunked": {"PIPELINING", "CHUNKING"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				doubts := 0
				for limit := range 20_000 {
					accepted := false
					o := Options{Hello: "client.example", Dial: overPipe(func(nc net.Conn) {
						pleased{offers: offers, accepted: func() { accepted = true }}.serve(&short{nc, limit})
					})}
					c, err := Dial(t.Context(), anywhere, o)
					if err != nil {
						synctest.Wait()
						continue
					}
					tx := message("s@a.example", "r@b.example")
					tx.Size = 21
					res, err := c.Send(t.Context(), tx)
					c.Close()
					synctest.Wait()
					got := res.Recipients[0].Fate
					if got != NotOffered && got != InDoubt || accepted && got != InDoubt || err == nil {
						t.Fatalf("%d: %v (%v)", limit, got, err)
					}
					if accepted {
						break
					}
					if got == InDoubt {
						doubts++
					}
				}
				// A dot without its line end may be one too many for a lenient
				// server; a chunk short of an octet is no message for anyone.
				want := 2
				if name == "chunked" {
					want = 0
				}
				if doubts != want {
					t.Errorf("in doubt after %d offsets, want %d", doubts, want)
				}
				if time.Since(start) != 0 {
					t.Errorf("it took %v", time.Since(start))
				}
			})
		})
	}
}

// short closes the connection in the moment it has read so many octets.
type short struct {
	net.Conn
	left int
}

func (s *short) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p[:min(len(p), s.left)])
	if s.left -= n; s.left == 0 {
		s.Conn.Close()
	}
	return n, err
}
