package e2e

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/smtp"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/logbuf"
	"github.com/millrace/millrace/contrib/lab/sockets"
)

// withInlet is a room with an inlet, and the inlet's address.
func withInlet(t *testing.T, s setup) (setup, string) {
	t.Helper()
	var ports [2]string
	var addr string
	for i := range ports {
		f, at, err := sockets.Reserve("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		_, ports[i], _ = net.SplitHostPort(at)
		addr = at
	}
	fmt.Sscan(ports[0], &s.postfix.SMTPPort)
	set := map[string]string{
		"inlet.listen":  `["inet:` + ports[1] + `@127.0.0.1"]`,
		"inlet.pass_to": `"inet:` + ports[0] + `@127.0.0.1"`,
	}
	maps.Copy(set, s.millrace.Set)
	s.millrace.Set = set
	return s, addr
}

// spools waits until the agent has told the milter that nothing keeps the inlet from
// spooling; it says how many messages went there until then.
func (r *room) spools(addr string) (sent int) {
	r.t.Helper()
	r.until("the inlet spools", func() bool {
		err := smtp.SendMail(addr, nil, "news@lab.test", []string{"probe@far.test"}, []byte(news(fmt.Sprintf("probe-%d", sent+1))))
		if errors.Is(err, syscall.ECONNREFUSED) {
			return false // the room is ready when the milter listens, and the inlet comes after it
		}
		if sent++; err != nil {
			r.t.Fatal(err)
		}
		return strings.Contains(read(r.t, r.Millrace.Milter.Log()), "verdict=inlet")
	})
	return sent
}

// Bulk goes out past Postfix; the rest through it, once judged and once counted.
func TestInletBesidePostfix(t *testing.T) {
	t.Parallel()
	s, addr := withInlet(t, setup{keep: true})
	r := enter(t, s)
	probes := r.spools(addr)
	person := strings.Replace(strings.Replace(news("person"), "List-Id", "X-Other", 1), "List-Unsubscribe", "X-More", 1)
	for _, x := range []struct {
		content string
		to      []string
	}{
		{news("bulk"), []string{"a@far.test", "b@far.example"}},
		{news("mixed"), []string{"c@far.test", "user@lab.test"}},
		{person, []string{"d@far.test"}},
	} {
		if err := smtp.SendMail(addr, nil, "news@lab.test", x.to, []byte(x.content)); err != nil {
			t.Error(err)
		}
	}
	// Postfix's own reply to a recipient that it refuses.
	if err := smtp.SendMail(addr, nil, "news@lab.test", []string{"a@nosuch..test"}, []byte(person)); err == nil || !strings.HasPrefix(err.Error(), "501") {
		t.Errorf("a recipient that Postfix does not take: %v", err)
	}
	// Python's client.
	script := `import smtplib, sys
s = smtplib.SMTP("127.0.0.1", int(sys.argv[1])); s.ehlo()
assert s.has_extn("pipelining") and s.has_extn("size") and not s.has_extn("auth"), s.esmtp_features
s.sendmail("news@lab.test", ["p@far.test"], sys.argv[2].encode(), mail_options=["BODY=8BITMIME"])
s.quit()`
	_, port, _ := net.SplitHostPort(addr)
	if out, err := exec.CommandContext(r.ctx, "python3", "-c", script, port, news("python")).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	r.until("all has arrived", func() bool { return len(r.all()) >= probes+5 })
	r.mailbox("user@lab.test", 1)
	r.rest()
	for id, want := range map[string]bool{"bulk": true, "python": true, "mixed": true, "person": false} {
		copies := r.copies(id)
		if n := map[string]int{"bulk": 2}[id]; len(copies) != max(n, 1) {
			t.Errorf("%s: %d copies", id, len(copies))
		}
		for _, a := range copies {
			// Of the mixed envelope Postfix has the whole; its milter has diverted the remote one.
			byInlet := strings.HasPrefix(a.qid, "I")
			if a.ours() != want || byInlet != (id == "bulk" || id == "python") {
				t.Errorf("%s came with queue id %q, spool id %q", id, a.qid, a.spool)
			}
			if passed := strings.Contains(a.content, "(Millrace inlet)"); passed != (id == "mixed" || id == "person") {
				t.Errorf("%s: Received of the inlet %v", id, passed)
			}
			if !strings.HasSuffix(a.content, "What is new.\r\n") {
				t.Errorf("%s: %q", id, a.content)
			}
		}
	}
}

// While Postfix does something that nobody has accepted to be passed by, all goes to it.
func TestInletPassesByNothingUnasked(t *testing.T) {
	t.Parallel()
	s, addr := withInlet(t, setup{postfix: lab.PostfixOptions{Extra: map[string]string{"always_bcc": "archive@lab.test"}},
		millrace: lab.MillraceOptions{Set: map[string]string{"milter.accept_bypass": `["always_bcc"]`}}})
	r := enter(t, s)
	r.logLine(r.Millrace.Agent, "always_bcc", "[inlet] accept_bypass")
	r.until("the milter knows", func() bool {
		if err := smtp.SendMail(addr, nil, "news@lab.test", []string{"a@far.test"}, []byte(news("x"))); err != nil {
			t.Fatal(err)
		}
		return strings.Contains(read(t, r.Millrace.Milter.Log()), "archive@lab.test")
	})
	if strings.Contains(read(t, r.Millrace.Milter.Log()), "verdict=inlet") {
		t.Error("the inlet has spooled")
	}
	r.mailbox("archive@lab.test", 1)
}

// A Postfix that offers less than the inlet does gets all the mail, and no word of the rest.
func TestInletPassesToPostfixThatOffersLess(t *testing.T) {
	t.Parallel()
	s, addr := withInlet(t, setup{postfix: lab.PostfixOptions{Extra: map[string]string{
		"smtputf8_enable": "no", "smtpd_discard_ehlo_keywords": "8bitmime, dsn, size, pipelining", "smtpd_recipient_limit": "3",
	}}})
	r := enter(t, s)
	r.logLine(r.Millrace.Agent, "smtpd_recipient_limit is 3", "max_recipients = 3")
	person := func(id string) string {
		return strings.Replace(strings.Replace(news(id), "List-Id", "X-Other", 1), "List-Unsubscribe", "X-More", 1)
	}
	// Go's client asks for all that it knows; and each recipient hears Postfix's own reply.
	if err := smtp.SendMail(addr, nil, "news@lab.test", []string{"a@far.test"}, []byte(person("go"))); err != nil {
		t.Error(err)
	}
	script := `import smtplib, sys
s = smtplib.SMTP("127.0.0.1", int(sys.argv[1])); s.ehlo()
r = s.sendmail("news@lab.test", ["%d@far.test" % i for i in range(5)], sys.argv[2].encode(),
	mail_options=["BODY=8BITMIME", "SIZE=1000", "SMTPUTF8", "RET=HDRS"], rcpt_options=["NOTIFY=NEVER"])
assert sorted((k, v[0]) for k, v in r.items()) == [("3@far.test", 452), ("4@far.test", 452)], r
s.rset(); s.command_encoding = "utf-8"
assert s.mail("n\u00e4ws@lab.test", ["SMTPUTF8"])[0] == 550
s.quit()`
	_, port, _ := net.SplitHostPort(addr)
	if out, err := exec.CommandContext(r.ctx, "python3", "-c", script, port, person("python")).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	r.exactly("go a@far.test postfix", "python 0@far.test postfix", "python 1@far.test postfix", "python 2@far.test postfix")
}

// kill -9 of milter and agent while mail flows through the inlet: nothing is lost, every octet
// is there, and what comes twice is what invariant 3 allows.
func TestInletKillNine(t *testing.T) {
	t.Parallel()
	const sessions = 12
	s, addr := withInlet(t, setup{
		providers: busy(20 * time.Millisecond),
		postfix:   patient(lab.PostfixOptions{Milter: "{ unix:millrace/milter.sock, default_action=tempfail }"}),
		millrace:  lab.MillraceOptions{Set: map[string]string{"agent.max_sessions": fmt.Sprint(sessions)}},
	})
	r := enter(t, s)
	f := r.flowTo(addr, 28, 150)
	milter, agent := r.Millrace.Milter, r.Millrace.Agent
	victims, crashes := [][]*lab.Daemon{{milter}, {agent}, {milter, agent}, {agent, milter}}, 0
	spooled := func() int { return strings.Count(read(t, milter.Log()), "verdict=inlet") }
	for i := range inletKills {
		// Until the agent has told the milter of the host's settings, all is passed.
		n := spooled()
		r.until("the inlet spools", func() bool { return spooled() >= n+5 })
		crashes += f.killing(1, victims[i%len(victims):][:1])
	}
	f.more(30)
	f.end()
	r.explain(r.accounts(&f.sent), &f.sent, crashes*sessions)
	byInlet := 0
	for _, a := range r.all() {
		if strings.HasPrefix(a.qid, "I") && a.ours() {
			byInlet++
		}
	}
	if t.Logf("%d copies by the inlet", byInlet); byInlet == 0 {
		t.Error("nothing went by the inlet")
	}
}

// kill -9 of Postfix while the inlet passes mail to it: nothing is lost, and what comes twice
// was either not answered, as the inlet says, or delivered twice by Postfix itself.
func TestInletPassesToPostfixThatIsKilled(t *testing.T) {
	t.Parallel()
	s, addr := withInlet(t, setup{
		keep:      true,
		providers: busy(20 * time.Millisecond),
		postfix:   patient(lab.PostfixOptions{}),
		millrace:  lab.MillraceOptions{Set: map[string]string{"milter.mode": `"observe"`}},
	})
	r := enter(t, s)
	f := r.flowTo(addr, 29, 150)
	for range inletKills / 2 {
		f.more(20)
		r.Postfix.Kill()
		if err := r.Postfix.Start(r.ctx); err != nil {
			t.Fatal(err)
		}
	}
	f.more(20)
	f.end()
	if rep := r.accounts(&f.sent); len(rep.Lost)+len(rep.Altered)+len(rep.Stray) > 0 {
		t.Errorf("ledgers: %s", rep)
	}
	taken := make(map[string]map[string]bool) // by Postfix: queue ids of each message
	for _, a := range r.all() {
		m := hop.FindStringSubmatch(a.content)
		if m == nil || a.ours() {
			t.Fatalf("%s did not come by Postfix:\n%.500s", a.id, a.content)
		}
		if taken[a.id] == nil {
			taken[a.id] = make(map[string]bool)
		}
		taken[a.id][m[1]] = true
	}
	again := 0
	for _, ids := range taken {
		again += len(ids) - 1
	}
	unsure := len(logbuf.Lines(read(t, r.Millrace.Milter.Log()), "possible duplicate"))
	if t.Logf("%d messages, %d taken again by Postfix, %d unsure", len(taken), again, unsure); again > unsure {
		t.Errorf("Postfix has taken %d messages again, and the inlet was unsure of %d", again, unsure)
	}
}
