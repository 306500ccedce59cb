package lab

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func startSendmail(t *testing.T, o SendmailOptions) (context.Context, *Sendmail) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	s, err := StartSendmail(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(s.Log())
			t.Logf("sendmail log:\n%s", log)
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return ctx, s
}

// received waits for n local copies of any MTA.
func received(ctx context.Context, t *testing.T, r Receiver, addr string, n int) []Message {
	t.Helper()
	var got []Message
	err := Until(ctx, func() (bool, error) {
		var err error
		got, err = r.Mailbox(addr)
		return len(got) >= n, err
	})
	if err != nil || len(got) != n {
		t.Fatalf("%d copies for %s, want %d (%v)", len(got), addr, n, err)
	}
	return got
}

// The shipped lines: Sendmail looks for the filter on its port, and not on the
// hand-back port; submission goes through the filter's port.
func TestSendmailTakesTheShippedLines(t *testing.T) {
	t.Parallel()
	ctx, s := startSendmail(t, SendmailOptions{Millrace: true})
	for _, addr := range []string{s.HandbackAddr(), s.SMTPAddr()} {
		c, err := Dial(ctx, addr)
		if err != nil {
			t.Fatal(err)
		}
		reply, err := c.Send(ctx, "a@lab.test", []string{"b@lab.test"}, []byte("Subject: x\r\n\r\n.dot\r\n..\r\nlast"))
		if err != nil {
			t.Fatal(err)
		}
		if QueueID(reply) == "" {
			t.Errorf("no queue id in %q", reply)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		var log []byte
		looked := func() (bool, error) {
			log, err = os.ReadFile(s.Log())
			return bytes.Contains(log, []byte("Milter (millrace)")), err
		}
		if addr == s.SMTPAddr() {
			err = Until(ctx, looked) // the log comes after the reply
		} else if tried, _ := looked(); tried {
			err = errors.New("looked for the filter")
		}
		if err != nil {
			t.Errorf("%s: %v\n%s", addr, err, log)
		}
	}
	for _, m := range received(ctx, t, s, "b@lab.test", 2) {
		if m.From != "a@lab.test" || !bytes.HasSuffix(m.Content, []byte("\n\n.dot\n..\nlast\n")) {
			t.Errorf("from %q\n%s", m.From, m.Content)
		}
	}
	if err := s.Sendmail(ctx, "cron@lab.test", []string{"root@lab.test"}, []byte("Subject: cron\n\nhello\n")); err != nil {
		t.Fatal(err)
	}
	if m := received(ctx, t, s, "root@lab.test", 1)[0]; m.From != "cron@lab.test" || !strings.HasPrefix(string(m.Content), "Received: ") {
		t.Errorf("%+v", m)
	}
	if err := Until(ctx, func() (bool, error) { n, err := s.QueueLength(ctx); return n == 0, err }); err != nil {
		t.Error(err)
	}
}

func TestSendmailQueueOutlivesACrash(t *testing.T) {
	t.Parallel()
	ctx, s := startSendmail(t, SendmailOptions{DNS: "127.9.9.9"}) // nothing resolves names
	c, err := Dial(ctx, s.SMTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Send(ctx, "a@lab.test", []string{"b@[127.9.9.9]"}, []byte("Subject: x\r\n\r\nx\r\n")); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	if left := s.tree.processes(); len(left) > 0 {
		t.Errorf("%d processes left", len(left))
	}
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if n, err := s.QueueLength(ctx); n != 1 || err != nil {
		t.Errorf("queue length %d, %v", n, err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.tree.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", s.tree.dir, err)
	}
}

// What the shipped lines say of the socket's directory: whose it is does not
// matter, but nobody beside its owner may write to it.
func TestSendmailRefusesASocketThatOthersCouldReplace(t *testing.T) {
	t.Parallel()
	ctx, s := startSendmail(t, SendmailOptions{Millrace: true})
	dir := filepath.Dir(s.MilterSocket())
	for _, c := range []struct {
		owner int
		mode  os.FileMode
		want  bool
	}{
		{0, 0o755, true},
		{nobody, 0o750, true}, // README's
		{nobody, 0o700, true},
		{nobody, 0o770, false},
		{0, 0o775, false},
		{nobody, 0o757, false},
	} {
		ln, err := net.Listen("unix", s.MilterSocket())
		if err != nil {
			t.Fatal(err)
		}
		connected := make(chan bool, 1)
		go func() {
			filter, err := ln.Accept()
			if err == nil {
				filter.Close()
			}
			connected <- err == nil
		}()
		err = errors.Join(os.Chown(s.MilterSocket(), nobody, nobody), os.Chmod(s.MilterSocket(), 0o660),
			os.Chown(dir, c.owner, nobody), os.Chmod(dir, c.mode))
		if err != nil {
			t.Fatal(err)
		}
		client, err := Dial(ctx, s.SMTPAddr())
		if err != nil {
			t.Fatal(err)
		}
		// Sendmail has met the filter, or not, when it answers.
		if _, err := client.Send(ctx, "a@lab.test", []string{"b@lab.test"}, []byte("Subject: x\r\n\r\nx\r\n")); err != nil {
			t.Error(err)
		}
		client.Close()
		if !c.want {
			ln.Close()
		}
		var got bool
		select {
		case got = <-connected: // of who connected, when it has been accepted
		case <-ctx.Done():
		}
		ln.Close()
		if got != c.want {
			t.Errorf("owner %d, mode %o: connected %t", c.owner, c.mode, got)
		}
	}
	n := 0
	err := Until(ctx, func() (bool, error) { // the log comes after the reply
		log, err := os.ReadFile(s.Log())
		n = strings.Count(string(log), "milter.sock unsafe")
		return n >= 3, err
	})
	if n != 3 {
		t.Errorf("%d times unsafe in the log, %v", n, err)
	}
}
