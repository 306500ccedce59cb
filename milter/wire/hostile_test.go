package wire

import (
	"bytes"
	"context"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/contrib/lab/logbuf"
	"github.com/millrace/millrace/contrib/lab/pipes"
)

func TestSilentPeersAreClosed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		bytes []byte
		after time.Duration
	}{
		"between packets": {postfixOffer(), 70 * time.Minute},
		"within a packet": {append(postfixOffer(), 0, 0), time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := serve(t, Options{}, nil)
				p := s.dial()
				go p.Write(c.bytes)
				p.expect('O')
				start := time.Now()
				p.expectEnd()
				if d := time.Since(start); d != c.after {
					t.Errorf("closed after %v, want %v", d, c.after)
				}
				s.stop()
				<-s.done
			})
		})
	}
}

func TestBrokenProtocolClosesWithOneLogLine(t *testing.T) {
	t.Parallel()
	pk := func(code byte, data string) []byte { return appendPacket(nil, code, data) }
	for name, c := range map[string]struct {
		bytes []byte
		says  string
	}{
		"zero length":           {[]byte{0, 0, 0, 0}, "length zero"},
		"overlong":              {[]byte{0x7f, 0xff, 0xff, 0xff, 'M'}, "too long"},
		"truncated":             {[]byte{0, 0, 0, 9, 'M', '<'}, "cut short"},
		"truncated length":      {[]byte{0, 0}, "cut short"},
		"offer again":           {postfixOffer(), "out of order"},
		"connect again":         {pk('C', clientData+"\x00"), "out of order"},
		"rcpt first":            {pk('R', "<a@x>\x00"), "out of order"},
		"body first":            {pk('B', "x"), "out of order"},
		"end first":             {pk('E', ""), "out of order"},
		"headers first":         {pk('N', ""), "out of order"},
		"body before EOH":       {append(pk('M', "<a@x>\x00"), pk('B', "x")...), "out of order"},
		"rcpt after header":     {append(append(pk('M', "<a@x>\x00"), pk('L', "A\x00b\x00")...), pk('R', "<b@x>\x00")...), "out of order"},
		"unknown command":       {pk('z', ""), "out of order"},
		"mail without end":      {pk('M', "<a@x>"), "malformed"},
		"empty recipient":       {append(pk('M', "\x00"), pk('R', "\x00")...), "malformed"},
		"header of three parts": {append(pk('M', "<a@x>\x00"), pk('L', "A\x00b\x00c\x00")...), "malformed"},
		"header without name":   {append(pk('M', "<a@x>\x00"), pk('L', "\x00b\x00")...), "malformed"},
		"empty macros":          {pk('D', ""), "malformed"},
		"huge macros":           {pk('D', "M"+strings.Repeat("x", maxMacros)), "macros are too long"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, Options{}, nil)
			p := s.dial()
			p.greet()
			go func() { p.Write(c.bytes); p.Close() }()
			<-s.backend().closed
			s.stop()
			<-s.done
			if lines := s.log.Lines(); len(lines) != 1 || !strings.Contains(lines[0], c.says) {
				t.Errorf("log:\n%s\nwant one line with %q", strings.Join(lines, "\n"), c.says)
			}
		})
	}
}

func TestTooOldAnMTAIsRefused(t *testing.T) {
	t.Parallel()
	s := serve(t, Options{}, nil)
	p := s.dial()
	p.raw(offer(1, 0x3f, 0x7f))
	p.expectEnd()
}

func TestEndlessHeadersAreCut(t *testing.T) {
	t.Parallel()
	s := serve(t, Options{MaxHeader: 1000}, nil)
	cut := make(chan bool, 2)
	p := s.dial()
	p.greet()
	s.backend().endOfHeaders = func(context.Context) Verdict {
		cut <- s.backend().conn.HeaderCut()
		return Verdict{Action: Accept}
	}
	p.send('M', "<a@x>")
	for range 500 {
		p.send('L', "X-A", " 12345")
	}
	p.send('N')
	p.expect('a')
	p.mail("<b@x>")
	p.expect('a')
	if !<-cut || <-cut {
		t.Error("the cut was not reported, or not taken back")
	}
	if n := strings.Count(s.backend().seen(), "header"); n != 1000/len("X-A\x00 12345\x00")+1 {
		t.Errorf("handler saw %d fields", n)
	}
}

