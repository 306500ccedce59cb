package e2e

import (
	"bytes"
	"strings"
	"testing"

	"github.com/emersion/go-milter"

	"github.com/millrace/millrace/contrib/lab/logbuf"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// Postfix gives a queue id again when the microsecond and the inode are the
// same, which no test can wait for: here go-milter's client plays Postfix. The
// outcomes of messages with one queue id stay apart by their spool ids, be they
// one after the other in a session or all in hand at once.
func TestReusedQueueIDsKeepApart(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{providers: []sink.Provider{
		{Name: "far", Domains: farDomains},
		{Name: "strict", Domains: []string{"strict.test"}, Behaviour: sink.Behaviour{PermShare: 1}},
	}})
	const qid = "4B0C5984011"
	one, two := r.playPostfix(), r.playPostfix()
	one.begin(qid, "reused-1", "first@lab.test", "a@far.test")
	two.begin(qid, "reused-2", "second@lab.test", "b@strict.test")
	two.end()
	one.end()
	one.begin(qid, "reused-3", "third@lab.test", "c@far.example")
	one.end()
	two.begin(qid, "reused-4", "fourth@lab.test", "d@strict.test")
	two.end()

	r.exactly("reused-1 a@far.test ours", "reused-3 c@far.example ours")
	for _, a := range r.all() {
		if a.qid != qid || a.sender != map[string]string{"reused-1": "first@lab.test", "reused-3": "third@lab.test"}[a.id] {
			t.Errorf("%s came with queue id %s from %s", a.id, a.qid, a.sender)
		}
	}
	for sender, x := range map[string]struct{ id, to string }{"second@lab.test": {"reused-2", "b@strict.test"}, "fourth@lab.test": {"reused-4", "d@strict.test"}} {
		dsn := r.mailbox(sender, 1)
		if n := bytes.Count(dsn[0].Content, []byte("Final-Recipient:")); len(dsn) != 1 || n != 1 ||
			!bytes.Contains(dsn[0].Content, []byte("Final-Recipient: rfc822; "+x.to+"\n")) || !bytes.Contains(dsn[0].Content, []byte("X-Lab-ID: "+x.id+"\n")) {
			t.Errorf("%d reports to %s of %d recipients:\n%s", len(dsn), sender, n, dsn[0].Content)
		}
	}
	// One verdict and one outcome for each spool id.
	verdicts := r.verdicts(4, "qid="+qid+" ")
	ids := make(map[string]bool)
	for _, line := range verdicts {
		id := field(line, "id")
		ids[id] = true
		if got := logbuf.Lines(read(t, r.Millrace.Agent.Log()), "msg=delivery", "qid="+qid+" ", "id="+id+" "); len(got) != 1 {
			t.Errorf("outcomes of %s:\n%s", line, strings.Join(got, "\n"))
		}
	}
	if len(verdicts) != 4 || len(ids) != 4 {
		t.Errorf("%d verdicts, %d spool ids", len(verdicts), len(ids))
	}
}

// played is a session of a Postfix that go-milter's client plays.
type played struct {
	room *room
	*milter.ClientSession
}

func (r *room) playPostfix() played {
	r.t.Helper()
	c := milter.NewClientWithOptions("unix", strings.TrimPrefix(r.Millrace.Socket(), "unix:"), milter.ClientOptions{
		ActionMask: milter.OptRemoveRcpt,
		ProtocolMask: milter.OptNoConnReply | milter.OptNoHeloReply | milter.OptNoMailReply | milter.OptNoRcptReply |
			milter.OptNoDataReply | milter.OptNoHeaderReply | milter.OptNoBodyReply | milter.OptHeaderLeadingSpace,
		ReadTimeout: waiting, WriteTimeout: waiting,
	})
	s, err := c.Session()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { s.Close() })
	p := played{r, s}
	p.check(s.Macros(milter.CodeConn, "j", "mail.lab.test", "v", "Postfix 3.7.11", "{daemon_name}", "mail.lab.test"))
	_, err = s.Conn("localhost", milter.FamilyInet, 25, "127.0.0.1")
	p.check(err)
	_, err = s.Helo("client.test")
	p.check(err)
	return p
}

func (p played) check(err error) {
	p.room.t.Helper()
	if err != nil {
		p.room.t.Fatal(err)
	}
}

// begin sends a newsletter up to the end of its header, and it is to go on.
func (p played) begin(qid, id, from, to string) {
	p.room.t.Helper()
	if code := p.header(qid, id, from, to); code != milter.ActContinue {
		p.room.t.Fatalf("end of header of %s: %c", id, code)
	}
}

// header sends a newsletter up to the end of its header and returns the answer.
func (p played) header(qid, id, from, to string, args ...string) milter.ActionCode {
	p.room.t.Helper()
	_, err := p.Mail(from, args)
	p.check(err)
	_, domain, _ := strings.Cut(to, "@")
	p.check(p.Macros(milter.CodeRcpt, "i", qid, "{rcpt_mailer}", "smtp", "{rcpt_host}", domain))
	_, err = p.Rcpt(to, nil)
	p.check(err)
	head, _, _ := strings.Cut(news(id), "\r\n\r\n")
	for line := range strings.SplitSeq(head, "\r\n") {
		name, value, _ := strings.Cut(line, ":")
		_, err := p.HeaderField(name, value)
		p.check(err)
	}
	p.check(p.Macros(milter.CodeEOH, "i", qid))
	act, err := p.HeaderEnd()
	p.check(err)
	return act.Code
}

// end sends the body and checks that the recipient is to be deleted.
func (p played) end() {
	p.room.t.Helper()
	mods, act, err := p.BodyReadFrom(strings.NewReader("What is new.\r\n"))
	p.check(err)
	if act.Code != milter.ActAccept || len(mods) != 1 || mods[0].Code != milter.ActDelRcpt {
		p.room.t.Fatalf("verdict %c, %+v", act.Code, mods)
	}
}
