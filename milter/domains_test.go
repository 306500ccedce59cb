package milter

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/milter/classify"
)

func TestToDomainsNamesTheMostFrequent(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxDomain-2) + ".de"
	many := []string{"keep@local.example"}
	for i := range 20_000 {
		many = append(many, fmt.Sprintf("a@d%d.example", i))
	}
	for _, c := range []struct {
		addrs []string // one that begins with keep stays with the host
		want  string
	}{
		{[]string{"a@gmail.com"}, "gmail.com:1"},
		{[]string{"a@b.example", "b@GMAIL.com", "c@gmail.COM", "keep@x.example"}, "gmail.com:2,b.example:1"},
		{[]string{"a@f.x", "a@e.x", "a@d.x", "a@c.x", "a@b.x", "a@a.x", "b@f.x"}, "f.x:2,a.x:1,b.x:1,c.x:1,d.x:1,other:1"},
		{[]string{"a@" + long, "a@b.example"}, "b.example:1,other:1"},
		{[]string{"a@" + long}, "other:1"},
		{many, "d0.example:1,d1.example:1,d10.example:1,d100.example:1,d1000.example:1,other:19995"},
		{[]string{"keep@x.example"}, ""},
	} {
		m := &message{}
		var divert []bool
		for _, a := range c.addrs {
			m.Recipients = append(m.Recipients, classify.Recipient{Address: a})
			divert = append(divert, !strings.HasPrefix(a, "keep"))
		}
		if got := m.toDomains(divert); got != c.want {
			t.Errorf("%d recipients: %q, want %q", len(c.addrs), got, c.want)
		}
	}
}
