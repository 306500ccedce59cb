package e2e

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/ledger"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// What the client asked for with its addresses reaches the receiver (RFC 3461,
// 6152, 6531), as Postfix would have passed it on; what only Postfix can do is
// left to it.
func TestArgumentsReachTheReceiver(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{keep: true, providers: []sink.Provider{
		{Name: "far", Domains: farDomains},
		{Name: "old", Domains: []string{"old.test"}, Behaviour: sink.Behaviour{Hide: []string{"8BITMIME", "DSN", "SMTPUTF8"}}},
	}})
	p := r.local()
	p.says("250", "EHLO client.test")
	utf8 := func(id string) string {
		return strings.NewReplacer("Subject: ", "Subject: Grüße ", "What", "Größe: what").Replace(news(id))
	}
	latin1 := func(id string) string { return news(id) + "Gr\xfc\xdfe\r\n" }
	for _, x := range []struct {
		id      string
		mail    string
		rcpts   []string
		content func(id string) string
		mailArg string   // at the receiver, in order of their names, but for SIZE
		arrive  []string // recipients, with arguments
	}{
		{"plain", "", []string{"a@far.test"}, news, "", []string{"a@far.test"}},
		{"size", " SIZE=12345 BODY=7BIT", []string{"a@far.test"}, news, "", []string{"a@far.test"}},
		{"dsn", " RET=FULL ENVID=a+2Bb=c",
			[]string{"A@far.test NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;Orig+2Bx@Old.test", "b@far.test NOTIFY=NEVER", "c@far.example notify=failure"}, news,
			"ENVID=a+2Bb=c RET=FULL",
			[]string{"A@far.test NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;Orig+2Bx@Old.test", "b@far.test NOTIFY=NEVER", "c@far.example notify=failure"}},
		// One recipient, two wishes: two copies, as Postfix has it. The same wish
		// twice is one.
		{"twice", "", []string{
			"t@far.test NOTIFY=NEVER", "t@far.test NOTIFY=FAILURE", "t@far.test NOTIFY=NEVER", "t@far.test NOTIFY=FAILURE ORCPT=rfc822;other@lab.test",
			"T@far.test NOTIFY=NEVER", "u@far.test",
		}, news, "", []string{"t@far.test NOTIFY=FAILURE", "t@far.test NOTIFY=FAILURE ORCPT=rfc822;other@lab.test", "t@far.test NOTIFY=NEVER", "u@far.test"}},
		{"eight-declared", " BODY=8BITMIME", []string{"a@far.test"}, latin1, "BODY=8BITMIME", []string{"a@far.test"}},
		{"eight-undeclared", "", []string{"a@far.test"}, latin1, "BODY=8BITMIME", []string{"a@far.test"}},
		{"eight-old", " BODY=8BITMIME", []string{"a@old.test"}, latin1, "", []string{"a@old.test"}},
		{"utf8-header", " SMTPUTF8 BODY=8BITMIME", []string{"a@far.test"}, utf8, "BODY=8BITMIME SMTPUTF8", []string{"a@far.test"}},
		{"utf8-undeclared", "", []string{"a@far.test"}, utf8, "BODY=8BITMIME", []string{"a@far.test"}},
		{"dsn-old", " RET=HDRS ENVID=e9", []string{"quiet@old.test NOTIFY=NEVER", "o@old.test NOTIFY=FAILURE"}, news, "", []string{"quiet@old.test", "o@old.test"}},
	} {
		content := x.content(x.id)
		rcpts := make([]string, len(x.rcpts))
		for i, rcpt := range x.rcpts {
			addr, args, _ := strings.Cut(rcpt, " ")
			rcpts[i] = strings.TrimSpace("<" + addr + "> " + args)
		}
		qid := p.sends("<news@lab.test>"+x.mail, rcpts, content)
		if line := r.verdict(qid); !strings.Contains(line, "verdict=delrcpt") {
			t.Errorf("%s: %s", x.id, line)
		}
		r.until("copies of "+x.id, func() bool { return len(r.copies(x.id)) >= len(x.arrive) })
		r.rest()
		var got []string
		for _, a := range r.copies(x.id) {
			got = append(got, strings.TrimSpace(a.recipient+" "+a.rcptArgs))
			args := slices.Sorted(strings.FieldsSeq(a.mailArgs))
			args = slices.DeleteFunc(args, func(s string) bool { return strings.HasPrefix(s, "SIZE=") })
			if g := strings.Join(args, " "); g != x.mailArg || !a.ours() {
				t.Errorf("%s: MAIL with %q, want %q; by Millrace: %v", x.id, g, x.mailArg, a.ours())
			}
			if _, c, _ := strings.Cut(a.content, ledger.IDHeader); ledger.IDHeader+c != content {
				t.Errorf("%s: content has changed: %q", x.id, c)
			}
		}
		slices.Sort(got)
		slices.Sort(x.arrive)
		if !slices.Equal(got, x.arrive) {
			t.Errorf("%s: arrived\n  %s\nwant\n  %s", x.id, strings.Join(got, "\n  "), strings.Join(x.arrive, "\n  "))
		}
	}
	if n, err := r.Postfix.Mailbox("news@lab.test"); err != nil || len(n) != 0 {
		t.Errorf("%d reports of mail that was delivered (%v)", len(n), err)
	}

	// A report of success is the receiver's to send, if it can (RFC 3461 section
	// 5.2.2), or else it is ours to say that the mail was relayed.
	p.sends("<asks@lab.test> ENVID=q1", []string{"<a@far.test> NOTIFY=SUCCESS", "<o@old.test> NOTIFY=SUCCESS ORCPT=rfc822;old@lab.test"}, news("success"))
	dsn := r.mailbox("asks@lab.test", 1)[0].Content
	r.reportSays(dsn, "Original-Envelope-Id: q1\n", "Final-Recipient: rfc822; o@old.test\n", "Original-Recipient: rfc822;old@lab.test\n", "Action: relayed\n")
	if bytes.Contains(dsn, []byte("a@far.test")) {
		t.Errorf("reported what the receiver was asked to report:\n%s", dsn)
	}
	r.rest()
	if n := len(r.mailbox("asks@lab.test", 1)); n != 1 {
		t.Errorf("%d reports", n)
	}

	// The null sender's mail stays, whatever it looks like.
	if line := r.verdict(p.sends("<>", []string{"<a@far.test>"}, news("null"))); !strings.Contains(line, "verdict=leave") || !strings.Contains(line, `reason="null sender"`) {
		t.Errorf("verdict: %s", line)
	}
	r.until("the null sender's mail", func() bool { return len(r.copies("null")) == 1 })
	if r.copies("null")[0].ours() {
		t.Error("mail of the null sender was diverted")
	}
	p.quits()
}

// A client on ::1 is on loopback too, and our trace writes its address as RFC
// 5321 section 4.1.3 says.
func TestClientOverIPv6(t *testing.T) {
	t.Parallel()
	const addr = "[::1]:2587"
	r := enter(t, setup{keep: true, postfix: lab.PostfixOptions{
		Extra:  map[string]string{"inet_protocols": "all"},
		Master: []string{addr + " inet n - n - - smtpd"},
	}})
	p := r.call(netip.Addr{}, addr)
	p.says("250", "EHLO client.test")
	p.sends("<news@lab.test>", []string{"<a@far.test>", "<user@lab.test>"}, news("six"))
	p.quits()
	r.mailbox("user@lab.test", 1)
	r.exactly("six a@far.test ours")
	if head, _, _ := strings.Cut(r.all()[0].content, ledger.IDHeader); !strings.Contains(head, " [IPv6:::1])\r\n") {
		t.Errorf("trace: %s", head)
	}
}
