package agent

import (
	"bytes"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/maillog"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// The stages here are not side by side with those of others, some of which (kinds)
// need the processor to themselves.

// postfixLines makes a stage log in Postfix's form, and returns what was said about
// messages, without the headers of lines.
func postfixLines(s *stage) func() []string {
	s.config.Log.Format = config.LogPostfix
	h := maillog.New(&maillog.Plain{To: s.log, Daemon: "millrace-agent"}, true,
		func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) })
	s.logger = slog.New(h)
	line := regexp.MustCompile(`millrace/(\w+)\[\d+\]: (.*)`)
	return func() (said []string) {
		for _, m := range line.FindAllStringSubmatch(s.log.String(), -1) {
			said = append(said, m[1]+" "+m[2])
		}
		return said
	}
}

// inOrder fails unless the lines fit the patterns, all of them in this order.
func inOrder(t *testing.T, lines []string, patterns ...string) {
	t.Helper()
	if len(lines) != len(patterns) {
		t.Fatalf("%d lines, not %d:\n%s", len(lines), len(patterns), strings.Join(lines, "\n"))
	}
	for i, p := range patterns {
		if !regexp.MustCompile("^" + p + "$").MatchString(lines[i]) {
			t.Errorf("line %d is\n%s\nand does not fit\n%s", i+1, lines[i], p)
		}
	}
}

const figures = `delay=[\d.]+, delays=0/[\d.]+/[\d.]+/[\d.]+, `

func TestPostfixFormOfAMessageDeferredAndSent(t *testing.T) {
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: sink.Behaviour{TempShare: 1, TempTimes: 1}})
	lines := postfixLines(s)
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	s.until("removed", func() bool { return strings.Contains(s.log.String(), ": removed\n") })
	const to = `smtp 4QID\d+: to=<a@far\.test>, relay=[\w.]+\[127\.[\d.]+\]:\d+, (conn_use=2, )?` + figures
	inOrder(t, lines(),
		`qmgr 4QID\d+: from=<n@news\.test>, size=\d+, nrcpt=1 \(queue active\)`,
		to+`dsn=4\.\d\.\d, status=deferred \(host .* said: 450 .* \(in reply to RCPT TO command\)\)`,
		`qmgr 4QID\d+: from=<n@news\.test>, size=\d+, nrcpt=1 \(queue active\)`,
		to+`dsn=2\.\d\.\d, status=sent \(250 .*\)`,
		`qmgr 4QID\d+: removed`,
	)
}

func TestPostfixFormOfABounceWithoutAddresses(t *testing.T) {
	s := newStage(t, func(c *config.Config) { c.Log.Recipients = false },
		sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: sink.Behaviour{PermShare: 1}})
	lines := postfixLines(s)
	s.start()
	s.send(spool.Envelope{Sender: "bounce-recipient=far.test@news.test"}, letter, "Recipient@far.test")
	s.until("the report is removed too", func() bool { return strings.Count(s.log.String(), ": removed\n") == 2 })
	all := lines()
	said := strings.Join(all, "\n") + "\n"
	// The report may be on its way before the line that names it is written: each message's
	// lines are in order.
	report := regexp.MustCompile(`notification: (M[0-9A-F-]+)\n`).FindStringSubmatch(said)
	if report == nil {
		t.Fatalf("no line names the report:\n%s", said)
	}
	of := func(id string) (list []string) {
		for _, l := range all {
			if regexp.MustCompile(`^\w+ ` + id + `: `).MatchString(l) {
				list = append(list, l)
			}
		}
		return list
	}
	message, reports := of(`4QID\d+`), of(report[1])
	inOrder(t, message,
		`qmgr \S+ from=<bounce-…=far\.test@news\.test>, size=\d+, nrcpt=1 \(queue active\)`,
		`bounce \S+ sender non-delivery notification: `+report[1],
		`smtp \S+ to=<…@far\.test>, .*, dsn=5\.\d\.\d, status=bounced \(host .* said: 550 .*\)`,
		`qmgr \S+ removed`,
	)
	inOrder(t, reports,
		`qmgr \S+ from=<>, size=\d+, nrcpt=1 \(queue active\)`,
		`smtp \S+ to=<…@news\.test>, relay=127\.99\.0\.1\[127\.99\.0\.1\]:\d+, .*, status=sent \(forwarded as .*\)`,
		`qmgr \S+ removed`,
	)
	if len(all) != len(message)+len(reports) {
		t.Errorf("lines of others:\n%s", said)
	}
	if strings.Contains(strings.ToLower(said), "recipient@") || strings.Contains(said, "recipient=") {
		t.Errorf("the recipient is shown:\n%s", said)
	}
}

func TestPostfixFormOfExpiredMailAndOfARestart(t *testing.T) {
	s := newStage(t, func(c *config.Config) { c.General.Expire = time.Second },
		sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: sink.Behaviour{TempShare: 1}})
	lines := postfixLines(s)
	// Before the agent starts: it is not followed, but loaded.
	s.send(spool.Envelope{Arrived: time.Now().Add(-time.Minute)}, letter, "a@far.test")
	s.start()
	s.until("removed", func() bool { return strings.Contains(s.log.String(), ": removed\n") })
	inOrder(t, lines(),
		`qmgr 4QID\d+: from=<>, size=\d+, nrcpt=1 \(queue active\)`,
		`smtp 4QID\d+: to=<a@far\.test>, relay=\S+, `+figures+`dsn=4\.4\.7, status=deferred \(message expired .*\)`,
		`qmgr 4QID\d+: from=<>, status=expired, returned to sender`,
		`qmgr 4QID\d+: removed`,
	)
}

func TestPostfixFormOfASuppressedAddress(t *testing.T) {
	s := newStage(t, func(c *config.Config) { dropping(1)(c); c.Log.Recipients = false }, gone)
	lines := postfixLines(s)
	s.start()
	for range 2 {
		n := strings.Count(s.log.String(), ": removed\n")
		s.send(spool.Envelope{Stream: "sale"}, letter, "someone@gone.test")
		s.until("removed", func() bool { return strings.Count(s.log.String(), ": removed\n") == n+1 })
	}
	inOrder(t, lines(),
		`qmgr 4QID\d+: from=<>, size=\d+, nrcpt=1 \(queue active\)`,
		`smtp 4QID\d+: to=<…@gone\.test>, .*, dsn=5\.1\.1, status=bounced \(host .* said: 550 .*\)`,
		`qmgr 4QID\d+: removed`,
		`qmgr 4QID\d+: from=<>, size=\d+, nrcpt=1 \(queue active\)`,
		`smtp 4QID\d+: to=<…@gone\.test>, relay=none, .*, dsn=5\.1\.1, status=bounced \(suppressed: has bounced .*\)`,
		`qmgr 4QID\d+: removed`,
	)
	if log := s.log.String(); strings.Contains(log, "someone") || !strings.Contains(log, "address has bounced too often") {
		t.Errorf("log:\n%s", log)
	}
}
