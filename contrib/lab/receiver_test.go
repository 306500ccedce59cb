package lab

import (
	"bytes"
	"context"
	"crypto/tls"
	"net/textproto"
	"os"
	"testing"
)

// receivers are the real MTAs that take mail; each has a domain of its name.
var receivers = map[string]func(context.Context, ReceiverOptions) (Receiver, error){
	"postfix": func(ctx context.Context, o ReceiverOptions) (Receiver, error) {
		return StartPostfix(ctx, PostfixOptions{Receiver: &o})
	},
	"sendmail": func(ctx context.Context, o ReceiverOptions) (Receiver, error) {
		return StartSendmail(ctx, SendmailOptions{Receiver: &o})
	},
	"exim":      StartExim,
	"opensmtpd": StartOpenSMTPD,
}

// A message ends in the mailbox of each receiver as it was sent.
func TestReceiversKeepEveryByte(t *testing.T) {
	t.Parallel()
	content := []byte("From: a@lab.test\r\nSubject: =?utf-8?q?x?=\r\nDate: Mon, 23 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@lab.test>\r\n" +
		"X-Folded: one\r\n\ttwo\r\nTo: b@lab.test\r\n\r\n.dot\r\n..\r\nFrom here\r\n\r\ngr\xfc\xdfe  \r\n\r\nlast\r\n")
	n := byte(0)
	for name, start := range receivers {
		n++
		addr := "127.44.0." + string('0'+n) + ":25"
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			r, err := start(ctx, ReceiverOptions{Addr: addr, Domains: []string{name + ".test"}})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if t.Failed() {
					log, _ := os.ReadFile(r.Log())
					t.Logf("log:\n%s", log)
				}
				if err := r.Stop(); err != nil {
					t.Error(err)
				}
			}()
			c, err := Dial(ctx, addr)
			if err != nil {
				t.Fatal(err)
			}
			if name != "opensmtpd" { // see StartOpenSMTPD
				if _, err := c.cmd(220, "STARTTLS"); err != nil {
					t.Fatal(err)
				}
				secured := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true})
				c.conn, c.text = secured, textproto.NewConn(secured)
				if _, err := c.cmd(250, "EHLO client.lab.test"); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := c.Send(ctx, "a@lab.test", []string{"b@" + name + ".test"}, content); err != nil {
				t.Fatal(err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			m := received(ctx, t, r, "b@"+name+".test", 1)[0]
			want := bytes.ReplaceAll(content, []byte("\r\n"), []byte("\n"))
			if m.From != "a@lab.test" || !bytes.HasPrefix(m.Content, []byte("Received: ")) || !bytes.HasSuffix(m.Content, want) {
				t.Errorf("from %q\n%q", m.From, m.Content)
			}
		})
	}
}
