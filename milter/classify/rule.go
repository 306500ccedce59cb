package classify

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/millrace/millrace/agent/config"
)

// rule is one of the admin's rules, compiled.
type rule struct {
	name   string
	action config.Action
	stream template
	pool   string

	sender          globs
	header          []headerMatch
	headerExists    []string // lower case
	client          []netip.Prefix
	authUser        globs
	daemon          []string
	minRecipients   int
	recipientDomain globs
	minSize         int64
}

// headerMatch is a condition on the value of a field.
type headerMatch struct {
	name string // lower case
	glob glob
	re   *regexp.Regexp // instead of glob
}

func newRule(r *config.Rule) (rule, error) {
	out := rule{
		name: r.Name, action: r.Action, pool: r.Pool,
		sender: newGlobs(r.Sender), client: r.Client, authUser: newGlobs(r.AuthUser), daemon: r.Daemon,
		minRecipients: r.MinRecipients, recipientDomain: newGlobs(r.RecipientDomain), minSize: int64(r.MinSize),
	}
	if r.Action != config.ActionDivert && r.Action != config.ActionLeave {
		return out, fmt.Errorf("action %q is neither divert nor leave", r.Action)
	}
	if len(r.Sender)+len(r.Header)+len(r.HeaderExists)+len(r.Client)+len(r.AuthUser)+len(r.Daemon)+
		len(r.RecipientDomain) == 0 && r.MinRecipients == 0 && r.MinSize == 0 {
		return out, errors.New("a rule needs a condition")
	}
	var err error
	if out.header, err = newHeaderMatches(r.Header); err != nil {
		return out, fmt.Errorf("header: %w", err)
	}
	for _, n := range r.HeaderExists {
		out.headerExists = append(out.headerExists, strings.ToLower(n))
	}
	if out.stream, err = parseTemplate(r.Stream); err != nil {
		return out, fmt.Errorf("stream: %w", err)
	}
	return out, nil
}

func newHeaderMatches(hs []config.HeaderMatch) ([]headerMatch, error) {
	var out []headerMatch
	for _, h := range hs {
		m := headerMatch{name: strings.ToLower(h.Name), glob: glob(strings.ToLower(h.Pattern))}
		if p := h.Pattern; len(p) >= 2 && p[0] == '/' && p[len(p)-1] == '/' {
			re, err := regexp.Compile(p[1 : len(p)-1])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", h.Name, err)
			}
			m.re = re
		}
		out = append(out, m)
	}
	return out, nil
}

// holds reports whether every condition of the rule holds.
func (r *rule) holds(m *Message, h headers) bool {
	switch {
	case r.sender != nil && !r.sender.match(m.Sender),
		r.client != nil && !contains(r.client, m.Client),
		r.authUser != nil && (m.AuthUser == "" || !r.authUser.match(m.AuthUser)),
		r.daemon != nil && !anyOf(r.daemon, m.Daemon),
		len(m.Recipients) < r.minRecipients,
		r.minSize > 0 && !r.sizeHolds(m):
		return false
	}
	for _, name := range r.headerExists {
		if !h.has(name) {
			return false
		}
	}
	for i := range r.header {
		if !r.header[i].holds(h) {
			return false
		}
	}
	if r.recipientDomain != nil {
		for i := range m.Recipients {
			if !r.recipientDomain.match(domainOf(m.Recipients[i].Address)) {
				return false
			}
		}
	}
	return true
}

// holds reports whether one of the fields of the name fits.
func (c *headerMatch) holds(h headers) bool {
	for _, v := range h[c.name] {
		if c.re != nil && c.re.MatchString(v) || c.re == nil && c.glob.match(strings.ToLower(v)) {
			return true
		}
	}
	return false
}

// sizeHolds compares with the size that the client declared (RFC 1870): the
// body has not come yet. Without a declaration the rule holds if it would leave
// the mail, and does not if it would divert it.
func (r *rule) sizeHolds(m *Message) bool {
	for _, a := range m.Args {
		name, value, _ := strings.Cut(a, "=")
		if strings.EqualFold(name, "SIZE") {
			if n, err := strconv.ParseInt(value, 10, 64); err == nil && n > 0 {
				return n >= r.minSize
			}
		}
	}
	return r.action == config.ActionLeave
}

func anyOf(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}