// Neither many recipients nor a header without an end fill the memory. Not
// parallel: it looks at the heap of the whole process.
func TestFloodsAreClosedWithinBoundedMemory(t *testing.T) {
	for name, flood := range map[string][]byte{
		"recipients": appendPacket(nil, 'R', "<someone@example.net>\x00"),
		"header":     appendPacket(nil, 'L', "X-Flood\x00 "+strings.Repeat("x", 900)+"\x00"),
		"macros":     appendPacket(nil, 'D', "R{rcpt_mailer}\x00"+strings.Repeat("x", 900)+"\x00"),
		"unknown":    appendPacket(nil, 'U', strings.Repeat("x", 900)+"\x00"),
	} {
		ctx, stop := context.WithCancel(context.Background())
		ln := pipes.New()
		var log logbuf.Buffer
		done := make(chan error)
		go func() {
			done <- NewServer(func(*Conn) Handler { return deaf{} }, Options{Logger: log.Logger()}).Serve(ctx, ln)
		}()
		ours := ln.Dial()
		p := peer{t, ours}
		p.greet()
		p.send('M', "<a@x>")
		many := bytes.Repeat(flood, 1000)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		sent := 0
		for ; sent < 256<<20; sent += len(many) {
			if _, err := p.Write(many); err != nil {
				break
			}
			if sent > 32<<20 && after.HeapAlloc == 0 { // in the midst of it
				runtime.GC()
				runtime.ReadMemStats(&after)
			}
		}
		if sent >= 256<<20 {
			t.Errorf("%s: %d octets were taken", name, sent)
		}
		if after.HeapAlloc > before.HeapAlloc+4<<20 {
			t.Errorf("%s: the heap grew by %d octets", name, after.HeapAlloc-before.HeapAlloc)
		}
		ours.Close()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if l := log.Lines(); len(l) != 1 || !strings.Contains(l[0], "before a body") {
			t.Errorf("%s: log %q", name, l)
		}
	}
}

// deaf is a Handler that keeps nothing.
type deaf struct{}

func (deaf) Connect(Client)                       {}
func (deaf) Helo(string)                          {}
func (deaf) Mail(string, []string)                {}
func (deaf) Rcpt(string, []string)                {}
func (deaf) Header(string, string)                {}
func (deaf) EndOfHeaders(context.Context) Verdict { return Verdict{Action: Accept} }
func (deaf) Body([]byte)                          {}
func (deaf) EndOfMessage(context.Context) Verdict { return Verdict{Action: Accept} }
func (deaf) Abort()                               {}
func (deaf) Close()                               {}

// Whatever bytes come, the server neither crashes nor hangs, and every message
// that was started is ended.
func FuzzConversation(f *testing.F) {
	head := append(postfixOffer(), appendPacket(nil, 'C', clientData+"\x00")...)
	f.Add(head)
	f.Add(append(head[:len(head):len(head)], appendPacket(appendPacket(appendPacket(nil, 'M', "<a@x>\x00"), 'R', "<b@y>\x00"), 'N', "")...))
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 1, 'Q'})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := serve(t, Options{MaxHeader: 100}, nil)
		p := s.dial()
		go func() {
			buf := make([]byte, 512)
			for {
				if _, err := p.Read(buf); err != nil {
					return
				}
			}
		}()
		p.Write(b)
		p.Close()
		<-s.backend().closed
		calls := "\n" + s.backend().seen()
		open := 0
		for _, c := range strings.Split(calls, "\n") {
			switch {
			case strings.HasPrefix(c, "mail "):
				if open++; open > 1 {
					t.Fatalf("a message in a message:%s", calls)
				}
			case c == "eom" || c == "abort":
				if open--; open < 0 {
					t.Fatalf("a message ended twice:%s", calls)
				}
			}
		}
		if open != 0 {
			t.Fatalf("a message was left open:%s", calls)
		}
	})
}
