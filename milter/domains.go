package milter

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// loggedDomains is how many destination domains a verdict's line names, and
// maxDomain the length of the longest one (RFC 1035): some 1.3 KB at worst, where
// syslog daemons cut at 8 KB, and 20 octets for the usual single recipient.
const (
	loggedDomains = 5
	maxDomain     = 253
)

// toDomains counts the diverted recipients by domain, for the log:
// "gmail.com:40,web.de:3,other:12". The most frequent come first; the rest, and
// names that no host can have, are other, which is no domain since it has no dot.
func (m *message) toDomains(divert []bool) string {
	type domain struct {
		name string
		n    int
	}
	var list []domain
	place := make(map[string]int) // in list
	other := 0
	for i, d := range divert {
		if !d {
			continue
		}
		addr := m.Recipients[i].Address
		name := strings.ToLower(addr[strings.LastIndexByte(addr, '@')+1:])
		if len(name) > maxDomain {
			other++
			continue
		}
		at, ok := place[name]
		if !ok {
			at = len(list)
			place[name] = at
			list = append(list, domain{name: name})
		}
		list[at].n++
	}
	slices.SortFunc(list, func(a, b domain) int {
		return cmp.Or(cmp.Compare(b.n, a.n), cmp.Compare(a.name, b.name))
	})
	for _, d := range list[min(len(list), loggedDomains):] {
		other += d.n
	}
	var b strings.Builder
	for _, d := range list[:min(len(list), loggedDomains)] {
		b.WriteString(d.name + ":" + strconv.Itoa(d.n) + ",")
	}
	if other > 0 {
		b.WriteString("other:" + strconv.Itoa(other))
	}
	return strings.TrimSuffix(b.String(), ",")
}
