package e2e

import (
	"bufio"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/logbuf"
	"github.com/millrace/millrace/contrib/lab/proxy"
)

// refuse is a host that takes no recipient.
func refuse(c net.Conn) {
	fmt.Fprint(c, "220 mail.lab.test ESMTP\r\n")
	for lines := bufio.NewScanner(c); lines.Scan(); {
		reply := "250 2.0.0 Ok"
		switch verb, _, _ := strings.Cut(strings.ToUpper(lines.Text()), " "); verb {
		case "RCPT":
			reply = "550 5.7.1 Nothing for you here"
		case "DATA":
			reply = "554 5.5.1 No valid recipients"
		case "QUIT":
			reply = "221 2.0.0 Bye"
		}
		if _, err := fmt.Fprint(c, reply+"\r\n"); err != nil {
			return
		}
	}
}

// While the host's port is shut its bounces wait, durable. When it refuses them
// they are stuck: kept, shown, and nothing is sent about them. None is lost, none
// goes round.
func TestBouncesWaitForTheHostAndOutliveItsRefusal(t *testing.T) {
	t.Parallel()
	port, err := proxy.New(proxy.Options{Listen: "127.0.0.1:0"}) // the host's, which is absent
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(port.Close)
	r := enter(t, setup{
		providers: strictAndFar(),
		millrace:  lab.MillraceOptions{Set: map[string]string{"handback.relay": `"` + port.Addr() + `"`}},
	})
	const n = 25
	sender := func(i int) string { return fmt.Sprintf("news+%d@lab.test", i) }
	for i := range n {
		r.send(sender(i), []string{fmt.Sprintf("a%d@strict.test", i)}, news(fmt.Sprint("lost-", i)))
	}
	agentLog := func(words ...string) int { return len(logbuf.Lines(read(t, r.Millrace.Agent.Log()), words...)) }
	r.until("all have bounced", func() bool { return agentLog("status=bounced") == n })
	r.until("all reports wait", func() bool { return r.queued("waiting") == n })
	r.Millrace.Agent.Kill()
	r.start(r.Millrace.Agent)
	r.until("all reports wait after a crash", func() bool { return r.queued("waiting") == n })

	if err := port.Answer(refuse); err != nil {
		t.Fatal(err)
	}
	r.until("all are stuck", func() bool { return r.queued("stuck") == n })
	r.stop(r.Millrace.Agent)
	r.start(r.Millrace.Agent)
	r.until("all are stuck after a restart", func() bool { return r.queued("stuck") == n })
	if got := agentLog("status=stuck", "550 5.7.1 Nothing for you here"); got != n {
		t.Errorf("%d refusals, want each report tried once", got)
	}
	if got := agentLog("sender non-delivery notification"); got != n {
		t.Errorf("%d reports of %d failures", got, n)
	}

	// The admin has mended the host, and has the agent try at once.
	port.Leave()
	port.Cut()
	r.stop(r.Millrace.Agent)
	r.tryNow()
	if err := port.Pass(r.Host.HandbackAddr()); err != nil {
		t.Fatal(err)
	}
	r.start(r.Millrace.Agent)
	for i := range n {
		got := r.readReports(r.mailbox(sender(i), 1))
		if len(got) != 1 || len(got[0].Recipients) != 1 || got[0].Recipients[0]["final-recipient"] != fmt.Sprintf("rfc822; a%d@strict.test", i) {
			t.Errorf("%s was told %+v", sender(i), got)
		}
	}
	r.rest()
	for i := range n {
		if got := r.mailbox(sender(i), 1); len(got) != 1 {
			t.Errorf("%s has %d reports", sender(i), len(got))
		}
	}
}

// A failure waits a moment for others of its message. An agent that is killed then
// has told nobody and recorded nothing: the next one finds out anew.
func TestKilledAgentLosesNoBounce(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{providers: strictAndFar()})
	const least, kills = 30, 4
	sender := func(i int) string { return fmt.Sprintf("news+%d@lab.test", i) }
	n, killed := 0, 0
	for n < least || killed < kills {
		i := n
		n++
		qid := r.send(sender(i), []string{fmt.Sprintf("a%d@strict.test", i), fmt.Sprintf("b%d@far.test", i)}, news(fmt.Sprint("held-", i)))
		if i < killed*least/kills {
			continue
		}
		says := func(text string) bool {
			return len(logbuf.Lines(read(t, r.Millrace.Agent.Log()), text, "qid="+qid+" ")) > 0
		}
		bounced := func() bool {
			is := says("status=bounced")
			if is && !says("sender non-delivery notification") {
				t.Fatalf("%s has bounced before its report", qid)
			}
			return is
		}
		// The moment is five seconds; who looks later finds it past, and takes another.
		r.until("a failure is held", func() bool { return r.holds() || bounced() })
		if bounced() {
			if n > 5*least {
				t.Fatalf("%d of %d failures were met while they were held", killed, n)
			}
			continue
		}
		r.Millrace.Agent.Kill()
		if !bounced() {
			killed++
		}
		r.start(r.Millrace.Agent)
	}
	for i := range n {
		got := told(r.readReports(r.mailbox(sender(i), 1)))
		if list := got[fmt.Sprintf("a%d@strict.test", i)]; len(got) != 1 || len(list) == 0 || list[0] != "failed 5.1.1 userunknown" {
			t.Errorf("%s was told %q", sender(i), got)
		}
	}
	r.rest()
	for i := range n {
		if len(r.copies(fmt.Sprint("held-", i))) == 0 {
			t.Errorf("%d is lost", i)
		}
	}
}

// holds reports whether the agent has recipients in hand though no session of its
// has any work.
func (r *room) holds() bool {
	r.t.Helper()
	st := r.status()
	return st.Active > 0 && st.Waiting == 0 && !slices.ContainsFunc(st.Sites, func(s control.Site) bool { return s.Ready < s.Sessions || s.Opening > 0 })
}

// tryNow has everything tried when the agent starts again.
func (r *room) tryNow() {
	r.t.Helper()
	s, err := spool.OpenStore(r.Millrace.Spool(), spool.StoreOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	var events []spool.Event
	err = s.Load(func(id spool.ID, _ *spool.Envelope, states []spool.State) error {
		for i, st := range states {
			st.Due = st.Due.AddDate(-1, 0, 0)
			events = append(events, spool.Event{ID: id, Recipient: uint32(i), State: st})
		}
		return nil
	})
	if err == nil {
		err = s.Record(events...)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		r.t.Fatal(err)
	}
}

// queued counts the recipients in the agent's queue that `millrace queue` shows in a
// state.
func (r *room) queued(state string) (n int) {
	r.t.Helper()
	dir, err := lab.Programs()
	if err != nil {
		r.t.Fatal(err)
	}
	out, err := exec.CommandContext(r.ctx, filepath.Join(dir, "millrace"), "--config", r.Millrace.Config(), "queue", "--json").CombinedOutput()
	if err != nil {
		r.t.Fatalf("millrace queue: %v\n%s", err, out)
	}
	return strings.Count(string(out), `"state":"`+state+`"`)
}
