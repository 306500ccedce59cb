package sink

import (
	"errors"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestConnectionBeyondLimitGets421InPlaceOfBanner(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{HostConnections: 2, ProviderConnections: 3}, "a", "b")
	first, _ := dial(t, n, "a"), dial(t, n, "a")
	c := dialOnly(t, n, "a")
	c.wants("421 4.7.0 Too many connections", "")
	dial(t, n, "b")
	dialOnly(t, n, "b").wants("421 ") // the provider's limit
	first.quit()
	dial(t, n, "b") // the place is free once the client knows
	a, b := hostStats(t, n, "a"), hostStats(t, n, "b")
	if a.Open != 1 || a.Peak != 2 || a.Connections != 2 || a.Refused[CauseConnections] != 1 || a.RefusedConnections() != 1 {
		t.Errorf("a: %+v", a)
	}
	if b.Open != 2 || b.Connections != 2 || b.Refused[CauseConnections] != 1 {
		t.Errorf("b: %+v", b)
	}
}

// A place is free before the client sees the end, so clients that wait for it
// are never refused.
func TestLimitIsExactUnderChurn(t *testing.T) {
	t.Parallel()
	const limit = 5
	n := start(t, Behaviour{HostConnections: limit})
	var clients sync.WaitGroup
	for range limit {
		clients.Go(func() {
			for range 40 {
				c, err := net.Dial("tcp", addrOf(n, "mx1"))
				if err != nil {
					t.Error(err)
					return
				}
				buf := make([]byte, 512)
				k, _ := c.Read(buf)
				if !strings.HasPrefix(string(buf[:k]), "220") {
					t.Errorf("banner %q", buf[:k])
				}
				c.Write([]byte("QUIT\r\n"))
				c.Read(buf)
				c.Close()
			}
		})
	}
	clients.Wait()
	if st := hostStats(t, n, "mx1"); st.Connections != 40*limit || st.Peak > limit || st.Open != 0 {
		t.Errorf("%+v", st)
	}
}

func TestConnectionBeyondLimitGets421AtMail(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{HostConnections: 1, OverLimit: AtMail})
	dial(t, n, "mx1")
	c := dial(t, n, "mx1")
	c.says("MAIL FROM:<a@x>", "421 ")
	c.wants("")
	if st := hostStats(t, n, "mx1"); st.Refused[CauseConnections] != 1 || st.Connections != 1 {
		t.Errorf("%+v", st)
	}
}

func TestConnectionBeyondLimitGets421AfterTheDot(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{HostConnections: 1, OverLimit: AtDot})
	dial(t, n, "mx1")
	c := dial(t, n, "mx1")
	c.mail("1", "u@x.test", "421 4.7.0 Too many connections")
	c.wants("")
	if st := hostStats(t, n, "mx1"); st.Refused[CauseConnections] != 1 || st.Connections != 1 || st.Messages != 0 {
		t.Errorf("%+v", st)
	}
}

func TestConnectionBeyondLimitIsReset(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{HostConnections: 1, OverLimit: ByReset})
	dial(t, n, "mx1")
	c, err := net.Dial("tcp", addrOf(n, "mx1"))
	if err == nil { // else the reset came while Dial looked
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v", err)
	}
}

func TestDownRefusesAndCutsConnections(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{}, "a", "b")
	c := dial(t, n, "a")
	if err := n.Change("a", func(b *Behaviour) { b.Down = true }); err != nil {
		t.Fatal(err)
	}
	if got := c.read(); got != "" {
		t.Errorf("open connection got %q", got)
	}
	if _, err := net.Dial("tcp", addrOf(n, "a")); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("connect: %v", err)
	}
	dial(t, n, "b") // the other host is up
	if err := n.Change("a", func(b *Behaviour) { b.Down = false }); err != nil {
		t.Fatal(err)
	}
	dial(t, n, "a").mail("1", "u@x.test", "250")
}

func TestUnreachableAnswersNothing(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{Unreachable: true}, "a", "b")
	for range 3 {
		// No proof, but an answer on loopback comes at once, so slowness does not fail it.
		c, err := net.DialTimeout("tcp", addrOf(n, "a"), 50*time.Millisecond)
		if err == nil {
			c.Close()
		}
		if e, ok := errors.AsType[net.Error](err); !ok || !e.Timeout() {
			t.Errorf("connect: %v", err)
		}
	}
	if err := n.Change("a", func(b *Behaviour) { b.Unreachable = false }); err != nil {
		t.Fatal(err)
	}
	c := dial(t, n, "a")
	c.mail("1", "u@x.test", "250")
	if err := n.Change("a", func(b *Behaviour) { b.Unreachable = true }); err != nil {
		t.Fatal(err)
	}
	if got := c.read(); got != "" {
		t.Errorf("open connection got %q", got)
	}
}

func TestMoreMessagesThanTheCapacityShareIt(t *testing.T) {
	t.Parallel()
	b := &Behaviour{AcceptTime: time.Second, Capacity: 4}
	for n, want := range map[int64]time.Duration{1: time.Second, 4: time.Second, 6: 1500 * time.Millisecond, 8: 2 * time.Second} {
		if got := b.working(n); got != want {
			t.Errorf("%d at once: %v each, want %v", n, got, want)
		}
	}
	if got := (&Behaviour{AcceptTime: time.Second}).working(100); got != time.Second {
		t.Errorf("without a capacity: %v", got)
	}
}

