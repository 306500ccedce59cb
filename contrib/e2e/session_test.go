package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/ledger"
	"github.com/millrace/millrace/contrib/lab/logbuf"
)

// tolerant is a Postfix that lets a client try again and again, and refuses one
// recipient.
func tolerant() lab.PostfixOptions {
	o := patient(lab.PostfixOptions{})
	o.Extra["smtpd_junk_command_limit"] = "10000"
	o.Extra["smtpd_recipient_restrictions"] = "check_recipient_access inline:{ no@far.test=REJECT }"
	return o
}

// quiet checks that the milter logged so many verdicts and no trouble.
func (r *room) quiet(verdicts int) {
	r.t.Helper()
	if got := r.verdicts(verdicts); len(got) != verdicts {
		r.t.Errorf("%d verdicts logged, want %d:\n%s", len(got), verdicts, strings.Join(got, "\n"))
	}
	log := read(r.t, r.Millrace.Milter.Log())
	for _, trouble := range []string{"level=WARN", "level=ERROR"} {
		if got := logbuf.Lines(log, trouble); len(got) > 0 {
			r.t.Errorf("the milter has trouble:\n%s", strings.Join(got, "\n"))
		}
	}
	if got := logbuf.Lines(read(r.t, r.Millrace.Agent.Log()), "possible duplicate"); len(got) > 0 {
		r.t.Errorf("orphans were left:\n%s", strings.Join(got, "\n"))
	}
}

// A message that ends before its time is nobody's, and leaves nothing to the
// next one, wherever and however it ends: RSET and the like make Postfix send
// ABORT, and so does a client that is gone.
func TestMessageThatEndsEarlyIsNobodys(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{postfix: tolerant()})
	const envelope = "MAIL FROM:<early@lab.test>\r\nRCPT TO:<early@far.test>\r\n"
	var want []string
	finished, calls := 0, 0
	for _, stage := range []struct {
		name     string
		say      func(p *peer)
		commands bool // the client may speak here
	}{
		{"hello", func(*peer) {}, true},
		{"mail", func(p *peer) { p.says("250", "MAIL FROM:<early@lab.test>") }, true},
		{"rcpt", func(p *peer) { p.says("250 250", "MAIL FROM:<early@lab.test>", "RCPT TO:<early@far.test>") }, true},
		{"refused", func(p *peer) { p.says("250 554", "MAIL FROM:<early@lab.test>", "RCPT TO:<no@far.test>") }, true},
		{"finished", func(p *peer) {
			finished++
			id := fmt.Sprintf("finished-%d", finished)
			p.sends("<early@lab.test>", []string{"<early@far.test>"}, news(id))
			want = append(want, id+" early@far.test ours")
		}, true},
		{"chunk", func(p *peer) {
			p.raw(envelope + "BDAT 20\r\n" + news("early")[:20])
			p.hears("250 250 250")
		}, true},
		{"in-chunk", func(p *peer) {
			p.raw(envelope + "BDAT 2000\r\n" + news("early")[:100])
			p.hears("250 250")
		}, false},
		{"data", func(p *peer) { p.raw(envelope + "DATA\r\n"); p.hears("250 250 354") }, false},
		{"header", func(p *peer) {
			p.raw(envelope + "DATA\r\n")
			p.hears("250 250 354")
			p.raw(news("early")[:100])
		}, false},
		{"body", func(p *peer) {
			p.raw(envelope + "DATA\r\n")
			p.hears("250 250 354")
			p.raw(news("early") + strings.Repeat("more\r\n", 40_000)) // is in the queue file, in part
		}, false},
	} {
		for _, end := range []string{"RSET", "EHLO again.test", "QUIT", "hang up", "reset"} {
			if !stage.commands && end != "hang up" && end != "reset" {
				continue
			}
			p := r.local()
			calls++
			p.says("250", "EHLO client.test")
			stage.say(p)
			switch end {
			case "hang up":
				p.hangsUp()
				continue
			case "reset":
				if err := p.conn.(*net.TCPConn).SetLinger(0); err != nil {
					t.Fatal(err)
				}
				p.hangsUp()
				continue
			case "QUIT":
				p.quits()
				continue
			}
			p.says("250", end)
			id := stage.name + "-" + strings.ToLower(end[:4])
			p.sends("<next@lab.test>", []string{"<next@far.test>"}, news(id))
			want = append(want, id+" next@far.test ours")
			p.quits()
		}
	}
	// A client that does not wait for the last reply has still sent its message.
	p := r.local()
	calls++
	p.says("250", "EHLO client.test")
	p.raw(envelope + "DATA\r\n")
	p.hears("250 250 354")
	p.raw(news("dot") + ".\r\n")
	p.hangsUp()
	want = append(want, "dot early@far.test ours")

	r.until("Postfix has seen every client go", func() bool {
		lines, err := r.Postfix.LogLines("/smtpd[", "disconnect from localhost[127.0.0.1]")
		if err != nil {
			t.Fatal(err)
		}
		return len(lines) >= calls
	})
	r.exactly(want...)
	r.quiet(len(want))
	for _, a := range r.all() {
		if sender := map[bool]string{true: "early@lab.test", false: "next@lab.test"}[strings.HasPrefix(a.recipient, "early")]; a.sender != sender {
			t.Errorf("%s to %s came from %s", a.id, a.recipient, a.sender)
		}
	}
}

