package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// TestAdminsDay has an admin do what there is to do, with the command as it is built:
// each script in testdata/admin_days is a task, in a room of its own. Beside testscript's
// commands there are
//
//	millrace VERB ...             the command, with the room's configuration
//	eventually PATTERN VERB ...   millrace VERB ..., again until it prints PATTERN
//	send FROM TO [LIST]           a newsletter, through Postfix; QID is its queue id
//	blast N TO LIST               N newsletters to N recipients, u0@TO ..., into the spool
//	receiver NAME takes           from now on the receiver takes everything
//	arrived N NAME                waits for N copies at the receiver
//	sendUntil WAY FROM TO         newsletters, until one goes by "postfix" alone or is "ours"
//	mailbox ADDRESS PATTERN       waits for local mail with PATTERN
//	logged PATTERN                waits for a line in the agent's log
//	capture NAME PATTERN          sets NAME to the group in what millrace printed last
//	accounted N                   waits until N recipients are sent or cancelled, and holds
//	                              what was sent against what arrived
func TestAdminsDay(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob("testdata/admin_days/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("%d scripts, %v", len(scripts), err)
	}
	for _, file := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			d := &day{room: enter(t, setup{
				providers: []sink.Provider{
					{Name: "far", Domains: []string{"far.test"}},
					{Name: "slow", Domains: []string{"slow.test"}, Behaviour: sink.Behaviour{AcceptTime: time.Second}},
					{Name: "narrow", Domains: []string{"narrow.test"}, Behaviour: sink.Behaviour{AcceptTime: 200 * time.Millisecond, HostConnections: 2}},
					{Name: "strict", Domains: []string{"strict.test"}, Behaviour: sink.Behaviour{
						PermShare: 1, Say: map[sink.Cause]string{sink.CausePerm: "550 5.1.1 No such user here"},
					}},
					{Name: "grey", Domains: []string{"grey.test"}, Behaviour: sink.Behaviour{
						TempShare: 1, Say: map[sink.Cause]string{sink.CauseTemp: "451 4.7.1 Greylisted, come back later"},
					}},
				},
				millrace: lab.MillraceOptions{Set: map[string]string{"general.retry": `["1h"]`}},
			})}
			programs, err := lab.Programs()
			if err != nil {
				t.Fatal(err)
			}
			testscript.Run(t, testscript.Params{
				Files:               []string{file},
				RequireExplicitExec: true,
				Setup: func(env *testscript.Env) error {
					env.Setenv("PATH", programs+string(os.PathListSeparator)+os.Getenv("PATH"))
					return nil
				},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"millrace": d.millrace, "eventually": d.eventually, "send": d.sendNews, "blast": d.blast, "receiver": d.receiver,
					"arrived": d.arrivedAt, "sendUntil": d.sendUntil, "mailbox": d.mailboxOf, "logged": d.logged, "capture": d.capture, "accounted": d.accounted,
				},
			})
		})
	}
}

// day is the room that a script is about. Its methods are the commands.
type day struct{ *room }

func (d *day) millrace(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("millrace", append([]string{"--config", d.room.Millrace.Config()}, args...)...)
	if (err != nil) != neg {
		ts.Fatalf("millrace %s: %v", strings.Join(args, " "), err)
	}
}

func (d *day) eventually(ts *testscript.TestScript, neg bool, args []string) {
	pattern := d.pattern(ts, neg, args, 2, "eventually PATTERN VERB ...")
	d.until(args[0]+" of millrace "+strings.Join(args[1:], " "), func() bool {
		err := ts.Exec("millrace", append([]string{"--config", d.room.Millrace.Config()}, args[1:]...)...)
		return err == nil && pattern.MatchString(ts.ReadFile("stdout"))
	})
}

// pattern compiles the first of at least n arguments.
func (d *day) pattern(ts *testscript.TestScript, neg bool, args []string, n int, usage string) *regexp.Regexp {
	if neg || len(args) < n {
		ts.Fatalf("usage: %s", usage)
	}
	re, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	return re
}

