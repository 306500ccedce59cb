//go:build !race

package e2e

import (
	"fmt"
	"sync"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/logbuf"
)

// crowd sends discarded newsletters over many connections at once.
func (r *room) crowd(clients, messages int) {
	r.t.Helper()
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			c, err := lab.Dial(r.ctx, r.Postfix.SMTPAddr())
			if err != nil {
				r.t.Error(err)
				return
			}
			defer c.Close()
			for k := range messages {
				id := fmt.Sprintf("crowd-%d-%d", i, k)
				if _, err := c.Send(r.ctx, "news@lab.test", []string{"reader@far.test"}, []byte(news(id))); err != nil {
					r.t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

// Postfix's default makes clients wait for every discarded message, once it has
// no flow tokens left. The milter sees it, and names the remedy, once.
func TestFlowDelayIsNoticed(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{millrace: lab.MillraceOptions{Set: map[string]string{"milter.verdict": `"discard"`}}})
	r.crowd(30, 8)
	r.until("it is noticed, when the machine lets the pauses be of a second", func() bool {
		said := logbuf.Lines(read(t, r.Millrace.Milter.Log()), "level=WARN", "in_flow_delay", `remedy="postconf -e in_flow_delay=0"`)
		if len(said) == 0 {
			r.crowd(5, 8) // so few that they hold up each other less
		}
		return len(said) > 0
	})
	r.crowd(30, 2)
	if n := len(logbuf.Lines(read(t, r.Millrace.Milter.Log()), "in_flow_delay")); n != 1 {
		t.Errorf("told %d times", n)
	}
}

// With the remedy no client waits, and nothing is said.
func TestNoFlowDelayIsNotNoticed(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{
		postfix:  lab.PostfixOptions{Extra: map[string]string{"in_flow_delay": "0"}},
		millrace: lab.MillraceOptions{Set: map[string]string{"milter.verdict": `"discard"`}},
	})
	// So few that a second in which the machine stands still is not the last pause of
	// as many as are looked at.
	r.crowd(10, 24)
	if said := logbuf.Lines(read(t, r.Millrace.Milter.Log()), "in_flow_delay"); len(said) > 0 {
		t.Errorf("said %q", said)
	}
}
