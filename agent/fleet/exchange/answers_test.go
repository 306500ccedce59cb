package exchange

import (
	"errors"
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab/fleetca"
	"github.com/millrace/millrace/contrib/lab/logbuf"
	"github.com/millrace/millrace/contrib/lab/redisd"
)

// TestStoreThatRefusesIsNoStoreThatIsAway takes permissions from a node, and gives them back: what
// the store has answered is told as long as it does, and the node reports all the same.
func TestStoreThatRefusesIsNoStoreThatIsAway(t *testing.T) {
	t.Parallel()
	ca, server := fleetca.New(t), redisd.Start(t)
	c := server.Client()
	defer c.Close()
	acl := func(rules ...any) {
		t.Helper()
		if err := c.Do(t.Context(), append([]any{"ACL", "SETUSER", "default"}, rules...)...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	acl("-xadd")
	var log logbuf.Buffer
	by := func(o *Options) {
		o.Client, o.Logger = server.Client(), log.Logger()
		o.Plain = func(err error) error { return errors.New(err.Error() + "; remedy: an ACL") }
	}
	told := func(x *Exchange, command string) bool {
		w := x.Trouble()
		return len(w) == 1 && strings.Contains(w[0], "NOPERM") && strings.Contains(w[0], command) && strings.HasSuffix(w[0], "; remedy: an ACL")
	}
	a, b := newPeer(t, ca, "a", by), newPeer(t, ca, "b", func(o *Options) { o.Client = server.Client() })
	eventually(t, "without an order a says what the store has answered", func() bool { return told(a.x, "xadd") })
	a.pause(t, "one")
	eventually(t, "a reports its order all the same", func() bool {
		r := b.log.Reports()["a"]
		return r != nil && len(a.log.Lacking(r, true, 1)) == 0
	})
	if !told(a.x, "xadd") {
		t.Errorf("while other calls are answered: %q", a.x.Trouble())
	}
	acl("-xread", "+xadd")
	eventually(t, "a says what the store refuses now", func() bool { return told(a.x, "xread") })
	acl("+xread")
	eventually(t, "all is well", func() bool { return len(a.x.Trouble()) == 0 })
	eventually(t, "the order is everywhere", func() bool { return len(b.pauses()) == 1 })
	acl("-xadd")
	eventually(t, "a says what the store has begun to refuse, before there is an order", func() bool { return told(a.x, "xadd") })
	acl("+xadd")
	eventually(t, "all is well again", func() bool { return len(a.x.Trouble()) == 0 })
	if n, away := len(log.Lines("level=WARN", "refuses what orders need", "NOPERM", "remedy")), len(log.Lines("does not answer")); n == 0 || n > 3 || away > 0 {
		t.Errorf("the log has\n%s", log.String())
	}
	server.Stop()
	eventually(t, "the store is away", func() bool { return len(log.Lines("level=WARN", "does not answer")) == 1 })
	if w := a.x.Trouble(); len(w) > 0 {
		t.Errorf("of a store that is away: %q", w)
	}
}
