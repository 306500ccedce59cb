package e2e

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/logbuf"
)

// What Postfix took only just, by its size or its hops, it takes back, though it has grown
// by our field meanwhile.
func TestMailAtTheLimitsOfTheHostComesBack(t *testing.T) {
	t.Parallel()
	const limit = 200_000
	hops := strings.Repeat("Received: from a.test by b.test; Mon, 23 Nov 2026 12:00:00 +0000\r\n", 48)
	var r *room
	r = enter(t, setup{
		providers: farAndHome(),
		postfix:   lab.PostfixOptions{Extra: map[string]string{"message_size_limit": "200000"}},
		millrace: lab.MillraceOptions{
			Extra: "[[queue]]\nname = \"home\"\ndomains = [\"home.test\"]\nroute = \"handback\"\n",
		},
		beforeDaemons: func(in *room) { r = in },
		furnish: func(m *lab.Millrace) { // an older Millrace diverted it
			r.put(m, letter{id: "spooled", from: "news@lab.test", to: []spool.Recipient{{Address: "a@home.test"}}, content: hops + news("spooled")})
		},
	})
	qid := r.send("<news@lab.test>", []string{"b@home.test"}, hops+news("hops"))
	if line := r.verdict(qid); !strings.Contains(line, "verdict=leave") || !strings.Contains(line, "too many hops") {
		t.Errorf("verdict: %s", line)
	}

	whole := news("large") + strings.Repeat(strings.Repeat("x", 70)+"\r\n", limit/72)
	taken := false
	for size := limit; size > limit-5000 && !taken; size -= 20 {
		c, err := lab.Dial(r.ctx, r.Host.SMTPAddr())
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Send(r.ctx, "<news@lab.test>", []string{"c@home.test"}, []byte(whole[:size-2]+"\r\n"))
		c.Close()
		taken = err == nil
	}
	if !taken {
		t.Fatal("the host takes no size near its limit")
	}
	r.until("all copies", func() bool {
		return len(r.copies("spooled")) == 1 && len(r.copies("hops")) == 1 && len(r.copies("large")) == 1
	})
	r.rest()
	if lines := logbuf.Lines(read(t, r.Millrace.Agent.Log()), "status=stuck"); len(lines) > 0 {
		t.Errorf("stuck:\n%s", strings.Join(lines, "\n"))
	}
}
