package sink

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// silent makes sure the server says nothing. It cannot prove that; it waits
// for a moment in which an answer would normally come, and passes when none
// does, so it never fails by slowness.
func (c *client) silent() {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	defer c.SetDeadline(time.Now().Add(patience))
	if b, err := c.in.ReadByte(); !errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Errorf("got %q, %v", b, err)
	}
}

func TestHangingConnectionHoldsItsPlace(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{HangConnect: 0.5, HostConnections: 2})
	dial(t, n, "mx1")
	c := dialOnly(t, n, "mx1")
	c.send("EHLO x\r\n")
	c.silent()
	dialOnly(t, n, "mx1").wants("421")
	if st := hostStats(t, n, "mx1"); st.Open != 2 {
		t.Errorf("%+v", st)
	}
}

func TestHangAfterData(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{HangData: 0.5})
	c := dial(t, n, "mx1")
	c.mail("1", "u@x.test", "250")
	c.send("MAIL FROM:<s@x>\r\nRCPT TO:<u@x.test>\r\n")
	c.wants("250", "250")
	c.send("DATA\r\n")
	c.silent()
}

func TestHangAfterDotAcceptsNothing(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{HangDot: 1})
	c := dial(t, n, "mx1")
	c.transaction("u@x.test")
	c.send("X-Lab-ID: 1\r\n\r\n.\r\n")
	c.silent()
	if n.Ledger().Len() != 0 {
		t.Error("message accepted")
	}
}

func TestDropBeforeFinalReply(t *testing.T) {
	t.Parallel()
	n := start(t, Behaviour{Drop: 0.5, DropAccepted: 0.5})
	ids := []string{"1", "2", "3", "4", "5", "6", "7", "8"}
	var answered []string
	for _, id := range ids {
		c := dial(t, n, "mx1")
		c.transaction("u@x.test")
		c.send("X-Lab-ID: " + id + "\r\n\r\n.\r\n")
		if got := c.read(); strings.HasPrefix(got, "250") {
			answered = append(answered, id)
		} else if got != "" {
			t.Errorf("got %q", got)
		}
	}
	if !slices.Equal(answered, []string{"1", "3", "5", "7"}) {
		t.Errorf("answered %v", answered)
	}
	var unanswered []string
	for r := range n.Ledger().Records() {
		if r.Unanswered {
			unanswered = append(unanswered, r.ID)
		}
	}
	if !slices.Equal(unanswered, []string{"4", "8"}) || n.Ledger().Len() != 6 {
		t.Errorf("unanswered %v of %d", unanswered, n.Ledger().Len())
	}
	if st := hostStats(t, n, "mx1"); st.Refused[CauseDropped] != 4 || st.Messages != 6 {
		t.Errorf("%+v", st)
	}
}

func TestIdleConnectionIsClosed(t *testing.T) {
	t.Parallel()
	n := startWith(t, Options{Idle: 50 * time.Millisecond}, Behaviour{})
	c := dialOnly(t, n, "mx1") // who says EHLO may be too late for it
	c.wants("220")
	if _, err := c.in.ReadByte(); err != io.EOF {
		t.Errorf("got %v", err)
	}
}

func TestGroupOfCommandsIsOneFlight(t *testing.T) {
	t.Parallel()
	const rtt = 30 * time.Millisecond
	n := start(t, Behaviour{RTT: rtt, GreetingDelay: rtt, AcceptTime: rtt})
	buf := make([]byte, 4096)
	at := time.Now()
	c := dialOnly(t, n, "mx1")
	for _, flight := range []struct {
		say, want string
		atLeast   time.Duration
	}{
		{"", "220", 3 * rtt},
		{"EHLO x\r\n", "250", rtt},
		{"MAIL FROM:<a@x>\r\nRCPT TO:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n", "250 250 250 354", rtt},
		{"X-Lab-ID: 1\r\n\r\n.\r\nMAIL FROM:<a@x>\r\nRCPT TO:<a@x>\r\nDATA\r\n", "250 250 250 354", 2 * rtt},
		{".\r\nQUIT\r\n", "250 221", 2 * rtt},
	} {
		if flight.say != "" {
			at = time.Now()
			c.send(flight.say)
		}
		k, err := c.Read(buf) // what was written in one piece
		took := time.Since(at)
		if err != nil {
			t.Fatal(err)
		}
		var codes []string
		for line := range strings.Lines(string(buf[:k])) {
			if line[3] != '-' {
				codes = append(codes, line[:3])
			}
		}
		if got := strings.Join(codes, " "); got != flight.want {
			t.Errorf("%q: %s, want %s", flight.say, got, flight.want)
		}
		if took < flight.atLeast {
			t.Errorf("%q: took %v", flight.say, took)
		}
	}
}
