package peer

import (
	"bytes"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab/selfsigned"
)

// loose is a connection of nobody.
type loose struct{ net.Conn }

func (loose) RemoteAddr() net.Addr { return &net.TCPAddr{} }

// A thousand connections that say nothing, or nothing to the point, keep no member out.
func TestAThousandStrangersKeepNoMemberOut(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "a", "b")
	var calls atomic.Int64
	s := f.serve(f.identity("b"), slog.New(slog.DiscardHandler), func(s *Server) { s.Handle("/", counting(&calls)) })
	a := f.client(f.identity("a"))
	var held []net.Conn
	t.Cleanup(func() {
		for _, c := range held {
			c.Close()
		}
	})
	for i := range 1000 {
		c, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
		switch i % 4 {
		case 1:
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: b\r\n\r\n")
		case 2:
			c.Write([]byte{0x16, 3, 1}) // the beginning of a handshake
		case 3:
			c.Write(bytes.Repeat([]byte{0xff}, 4096))
		}
		if i%100 == 99 {
			a.Close()
			if err := a.Call(t.Context(), "b", http.MethodPost, "/", nil, nil); err != nil {
				t.Errorf("beside %d: %v", i+1, err)
			}
		}
	}
	if calls.Load() != 10 {
		t.Errorf("%d calls", calls.Load())
	}
}

// A handshake that goes on by an octet now and then ends.
func TestSlowHandshakesEnd(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "a", "b")
	s := f.serve(f.identity("b"), slog.New(slog.DiscardHandler), func(s *Server) { s.shake = 300 * time.Millisecond })
	c, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var feed sync.WaitGroup
	feed.Go(func() {
		for _, b := range append([]byte{0x16, 3, 1, 0x3f, 0xff}, make([]byte, 1<<14)...) {
			if _, err := c.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	io.Copy(io.Discard, c) // until it is ended
	c.Close()
	feed.Wait()
	for end := time.Now().Add(10 * time.Second); s.Refused() == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if s.Refused() != 1 {
		t.Errorf("%d refused", s.Refused())
	}
}

// dial connects as the member a.
func (f *fleet) dial(s *Server) *tls.Conn {
	f.t.Helper()
	p := f.issue(selfsigned.Leaf{DNS: []string{"a"}})
	c, err := tls.Dial("tcp", s.Addr().String(), &tls.Config{ServerName: "b.production", InsecureSkipVerify: true, Certificates: []tls.Certificate{p.TLS}})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	return c
}

// A member's heads and bodies are bounded in size and in time, and so are its connections.
func TestMembersAreBounded(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "a", "b")
	var calls atomic.Int64
	s := f.serve(f.identity("b"), slog.New(slog.DiscardHandler), func(s *Server) {
		s.stall = 300 * time.Millisecond
		s.Handle("POST /small", counting(&calls))
		s.HandleSized("POST /large", 3<<20, counting(&calls))
		s.Handle("GET /endless", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			calls.Add(1)
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}))
	})
	answer := func(say string) string {
		c := f.dial(s)
		io.WriteString(c, say) // it may be cut before all is said
		b, _ := io.ReadAll(c)
		line, _, _ := strings.Cut(string(b), "\r\n")
		return line
	}
	if got := answer("POST /small HTTP/1.1\r\nHost: b\r\nX: " + strings.Repeat("x", 1<<20)); got != "HTTP/1.1 431 Request Header Fields Too Large" && got != "" {
		t.Errorf("a large head: %q", got)
	}
	if calls.Load() != 0 {
		t.Error("a handler was called with it")
	}
	if got := answer("POST /small HTTP/1.1\r\nHost: b\r\nContent-Length: 100\r\n\r\nthat is not all"); got != "HTTP/1.1 413 Request Entity Too Large" {
		t.Errorf("a body that does not come: %q", got)
	}
	a := f.client(f.identity("a"))
	body := bytes.NewReader(make([]byte, 2<<20))
	if resp, err := a.Do(t.Context(), "b", http.MethodPost, "/large", body); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("a body within its bound: %v, %v", resp, err)
	} else {
		resp.Body.Close()
	}
	// One that does not read is given up: the server's stop, at the end of this test, would
	// wait for the handler.
	io.WriteString(f.dial(s), "GET /endless HTTP/1.1\r\nHost: b\r\n\r\n")

	open := 0
	for range 2 * maxOfMember {
		c := f.dial(s)
		io.WriteString(c, "POST /small HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\n\r\n")
		if n, _ := c.Read(make([]byte, 1)); n == 1 {
			open++
		}
	}
	if open > maxOfMember || open < maxOfMember/2 {
		t.Errorf("%d connections of one member, of %d", open, maxOfMember)
	}
}

// Whatever octets a stranger sends, and whatever a member does, the next member is answered.
func FuzzOctets(f *testing.F) {
	f.Add([]byte("GET /v1/x HTTP/1.1\r\nHost: b\r\n\r\n"))
	f.Add([]byte("POST /v1/x HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n"))
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	f.Add([]byte{0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, said []byte) {
		fl := newFleet(t, "a", "b")
		var calls atomic.Int64
		s := fl.serve(fl.identity("b"), slog.New(slog.DiscardHandler), func(s *Server) { s.Handle("/", counting(&calls)) })
		c, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c.Write(said)
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c)
		c.Close()
		if calls.Load() > 0 {
			t.Fatal("a stranger was let in")
		}
		m := fl.dial(s)
		m.Write(said)
		m.CloseWrite()
		io.Copy(io.Discard, m)
		if err := fl.client(fl.identity("a")).Call(t.Context(), "b", http.MethodPost, "/ok", nil, nil); err != nil {
			t.Fatal(err)
		}
	})
}
