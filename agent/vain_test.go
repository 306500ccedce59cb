package agent

import (
	"bufio"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// A receiver that says 421 behind its answer to EHLO, before any mail is tried, is
// not called again at once, for ever, and unseen: its mail ends by its age, and the report
// says why.
func TestReceiverThatClosesBehindEHLOIsNotCalledForEver(t *testing.T) {
	t.Parallel()
	at := netip.MustParseAddr("127.77.0.1")
	s := newStage(t, nil, sink.Provider{
		Name: "far", Domains: []string{"far.test"}, Host: []sink.Host{{Name: "mx.far.test", Addr: at}},
		Behaviour: sink.Behaviour{Down: true}, // the test listens there
	})
	l, err := net.Listen("tcp", netip.AddrPortFrom(at, s.net.Port()).String())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	calls := 0
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			calls++
			io.WriteString(c, "220 mx.far.test ESMTP\r\n")
			if _, err := bufio.NewReader(c).ReadString('\n'); err == nil {
				io.WriteString(c, "250-mx.far.test\r\n250 PIPELINING\r\n421 4.3.2 closing\r\n")
			}
			c.Close()
		}
	})
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test", Arrived: time.Now().Add(-121 * time.Hour)}, letter, "a@far.test")
	s.until("bounced", func() bool {
		s.agent.expireOverdue()
		return len(s.at("host")) == 1
	})
	l.Close()
	wg.Wait()
	if calls > 10 {
		t.Errorf("called %d times", calls)
	}
}
