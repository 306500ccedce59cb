package event

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/spool"
)

var update = flag.Bool("update", false, "write testdata anew")

// examples are deliveries of every kind.
func examples() []*Delivery {
	at := time.Date(2026, 11, 24, 21, 40, 28, 123456789, time.FixedZone("CET", 3600))
	e := &spool.Envelope{
		Sender: "list-bounces+a=gmail.com@example.com", Stream: `Spring "sale" <sale.example.com>`, QueueID: "4fKz1T0Qx9z",
		Arrived: at.Add(-421500 * time.Microsecond), Size: 8192,
		Recipients: []spool.Recipient{{Address: "a@gmail.com"}, {Address: "b@gmail.com"}},
	}
	sent := &Delivery{
		Time: at, ID: spool.MakeID(0x1a, 0x3f0040), Envelope: e, Ordinal: 1, Domain: "gmail.com", Queue: "google", Site: "google",
		Peer: netip.MustParseAddrPort("192.0.2.1:25"), Relay: "mx1.example[192.0.2.1]:25", Reuse: 3, Tries: 1,
		Connect: 0, Transmit: 101 * time.Millisecond, Status: Sent, Code: 250, Enhanced: "2.0.0", Reason: "250 2.0.0 OK",
	}
	with := func(change func(d *Delivery)) *Delivery {
		d := *sent
		change(&d)
		return &d
	}
	none := func(status Status, class outcome.Class, reason string) *Delivery {
		return with(func(d *Delivery) {
			d.Peer, d.Site, d.Relay, d.Reuse, d.Transmit, d.Code, d.Enhanced = netip.AddrPort{}, "", "none", 0, 0, 0, ""
			d.Status, d.Class, d.Hard, d.Reason = status, class, class.Hard(), reason
		})
	}
	report := &spool.Envelope{
		Origin: spool.Report, Arrived: at.Add(-2 * time.Second), Size: 3000,
		Recipients: []spool.Recipient{{Address: "news@example.com"}},
	}
	return []*Delivery{
		sent,
		with(func(d *Delivery) {
			d.Status, d.Class, d.Code, d.Enhanced = Deferred, outcome.ClassMailboxFull, 452, "4.2.2"
			d.Reason, d.Due = "host mx1.example[192.0.2.1] said: 452 4.2.2 full (in reply to RCPT TO command)", at.Add(5*time.Minute)
		}),
		with(func(d *Delivery) {
			d.Status, d.Class, d.Hard, d.Code, d.Enhanced = Bounced, outcome.ClassUserUnknown, true, 550, "5.1.1"
			d.Reason = "said: 550 5.1.1 \"<b@gmail.com>\" unknown \xff"
		}),
		with(func(d *Delivery) {
			d.Envelope, d.Ordinal, d.Domain, d.Queue, d.Site = report, 0, "relay:127.0.0.1:10626", "handback", "relay:127.0.0.1:10626"
			d.Status = HandedBack
		}),
		none(Returned, outcome.ClassNetwork, "not offered"), // no event
		none(Returning, outcome.ClassProtocol, "needs SMTPUTF8"),
		none(Stuck, outcome.ClassPolicy, "the host refused it"),
		none(Cancelled, outcome.ClassNone, "cancelled by the admin"),
		none(Suppressed, outcome.ClassUserUnknown, "has bounced 3 times"),
		{Time: at, ID: spool.MakeID(2, 0x40), Relay: "none", Status: Damaged, Class: outcome.ClassSystem, Reason: "checksum"},
		with(func(d *Delivery) { d.Source, d.Pool = netip.MustParseAddr("2001:db8::25"), "news" }),
	}
}

// TestLinesKeepTheirForm is a promise to programs outside: a line that changes
// here must be an addition, or Version has to grow.
func TestLinesKeepTheirForm(t *testing.T) {
	t.Parallel()
	var got []byte
	for _, d := range examples() {
		got = appendLine(got, d)
	}
	got = encode(got, gap{Version, stamp(examples()[0].Time), "gap", stamp(examples()[0].Time.Add(time.Second)), 12})
	const golden = "testdata/events.jsonl"
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for n, l := range bytes.Split(bytes.TrimSuffix(got, []byte("\n")), []byte("\n")) {
		if !json.Valid(l) {
			t.Errorf("line %d is no JSON: %s", n+1, l)
		}
	}
}

func TestEveryStatusButReturnedIsAnEvent(t *testing.T) {
	t.Parallel()
	words := map[string]Status{}
	for _, s := range []Status{Deferred, Returned, Returning, Stuck, Sent, Bounced, HandedBack, Cancelled, Suppressed, Damaged} {
		w := s.word()
		if (w == "") != (s == Returned) {
			t.Errorf("%q is written %q", s, w)
		}
		if other, ok := words[w]; ok {
			t.Errorf("%q and %q are both written %q", s, other, w)
		}
		words[w] = s
	}
}

func TestSimulatedDeliveriesSaySo(t *testing.T) {
	t.Parallel()
	d := Delivery{Status: Sent, Simulated: true}
	if line := string(appendLine(nil, &d)); !strings.Contains(line, `"simulated":true`) {
		t.Error(line)
	}
	d.Simulated = false
	if line := string(appendLine(nil, &d)); strings.Contains(line, "simulated") {
		t.Error(line)
	}
}
