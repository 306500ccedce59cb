//go:build !race

// Memory of one goroutine: the race detector sees nothing in it, and counts its own.

package route

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/route/dane"
)

// The octets that the cache counts are those that it takes, whatever it is full of.
func TestCacheIsBoundedInOctets(t *testing.T) {
	now := time.Unix(1e9, 0)
	text := strings.Repeat("x", 200)
	for name, fill := range map[string]func(i int) *answer{
		"an address": func(int) *answer { return &answer{addrs: documentationAddrs[:1:1]} },
		"addresses":  func(int) *answer { return &answer{addrs: slices.Repeat(documentationAddrs, maxAddresses)} },
		"nothing":    func(int) *answer { return &answer{status: nxDomain} },
		"hosts": func(i int) *answer {
			a := &answer{mx: make([]MX, maxExchangers)}
			for j := range a.mx {
				a.mx[j].Name = fmt.Sprint(text, i, j)
			}
			return a
		},
		"failures": func(i int) *answer {
			return &answer{status: failed, err: fmt.Errorf("query for %d: %w", i, fmt.Errorf("resolver %d: %w", i, context.Canceled))}
		},
		"announcements": func(i int) *answer { return &answer{txt: []string{fmt.Sprint(text, i)}} },
		"TLSA": func(i int) *answer {
			return &answer{tlsa: []dane.Record{{Data: fmt.Sprint(text, i)}, {Data: fmt.Sprint(text, -i)}}}
		},
	} {
		const limit = 8 << 20
		c, held := heldBy(t, func() any {
			c := newCache(limit)
			for i := range 100_000 {
				a := fill(i)
				a.expires = now.Add(time.Duration(100_000-i) * time.Second)
				q := question{fmt.Sprintf("d%d.example", i), 1}
				c.put(q, a, now)
				if c.get(q, now) != a {
					t.Fatalf("%s: answer %d was not kept", name, i)
				}
				if c.octets > limit {
					t.Fatalf("%s: %d octets", name, c.octets)
				}
				if i > 30_000 && c.octets < limit/2 {
					t.Fatalf("%s: %d octets, so few", name, c.octets)
				}
			}
			return c
		})
		n := len(c.(*cache).entries)
		t.Logf("%s: %d answers, %d KiB counted, %d KiB held", name, n, c.(*cache).octets>>10, held>>10)
		if held > limit*5/4 {
			t.Errorf("%s: %d octets held by %d answers", name, held, n)
		}
		runtime.KeepAlive(c)
	}
}
