package milter_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/milter/wire"
)

// filtered starts a private Sendmail in front of a milter. There is no name
// server: what Sendmail keeps for a remote recipient stays in its queue.
func filtered(ctx context.Context, t *testing.T, s *serving, times string) *lab.Sendmail {
	t.Helper()
	host, port, _ := strings.Cut(s.addr, ":")
	m, err := lab.StartSendmail(ctx, lab.SendmailOptions{
		DNS:   "127.9.9.9",
		Lines: "INPUT_MAIL_FILTER(`slow', `S=inet:" + port + "@" + host + ", T=" + times + "')dnl\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(m.Log())
			t.Logf("sendmail log:\n%s", log)
		}
		if err := m.Stop(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// submit sends a message that is diverted, and returns where the end is told.
func submit(ctx context.Context, t *testing.T, addr string) <-chan error {
	t.Helper()
	c, err := lab.Dial(ctx, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	answered := make(chan error, 1)
	go func() {
		_, err := c.Send(ctx, "a@lab.test", []string{"b@remote.example"}, []byte("From: a@lab.test\r\nSubject: x\r\n\r\nx\r\n"))
		answered <- err
	}()
	return answered
}

// A slow disk does not cost the verdict: Sendmail, which waits a few seconds for
// an answer, is told in time that there will be one. On a slow machine it has to wait for
// longer.
func TestSendmailWaitsForASlowDisk(t *testing.T) {
	t.Parallel()
	var err error
	for patience := 5 * time.Second; patience < 2*time.Minute; patience *= 4 { // much longer than the interval of our PROGRESS
		if err = waitsForASlowDisk(t, patience); err == nil {
			return
		}
		t.Logf("with %v: %v", patience, err)
	}
	t.Error(err)
}

func waitsForASlowDisk(t *testing.T, patience time.Duration) error {
	f := &fakeSpool{reached: make(chan struct{}), hold: make(chan struct{})}
	release := sync.OnceFunc(func() { close(f.hold) })
	defer release()
	s := serve(t, divertAll(), f, wire.Options{ProgressEvery: time.Second})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	seconds := int(patience.Seconds())
	m := filtered(ctx, t, s, fmt.Sprintf("C:%ds;S:%[1]ds;R:%[1]ds;E:5m", seconds))
	answered := submit(ctx, t, m.SMTPAddr())
	select {
	case <-f.reached:
	case err := <-answered:
		return fmt.Errorf("answered before the commit: %v", err)
	}
	slow := time.NewTimer(patience + time.Second)
	select {
	case <-slow.C:
	case err := <-answered:
		return fmt.Errorf("answered before the commit: %v", err)
	}
	release()
	if err := <-answered; err != nil {
		return err
	}
	if verdict := <-f.only(t).verdict; verdict != "released" {
		return fmt.Errorf("the message is %s", verdict)
	}
	log, err := os.ReadFile(m.Log())
	if err == nil && (strings.Contains(string(log), "Milter (slow): timeout") || strings.Contains(string(log), "to error state")) {
		err = errors.New("Sendmail gave up on the milter")
	}
	return err
}

// Without a PROGRESS in time Sendmail gives the milter up and sends the message
// itself. The verdict comes too late then, and must not be taken for one.
func TestSendmailKeepsWhatItGaveUpToWaitFor(t *testing.T) {
	t.Parallel()
	f := &fakeSpool{reached: make(chan struct{}), hold: make(chan struct{})}
	release := sync.OnceFunc(func() { close(f.hold) })
	defer release()
	s := serve(t, divertAll(), f)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	m := filtered(ctx, t, s, "C:1m;S:1m;R:1m;E:1s") // shorter than the interval of our PROGRESS
	if err := <-submit(ctx, t, m.SMTPAddr()); err != nil {
		t.Fatal(err)
	}
	<-f.reached
	release()
	if verdict := <-f.waitOnly().verdict; verdict != "void" {
		t.Errorf("the message is %s", verdict)
	}
	if n, err := m.QueueLength(ctx); err != nil || n != 1 {
		t.Errorf("Sendmail has %d messages, %v", n, err)
	}
	s.stop()
	if len(s.log.Lines("level=WARN", `msg="verdict lost"`)) != 1 || len(s.log.Lines("msg=verdict ")) != 0 {
		t.Error("the lost verdict is not in the log")
	}
}
