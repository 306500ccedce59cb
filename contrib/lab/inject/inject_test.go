package inject

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab/leaks"
	"github.com/millrace/millrace/contrib/lab/ledger"
	"github.com/millrace/millrace/contrib/lab/sink"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// start runs a sink with one host and gives it and the host's address.
func start(t *testing.T, b sink.Behaviour) (*sink.Internet, string) {
	t.Helper()
	n, err := sink.New(sink.Options{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	if err := n.Add(sink.Provider{Name: "p", Domains: []string{"*"}, Behaviour: b}); err != nil {
		t.Fatal(err)
	}
	st := n.Stats()
	return n, fmt.Sprintf("%s:%d", st.Hosts[0].Addr, n.Port())
}

func runInjector(t *testing.T, in *Injector, n int, message func(int) *Message) *Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	r, err := in.Run(ctx, n, message)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestWhatIsSentArrivesToTheOctet(t *testing.T) {
	t.Parallel()
	for _, hide := range [][]string{nil, {"PIPELINING", "SIZE"}} {
		n, addr := start(t, sink.Behaviour{Hide: hide})
		g := &Generator{Domains: []string{"a.test", "b.test"}, MinSize: 1000, MaxSize: 1_000_000, MaxRecipients: 50, Transactional: 0.1, Shapes: AllShapes}
		const messages = 300
		r := runInjector(t, &Injector{Addr: addr, Connections: 8, PerConnection: 20}, messages, g.Message)
		rep := ledger.Compare(r.Ledger, n.Ledger())
		if !rep.Clean() || rep.Excused != 0 || rep.Sent != r.Recipients || r.Messages != messages || r.Recipients < messages {
			t.Errorf("%s; %+v", rep, r)
		}
		st := n.Stats()
		if got := st.Provider("p").Connections; got < messages/20 {
			t.Errorf("%d connections for %d messages, 20 each", got, messages)
		}
		if got := ledger.Latencies(r.Ledger, n.Ledger(), nil); len(got) != rep.Sent || got[0] < 0 {
			t.Errorf("%d latencies", len(got))
		}
	}
}

func TestDeferredRecipientsAreOfferedAgain(t *testing.T) {
	t.Parallel()
	n, addr := start(t, sink.Behaviour{TempShare: 0.3, TempTimes: 2, PermShare: 0.1})
	g := &Generator{Domains: []string{"a.test"}, MinRecipients: 10}
	r := runInjector(t, &Injector{Addr: addr, Connections: 4, Retry: time.Millisecond}, 50, g.Message)
	rep := ledger.Compare(r.Ledger, n.Ledger())
	if !rep.Clean() || r.Recipients+r.Rejected != 500 || r.Rejected == 0 || r.Retries == 0 || r.Deferred != 0 {
		t.Errorf("%s; %+v", rep, r)
	}
}

func TestDeferredRecipientsAreGivenUpWithoutRetry(t *testing.T) {
	t.Parallel()
	_, addr := start(t, sink.Behaviour{TempShare: 1})
	g := &Generator{Domains: []string{"a.test"}, MinRecipients: 2}
	r := runInjector(t, &Injector{Addr: addr}, 5, g.Message)
	if r.Deferred != 10 || r.Messages != 0 || r.Err == nil || !strings.Contains(r.Err.Error(), "450 4.2.1") {
		t.Errorf("%+v", r)
	}
}

func TestLostReplyIsDoubtNotLoss(t *testing.T) {
	t.Parallel()
	n, addr := start(t, sink.Behaviour{Drop: 0.2, DropAccepted: 0.5})
	g := &Generator{Domains: []string{"a.test"}}
	const messages = 100
	r := runInjector(t, &Injector{Addr: addr, Connections: 4, Retry: time.Millisecond}, messages, g.Message)
	rep := ledger.Compare(r.Ledger, n.Ledger())
	if !rep.Clean() || rep.Sent != messages || rep.Excused == 0 || r.Messages != messages {
		t.Errorf("%s; %+v", rep, r)
	}
}

func TestClosingServerIsConnectedAgain(t *testing.T) {
	t.Parallel()
	n, addr := start(t, sink.Behaviour{MaxMessages: 3, Rate: 1000, Burst: 10, Say: map[sink.Cause]string{sink.CauseRate: "421 4.7.0 slow down"}})
	g := &Generator{Domains: []string{"a.test"}}
	r := runInjector(t, &Injector{Addr: addr, Connections: 3, Retry: time.Millisecond}, 60, g.Message)
	if rep := ledger.Compare(r.Ledger, n.Ledger()); !rep.Clean() || r.Messages != 60 {
		t.Errorf("%s; %+v", rep, r)
	}
}

func TestUnreachableServerIsTold(t *testing.T) {
	t.Parallel()
	n, addr := start(t, sink.Behaviour{Down: true})
	g := &Generator{Domains: []string{"a.test"}}
	r := runInjector(t, &Injector{Addr: addr}, 2, g.Message)
	if r.Broken != 2 || r.Err == nil {
		t.Errorf("%+v", r)
	}
	// It may come up later.
	result := make(chan *Result)
	go func() {
		r, _ := (&Injector{Addr: addr, Retry: time.Millisecond}).Run(t.Context(), 2, g.Message)
		result <- r
	}()
	if err := n.Change("p", func(b *sink.Behaviour) { b.Down = false }); err != nil {
		t.Error(err)
	}
	if r := <-result; r.Messages != 2 {
		t.Errorf("%+v", r)
	}
}

func TestRateIsKept(t *testing.T) {
	t.Parallel()
	_, addr := start(t, sink.Behaviour{})
	g := &Generator{Domains: []string{"a.test"}}
	r := runInjector(t, &Injector{Addr: addr, Connections: 5, Rate: 200}, 21, g.Message)
	if r.Messages != 21 || r.Took < 100*time.Millisecond { // the last is due then
		t.Errorf("%d in %v", r.Messages, r.Took)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	_, addr := start(t, sink.Behaviour{HangDot: 1})
	ctx, cancel := context.WithCancel(t.Context())
	g := &Generator{Domains: []string{"a.test"}}
	made := make(chan struct{}, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := (&Injector{Addr: addr, Connections: 2, Retry: time.Hour}).Run(ctx, 10, func(i int) *Message {
			made <- struct{}{}
			return g.Message(i)
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}()
	<-made
	cancel()
	<-done
}

// script is a server that reads a line for each step and gives the reply.
func script(t *testing.T, replies ...string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { ln.Close(); <-done })
	go func() {
		defer close(done)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		in := bufio.NewReader(c)
		fmt.Fprint(c, "220 x\r\n")
		for _, reply := range replies {
			line, err := in.ReadString('\n')
			for strings.HasSuffix(reply, "after dot\r\n") && line != ".\r\n" && err == nil {
				line, err = in.ReadString('\n')
			}
			if err != nil {
				t.Errorf("before %q: %v", reply, err)
				return
			}
			fmt.Fprint(c, reply)
		}
	}()
	return ln.Addr().String()
}

func TestRefusalsAtEachCommand(t *testing.T) {
	t.Parallel()
	const pipelining = "250-x\r\n250 PIPELINING\r\n"
	m := &Message{Sender: "s@x", Recipients: []string{"a@x", "b@x"}, Content: []byte("X-Lab-ID: 1\r\n\r\n")}
	for name, c := range map[string]struct {
		replies            []string
		messages           int
		rejected, deferred int
	}{
		"mail 5xx":           {[]string{pipelining, "550 no\r\n", "503 x\r\n", "503 x\r\n", "503 x\r\n", "250 reset\r\n", "221 x\r\n"}, 0, 2, 0},
		"mail 4xx, lockstep": {[]string{"250 x\r\n", "450 no\r\n", "250 reset\r\n", "221 x\r\n"}, 0, 0, 2},
		"one rcpt of each":   {[]string{pipelining, "250 x\r\n", "550 x\r\n", "450 x\r\n", "554 none\r\n", "250 reset\r\n", "221 x\r\n"}, 0, 1, 1},
		"none, lockstep":     {[]string{"250 x\r\n", "250 x\r\n", "550 x\r\n", "550 x\r\n", "250 reset\r\n", "221 x\r\n"}, 0, 2, 0},
		"354 for nobody":     {[]string{pipelining, "250 x\r\n", "550 x\r\n", "550 x\r\n", "354 x\r\n", "554 after dot\r\n", "221 x\r\n"}, 0, 2, 0},
		"data 4xx":           {[]string{pipelining, "250 x\r\n", "250 x\r\n", "250 x\r\n", "451 x\r\n", "250 reset\r\n", "221 x\r\n"}, 0, 0, 2},
		"dot 5xx":            {[]string{pipelining, "250 x\r\n", "250 x\r\n", "550 x\r\n", "354 x\r\n", "554 after dot\r\n", "221 x\r\n"}, 0, 2, 0},
		"dot 4xx":            {[]string{pipelining, "250 x\r\n", "250 x\r\n", "550 x\r\n", "354 x\r\n", "451 after dot\r\n", "221 x\r\n"}, 0, 1, 1},
		"421 at second rcpt": {[]string{pipelining, "250 x\r\n", "250 x\r\n", "421 x\r\n"}, 0, 0, 2},
		"accepted for one":   {[]string{pipelining, "250 x\r\n", "250 x\r\n", "450 x\r\n", "354 x\r\n", "250-x\r\n250 after dot\r\n", "221 x\r\n"}, 1, 0, 1},
		"421 at the dot":     {[]string{pipelining, "250 x\r\n", "250 x\r\n", "250 x\r\n", "354 x\r\n", "421 after dot\r\n"}, 0, 0, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := runInjector(t, &Injector{Addr: script(t, c.replies...)}, 1, func(int) *Message { return m })
			if r.Messages != c.messages || r.Recipients != c.messages || r.Ledger.Len() != c.messages || r.Rejected != c.rejected || r.Deferred != c.deferred || r.Broken != 0 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// A message of which a server takes one recipient now and the other later is one message.
func TestMessageThatIsTakenInTwoPartsCountsOnce(t *testing.T) {
	t.Parallel()
	addr := script(t, "250-x\r\n250 PIPELINING\r\n",
		"250 x\r\n", "250 x\r\n", "451 x\r\n", "354 x\r\n", "250 after dot\r\n",
		"250 x\r\n", "250 x\r\n", "354 x\r\n", "250 after dot\r\n", "221 x\r\n")
	m := &Message{Sender: "s@x", Recipients: []string{"a@x", "b@x"}, Content: []byte("X-Lab-ID: 1\r\n\r\n")}
	r := runInjector(t, &Injector{Addr: addr, Retry: time.Millisecond}, 1, func(int) *Message { return m })
	if r.Messages != 1 || r.Recipients != 2 || r.Retries != 1 || r.Deferred+r.Broken+r.Rejected != 0 {
		t.Errorf("%+v", r)
	}
}

// The smoke test of speed: no clock decides, but a stall would show.
func TestManySmallMessages(t *testing.T) {
	t.Parallel()
	n, addr := start(t, sink.Behaviour{})
	g := &Generator{Domains: []string{"a.test"}}
	r := runInjector(t, &Injector{Addr: addr, Connections: 20}, 5000, g.Message)
	t.Logf("%.0f messages/s", r.Rate())
	if rep := ledger.Compare(r.Ledger, n.Ledger()); !rep.Clean() || rep.Received != 5000 {
		t.Errorf("%s", rep)
	}
}
