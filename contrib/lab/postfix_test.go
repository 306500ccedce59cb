package lab

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	snippets "github.com/millrace/millrace/contrib/postfix"
)

const deadline = 5 * time.Minute

func start(t *testing.T, o PostfixOptions) (context.Context, *Postfix) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	p, err := StartPostfix(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(p.Log())
			t.Logf("postfix log:\n%s", log)
		}
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return ctx, p
}

// mailbox waits for n local copies.
func mailbox(ctx context.Context, t *testing.T, p *Postfix, addr string, n int) []Message {
	t.Helper()
	var got []Message
	err := Until(ctx, func() (bool, error) {
		var err error
		got, err = p.Mailbox(addr)
		return len(got) >= n, err
	})
	if err != nil || len(got) != n {
		t.Fatalf("%d copies for %s, want %d (%v)", len(got), addr, n, err)
	}
	return got
}

func TestPostfixDeliversLocally(t *testing.T) {
	t.Parallel()
	ctx, p := start(t, PostfixOptions{LocalDomains: []string{"other.test"}})
	c, err := Dial(ctx, p.SMTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	reply, err := c.Send(ctx, "a@lab.test", []string{"b@lab.test", "c@other.test"}, []byte("Subject: x\r\n\r\n.dot\r\n..\r\nlast"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	for _, to := range []string{"b@lab.test", "c@other.test"} {
		m := mailbox(ctx, t, p, to, 1)[0]
		if m.From != "a@lab.test" || !bytes.HasSuffix(m.Content, []byte("\n\n.dot\n..\nlast\n")) {
			t.Errorf("copy of %s: from %q\n%s", to, m.From, m.Content)
		}
	}
	if n, err := p.QueueLength(ctx); n != 0 || err != nil {
		// The copies are there a moment before the queue file goes.
		err = Until(ctx, func() (bool, error) { n, err = p.QueueLength(ctx); return n == 0, err })
		if err != nil {
			t.Errorf("queue length %d: %v", n, err)
		}
	}
	var lines []string
	err = Until(ctx, func() (bool, error) { // the log is written by another process
		lines, err = p.LogLines(QueueID(reply)+":", "status=sent")
		return len(lines) >= 2, err
	})
	if err != nil || len(lines) != 2 {
		t.Errorf("log of %q: %q %v", reply, lines, err)
	}
}

func TestSendmailCommandUsesTheInstance(t *testing.T) {
	t.Parallel()
	ctx, p := start(t, PostfixOptions{})
	if err := p.Sendmail(ctx, "cron@lab.test", []string{"root@lab.test"}, []byte("Subject: cron\n\nhello\n")); err != nil {
		t.Fatal(err)
	}
	if m := mailbox(ctx, t, p, "root@lab.test", 1)[0]; m.From != "cron@lab.test" {
		t.Errorf("%+v", m)
	}
}

func TestStopLeavesNothing(t *testing.T) {
	t.Parallel()
	ctx, p := start(t, PostfixOptions{})
	c, err := Dial(ctx, p.SMTPAddr()) // an open session must not keep smtpd
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	leader := p.group.pid()
	if len(membersOf(leader)) == 0 {
		t.Fatal("master has no children: the test sees nothing")
	}
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", p.dir, err)
	}
	if left := membersOf(leader); len(left) != 0 {
		t.Errorf("%d processes left", len(left))
	}
	if p.CPU() <= 0 {
		t.Error("no CPU time")
	}
}

func TestQueueOutlivesACrash(t *testing.T) {
	t.Parallel()
	// Deferred, as nothing resolves names here.
	ctx, p := start(t, PostfixOptions{DNS: "127.9.9.9"})
	c, err := Dial(ctx, p.SMTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	reply, err := c.Send(ctx, "a@lab.test", []string{"b@remote.example"}, []byte("Subject: x\r\n\r\nx\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	err = Until(ctx, func() (bool, error) {
		lines, err := p.LogLines(QueueID(reply)+":", "status=deferred")
		return len(lines) > 0, err
	})
	if err != nil {
		t.Fatal(err)
	}
	p.Kill()
	before := p.CPU()
	if err := p.Start(ctx); err != nil {
		t.Fatal(err)
	}
	q, err := p.Queued(ctx)
	if err != nil || len(q) != 1 || q[0].ID != QueueID(reply) || q[0].Recipients[0].Address != "b@remote.example" {
		t.Errorf("queue %+v, %v", q, err)
	}
	if p.CPU() < before {
		t.Errorf("CPU time went back from %v to %v", before, p.CPU())
	}
}

func TestPostfixTakesTheShippedLines(t *testing.T) {
	t.Parallel()
	shipped := map[string]string{}
	for line := range strings.Lines(snippets.MainCF) {
		// The parameter that is there only as a comment counts too.
		line = strings.TrimPrefix(strings.TrimSpace(line), "#")
		if name, value, ok := strings.Cut(line, " = "); ok && regexp.MustCompile(`^[a-z_]+$`).MatchString(name) {
			shipped[name] = value
		}
	}
	if len(shipped) != 3 {
		t.Fatalf("parameters found: %v", shipped)
	}
	ctx, p := start(t, PostfixOptions{Extra: shipped})
	// Nobody listens on the milter's socket: the host delivers as before.
	c, err := Dial(ctx, p.SMTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Send(ctx, "a@lab.test", []string{"b@lab.test"}, []byte("Subject: x\r\n\r\nx\r\n")); err != nil {
		t.Fatal(err)
	}
	mailbox(ctx, t, p, "b@lab.test", 1)
	if err := p.Sendmail(ctx, "a@lab.test", []string{"c@lab.test"}, []byte("Subject: x\n\nx\n")); err != nil {
		t.Fatal(err)
	}
	mailbox(ctx, t, p, "c@lab.test", 1)
	out, err := p.output(ctx, nil, "postconf", "-c", p.Config(), "-h", "in_flow_delay")
	if err != nil || string(out) != "0\n" {
		t.Errorf("in_flow_delay %q %v", out, err)
	}
	const look = "warning: connect to Milter service unix:millrace/milter.sock"
	err = Until(ctx, func() (bool, error) { // the log is written by another process
		tried, err := p.LogLines(look)
		return len(tried) > 0, err
	})
	if err != nil {
		t.Errorf("postfix did not look for the milter (%v)", err)
	}
	all, err := p.LogLines("warning:")
	if err != nil || slices.ContainsFunc(all, func(line string) bool { return !strings.Contains(line, look) }) {
		t.Errorf("other warnings among %q (%v)", all, err)
	}
}
