package fleet

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// What was a node's that leaves is not another's before its transactions have ended.
func TestPlacesOfANodeThatLeavesWaitForItsTransactions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, boot := newTwin()
		r := &receiver{t: t, limit: 12}
		start := func(name string) *node {
			return newNode(t, name, t.TempDir(), 0, r, Options{Store: s, Boot: boot})
		}
		a, b := start("a"), start("b")
		wait(time.Second)
		if err := a.Bootstrap(); err != nil {
			t.Fatal(err)
		}
		wait(2 * time.Minute)
		b.slow = 5 * time.Minute
		b.set(12)
		wait(20 * time.Second)
		a.set(12)
		err := b.Leave(context.Background(), b.work())
		if n := b.sessions(); n != 0 || err == nil {
			t.Errorf("%d sessions begin where a node leaves; %v", n, err)
		}
		wait(4 * time.Minute)
		if n := a.sessions(); n != 6 {
			t.Errorf("%d sessions of 6 while the other's go on", n)
		}
		wait(2 * time.Minute)
		if n := a.sessions(); n != 12 || !b.Status().Left {
			t.Errorf("%d sessions after it has left, %+v", n, b.Status())
		}
	})
}