// Content in chunks (RFC 3030) and commands in groups (RFC 2920) are the same
// mail.
func TestChunksAndGroups(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{keep: true, postfix: tolerant()})
	p := r.local()
	p.says("250", "EHLO client.test")
	n := 0
	sent := map[string]string{}
	var want []string
	next := func() (id, envelope, content string) {
		n++
		id = fmt.Sprintf("chunks-%d", n)
		content = news(id) + ".a dot\r\n..\r\n.\r\n\r\n" + strings.Repeat("text\r\n", 30_000) + "\r\n"
		sent[id] = content
		want = append(want, id+" reader@far.test ours")
		return id, "MAIL FROM:<news@lab.test>\r\nRCPT TO:<no@far.test>\r\nRCPT TO:<reader@far.test>\r\n", content
	}
	taken := func(reply string) {
		t.Helper()
		h := r.verdict(lab.QueueID(reply))
		if !strings.Contains(h, "verdict=delrcpt") || !strings.Contains(h, "nrcpt=1") {
			t.Errorf("verdict: %s", h)
		}
	}
	chunk := func(s, last string) string { return fmt.Sprintf("BDAT %d%s\r\n%s", len(s), last, s) }

	// One chunk, in one write with the envelope.
	_, envelope, content := next()
	p.raw(envelope + chunk(content, " LAST"))
	taken(p.hears("250 554 250 250"))

	// Cuts in a field's name, between CR and LF, before the empty line, in a dot
	// line, and an empty one at the end.
	_, envelope, content = next()
	p.raw(envelope)
	p.hears("250 554 250")
	rest := content
	for _, cut := range []int{3, strings.Index(content, "\r\n") + 1, strings.Index(content, "\r\n\r\n") + 2, strings.Index(content, "\r\n.\r\n") + 3} {
		at := cut - (len(content) - len(rest))
		p.raw(chunk(rest[:at], ""))
		p.hears("250")
		rest = rest[at:]
	}
	p.raw(chunk(rest, "") + chunk("", " LAST"))
	taken(p.hears("250 250"))

	// All chunks of two messages in one write.
	_, envelope, content = next()
	_, envelope2, content2 := next()
	p.raw(envelope + chunk(content[:1000], "") + chunk(content[1000:], " LAST") + envelope2 + chunk(content2, " LAST"))
	p.hears("250 554 250 250")
	taken(p.hears("250"))
	taken(p.hears("250 554 250 250"))

	// DATA, with the next message's envelope in the write of the last line.
	_, envelope, content = next()
	_, envelope2, content2 = next()
	stuffed := strings.NewReplacer("\r\n.", "\r\n..")
	p.raw(envelope + "DATA\r\n")
	p.hears("250 554 250 354")
	p.raw(stuffed.Replace(content) + ".\r\n" + envelope2 + "DATA\r\n")
	taken(p.hears("250"))
	p.hears("250 554 250 354")
	p.raw(stuffed.Replace(content2) + ".\r\nQUIT\r\n")
	taken(p.hears("250"))
	p.hears("221")

	r.exactly(want...)
	r.quiet(len(want))
	for _, a := range r.all() {
		if _, content, _ := strings.Cut(a.content, ledger.IDHeader); ledger.IDHeader+content != sent[a.id] {
			t.Errorf("%s has changed on its way", a.id)
		}
	}
}

