package classify

import "strings"

// glob is a pattern in which * is any run of octets and ? any one; lower case.
type glob string

// match reports whether s, lower case, fits the whole pattern. It takes time
// proportional to len(g)*len(s) at worst, whatever either holds.
func (g glob) match(s string) bool {
	p, i := 0, 0
	star, back := -1, 0
	for i < len(s) {
		switch {
		case p < len(g) && g[p] == '*':
			star, back = p, i
			p++
		case p < len(g) && (g[p] == '?' || g[p] == s[i]):
			p, i = p+1, i+1
		case star >= 0:
			back++
			p, i = star+1, back
		default:
			return false
		}
	}
	for p < len(g) && g[p] == '*' {
		p++
	}
	return p == len(g)
}

// globs match if one of them does.
type globs []glob

func newGlobs(patterns []string) globs {
	var g globs
	for _, p := range patterns {
		g = append(g, glob(strings.ToLower(p)))
	}
	return g
}

func (gs globs) match(s string) bool {
	s = strings.ToLower(s)
	for _, g := range gs {
		if g.match(s) {
			return true
		}
	}
	return false
}
