package postconf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab"
)

// TestHostQueueIsWhatPostfixWorksOn with a Postfix that delivers one message an hour:
// both ways of counting see the others in its active queue, and not what is deferred.
func TestHostQueueIsWhatPostfixWorksOn(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	p, err := lab.StartPostfix(ctx, lab.PostfixOptions{Extra: map[string]string{"virtual_destination_rate_delay": "1h"}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	t.Setenv("MAIL_CONFIG", p.Config())
	send := func(to string) {
		t.Helper()
		c, err := lab.Dial(ctx, p.SMTPAddr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Send(ctx, "a@lab.test", []string{to}, []byte("Subject: x\r\n\r\nx\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	const n = 5
	for i := range n {
		send(fmt.Sprintf("user%d@lab.test", i))
	}
	send("a@nowhere.test") // there is no name server
	err = lab.Until(ctx, func() (bool, error) {
		all, err := p.Queued(ctx)
		in := make(map[string]int)
		for _, m := range all {
			in[m.Queue]++
		}
		// None is on its way from one directory to another any more.
		return len(all) == n && in["active"] == n-1 && in["deferred"] == 1, err
	})
	if err != nil {
		t.Fatal(err)
	}
	var h HostQueue
	if got, err := h.Length(ctx); got != n-1 || err != nil {
		t.Errorf("by its directories: %d, %v, want %d", got, err, n-1)
	}
	if got, err := listed(ctx); got != n-1 || err != nil {
		t.Errorf("by postqueue: %d, %v, want %d", got, err, n-1)
	}
	if h.dir != p.Queue() {
		t.Errorf("looked in %s", h.dir)
	}
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if got, err := h.Length(ctx); err == nil {
		t.Errorf("%d messages of a Postfix that is gone", got)
	}
	if got, err := listed(ctx); err == nil {
		t.Errorf("%d messages by a postqueue without Postfix", got)
	}
}

// TestHostQueueInSubdirectories is what hash_queue_names makes of a queue.
func TestHostQueueInSubdirectories(t *testing.T) {
	t.Parallel()
	h := HostQueue{dir: t.TempDir()}
	for _, name := range []string{"incoming/A1", "active/0/A01", "active/0/A02", "active/F/AF1", "deferred/1/A11"} {
		path := filepath.Join(h.dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := h.Length(t.Context()); n != 4 || err != nil {
		t.Errorf("%d, %v, want 4", n, err)
	}
}
