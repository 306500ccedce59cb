package wire

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
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
			if lines := s.log.lines(); len(lines) != 1 || !strings.Contains(lines[0], c.says) {
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
