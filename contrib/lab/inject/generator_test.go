package inject

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

func TestGeneratorIsDeterministic(t *testing.T) {
	t.Parallel()
	make := func(seed uint64) *Generator {
		return &Generator{Seed: seed, Domains: []string{"a.test", "b.test"}, MinSize: 500, MaxSize: 50_000, MaxRecipients: 50, Transactional: 0.1, Shapes: AllShapes}
	}
	a, b, other := make(1), make(1), make(2)
	for _, i := range []int{5, 0, 17, 5} {
		if !reflect.DeepEqual(a.Message(i), b.Message(i)) {
			t.Errorf("message %d differs", i)
		}
	}
	if bytes.Equal(a.Message(0).Content, other.Message(0).Content) {
		t.Error("another seed gives the same")
	}
}

func TestGeneratorOffersWhatItSays(t *testing.T) {
	t.Parallel()
	g := &Generator{Domains: []string{"a.test", "b.test"}, MinSize: 2000, MaxSize: 200_000, MinRecipients: 1, MaxRecipients: 50, Transactional: 0.1, Shapes: AllShapes}
	const n = 2000
	seen := map[string]int{}
	for i := range n {
		m := g.Message(i)
		c := m.Content
		if !bytes.HasPrefix(c, []byte("X-Lab-ID: ")) {
			t.Fatalf("begins with %.20q", c)
		}
		if k := len(m.Recipients); k < 1 || k > 50 {
			t.Errorf("%d recipients", k)
		}
		unique := map[string]bool{}
		for _, r := range m.Recipients {
			unique[r] = true
		}
		if len(unique) != len(m.Recipients) {
			t.Errorf("message %d names a recipient twice", i)
		}
		if len(c) < 1990 || len(c) > 202_000 {
			t.Errorf("%d octets", len(c))
		}
		head, body, ok := strings.Cut(string(c), "\r\n\r\n")
		if !ok {
			t.Fatal("no body")
		}
		lines := strings.Split(string(c), "\r\n")
		for _, l := range lines {
			if len(l) > 998 || strings.ContainsAny(l, "\r\n") {
				t.Fatalf("line of %d: %.30q", len(l), l)
			}
			if len(l) == 990 {
				seen["long line"]++
				break
			}
		}
		count := func(what string, is bool) {
			if is {
				seen[what]++
			}
		}
		count("dot", strings.HasPrefix(body, ".\r\n") && strings.Contains(body, "\r\n.dot"))
		count("8-bit", hasEightBit(c))
		count("no final EOL", !endsLine(c))
		count("odd header", strings.Contains(head, "X-FOLDED: one,\r\n two"))
		count("many recipients", len(m.Recipients) > 25)
		count("big", len(c) > 100_000)
		if strings.HasPrefix(string(c), "X-Lab-ID: t-") {
			seen["transactional"]++
			if strings.Contains(head, "List-") || len(m.Recipients) != 1 {
				t.Error("transactional message looks like bulk")
			}
		} else {
			count("bulk", strings.Contains(head, "\r\nList-Id: ") && strings.Contains(head, "\r\nPrecedence: bulk") && strings.Contains(head, "\r\nList-Unsubscribe: "))
		}
	}
	if seen["bulk"]+seen["transactional"] != n {
		t.Errorf("%d bulk, %d transactional", seen["bulk"], seen["transactional"])
	}
	for _, what := range []string{"long line", "dot", "8-bit", "no final EOL", "odd header", "many recipients", "big", "transactional"} {
		if seen[what] < n/20 {
			t.Errorf("%s: %d of %d", what, seen[what], n)
		}
	}
}

func TestStuffing(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]string{
		"":                    "\r\n.\r\n",
		".":                   "..\r\n.\r\n",
		"a":                   "a\r\n.\r\n",
		"a\r\n":               "a\r\n.\r\n",
		".\r\n..\r\na.\r\n.b": "..\r\n...\r\na.\r\n..b\r\n.\r\n",
	} {
		if got := string(appendStuffed(nil, []byte(content))); got != want {
			t.Errorf("%q: got %q, want %q", content, got, want)
		}
	}
}
