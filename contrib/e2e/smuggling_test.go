package e2e

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/ledger"
)

// endings are the ends of data that some server was found to accept though they
// are none (RFC 5321 section 4.1.1.4), among them those that were published as
// SMTP smuggling in 2023.
var endings = []string{
	"\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\r\n.\r", "\n.\r", "\r.\n",
	"\r\n\r.\r\r\n", "\r\r\n.\r\r\n", "\r\n.\r\r\n", "\r\n.\x00\r\n", "\r\n\x00.\r\n", "\r\x00\n.\r\x00\n",
	"\x00\r\n.\r\n\x00", "\r\n.\x0b\r\n", "\r\n..\r\n", "\r\n. \r\n", "\r\n.\u0085", "\u2028.\u2028",
}

// A message stays one message, whatever in it looks like an end: through either
// host MTA and Millrace to each real receiver, or it does not leave by Millrace.
func TestSmugglingStaysOneMessage(t *testing.T) {
	t.Parallel()
	hosts := map[string]setup{
		"postfix": {postfix: lab.PostfixOptions{Extra: map[string]string{
			"smtpd_forbid_bare_newline": "normalize", "smtpd_forbid_bare_newline_exclusions": "",
		}}},
		"sendmail": {sendmail: &lab.SendmailOptions{}},
	}
	net := 0
	for name, s := range hosts {
		net++
		subnet := fmt.Sprintf("127.45.%d.", net)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			far, queues := receivers(ctx, t, subnet)
			s.millrace.Extra = queues
			smuggle(enter(t, s), far)
		})
	}
}

// receivers starts one of each real MTA, and gives the queues that lead to them.
// Each has the domain of its name.
func receivers(ctx context.Context, t *testing.T, subnet string) (far map[string]lab.Receiver, queues string) {
	t.Helper()
	far = make(map[string]lab.Receiver)
	for i, name := range []string{"postfix", "sendmail", "exim", "opensmtpd"} {
		o := lab.ReceiverOptions{Addr: fmt.Sprintf("%s%d:25", subnet, i+1), Domains: []string{name + ".test"}}
		r := receive(ctx, t, name, o, nil)
		far[name] = r
		queues += fmt.Sprintf("[[queue]]\nname = %q\ndomains = [%q]\nroute = \"relay:%s\"\n", name, name+".test", o.Addr)
	}
	return far, queues
}

// smuggle sends a message with each of the endings in it, and then looks into
// the receivers' mailboxes.
func smuggle(r *room, far map[string]lab.Receiver) {
	var rcpts []string
	for name := range far {
		rcpts = append(rcpts, "victim@"+name+".test")
	}
	diverted := 0
	for i, ending := range endings {
		id := fmt.Sprintf("smuggling-%d", i)
		k := r.talk()
		k.envelope(rcpts...)
		k.write(news(id) + "before" + ending + "MAIL FROM:<evil@lab.test>\r\nRCPT TO:<smuggled@exim.test>\r\nRCPT TO:<smuggled@opensmtpd.test>\r\n" +
			"RCPT TO:<smuggled@postfix.test>\r\nRCPT TO:<smuggled@sendmail.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nafter\r\n.\r\n")
		code, text, err := k.text.ReadResponse(0)
		k.conn.Close()
		if err != nil || code != 250 {
			continue // refused: nothing of it is there
		}
		line := r.verdict(lab.QueueID("250 " + text))
		if strings.Contains(line, "verdict=leave") {
			continue
		}
		diverted++
		for name, f := range far {
			r.until(id+" at "+name, func() bool { return len(withID(r.t, f, name, id)) > 0 })
		}
	}
	r.rest()
	if diverted == 0 || diverted == len(endings) {
		r.t.Errorf("%d of %d messages diverted", diverted, len(endings))
	}
	for name, f := range far {
		for i := range endings {
			if n := len(withID(r.t, f, name, fmt.Sprintf("smuggling-%d", i))); n > 1 {
				r.t.Errorf("%s has %d copies of the message with %q", name, n, endings[i])
			}
		}
		for _, m := range withID(r.t, f, name, "") {
			if !bytes.Contains(m.Content, []byte("\nafter\n")) {
				r.t.Errorf("%s: a message was cut:\n%q", name, m.Content)
			}
		}
		if all, err := f.Mailbox("smuggled@" + name + ".test"); err != nil || len(all) > 0 {
			r.t.Errorf("%s took %d smuggled messages, the first:\n%q (%v)", name, len(all), all, err)
		}
	}
}

// withID gives a receiver's copies of one message for the victim, or of all.
func withID(t *testing.T, f lab.Receiver, name, id string) []lab.Message {
	t.Helper()
	all, err := f.Mailbox("victim@" + name + ".test")
	if err != nil {
		t.Fatal(err)
	}
	var found []lab.Message
	for _, m := range all {
		if id == "" || bytes.Contains(m.Content, []byte(ledger.IDHeader+": "+id+"\n")) {
			found = append(found, m)
		}
	}
	return found
}
