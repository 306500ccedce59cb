package lab

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/ledger"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// internet starts receivers on port 25 of addresses that only this test uses,
// known to a name server that only this test uses.
func internet(t *testing.T, dns string, hosts ...string) *sink.Internet {
	t.Helper()
	n, err := sink.New(sink.Options{Logger: slog.New(slog.DiscardHandler), Port: 25, DNS: dns + ":53"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	p := sink.Provider{Name: "big", Domains: []string{"big.example"}}
	for i, addr := range hosts {
		p.Host = append(p.Host, sink.Host{
			Name: string(rune('a'+i)) + ".mx.big.example",
			Addr: netip.MustParseAddr(addr),
		})
	}
	if err := n.Add(p); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestPostfixAloneServesTheInternet(t *testing.T) {
	t.Parallel()
	const dns = "127.53.0.1"
	net := internet(t, dns, "127.201.0.1", "127.201.0.2")
	ctx, p := start(t, PostfixOptions{DNS: dns})

	gen := func(i int) *inject.Message {
		id := ledger.IDHeader + ": m" + strings.Repeat("x", i) + "\r\n"
		return &inject.Message{
			Sender:     "news@lab.test",
			Recipients: []string{"u1@big.example", "u2@big.example"},
			Content:    []byte(id + "Subject: test\r\nFrom: news@lab.test\r\nTo: list@lab.test\r\nMessage-ID: <x@lab.test>\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n\r\n.one\r\n..two\r\n"),
		}
	}
	in := &inject.Injector{Addr: p.SMTPAddr(), Connections: 4}
	res, err := in.Run(ctx, 20, gen)
	if err != nil || res.Recipients != 40 {
		t.Fatalf("injected %+v: %v", res, err)
	}
	err = Until(ctx, func() (bool, error) {
		n, err := p.QueueLength(ctx)
		return n == 0, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if r := ledger.Compare(res.Ledger, net.Ledger()); !r.Clean() {
		t.Errorf("ledgers differ: %v", r)
	}
	var lines []string
	err = Until(ctx, func() (bool, error) { // the log is written by another process
		lines, err = p.LogLines("status=sent", ".mx.big.example[127.201.0.", "]:25,")
		return len(lines) >= 40, err
	})
	if err != nil || len(lines) != 40 {
		t.Errorf("%d deliveries to port 25 of the MX hosts in the log, want 40 (%v)", len(lines), err)
	}
}

func TestPostfixBouncesIntoTheMailbox(t *testing.T) {
	t.Parallel()
	const dns = "127.53.0.2"
	internet(t, dns, "127.202.0.1")
	ctx, p := start(t, PostfixOptions{DNS: dns})
	c, err := Dial(ctx, p.SMTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Send(ctx, "news@lab.test", []string{"u@nowhere.example"}, []byte("Subject: x\r\n\r\nx\r\n")); err != nil {
		t.Fatal(err)
	}
	m := mailbox(ctx, t, p, "news@lab.test", 1)[0]
	if m.From != "" || !bytes.Contains(m.Content, []byte("Final-Recipient: rfc822; u@nowhere.example\n")) {
		t.Errorf("from %q:\n%s", m.From, m.Content)
	}
}

func TestHandbackPortDeliversWithoutTheMilter(t *testing.T) {
	t.Parallel()
	const dns = "127.53.0.3"
	net := internet(t, dns, "127.203.0.1")
	// A milter that is not there makes the other port refuse everything.
	ctx, p := start(t, PostfixOptions{DNS: dns, Milter: RelativeSocket})
	c, err := Dial(ctx, p.HandbackAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// No field is added or rewritten: a signature over them must still hold.
	msg := "From: <nobody>\r\nSubject: x\r\n\r\nx\r\n"
	if _, err := c.Send(ctx, "", []string{"u@big.example", "local@lab.test"}, []byte(msg)); err != nil {
		t.Fatal(err)
	}
	m := mailbox(ctx, t, p, "local@lab.test", 1)[0]
	_, rest, _ := bytes.Cut(m.Content, []byte("From: "))
	if want := strings.ReplaceAll(msg, "\r\n", "\n"); "From: "+string(rest) != want {
		t.Errorf("content\n%s\nwant at its end\n%s", m.Content, want)
	}
	err = Until(ctx, func() (bool, error) { stats := net.Stats(); return stats.Provider("big").Messages == 1, nil })
	if err != nil {
		t.Error(err)
	}
	if d, err := Dial(ctx, p.SMTPAddr()); err == nil {
		if _, err = d.Send(ctx, "a@lab.test", []string{"u@big.example"}, []byte(msg)); err == nil {
			t.Error("the port with the milter accepts mail while there is no milter")
		}
		d.Close()
	}
}
