package route

import (
	"fmt"
	"strings"
	"testing"
)

// What is kept for each domain does not grow with the names that its owner chose, and two
// sets are never taken for one.
func TestKeysAreBounded(t *testing.T) {
	t.Parallel()
	set := func(last string) *Plan {
		p := &Plan{Domain: "d.example"}
		for i := range maxExchangers {
			p.MX = append(p.MX, MX{Name: fmt.Sprintf("m%02d.%s.example", i, strings.Repeat("x", 60)), Preference: uint16(i)})
		}
		p.MX[maxExchangers-1].Name = last
		return p
	}
	a, b := set("a.example").Key(), set("b.example").Key()
	if len(a) != maxKey || len(b) != maxKey || a == b || a != set("a.example").Key() || !strings.HasPrefix(a, "m00.") {
		t.Errorf("keys of %d and %d octets:\n%s\n%s", len(a), len(b), a, b)
	}
}
