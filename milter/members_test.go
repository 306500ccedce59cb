package milter_test

import (
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/trace"
)

// Mail that another node of the fleet has sent was here before, and a report on it is kept for
// the agent; both once that node's key is known, over a reload too.
func TestMailOfOtherNodesIsKnown(t *testing.T) {
	t.Parallel()
	other := []byte("the loop key of the node a")
	keys := trace.NewKeys(other)
	mark := string(trace.Received(&spool.Envelope{
		QueueID: "4Q1", Protocol: "ESMTP", ByHost: "a.lists.example", Arrived: time.Unix(1790000000, 0), Stream: "news",
		Recipients: []spool.Recipient{{Address: "bob@remote.example"}},
	}, spool.MakeID(1, 2), "h", &keys, []uint32{0}))
	cfg := divertAll()
	cfg.Feedback.Read = true
	box := &fakeBox{}
	s := serveReports(t, cfg, box)
	field := strings.TrimSuffix(strings.ReplaceAll(mark, "\r\n", "\n"), "\n")
	try := func(known bool) {
		t.Helper()
		m := connect(t, s, postfixVersion, actions, steps)
		want := cont // it is diverted
		if known {
			want = acc
		}
		m.wants(m.headers("a@b.example", []string{"c@d.example"}, field), want)
		if !known {
			m.body("x\r\n")
		}
		fields, body := report(t, "seen/postfix.eml", mark)
		m.wants(m.headers("<>", []string{"<news@lists.example> local"}, fields...), cont)
		m.body(body)
	}
	try(false)
	s.server.Members([]trace.Member{{Node: "c", Key: []byte("the loop key of the node c")}, {Node: "a", Key: other}})
	try(true)
	if err := s.server.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	try(true)
	s.stop()
	if got := s.server.Counts().Reports; got["kept"] != 2 || got["unverified"] != 1 || len(box.all()) != 2 {
		t.Errorf("%v", got)
	}
	if l := s.log.Lines("has been here before"); len(l) != 2 {
		t.Errorf("%d are told to have been here before", len(l))
	}
}