func TestReleaseLagHoldsThePlace(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{HostConnections: 1, ReleaseLag: time.Hour})
	dial(t, n, "mx1").quit()
	dialOnly(t, n, "mx1").wants("421 ")
	if st := hostStats(t, n, "mx1"); st.Open != 0 {
		t.Errorf("%+v", st)
	}
}

func TestPenaltyShrinksLimit(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{HostConnections: 3, PenaltyEvery: 1, PenaltyShrink: 1})
	first, _, _ := dial(t, n, "mx1"), dial(t, n, "mx1"), dial(t, n, "mx1")
	dialOnly(t, n, "mx1").wants("421 ")
	first.quit()
	dialOnly(t, n, "mx1").wants("421 ") // two are open and two are allowed
}

func TestPenaltyBans(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{Rate: 1e-6, PenaltyEvery: 2, PenaltyBan: time.Hour})
	c := dial(t, n, "mx1")
	c.mail("1", "u@x.test", "250")
	c.says("MAIL FROM:<s@x>", "451 4.7.1 Rate")
	dial(t, n, "mx1")
	c.says("MAIL FROM:<s@x>", "451 4.7.1 Rate")
	dialOnly(t, n, "mx1").wants("421 4.7.0 Temporarily banned")
	if st := hostStats(t, n, "mx1"); st.Refused[CauseBan] != 1 || st.Refused[CauseRate] != 2 {
		t.Errorf("%+v", st)
	}
}

func TestMessagesPerConnection(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{MaxMessages: 2})
	c := dial(t, n, "mx1")
	c.mail("1", "u@x.test", "250")
	c.mail("2", "u@x.test", "250")
	c.says("MAIL FROM:<s@x>", "421 4.7.0 Too many messages")
	c.wants("")
	if err := n.Change("p", func(b *Behaviour) { b.MaxMessagesClose = true }); err != nil {
		t.Fatal(err)
	}
	c = dial(t, n, "mx1")
	c.mail("3", "u@x.test", "250")
	c.mail("4", "u@x.test", "250")
	c.wants("")
}

// A limit of a connection may be told by a reply that leaves it open: to all that follows.
func TestConnectionThatTakesNoMoreIsLeftOpen(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{SessionRecipients: 2})
	c := dial(t, n, "mx1")
	c.mail("1", "u@x.test", "250")
	c.says("MAIL FROM:<s@x>", "250")
	c.says("RCPT TO:<u@x.test>", "250")
	for range 2 {
		c.says("RCPT TO:<u@x.test>", "452 4.5.3")
	}
	c.says("RSET", "250")
	c.says("MAIL FROM:<s@x>", "250")
	c.says("RCPT TO:<u@x.test>", "452 4.5.3")
	if err := n.Change("p", func(b *Behaviour) {
		*b = Behaviour{MaxMessages: 1, Say: map[Cause]string{CauseMessages: "450 4.7.0 Too many messages in this session"}}
	}); err != nil {
		t.Fatal(err)
	}
	c = dial(t, n, "mx1")
	c.mail("2", "u@x.test", "250")
	for range 2 {
		c.says("MAIL FROM:<s@x>", "450 4.7.0 Too many messages")
	}
}

func TestRateCountsMessagesOfAllHosts(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{Rate: 1e-6, Burst: 3}, "a", "b")
	a, b := dial(t, n, "a"), dial(t, n, "b")
	a.mail("1", "u@x.test", "250")
	b.mail("2", "u@x.test", "250")
	a.mail("3", "u@x.test", "250")
	b.send("MAIL FROM:<s@x>\r\nRCPT TO:<u@x.test>\r\nDATA\r\n")
	b.wants("451 4.7.1 Rate", "503", "503")
}

func TestRateAtDotAndClosingReply(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{Rate: 1e-6, RatePerHost: true, RateAt: RateDot,
		Say: map[Cause]string{CauseRate: "421-4.7.28 Our system has detected an unusual rate.\n421 4.7.28 Try again later."}}, "a", "b")
	a := dial(t, n, "a")
	a.mail("1", "u@x.test", "250")
	if got := a.mail("2", "u@x.test", "421-4.7.28"); !strings.Contains(got, "\n421 4.7.28 Try") {
		t.Errorf("got %q", got)
	}
	a.wants("")
	dial(t, n, "b").mail("2", "u@x.test", "250")
	if got := n.Ledger().Messages(); got != 2 {
		t.Errorf("%d messages in the ledger", got)
	}
}

func TestMaxRecipientsAndSize(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{MaxRecipients: 2, MaxSize: 100})
	c := dial(t, n, "mx1")
	c.says("MAIL FROM:<s@x> SIZE=101", "552 5.3.4")
	c.says("MAIL FROM:<s@x> SIZE=100", "250")
	c.says("RCPT TO:<a@x>", "250")
	c.says("RCPT TO:<b@x>", "250")
	c.says("RCPT TO:<c@x>", "452 4.5.3")
	c.says("DATA", "354")
	c.send(strings.Repeat("x", 99) + "\r\n.\r\n") // 101 octets
	c.wants("552 5.3.4")
	c.transaction("a@x")
	c.send(strings.Repeat("x", 98) + "\r\n.\r\n")
	c.wants("250")
	if st := hostStats(t, n, "mx1"); st.Refused[CauseSize] != 2 || st.Bytes != 100 {
		t.Errorf("%+v", st)
	}
}
