package agent

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/feedback"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/trace"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// Each copy's mark names the recipients of its transaction and nobody else; and a report that
// waits in the spool while the agent is away is taken at its start.
func TestCopiesAreMarkedAndReportsOnThemTaken(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil,
		sink.Provider{Name: "far", Domains: []string{"far.test"}}, sink.Provider{Name: "other", Domains: []string{"other.test"}})
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test", Stream: "news"}, letter, "a@far.test", "b@far.test", "c@other.test")
	s.until("delivered", func() bool { return len(s.at("far")) == 2 && len(s.at("other")) == 1 })
	key, err := spool.LoopKey(s.config.Spool.Directory)
	if err != nil {
		t.Fatal(err)
	}
	keys := trace.NewKeys(key)
	field := func(site string) (string, trace.Mark) {
		head, _, _ := strings.Cut(s.at(site)[0].content, "Subject:")
		m, ok := keys.Read(strings.TrimPrefix(head, "Received:"))
		if !ok || !m.Sealed || m.Stream != "news" {
			t.Fatalf("%v, %+v: %q", ok, m, head)
		}
		return head, m
	}
	if _, m := field("far"); m.Recipient != "" || !m.For("a@far.test") || !m.For("b@far.test") || m.For("c@other.test") {
		t.Errorf("of two: %+v", m)
	}
	head, m := field("other")
	if m.Recipient != "c@other.test" || m.Ordinal != 2 || m.For("a@far.test") {
		t.Errorf("of one: %+v", m)
	}
	report := "From: mailer-daemon@other.test\r\nContent-Type: multipart/report; boundary=b\r\n\r\n" +
		"--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.other.test\r\n\r\nFinal-Recipient: rfc822; c@other.test\r\nAction: failed\r\n" +
		"Status: 5.1.1\r\nDiagnostic-Code: smtp; 550 5.1.1 User unknown\r\n\r\n--b\r\nContent-Type: text/rfc822-headers\r\n\r\n" + head + "\r\n--b--\r\n"
	box := feedback.NewBox(s.config.Spool.Directory)
	if _, err := box.Put([]byte(report), 1, m.Day); err != nil {
		t.Fatal(err)
	}
	s.until("the report is taken", func() bool { list, err := box.Waiting(); return err == nil && len(list) == 0 })
	s.until("its line", func() bool { return strings.Contains(s.log.String(), "msg=report") })
	for _, want := range []string{"to=<c@other.test>", "dsn=5.1.1", `status="late bounce"`} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("the log has no %q", want)
		}
	}
	if strings.Contains(s.log.String(), "uncounted=") {
		t.Error("the report does not count")
	}
}
