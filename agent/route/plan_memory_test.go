//go:build !race

// Memory of one goroutine: the race detector sees nothing in it, and counts its own.

package route

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/route/sts"
)

// TestPlansAreBoundedInOctets has many domains of one owner, as a wildcard gives him: each
// with as many exchangers of the longest names as there may be, with TLSA records, and with
// a policy that names none of them. The plans are kept as long as there is mail. Not
// parallel: other tests' memory would count.
func TestPlansAreBoundedInOctets(t *testing.T) {
	const domains, most = 50, 32 << 10
	long := strings.Repeat(strings.Repeat("x", 60)+".", 3) + "example"
	dir := t.TempDir()
	z := zone{}
	certificate := strings.Repeat("ab", 6<<10)
	for d := range domains {
		domain := fmt.Sprintf("d%d.example", d)
		var patterns []string
		for i := range maxExchangers {
			host := fmt.Sprintf("m%d-%d.%s", i, d, long)
			z[domain+" MX"] = append(z[domain+" MX"], fmt.Sprintf("3600 MX %d %s.", i, host))
			z[host+" A"] = []string{fmt.Sprintf("3600 A 93.184.216.%d", i+1)}
			z["_25._tcp."+host+" TLSA"] = []string{"3600 TLSA 2 0 0 " + certificate}
			patterns = append(patterns, fmt.Sprintf("p%d-%d.%s", i, d, long))
		}
		if d%2 == 0 { // else by DANE alone
			for name := range z {
				if strings.HasSuffix(name, " TLSA") && strings.Contains(name, fmt.Sprintf("-%d.", d)) {
					delete(z, name)
				}
			}
		}
		writePolicy(t, dir, domain, sts.Enforce, 24*time.Hour, patterns...)
	}
	f := newFake(z)
	f.plain = func(string) bool { return false }
	x, held := heldBy(t, func() any {
		plans := make([]*Plan, 0, domains)
		r := newResolver(t, f, func(o *Options) { o.DANE, o.STSDirectory = TrustAlways, dir })
		for d := range domains {
			p, err := r.Lookup(t.Context(), fmt.Sprintf("d%d.example", d))
			if err != nil {
				t.Fatal(err)
			}
			if n := len(p.Key()) + len(p.Needs()); n > 2*maxKey {
				t.Errorf("%d octets of keys", n)
			}
			plans = append(plans, p)
		}
		return plans
	})
	for _, p := range x.([]*Plan) {
		for _, h := range p.Hosts {
			if h.Need.Asks < Match { // however much there is, never less than it asks
				t.Fatalf("%s: %s", h.Name, h.Need)
			}
		}
	}
	t.Logf("%d KiB for each of %d domains", held/domains>>10, domains)
	if held > domains*most {
		t.Errorf("%d KiB for each domain, want at most %d", held/domains>>10, most>>10)
	}
	runtime.KeepAlive(x)
	runtime.KeepAlive(f)
}
