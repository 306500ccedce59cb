package milter_test

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab"
)

// A slow disk does not cost the verdict: Sendmail, which waits a few seconds for
// an answer, is told in time that there will be one.
func TestSendmailWaitsForASlowDisk(t *testing.T) {
	t.Parallel()
	f := &fakeSpool{reached: make(chan struct{}), hold: make(chan struct{})}
	release := sync.OnceFunc(func() { close(f.hold) })
	defer release()
	s := serve(t, divertAll(), f)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	host, port, _ := strings.Cut(s.addr, ":")
	const patience = 5 * time.Second // longer than the interval of our PROGRESS
	m, err := lab.StartSendmail(ctx, lab.SendmailOptions{
		DNS:   "127.9.9.9", // nobody: what Sendmail keeps stays in its queue
		Lines: "INPUT_MAIL_FILTER(`slow', `S=inet:" + port + "@" + host + ", T=C:5s;S:5s;R:5s;E:1m')dnl\n",
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
	c, err := lab.Dial(ctx, m.SMTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := c.Send(ctx, "a@lab.test", []string{"b@remote.example"}, []byte("From: a@lab.test\r\nSubject: x\r\n\r\nx\r\n"))
		answered <- err
	}()
	select {
	case <-f.reached:
	case err := <-answered:
		t.Fatalf("answered before the commit: %v", err)
	}
	slow := time.NewTimer(patience + time.Second)
	select {
	case <-slow.C:
	case err := <-answered:
		t.Fatalf("answered before the commit: %v", err)
	}
	release()
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	if verdict := <-f.only(t).verdict; verdict != "released" {
		t.Errorf("the message is %s", verdict)
	}
	log, err := os.ReadFile(m.Log())
	if err != nil || strings.Contains(string(log), "Milter (slow): timeout") || strings.Contains(string(log), "to error state") {
		t.Errorf("Sendmail gave up on the milter (%v)", err)
	}
}