func (d *day) sendNews(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: send FROM TO [LIST]")
	}
	content := news(args[1])
	if len(args) == 3 {
		content = strings.ReplaceAll(content, "<news.lab.test>", "<"+args[2]+">")
	}
	ts.Setenv("QID", d.send(args[0], []string{args[1]}, content))
}

func (d *day) blast(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: blast N TO LIST")
	}
	n := number(ts, args[0])
	w, err := spool.OpenWriter(d.room.Millrace.Spool(), spool.WriterOptions{})
	ts.Check(err)
	content := news("blast")
	const sessions = 64
	var wg sync.WaitGroup
	for k := range sessions {
		wg.Go(func() {
			for i := k; i < n; i += sessions {
				r, err := w.Append(d.ctx, &spool.Envelope{
					Sender: "news@lab.test", Stream: args[2], Arrived: time.Now(), QueueID: fmt.Sprint("BLAST", i),
					Recipients: []spool.Recipient{{Address: fmt.Sprintf("u%d@%s", i, args[1])}},
				}, strings.NewReader(content))
				if err == nil {
					err = r.Release()
				}
				if err != nil {
					d.t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	ts.Check(w.Close())
}

func (d *day) receiver(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 || args[1] != "takes" {
		ts.Fatalf("usage: receiver NAME takes")
	}
	ts.Check(d.Internet.Change(args[0], func(b *sink.Behaviour) { *b = sink.Behaviour{} }))
}

func (d *day) at(provider string) (n int) {
	for _, a := range d.all() {
		if a.provider == provider {
			n++
		}
	}
	return n
}

func (d *day) arrivedAt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: arrived N NAME")
	}
	n := number(ts, args[0])
	d.until(args[0]+" copies at "+args[1], func() bool { return d.at(args[1]) >= n })
	if got := d.at(args[1]); got != n {
		ts.Fatalf("%d copies at %s, want %d", got, args[1], n)
	}
}

// sendUntil is for what the milter notices within a second.
func (d *day) sendUntil(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: sendUntil WAY FROM TO")
	}
	d.until("a newsletter by way of "+args[0], func() bool {
		before := len(d.all())
		d.send(args[1], []string{args[2]}, news(args[2]))
		d.until("arrival", func() bool { return len(d.all()) > before })
		return d.all()[before].ours() == (args[0] == "ours")
	})
}

func (d *day) mailboxOf(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mailbox ADDRESS PATTERN")
	}
	re := d.pattern(ts, false, args[1:], 1, "")
	if got := d.mailbox(args[0], 1)[0].Content; !re.Match(got) {
		ts.Fatalf("no %s in\n%s", args[1], got)
	}
}

func (d *day) logged(ts *testscript.TestScript, neg bool, args []string) {
	re := d.pattern(ts, neg, args, 1, "logged PATTERN")
	d.until(args[0]+" in the log", func() bool { return re.MatchString(read(d.t, d.room.Millrace.Agent.Log())) })
}

func (d *day) capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: capture NAME PATTERN")
	}
	found := d.pattern(ts, false, args[1:], 1, "").FindStringSubmatch(ts.ReadFile("stdout"))
	if len(found) != 2 {
		ts.Fatalf("no %s", args[1])
	}
	ts.Setenv(args[0], found[1])
}

func (d *day) accounted(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: accounted N")
	}
	n := number(ts, args[0])
	var sum control.QueueTotals
	d.until("all is accounted for", func() bool {
		ts.Check(ts.Exec("millrace", "--config", d.room.Millrace.Config(), "stats", "--json"))
		var stats struct{ Totals control.Totals }
		ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &stats))
		sum = control.QueueTotals{}
		for _, q := range stats.Totals.Queues {
			sum.Sent += q.Sent
			sum.Cancelled += q.Cancelled
		}
		return sum.Sent+sum.Cancelled >= n
	})
	if got := len(d.all()); got != sum.Sent || sum.Sent+sum.Cancelled != n {
		ts.Fatalf("%d arrived; of %d %d are said to be sent, %d cancelled", got, n, sum.Sent, sum.Cancelled)
	}
}

func number(ts *testscript.TestScript, s string) int {
	n, err := strconv.Atoi(s)
	ts.Check(err)
	return n
}