// Hundreds of messages of every fate over few connections keep apart.
func TestManyMessagesOverOneConnection(t *testing.T) {
	t.Parallel()
	o := tolerant()
	o.LocalDomains = []string{"home.test"}
	r := enter(t, setup{postfix: o})
	rnd := rand.New(rand.NewPCG(1, 2))
	p := r.local()
	p.says("250", "EHLO client.test")
	const n = 250
	var want []string
	local := 0
	for i := range n {
		id := fmt.Sprintf("many-%d", i)
		way, mail, content := "ours", fmt.Sprintf("<news-%d@lab.test>", i), news(id)
		switch rnd.IntN(6) {
		case 0:
			way, content = "postfix", strings.Replace(content, "List-", "X-Not-", 2)
		case 1:
			way, mail = "postfix", "<>"
		case 2:
			mail += " RET=HDRS ENVID=" + id
		}
		group, codes := []string{"MAIL FROM:" + mail}, "250"
		for k := range 1 + rnd.IntN(4) {
			switch addr := fmt.Sprintf("r%d-%d", i, k); rnd.IntN(6) {
			case 0:
				group, codes = append(group, "RCPT TO:<no@far.test>"), codes+" 554"
			case 1:
				group, codes = append(group, "RCPT TO:<user@home.test>"), codes+" 250"
			default:
				group, codes = append(group, "RCPT TO:<"+addr+"@far.example>"), codes+" 250"
			}
		}
		// Some think better of it, some after one refused recipient too many.
		if !strings.Contains(codes[3:], "250") || rnd.IntN(10) == 0 {
			p.says(codes+" 250", append(group, []string{"RSET", "EHLO client.test"}[rnd.IntN(2)])...)
			continue
		}
		for _, line := range group[1:] {
			if addr := strings.TrimSuffix(strings.TrimPrefix(line, "RCPT TO:<"), ">"); strings.HasSuffix(addr, "@far.example") {
				want = append(want, id+" "+addr+" "+way)
			}
		}
		if strings.Contains(strings.Join(group, " "), "@home.test") {
			local++
		}
		if rnd.IntN(2) == 0 {
			p.raw(strings.Join(group, "\r\n") + fmt.Sprintf("\r\nBDAT %d LAST\r\n%s", len(content), content))
			p.hears(codes + " 250")
		} else {
			p.says(codes+" 354", append(group, "DATA")...)
			p.says("250", content+".")
		}
	}
	p.quits()
	r.exactly(want...)
	if got := len(r.mailbox("user@home.test", local)); got != local {
		t.Errorf("%d local copies, want %d", got, local)
	}
	for _, a := range r.all() {
		if i := strings.TrimPrefix(a.id, "many-"); a.sender != "" && a.sender != "news-"+i+"@lab.test" || !strings.HasPrefix(a.recipient, "r"+i+"-") {
			t.Errorf("%s came from %s to %s", a.id, a.sender, a.recipient)
		}
	}
}
